r"""Assemble a full-size checkpoint from the published base models, as the starting point of stage 1.

    python -m xsam.train.assemble --llm Phi-3-mini-4k-instruct --vision siglip2-so400m-patch14-384 \
        --sam sam-vit-large --mask2former mask2former-swin-large-coco-panoptic --out data/base

Each argument is a folder with `config.json` and weights, as downloaded by `huggingface_hub`. Parts that the
base models lack (projectors, connector, class head, inputs of the pixel decoder) are initialized randomly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import (
    Mask2FormerConfig,
    Phi3Config,
    PreTrainedConfig,
    SamConfig,
    SiglipConfig,
    SiglipVisionConfig,
)

from xsam.config import SPECIAL_TOKENS, XSamConfig, full_config
from xsam.console import ErrorCommand
from xsam.errors import CheckpointError
from xsam.model.initialize import initialize_weights
from xsam.model.xsam import XSamModel
from xsam.weights.checkpoint import read_tensors, save_checkpoint
from xsam.weights.tokenizer_files import open_tokenizer

_RENAMES = (
    # base model, prefix there, prefix here; the first match is used
    ("llm", "", "llm."),
    ("vision", "vision_model.", "vision_encoder."),
    ("vision", "", "vision_encoder."),  # saved by transformers 5
    ("sam", "vision_encoder.", "segmentor.encoder."),
    ("sam", "shared_image_embedding.", "segmentor.shared_image_embedding."),
    ("mask2former", "model.pixel_level_module.decoder.", "segmentor.pixel_decoder."),
    ("mask2former", "model.transformer_module.", "segmentor.decoder."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Origin of the tensors of an assembled checkpoint.

    Attributes:
        taken: base model → number of tensors used.
        new: names of the tensors that no base model has, or only with another shape.
    """

    taken: Mapping[str, int]
    new: tuple[str, ...]


def assemble(
    llm: Path,
    vision: Path,
    sam: Path,
    mask2former: Path,
    out: Path,
    *,
    own: XSamConfig | None = None,
    seed: int = 0,
) -> Assembly:
    """Write a checkpoint folder assembled from four base models.

    Args:
        llm, vision, sam, mask2former: folders of the base models.
        out: folder to write.
        own: settings that the base models do not define (connector, region sampler, number of queries); None
            means the full size.
        seed: seed of the new parameters.

    Raises:
        CheckpointError: a folder lacks its configuration or weights, or none of its tensors fits.
    """
    folders = {"llm": llm, "vision": vision, "sam": sam, "mask2former": mask2former}
    tokenizer = open_tokenizer(llm)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    language = _config(Phi3Config, llm)
    language.vocab_size = max(len(tokenizer), language.vocab_size)
    base = _config(Mask2FormerConfig, mask2former)
    own = own or full_config(released=False)
    base.num_queries = own.mask2former.num_queries
    config = dataclasses.replace(
        own,
        llm=language,
        vision_encoder=_config(SiglipConfig, vision).vision_config,
        sam=_config(SamConfig, sam).vision_config,
        mask2former=base,
    )
    torch.manual_seed(seed)
    model = XSamModel(config)
    initialize_weights(model)
    wanted = model.state_dict()
    taken: dict[str, int] = {}
    for part, folder in folders.items():
        found = dict(_renamed(part, read_tensors(folder)))
        fitting = {k: _fit(v, wanted[k]) for k, v in found.items() if k in wanted}
        used = {k: v for k, v in fitting.items() if v is not None}
        if not used:
            raise CheckpointError(f"no tensor in {folder} matches the {part} part of the model")
        for name, value in used.items():
            wanted[name].copy_(value)
        taken[part] = len(used)
        for name in used:
            del wanted[name]
    save_checkpoint(model, tokenizer, out, dtype=torch.bfloat16)
    return Assembly(taken=taken, new=tuple(sorted(wanted)))


def _config(kind: type[PreTrainedConfig], folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"no config.json in {folder}")
    data, _ = kind.get_config_dict(folder, local_files_only=True)
    if kind is SiglipConfig and "vision_config" not in data:
        return SiglipConfig(vision_config=SiglipVisionConfig.from_dict(data).to_dict())
    return kind.from_dict(data)


def _renamed(part: str, tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    renamed = []
    for name, value in tensors.items():
        for model, old, new in _RENAMES:
            if model == part and name.startswith(old):
                renamed.append((new + name.removeprefix(old), value))
                break
    return renamed


def _fit(value: Tensor, target: Tensor) -> Tensor | None:
    """Return the tensor in the shape of `target`, or None; new rows of a vocabulary get the mean row."""
    if value.shape == target.shape:
        return value
    if value.ndim == target.ndim == 2 and value.shape[1] == target.shape[1] and len(value) < len(target):
        grown = value.float().mean(dim=0).expand(target.shape).clone().to(value.dtype)
        grown[: len(value)] = value
        return grown
    return None


_BaseFolder = Annotated[Path, typer.Option(help="Folder of the base model.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=ErrorCommand)
def main(
    llm: _BaseFolder,
    vision: _BaseFolder,
    sam: _BaseFolder,
    mask2former: _BaseFolder,
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
) -> None:
    """Assemble a full-size checkpoint from base models."""
    result = assemble(llm, vision, sam, mask2former, out)
    for part, count in result.taken.items():
        print(f"{part}: {count} tensors")
    print(f"new: {len(result.new)} tensors, for example {', '.join(result.new[:5])}")


if __name__ == "__main__":
    app()
