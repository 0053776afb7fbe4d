"""The model card of the tiny checkpoint, generated from the logs of its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xsam.sim.household import ALL_COLORS, CATEGORIES
from xsam.train.stages import CONTINUED, finished_runs
from xsam.weights.checkpoint import read_tensors
from xsam.weights.files import sha256_of_file

_STAGE_TEXT = {
    "stage1": "segmentor: all objects and surfaces, closed set of 29 classes",
    "stage2": "alignment: questions and answers about scenes, and the locations of a phrase's objects",
    "stage3": "mixed: every task together, everything trained",
    CONTINUED: "mixed again, from the checkpoint of stage 3",
}
_ROWS: Sequence[tuple[str, str]] = (
    ("referring expressions, mean IoU", "referring_miou"),
    ("referring expressions, cumulative IoU", "referring_ciou"),
    ('… category ("the mug")', "iou_category"),
    ('… color + category ("the red mug")', "iou_color_category"),
    ('… color ("the red object")', "iou_color"),
    ("… left-/rightmost", "iou_extreme_x"),
    ("… second from the left, …", "iou_ordinal"),
    ("… largest, smallest", "iou_size"),
    ("… nearest, farthest", "iou_distance"),
    ("… left of, right of, between", "iou_relation"),
    ("relations (the five kinds above), mean IoU", "relation_miou"),
    ("reasoning questions, mean IoU", "reasoning_miou"),
    ("categories, AP50", "category_ap50"),
    ("panoptic quality, 26 things and 3 surfaces", "panoptic_pq"),
    ("semantic, mean IoU", "semantic_miou"),
    ("point prompts, mean IoU", "interactive_point_iou"),
    ("box prompts, mean IoU", "interactive_box_iou"),
    ("example objects (visual grounding), AP50", "vgd_ap50"),
    ("descriptions, mean IoU of all true phrases, 0 for missed ones", "gcg_truth_miou"),
    ("descriptions, phrases that name and outline something", "gcg_precision"),
    ("descriptions, true phrases that are named and outlined", "gcg_recall"),
    ('absent phrases reported "not found"', "absent_rejected"),
    ('present phrases reported "not found"', "present_rejected"),
    ('near misses believed ("the blue mug" where all are red)', "near_miss_believed"),
    ('"found" against what is there, correlation (Matthews)', "presence_mcc"),
    ("categories counted exactly", "count_exact"),
)


def score_table(scores: Mapping[str, Any]) -> str:
    """Format the scores as a Markdown table, without those that were not measured."""
    rows = [(label, scores.get(name)) for label, name in _ROWS]
    lines = [f"| {label} | {value:.2f} |" for label, value in rows if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def stage_table(runs: Path) -> str:
    """Format the steps and minutes of each stage as a Markdown table."""
    lines = ["| stage | what | steps | minutes |", "|---|---|---|---|"]
    for run in finished_runs(runs):
        last, name = last_record(run), run.name.removeprefix("stage")
        lines.append(f"| {name} | {_STAGE_TEXT[run.name]} | {last['step']:,} | {last['minutes']:.0f} |")
    return "\n".join(lines)


def last_record(run: Path) -> dict[str, Any]:
    """Read the last record of a run's log."""
    return json.loads((run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])


def model_card(folder: Path, runs: Path, scores: Mapping[str, Any], *, remarks: str = "") -> str:
    """Write the text of the README of a checkpoint folder.

    Args:
        folder: contains `model.safetensors` and `config.json`.
        runs: folder with the runs of the stages.
        scores: result of `xsam.eval.scenes.evaluate`.
        remarks: Markdown, such as observations from looking at results.
    """
    weights = folder / "model.safetensors"
    parameters = sum(tensor.numel() for tensor in read_tensors(folder).values()) / 1e6
    return f"""# The tiny X-SAM checkpoint

The X-SAM architecture (arXiv 2508.04655) with {parameters:.1f} M parameters, trained only on simulated
tabletop scenes. It is here so that everything in this project runs on a CPU right away. It knows
{len(CATEGORIES)} household categories and {len(ALL_COLORS)} colors, and nothing about the real world.

## Scores

{scores["n"]} scenes of the test seeds, {scores["questions"]} questions at 640×480 through `XSam.segment`:

```bash
xsam eval tiny --scenes 2000000:{scores["n"]} --json
```

{score_table(scores)}

All numbers are in `scores.json`.

{remarks.strip()}

## How it was made

{stage_table(runs)}

```bash
python -m xsam.train.pipeline --data data --out runs/tiny
```

The stage recipes are `xsam/train/recipes/tiny/*.yaml`; the project's `docs/log.md` tells what was tried.
Training seeds are 0 to 23,999, validation seeds start at 1,000,000 and test seeds at 2,000,000; nothing was
trained or selected on test scenes. Stages end by the clock, so their step counts depend on the machine. Every
prompt supervises the masks of all objects, and its wording only their classes; during training, class and
color are also predicted from pixels and queries, and a coarse mask from the `<SEG>` embedding. Weights are an
exponential moving average, stored in float16.

`model.safetensors`: {weights.stat().st_size / 1e6:.1f} MB, sha256 `{sha256_of_file(weights)}`

License: Apache-2.0, like the project.
"""
