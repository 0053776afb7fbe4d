"""The released models, and the repositories on the Hugging Face hub that each of them needs.

Four revisions are commits taken from public code and pages, not checked against the hub. No full commit was
known for the others, so the list has their branch `main`; the first download writes down the commit that it
found.
"""

from __future__ import annotations

from dataclasses import dataclass

STAGE = "s3_mixed_finetune"  # the last of the three training stages: the complete model


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepository:
    """A repository on the hub, and which of its files to download."""

    repo_id: str
    folder: str  # inside the output folder
    revision: str  # a commit, or a branch that the first download resolves to one
    patterns: tuple[str, ...]  # of file names; `*` also matches "/"


XSAM = HubRepository(
    repo_id="hao9610/X-SAM",
    folder="X-SAM",
    revision="main",
    patterns=(f"{STAGE}/*pytorch_model*", f"{STAGE}/*.safetensors*", "README.md"),
)
PHI3 = HubRepository(
    repo_id="microsoft/Phi-3-mini-4k-instruct",
    folder="Phi-3-mini-4k-instruct",
    revision="0a67737cc96d2554230f90338b163bc6380a2a85",
    patterns=(
        "config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "LICENSE",
    ),
)
SIGLIP = HubRepository(
    repo_id="google/siglip2-so400m-patch14-384",
    folder="siglip2-so400m-patch14-384",
    revision="e8e487298228002f3d8a82e0cd5c8ea9c567f57f",
    patterns=("config.json", "preprocessor_config.json"),
)
SAM = HubRepository(
    repo_id="facebook/sam-vit-large",
    folder="sam-vit-large",
    revision="70009d56dac23ebb3265377257158b1d6ed4c802",
    patterns=("config.json", "preprocessor_config.json"),
)
MASK2FORMER = HubRepository(
    repo_id="facebook/mask2former-swin-large-coco-panoptic",
    folder="mask2former-swin-large-coco-panoptic",
    revision="85b535928a783691eaf27467a573b26d543336ea",
    patterns=("config.json", "preprocessor_config.json"),
)
X2SAM_STAGE = "x2sam_qwen3_vl_4b_sam2.1_hiera_large_m2f_e1_gpu32_lora"
X2SAM = HubRepository(
    repo_id="hao9610/X2SAM",
    folder="X2SAM",
    revision="main",
    patterns=(f"{X2SAM_STAGE}/*pytorch_model*", f"{X2SAM_STAGE}/*.safetensors*", "README.md"),
)
QWEN3_VL = HubRepository(
    repo_id="Qwen/Qwen3-VL-4B-Instruct",
    folder="Qwen3-VL-4B-Instruct",
    revision="main",
    patterns=("*.safetensors", "*.safetensors.index.json", "*.json", "merges.txt", "LICENSE"),
)
SAM2 = HubRepository(
    repo_id="facebook/sam2.1-hiera-large",
    folder="sam2.1-hiera-large",
    revision="main",
    patterns=("config.json", "preprocessor_config.json", "processor_config.json"),
)
REPOSITORIES = (XSAM, PHI3, SIGLIP, SAM, MASK2FORMER)
X2SAM_REPOSITORIES = (X2SAM, QWEN3_VL, SAM2)
RELEASES = {"xsam": REPOSITORIES, "x2sam": X2SAM_REPOSITORIES}
