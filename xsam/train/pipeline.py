"""The tiny checkpoint from nothing: render scenes, run the three stages, publish.

    python -m xsam.train.pipeline --data data --out runs/tiny            # the shipped recipe: many hours
    python -m xsam.train.pipeline --data data --out runs/smoke --smoke   # the same path in minutes

The same command continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xsam.eval.scenes import parse_seeds
from xsam.sim.scene import TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS
from xsam.sim.shards import render_shards
from xsam.train.publish import publish
from xsam.train.run import parse_overrides, train
from xsam.train.stages import STAGE_NAMES

SCENE_SIDE_PX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything; `overrides` go to every stage."""

    train_scenes: int
    validation_scenes: int
    test_scenes: int
    overrides: Mapping[str, Any] = field(default_factory=dict)


FULL = Size(train_scenes=24_000, validation_scenes=500, test_scenes=500)
SMOKE = Size(
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
    size: Size,
    *,
    data: Path,
    out: Path,
    overrides: Mapping[str, Any],
    test_seeds: range,
    cpu: bool,
    init: Path | None = None,
) -> dict[str, Any]:
    """Run what is not done yet.

    Args:
        data: folder for rendered scenes.
        out: folder for the runs of the stages.
        init: checkpoint folder to go on from; None = from nothing.

    Returns:
        The scores of the published checkpoint, `out / "published"`.
    """
    for name, seeds, count in (
        ("train", TRAIN_SEEDS, size.train_scenes),
        ("val", VALIDATION_SEEDS, size.validation_scenes),
    ):
        _say(f"rendering {count} {name} scenes of {SCENE_SIDE_PX} px")
        render_shards(data / name, start=seeds.start, count=count, size=SCENE_SIDE_PX, show_progress=True)
    for stage in STAGE_NAMES:
        _say(f"training {stage}")
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
    _say(f"publishing and scoring on {len(test_seeds)} test scenes")
    return publish(out, out / "published", test_seeds)


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m xsam.train.pipeline`."""
    parser = argparse.ArgumentParser(prog="xsam.train.pipeline", description="Train the tiny checkpoint.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder for rendered scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs of the stages")
    parser.add_argument("--init", type=Path, help="checkpoint folder to go on from; default: from nothing")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a few scenes")
    parser.add_argument("--scenes", type=parse_seeds, help="START:COUNT of the test scenes")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="overrides")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    options = parser.parse_args(arguments)
    size = SMOKE if options.smoke else FULL
    test_seeds = options.scenes or range(TEST_SEEDS.start, TEST_SEEDS.start + size.test_scenes)
    run_pipeline(
        size,
        data=options.data,
        out=options.out,
        overrides=parse_overrides(options.overrides),
        test_seeds=test_seeds,
        cpu=options.cpu,
        init=options.init,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
