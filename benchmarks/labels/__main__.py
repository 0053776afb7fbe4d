"""How good a detector do the labels of `xsam label` train, compared with true ones?

    python -m benchmarks.labels                                    # see docs/evaluation.md for the time
    python -m benchmarks.labels --clips 3200000:200 --seeds 1      # other clips, one training for each kind

Clips of simulated tables are labeled by the model, without review: what is in doubt is ignored, or used if
such answers are right often enough (`--trust`). A small detector (`detector.py`) is trained with these
labels, and again with the true labels of the same frames; both are scored with the true labels of other
clips. The model was not trained on any of them. `--trust` was chosen on 3000000:200 and 3500000:40.

The last line is JSON: `ap50_auto` and `ap50_true` (medians over the seeds of the detector), `ap50_ratio`,
what the labels are like (`labels_right`: share of the labels that are right; `objects_labeled`,
`objects_ignored` and `objects_missed`: shares of the true objects), and the settings.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.labels.clips import label_clips, read_examples, render_examples
from benchmarks.labels.quality import label_quality
from benchmarks.labels.training import ap50, train
from xsam.eval.scenes import parse_seeds
from xsam.label.options import DEFAULT_TRUST, LabelOptions

CLASSES = "mug,bowl,plate,bottle,apple,banana,book,box"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    clips: Annotated[
        str,
        typer.Option("--clips", "--scenes", metavar="START:COUNT", help="Seeds of the clips to train on."),
    ] = "3100000:200",
    held_out: Annotated[
        str, typer.Option(metavar="START:COUNT", help="Seeds of the clips to score on.")
    ] = "3600000:40",
    model: Annotated[str, typer.Option(help="Of the labels: tiny, or a folder.")] = "tiny",
    classes: Annotated[str, typer.Option(help="What is on the tables and labeled.")] = CLASSES,
    others: Annotated[str, typer.Option(help="What is on the tables, too, and not labeled.")] = "",
    length: Annotated[int, typer.Option(min=2, help="Frames of a clip.")] = 4,
    every: Annotated[int, typer.Option(min=1, help="Train on one frame in so many.")] = 3,
    propagate: Annotated[int, typer.Option(min=1, help="As of xsam label.")] = 10,
    trust: Annotated[float, typer.Option(min=0, max=1, help="As of xsam label.")] = DEFAULT_TRUST,
    steps: Annotated[int, typer.Option(min=1, help="Of each training, 16 images each.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings with each kind of labels.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="PyTorch threads; default: all cores.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the data set here, or use the one that is here already.")
    ] = None,
) -> None:
    """Run the measurement."""
    from xsam.engine import XSam

    if threads:
        torch.set_num_threads(threads)
    began = time.perf_counter()

    def log(message: str) -> None:
        print(f"[labels {time.perf_counter() - began:6.1f} s] {message}", file=sys.stderr, flush=True)

    training, testing = parse_seeds(clips), parse_seeds(held_out)
    if set(training) & set(testing):
        raise typer.BadParameter("clips to train on and clips to score on must be different ones")
    things, more = _names(classes), _names(others)
    options = LabelOptions(classes=things, propagate=propagate, trust=trust, val=0.0)
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
        assert place is not None
        log(f"labeling {len(training)} clips of {length} frames")
        label_clips(Path(place), XSam.load(model), training, options, length=length, others=more)
        automatic, true = read_examples(Path(place), every)
        quality = label_quality(automatic, true)
    log(f"labels: {quality}")
    log(f"rendering {len(testing)} clips to score on")
    held = render_examples(testing, things, frames=3, length=60, others=more)
    scores: dict[str, list[float]] = {"auto": [], "true": []}
    for seed in range(seeds):
        for kind, examples in (("auto", automatic), ("true", true)):
            detector = train(examples, things, steps=steps, seed=seed, log=log)
            scores[kind].append(round(ap50(detector, held, things), 4))
            log(f"seed {seed}, {kind} labels: AP50 {scores[kind][-1]:.3f}")
    auto, truth = (statistics.median(scores[kind]) for kind in ("auto", "true"))
    report: dict[str, Any] = {
        "ap50_auto": auto,
        "ap50_true": truth,
        "ap50_ratio": round(auto / truth, 4) if truth else None,
        "ap50_auto_runs": scores["auto"],
        "ap50_true_runs": scores["true"],
        **quality,
        "train_frames": len(automatic),
        "held_out_frames": len(held),
        "clips": clips,
        "held_out": held_out,
        "classes": list(things),
        "others": list(more),
        "trust": trust,
        "steps": steps,
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(report))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    app()
