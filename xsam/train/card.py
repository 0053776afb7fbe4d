"""The model card of the tiny checkpoint, written from what its runs left behind."""

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
    "stage2": "alignment: questions and answers about scenes, and where a phrase's objects are",
    "stage3": "mixed: every task together, everything trained",
    CONTINUED: "mixed once more, from that checkpoint",
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
    ("grounded captions, mean IoU", "gcg_miou"),
    ('absent phrases answered "not found"', "absent_rejected"),
    ('present phrases answered "not found"', "false_alarm"),
)


def score_table(scores: Mapping[str, Any]) -> str:
    """Markdown table of the scores; what was not measured is left out."""
    rows = [(words, scores.get(name)) for words, name in _ROWS]
    lines = [f"| {words} | {value:.2f} |" for words, value in rows if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def stage_table(runs: Path) -> str:
    """Markdown table of how long each stage was trained."""
    lines = ["| stage | what | steps | minutes |", "|---|---|---|---|"]
    for run in finished_runs(runs):
        last, name = last_record(run), run.name.removeprefix("stage")
        lines.append(f"| {name} | {_STAGE_TEXT[run.name]} | {last['step']:,} | {last['minutes']:.0f} |")
    return "\n".join(lines)


def last_record(run: Path) -> dict[str, Any]:
    """The last line of a run's log."""
    return json.loads((run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])


def model_card(folder: Path, runs: Path, scores: Mapping[str, Any], *, remarks: str = "") -> str:
    """The README of a checkpoint folder.

    Args:
        folder: with `model.safetensors` and `config.json`.
        runs: folder with the runs of the stages.
        scores: of `xsam.eval.scenes.evaluate`.
        remarks: what a person saw in the pictures; Markdown.
    """
    weights = folder / "model.safetensors"
    parameters = sum(tensor.numel() for tensor in read_tensors(folder).values()) / 1e6
    return f"""# The tiny X-SAM checkpoint

The architecture of X-SAM (arXiv 2508.04655) with {parameters:.1f} M parameters, trained on simulated
table-top scenes only. It is there so that everything in this project runs at once on a CPU. It knows
{len(CATEGORIES)} household categories and {len(ALL_COLORS)} colors, and nothing of the real world.

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

The recipes of the stages are `xsam/train/recipes/tiny/*.yaml`; `docs/log.md` of the project tells what was
tried. Training seeds 0 to 23,999, validation seeds from 1,000,000, test seeds from 2,000,000; nothing was
trained or chosen on test scenes. Stages end by the clock, so their steps depend on the machine. Every prompt
teaches the masks of all objects, its wording only their classes; in training, class and color are also read
off pixels and queries, and a coarse mask off the `<SEG>` embedding. Weights are an exponential average,
stored in float16.

`model.safetensors`: {weights.stat().st_size / 1e6:.1f} MB, sha256 `{sha256_of_file(weights)}`

License: Apache-2.0, like the project.
"""
