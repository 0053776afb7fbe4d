"""Set up a training stage from its recipe and run it: `xsam train`, `python -m xsam.train.run`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from xsam.config import tiny_config
from xsam.config.sections import MAX_IMAGE_SIDE
from xsam.data.samples import SampleSource
from xsam.errors import MissingDataError, TrainingConfigError
from xsam.inference.family import Network
from xsam.model.initialize import initialize_weights
from xsam.model.xsam import XSamModel
from xsam.train.command import app
from xsam.train.stages import SourceConfig, StageConfig, read_stage
from xsam.weights.checkpoint import load_checkpoint
from xsam.weights.x2sam import is_x2sam, load_x2sam

SCENES = "scenes"
_PATH_OPTIONS = frozenset({"folder", "root", "annotations", "images", "masks", "explanations"})
_POSITIONS = "segmentor.encoder.pos_embed"


def open_configured(config: SourceConfig, data: Path, *, augment: bool) -> SampleSource:
    """Open a source of a recipe; paths in its options are relative to `data`.

    Raises:
        TrainingConfigError: the kind of source or one of its options is unknown.
        XSamError: its files are missing or malformed.
    """
    options = {
        key: data / value if key in _PATH_OPTIONS and isinstance(value, str) else value
        for key, value in config.options.items()
    }
    if config.kind == SCENES:
        return _open_scenes(config, options, augment=augment)
    from xsam.data.readers import open_source

    return open_source(config.kind, **options)


def _open_scenes(config: SourceConfig, options: dict[str, Any], *, augment: bool) -> SampleSource:
    from xsam.data.scene_source import SceneSource
    from xsam.sim.shards import load_shards

    unknown = sorted(set(options) - {"folder", "limit", "shares"})
    if unknown or "folder" not in options:
        problem = f"unknown option(s) {', '.join(unknown)}" if unknown else "'folder' is missing"
        raise TrainingConfigError(f"source {SCENES!r}: {problem}", hint="options: folder, limit, shares")
    try:
        shards = load_shards(options["folder"], options.get("limit"))
    except FileNotFoundError as error:
        raise MissingDataError(str(error), hint="render some: python -m xsam.sim.shards --help") from error
    arguments = {"shares": options["shares"]} if "shares" in options else {}
    try:
        return SceneSource(shards, augment=augment, name=config.name or SCENES, **arguments)
    except ValueError as error:
        raise TrainingConfigError(f"source {config.name or SCENES!r}: {error}") from error


def build_model(config: StageConfig, init: Path | None) -> tuple[Network, Any]:
    """Create the model to train and its tokenizer.

    Args:
        config: recipe of the stage; determines the size and the seed.
        init: checkpoint folder to start from; None means random weights, for the tiny size only.

    Raises:
        TrainingConfigError: full size without `init`; its language model is never trained from scratch.
        CheckpointError: see `xsam.weights.checkpoint`.
    """
    if init is not None:
        return load_x2sam(init) if is_x2sam(init) else load_checkpoint(init)
    if config.model != "tiny":
        raise TrainingConfigError(
            "the full size starts from a checkpoint", hint="pass --init, a folder made by `xsam convert`"
        )
    from xsam.train.tokenizer import build_tiny_tokenizer

    tokenizer = build_tiny_tokenizer()
    torch.manual_seed(config.seed)
    model = XSamModel(tiny_config(vocab_size=len(tokenizer)))
    initialize_weights(model)
    return model, tokenizer


def at_image_size(model: Network, side: int) -> Network:
    """Adapt the weights of X-SAM to another input size of the SAM branch.

    Only positions depend on the size. Absolute positions are resized bicubically; the relative ones of the
    global attention layers are resized linearly, as SAM's own code does at run time.

    Args:
        model: left unchanged.
        side: input side in pixels; a multiple of two patches, which are merged into one token.

    Returns:
        A new model in float32 on the CPU, or `model` itself if it already has this size.

    Raises:
        TrainingConfigError: `side` is not a multiple of the size of two patches, or the model is X2SAM.
    """
    if not isinstance(model, XSamModel):
        raise TrainingConfigError("the image size of X2SAM is that of its checkpoint", hint="no --image-size")
    config = copy.deepcopy(model.config)
    if side == config.sam.image_size:
        return model
    unit = round(config.sam.patch_size / config.downsample_ratio)
    if side < unit or side % unit or side > MAX_IMAGE_SIDE:
        raise TrainingConfigError(
            f"the image size must be a multiple of {unit} pixels up to {MAX_IMAGE_SIDE}, got {side}"
        )
    config.sam.image_size = side
    resized = XSamModel(config)
    weights = model.state_dict()
    state = {
        name: _resize_positions(name, weights[name].float().cpu(), target.shape)
        for name, target in resized.state_dict().items()
    }
    resized.load_state_dict(state)
    return resized


def _resize_positions(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    if tensor.shape == shape:
        return tensor
    if name == _POSITIONS:  # (1, h, w, C)
        channels_first = tensor.permute(0, 3, 1, 2)
        resized = F.interpolate(channels_first, size=shape[1:3], mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1)
    if ".rel_pos_" in name:  # (2 · side − 1, C)
        return F.interpolate(tensor.T[None], size=shape[0], mode="linear", align_corners=False)[0].T
    raise TrainingConfigError(f"{name} has shape {tuple(tensor.shape)} and cannot become {tuple(shape)}")


def with_mask_places(model: Network) -> Network:
    """Return X-SAM with `mask_places`; the layer starts with PyTorch's random values, all others are kept.

    Raises:
        TrainingConfigError: the model is X2SAM.
    """
    if not isinstance(model, XSamModel):
        raise TrainingConfigError("X2SAM has no mask places", hint="no --mask-places")
    if model.config.mask_places:
        return model
    grown = XSamModel(replace(model.config, mask_places=True))
    grown.load_state_dict(
        {**grown.state_dict(), **{n: t.float().cpu() for n, t in model.state_dict().items()}}
    )
    return grown


def train(
    recipe: str | Path,
    *,
    data: Path,
    out: Path,
    init: Path | None = None,
    image_size: int | None = None,
    mask_places: bool = False,
    heads: Sequence[Path] = (),
    overrides: Mapping[str, Any] | None = None,
    cpu: bool = False,
) -> None:
    """Run one stage, or resume it where it stopped.

    Args:
        recipe: YAML file or the name of a shipped recipe.
        data: folder that the paths in the recipe are relative to.
        out: folder of the run.
        init: checkpoint folder to start from; ignored if the run is resumed.
        image_size: input side of the SAM branch in pixels, if it differs from that of `init`.
        mask_places: tell the mask decoder's queries where their masks are; see `with_mask_places`.
        heads: runs of earlier stages whose auxiliary heads continue training.
        overrides: fields that replace those of the recipe.
        cpu: do not use a GPU.
    """
    from xsam.train.trainer import Trainer

    config = read_stage(recipe, overrides)
    if not config.sources:
        raise TrainingConfigError(f"{recipe} names no source")
    model, tokenizer = build_model(config, init)
    if image_size is not None:
        model = at_image_size(model, image_size)
    if mask_places:
        model = with_mask_places(model)
    sources = [open_configured(source, data, augment=True) for source in config.sources]
    validation = (
        None if config.validation is None else open_configured(config.validation, data, augment=False)
    )
    trainer = Trainer(model, tokenizer, config, sources, out, validation=validation, cpu=cpu)
    for run in heads:
        trainer.load_heads(run)
    resumed = trainer.resume()
    if trainer.accelerator.is_main_process:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        count = sum(p.numel() for p in model.parameters())
        images = ", ".join(f"{source.name} {len(source):,}" for source in sources)
        state = f"resuming at step {trainer.progress.step}" if resumed else "starting"
        print(f"{recipe}: {state}; {trained:,} of {count:,} parameters; images: {images}", flush=True)
    trainer.fit()


def parse_overrides(values: Sequence[str]) -> dict[str, Any]:
    """Parse `field=value` strings, with values in YAML."""
    overrides: dict[str, Any] = {}
    for text in values:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise TrainingConfigError(f"expected FIELD=VALUE, got {text!r}")
        try:
            overrides[name.replace("-", "_")] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise TrainingConfigError(f"{text!r:.200}: the value is not YAML") from error
    return overrides


if __name__ == "__main__":
    app()
