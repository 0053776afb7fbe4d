"""Put a stage together from its recipe and run it: `xsam train`, `python -m xsam.train.run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from xsam.config import tiny_config
from xsam.data.samples import SampleSource
from xsam.errors import TrainingConfigError
from xsam.model.initialize import initialize_weights
from xsam.model.xsam import XSamModel
from xsam.train.resolution import at_image_size
from xsam.train.stages import SourceConfig, StageConfig, read_stage
from xsam.weights.checkpoint import load_checkpoint

SCENES = "scenes"
_PATHS = frozenset({"folder", "root", "annotations", "images", "masks", "explanations"})


def open_configured(config: SourceConfig, data: Path, *, augment: bool) -> SampleSource:
    """Open a source of a recipe; paths among its options are relative to `data`.

    Raises:
        TrainingConfigError: the kind of source or one of its options is unknown.
        XSamError: its files are missing or malformed.
    """
    options = {key: _placed(key, value, data) for key, value in config.options.items()}
    if config.kind == SCENES:
        return _open_scenes(config, options, augment=augment)
    from xsam.data.readers import open_source

    return open_source(config.kind, **options)


def _open_scenes(config: SourceConfig, options: dict[str, Any], *, augment: bool) -> SampleSource:
    from xsam.data.scene_source import SceneSource
    from xsam.sim.shards import load_shards

    unknown = sorted(set(options) - {"folder", "limit", "shares"})
    if unknown or "folder" not in options:
        raise TrainingConfigError(
            f"source {SCENES!r} takes folder, limit and shares, not {', '.join(unknown) or 'nothing'}"
        )
    try:
        shards = load_shards(options["folder"], options.get("limit"))
    except FileNotFoundError as error:
        raise TrainingConfigError(str(error), hint="render some: python -m xsam.sim.shards --help") from error
    arguments = {"shares": options["shares"]} if "shares" in options else {}
    try:
        return SceneSource(shards, augment=augment, name=config.name or SCENES, **arguments)
    except ValueError as error:
        raise TrainingConfigError(f"source {config.name or SCENES!r}: {error}") from error


def _placed(key: str, value: Any, data: Path) -> Any:
    return data / value if key in _PATHS and isinstance(value, str) else value


def build_model(config: StageConfig, init: Path | None) -> tuple[XSamModel, Any]:
    """The model to train and its tokenizer.

    Args:
        config: names the size.
        init: checkpoint folder to start from; None = random weights, at the tiny size only.

    Raises:
        TrainingConfigError: the full size without `init`: its language model is never trained from nothing.
        CheckpointError: see `xsam.weights.checkpoint`.
    """
    if init is not None:
        return load_checkpoint(init)
    if config.model != "tiny":
        raise TrainingConfigError(
            "the full size starts from a checkpoint", hint="give --init, a folder made by `xsam convert`"
        )
    from xsam.train.tokenizer import build_tiny_tokenizer

    tokenizer = build_tiny_tokenizer()
    torch.manual_seed(config.seed)
    model = XSamModel(tiny_config(vocab_size=len(tokenizer)))
    initialize_weights(model)
    return model, tokenizer


def train(
    recipe: str | Path,
    *,
    data: Path,
    out: Path,
    init: Path | None = None,
    image_size: int | None = None,
    heads: Sequence[Path] = (),
    overrides: Mapping[str, Any] | None = None,
    cpu: bool = False,
) -> None:
    """Run one stage, or continue it where it stopped.

    Args:
        recipe: YAML file or the name of a shipped recipe.
        data: folder that the paths of the recipe are relative to.
        out: folder of the run.
        init: checkpoint folder to start from; not used when the run is continued.
        image_size: input side of the SAM branch in pixels, if `init` was trained with another.
        heads: runs of earlier stages, whose training-only heads go on learning.
        overrides: fields that replace those of the recipe.
        cpu: leave a GPU alone.
    """
    from xsam.train.trainer import Trainer

    config = read_stage(recipe, overrides)
    if not config.sources:
        raise TrainingConfigError(f"{recipe} names no source")
    model, tokenizer = build_model(config, init)
    if image_size is not None:
        model = at_image_size(model, image_size)
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
        pictures = ", ".join(f"{source.name} {len(source):,}" for source in sources)
        state = f"continuing at step {trainer.progress.step}" if resumed else "starting"
        print(f"{recipe}: {state}; {trained:,} of {count:,} parameters; pictures: {pictures}", flush=True)
    trainer.fit()


def parse_overrides(values: Sequence[str]) -> dict[str, Any]:
    """`field=value` texts, values read as YAML."""
    overrides: dict[str, Any] = {}
    for text in values:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise TrainingConfigError(f"expected FIELD=VALUE, got {text!r}")
        try:
            overrides[name.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise TrainingConfigError(f"{text!r}: the value is not YAML") from error
    return overrides


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m xsam.train.run`, for `accelerate launch -m`."""
    parser = argparse.ArgumentParser(prog="xsam.train.run", description="Run one stage of training.")
    parser.add_argument("recipe", help="YAML file, or a shipped recipe such as tiny/stage1")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that paths are relative to")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--init", type=Path, help="checkpoint folder to start from")
    parser.add_argument("--image-size", type=int, metavar="PX", help="input side, if not that of --init")
    parser.add_argument(
        "--heads", type=Path, action="append", default=[], help="run of an earlier stage; repeatable"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="overrides")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    options = parser.parse_args(arguments)
    train(
        options.recipe,
        data=options.data,
        out=options.out,
        init=options.init,
        image_size=options.image_size,
        heads=options.heads,
        overrides=parse_overrides(options.overrides),
        cpu=options.cpu,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
