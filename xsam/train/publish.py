"""Turn finished runs into the checkpoint that ships: weights, scores, pictures, curves, and a model card.

    python -m xsam.train.publish runs/tiny --out xsam/assets/tiny

The folder holds the runs of the three stages, and perhaps one that continued. The weights are the last
run's averaged ones in float16. The scores come from `xsam.eval.scenes` on the test seeds, through the
engine that users load.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from xsam.config import XSamConfig
from xsam.engine import XSam
from xsam.errors import TrainingConfigError
from xsam.eval.scenes import evaluate, parse_seeds
from xsam.model.xsam import XSamModel
from xsam.sim.scene import TEST_SEEDS
from xsam.train.card import model_card
from xsam.train.stages import finished_runs
from xsam.weights.checkpoint import load_tokenizer, load_weights, read_tensors, save_checkpoint


def publish(
    runs: Path,
    out: Path,
    seeds: range,
    *,
    settings: Mapping[str, Any] | None = None,
    remarks: str = "",
) -> dict[str, Any]:
    """Write the checkpoint folder and score it.

    Args:
        runs: folder with the runs of the stages.
        out: folder of the checkpoint.
        seeds: test scenes.
        settings: own settings of `XSamConfig` to change, such as `reject_below`: chosen on validation
            scenes after training.
        remarks: Markdown for the card, such as what a person saw in the pictures.

    Returns:
        The scores, also in `scores.json`.

    Raises:
        TrainingConfigError: no run has finished.
    """
    if not (finished := finished_runs(runs)):
        raise TrainingConfigError(f"no finished run in {runs}", hint="train one: xsam train --help")
    trained = finished[-1] / "checkpoint"
    config = XSamConfig.read(trained / "config.json")
    if settings:
        config = XSamConfig.from_dict({**config.to_dict(), "xsam": {**config.to_dict()["xsam"], **settings}})
    model = XSamModel(config)
    load_weights(model, read_tensors(trained))
    save_checkpoint(model, load_tokenizer(trained / "tokenizer"), out, dtype=torch.float16)
    scores = evaluate(XSam.load(out), seeds, show_progress=True)
    (out / "scores.json").write_text(json.dumps(scores, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (out / "README.md").write_text(model_card(out, runs, scores, remarks=remarks), encoding="utf-8")
    return scores


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m xsam.train.publish`."""
    parser = argparse.ArgumentParser(prog="xsam.train.publish", description="Ship finished runs.")
    parser.add_argument("runs", type=Path, help="folder with the runs of the stages")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=parse_seeds, default=range(TEST_SEEDS.start, TEST_SEEDS.start + 500))
    parser.add_argument("--reject-below", type=float, help="least score of phrases; default: the run's")
    parser.add_argument("--instance-threshold", type=float, help="least score of instances")
    parser.add_argument("--remarks", type=Path, help="Markdown file that goes into the card")
    options = parser.parse_args(arguments)
    remarks = options.remarks.read_text(encoding="utf-8") if options.remarks else ""
    chosen = {"reject_below": options.reject_below, "instance_threshold": options.instance_threshold}
    settings = {name: value for name, value in chosen.items() if value is not None}
    scores = publish(options.runs, options.out, options.scenes, settings=settings, remarks=remarks)
    print(json.dumps(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
