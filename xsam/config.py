"""Model configuration: four stock sub-configurations and X-SAM's own settings.

`config.json` of a checkpoint folder has the keys `llm`, `vision_encoder`, `sam`, `mask2former` and `xsam`.
The first four contain the arguments of `transformers`' configuration classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xsam.errors import CheckpointError

if TYPE_CHECKING:  # imported by the functions that need it: it loads PyTorch
    from transformers import Mask2FormerConfig, Phi3Config, SamVisionConfig, SiglipVisionConfig

SPECIAL_TOKENS = ("<SEG>", "<p>", "</p>")
IMAGE_ID = -200  # placeholders among token ids, replaced by the features of an image or a region
REGION_ID = -300


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSamplerConfig:
    """Settings of the region sampler, which turns a region into tokens.

    `mean` averages groups of `pooling_kernel_size` points (64 tokens a region, current layout); `max` pools
    all points to one token (released checkpoint).
    """

    num_sample_point: int = 256
    pooling_mode: Literal["mean", "max"] = "mean"
    pooling_kernel_size: int | None = 4
    pooling_output_size: int | None = None

    @property
    def tokens_per_region(self) -> int:
        if self.pooling_output_size is not None:
            return self.pooling_output_size
        return self.num_sample_point // (self.pooling_kernel_size or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class XSamConfig:
    """All settings that determine the model's tensors and arithmetic, and its default thresholds."""

    llm: Phi3Config
    vision_encoder: SiglipVisionConfig
    sam: SamVisionConfig
    mask2former: Mask2FormerConfig
    visual_select_layer: int = -2
    extra_select_layers: tuple[int, ...] = (6, 12, 18, 24)
    connector_hidden_dim: int = 512
    connector_scale_factor: tuple[float, ...] = (2, 1, 0.5)
    downsample_ratio: float = 0.5
    logit_clamp: float = 50.0
    vision_resample: Literal["bilinear", "bicubic"] = "bilinear"
    bos_before_user: bool = True
    reject_below: float = 0.0  # default threshold of single-phrase tasks; 0 = never "not found"
    instance_threshold: float = 0.5  # default threshold of category and visual-grounded queries
    one_mask_per_object: bool = False  # trained with one mask for each object that a phrase refers to
    sampler: RegionSamplerConfig = field(default_factory=RegionSamplerConfig)

    @property
    def connector_layers(self) -> tuple[int, ...]:
        """SAM hidden states that feed the connector: the last ones, one for each scale."""
        return self.extra_select_layers[-len(self.connector_scale_factor) :]

    @property
    def num_image_tokens(self) -> int:
        """Number of tokens of an image: SigLIP tokens followed by pixel-shuffled SAM tokens."""
        siglip = (self.vision_encoder.image_size // self.vision_encoder.patch_size) ** 2
        sam = int(self.sam.image_size // self.sam.patch_size * self.downsample_ratio) ** 2
        return int(siglip + sam)

    def to_dict(self) -> dict[str, Any]:
        """Convert to the content of `config.json`."""
        own = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("llm", "vision_encoder", "sam", "mask2former", "sampler")
        }
        return {
            "llm": self.llm.to_diff_dict(),
            "vision_encoder": self.vision_encoder.to_diff_dict(),
            "sam": self.sam.to_diff_dict(),
            "mask2former": self.mask2former.to_diff_dict(),
            "xsam": {**own, "special_tokens": list(SPECIAL_TOKENS), "sampler": asdict(self.sampler)},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> XSamConfig:
        """Build from the content of `config.json`.

        Raises:
            CheckpointError: a section is missing or has a setting that is not supported.
        """
        from transformers import Mask2FormerConfig, Phi3Config, SamVisionConfig, SiglipVisionConfig

        missing = [key for key in ("llm", "vision_encoder", "sam", "mask2former", "xsam") if key not in data]
        if missing:
            raise CheckpointError(f"config.json lacks the section(s) {', '.join(missing)}")
        own = dict(data["xsam"])
        sampler = dict(own.pop("sampler", {}))
        sampler.pop("type", None)
        sampler_config = RegionSamplerConfig(**sampler)
        for key, only in (
            ("connector_type", "conv"),
            ("projector_depth", 2),
            ("cond_type", "phrase"),
            ("bg_embeds", True),
        ):
            if own.get(key, only) != only:
                raise CheckpointError(f"config.json has {key}={own[key]!r}; only {only!r} is supported")
        if tuple(own.get("special_tokens", SPECIAL_TOKENS)) != SPECIAL_TOKENS:
            raise CheckpointError(
                f"config.json has special tokens {own['special_tokens']}, expected {SPECIAL_TOKENS}"
            )
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in own.items() if key in known
        }
        # The released layout (one token a region) was trained with the wider clamp.
        values.setdefault("logit_clamp", 500.0 if sampler_config.pooling_mode == "max" else 50.0)
        sam = data["sam"].get("vision_config", data["sam"])
        return cls(
            llm=Phi3Config(**_without_metadata(data["llm"])),
            vision_encoder=SiglipVisionConfig(**_without_metadata(data["vision_encoder"])),
            sam=SamVisionConfig(**_without_metadata(sam)),
            mask2former=Mask2FormerConfig(**_without_metadata(data["mask2former"])),
            sampler=sampler_config,
            **values,
        )

    @classmethod
    def read(cls, path: Path) -> XSamConfig:
        """Read a `config.json`.

        Raises:
            CheckpointError: the file is missing, damaged, or not a configuration of X-SAM.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"no such file: {path}") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
        try:
            return cls.from_dict(data)
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a configuration of X-SAM: {error}") from error

    def write(self, path: Path) -> None:
        """Write a `config.json`."""
        path.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _without_metadata(section: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the keys that are not arguments of a configuration class."""
    dropped = (
        "model_type",
        "transformers_version",
        "architectures",
        "_name_or_path",
        "torchscript",
        "pruned_heads",
    )
    return {key: value for key, value in section.items() if key not in dropped}


def full_config(*, released: bool = True) -> XSamConfig:
    """Return the published size: Phi-3-mini, SigLIP2-so400m/14-384, SAM ViT-L, Mask2Former with 200 queries.

    Args:
        released: the layout of the published checkpoint (one token a region, clamp ±500) instead of the
            current one (64 tokens a region, clamp ±50).
    """
    from transformers import Mask2FormerConfig, Phi3Config, SamVisionConfig, SiglipVisionConfig

    sampler = (
        RegionSamplerConfig(pooling_mode="max", pooling_kernel_size=None, pooling_output_size=1)
        if released
        else RegionSamplerConfig()
    )
    return XSamConfig(
        llm=Phi3Config(
            vocab_size=32014,
            hidden_size=3072,
            intermediate_size=8192,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            original_max_position_embeddings=4096,
            sliding_window=2047,
            rope_theta=10000.0,
            bos_token_id=1,
            eos_token_id=32000,
            pad_token_id=32000,
        ),
        vision_encoder=SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
        ),
        sam=SamVisionConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            global_attn_indexes=[5, 11, 17, 23],
            num_pos_feats=128,
            image_size=1024,
            patch_size=16,
            window_size=14,
            output_channels=256,
        ),
        mask2former=Mask2FormerConfig(
            feature_size=256,
            mask_feature_size=256,
            hidden_dim=256,
            encoder_feedforward_dim=1024,
            dim_feedforward=2048,
            encoder_layers=6,
            decoder_layers=10,
            num_attention_heads=8,
            num_queries=200,
            feature_strides=[4, 8, 16, 32],
            common_stride=4,
            dropout=0.0,
        ),
        logit_clamp=500.0 if released else 50.0,
        sampler=sampler,
    )


