"""Train the tiny checkpoint from scratch: render scenes, run the three stages, publish.

    python -m xsam.train.pipeline --data data --out runs/tiny            # the shipped recipe: many hours
    python -m xsam.train.pipeline --data data --out runs/smoke --smoke   # the same steps in minutes

An interrupted pipeline resumes when the same command is run again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from xsam.console import ErrorCommand
from xsam.eval.scenes import parse_seeds
from xsam.sim.scene import TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS
from xsam.sim.shards import render_shards
from xsam.train.publish import publish
from xsam.train.run import parse_overrides, train
from xsam.train.stages import STAGE_NAMES

SCENE_SIDE_PX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSize:
    """Numbers of scenes, and overrides for the recipe of every stage."""

    train_scenes: int
    validation_scenes: int
    test_scenes: int
    overrides: Mapping[str, Any] = field(default_factory=dict)


FULL = PipelineSize(train_scenes=24_000, validation_scenes=500, test_scenes=500)
SMOKE = PipelineSize(
    train_scenes=48,
    validation_scenes=8,
    test_scenes=3,
    overrides={
        "minutes": 0,
        "steps": 12,
        "batch_size": 4,
        "prompts_per_image": 4,
        "log_every": 4,
        "validate_every": 12,
        "validate_pictures": 8,
    },
)


def run_pipeline(
    size: PipelineSize,
    *,
    data: Path,
    out: Path,
    overrides: Mapping[str, Any],
    test_seeds: range,
    cpu: bool,
    init: Path | None = None,
) -> dict[str, Any]:
    """Run all steps that have not finished yet.

    Args:
        size: numbers of scenes.
        data: folder for rendered scenes.
        out: folder for the runs of the stages.
        overrides: fields that replace those of the recipes.
        test_seeds: scenes to score the result on.
        cpu: do not use a GPU.
        init: checkpoint folder to start from; None means random weights.

    Returns:
        The scores of the published checkpoint, `out / "published"`.
    """
    for name, seeds, count in (
        ("train", TRAIN_SEEDS, size.train_scenes),
        ("val", VALIDATION_SEEDS, size.validation_scenes),
    ):
        _report(f"rendering {count} {name} scenes of {SCENE_SIDE_PX} px")
        render_shards(data / name, start=seeds.start, count=count, size=SCENE_SIDE_PX, show_progress=True)
    for stage in STAGE_NAMES:
        _report(f"training {stage}")
        train(
            f"tiny/{stage}",
            data=data,
            out=out / stage,
            init=init,
            heads=[out / done for done in STAGE_NAMES[: STAGE_NAMES.index(stage)]],
            overrides={**size.overrides, **overrides},
            cpu=cpu,
        )
        init = out / stage / "checkpoint"
    _report(f"publishing and scoring on {len(test_seeds)} test scenes")
    return publish(out, out / "published", test_seeds)


def _report(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=ErrorCommand)
def main(
    out: Annotated[Path, typer.Option(help="Folder for the runs of the stages.")],
    data: Annotated[Path, typer.Option(help="Folder for rendered scenes.")] = Path("data"),
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint folder to start from; default: random weights.")
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Run a few steps on a few scenes.")] = False,
    scenes: Annotated[
        str | None, typer.Option(metavar="START:COUNT", help="Seeds of the test scenes.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change the recipes; repeatable."),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use a GPU.")] = False,
) -> None:
    """Train the tiny checkpoint from scratch."""
    size = SMOKE if smoke else FULL
    run_pipeline(
        size,
        data=data,
        out=out,
        overrides=parse_overrides(overrides or []),
        test_seeds=parse_seeds(scenes or f"{TEST_SEEDS.start}:{size.test_scenes}"),
        cpu=cpu,
        init=init,
    )


if __name__ == "__main__":
    app()
