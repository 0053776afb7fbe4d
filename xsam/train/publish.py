"""Turn finished runs into the checkpoint that ships: weights, scores, and a model card.

    python -m xsam.train.publish runs/tiny --out xsam/assets/tiny

The folder contains the runs of the three stages, and possibly one that continued training. The weights are
the averaged weights of the last run, in float16. The scores come from `xsam.eval.scenes` on the test seeds,
through the same engine that users load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from xsam.config import XSamConfig
from xsam.console import ErrorCommand
from xsam.engine import XSam
from xsam.errors import TrainingConfigError
from xsam.eval.scenes import evaluate, parse_seeds
from xsam.model.xsam import XSamModel
from xsam.sim.scene import TEST_SEEDS
from xsam.train.card import model_card
from xsam.train.stages import finished_runs
from xsam.weights.checkpoint import load_weights, read_tensors, save_checkpoint
from xsam.weights.tokenizer_files import load_tokenizer


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
        settings: settings of `XSamConfig` to change, such as `reject_below`, which is chosen on validation
            scenes after training.
        remarks: Markdown for the card, such as observations from looking at results.

    Returns:
        The scores, also written to `scores.json`.

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


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=ErrorCommand)
def main(
    runs: Annotated[Path, typer.Argument(help="Folder with the runs of the stages.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    scenes: Annotated[
        str, typer.Option(metavar="START:COUNT", help="Seeds of the test scenes.")
    ] = f"{TEST_SEEDS.start}:500",
    reject_below: Annotated[
        float | None, typer.Option(help="Minimum score of phrases; default: that of the run.")
    ] = None,
    instance_threshold: Annotated[
        float | None, typer.Option(help="Minimum score of instances; default: that of the run.")
    ] = None,
    remarks: Annotated[Path | None, typer.Option(help="Markdown file to include in the card.")] = None,
) -> None:
    """Publish finished runs as a checkpoint."""
    text = remarks.read_text(encoding="utf-8") if remarks else ""
    chosen = {"reject_below": reject_below, "instance_threshold": instance_threshold}
    settings = {name: value for name, value in chosen.items() if value is not None}
    print(json.dumps(publish(runs, out, parse_seeds(scenes), settings=settings, remarks=text)))


if __name__ == "__main__":
    app()