def tiny_config(*, vocab_size: int) -> XSamConfig:
    """Return the same architecture at a size that trains and runs on a CPU (about 4 M parameters).

    256×256 SAM branch with 8-pixel patches (32² tokens, masks at 64²), 96×96 SigLIP branch (64 tokens), a
    three-layer Phi-3 and four tokens a region. The connector has one more level than at full size: the finest
    one only feeds the mask features, which saves the deformable attention and the decoder three quarters of
    their tokens.
    """
    from transformers import Mask2FormerConfig, Phi3Config, SamVisionConfig, SiglipVisionConfig

    return XSamConfig(
        llm=Phi3Config(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            original_max_position_embeddings=1024,
            sliding_window=None,
            rope_theta=10000.0,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
        ),
        vision_encoder=SiglipVisionConfig(
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=96,
            patch_size=12,
        ),
        sam=SamVisionConfig(
            hidden_size=128,
            num_hidden_layers=5,
            num_attention_heads=4,
            global_attn_indexes=[2, 4],
            use_rel_pos=False,  # a third of the encoder's time at this size
            num_pos_feats=8,
            image_size=256,
            patch_size=8,
            window_size=8,
            output_channels=16,
            mlp_dim=384,
        ),
        mask2former=Mask2FormerConfig(
            feature_size=64,
            mask_feature_size=64,
            hidden_dim=128,
            encoder_feedforward_dim=192,
            dim_feedforward=384,
            encoder_layers=1,
            decoder_layers=4,
            num_attention_heads=4,
            num_queries=24,
            feature_strides=[4, 8, 16, 32],
            common_stride=4,
            dropout=0.0,
        ),
        extra_select_layers=(2, 3, 4, 5),
        connector_scale_factor=(2, 1, 0.5, 0.25),
        connector_hidden_dim=48,
        one_mask_per_object=True,
        reject_below=0.15,
        instance_threshold=0.3,
        sampler=RegionSamplerConfig(pooling_mode="mean", pooling_kernel_size=64),
    )
