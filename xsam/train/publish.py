"""Turn a finished run into the checkpoint that ships: weights, scores, and a model card.

    python -m xsam.train.publish runs/tiny --out xsam/assets/tiny

The weights are the run's averaged ones in float16. The scores come from `xsam.eval.scenes` on the
test seeds, through the same engine that users load.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from xsam.checkpoint import load_weights, read_tensors, save_checkpoint, sha256
from xsam.config import tiny_config
from xsam.engine import XSam
from xsam.eval.scenes import evaluate, parse_seeds
from xsam.model.xsam import XSamModel
from xsam.sim.scene import TEST_SEEDS
from xsam.train.tokenizer import build_tiny_tokenizer

_ROWS = (
    ("referring expressions, mean IoU", "referring_miou"),
    ('… category ("the mug")', "iou_category"),
    ('… colour + category ("the red mug")', "iou_color_category"),
    ('… colour ("the red object")', "iou_color"),
    ("… left-/rightmost", "iou_extreme_x"),
    ("… second from the left, …", "iou_ordinal"),
    ("… largest, smallest", "iou_size"),
    ("… nearest, farthest", "iou_distance"),
    ("… left of, right of, between", "iou_relation"),
    ("reasoning questions, mean IoU", "reasoning_miou"),
    ("point prompts, mean IoU", "interactive_point_iou"),
    ("box prompts, mean IoU", "interactive_box_iou"),
    ('absent phrases answered "not found"', "absent_rejected"),
    ('present phrases answered "not found"', "false_alarm"),
)


def score_table(scores: Mapping[str, float]) -> str:
    """Markdown table of the scores."""
    lines = ["| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {words} | {scores[name]:.2f} |" for words, name in _ROWS)])


def model_card(scores: Mapping[str, float], *, digest: str, size: int, parameters: int, run: str) -> str:
    """The README of the checkpoint folder."""
    return f"""# The tiny X-SAM checkpoint

The architecture of X-SAM (arXiv 2508.04655) with {parameters / 1e6:.1f} M parameters, trained on
simulated table-top scenes only. It is there so that everything in this project runs at once on a CPU. It
knows 26 household categories and 11 colours, and nothing of the real world.

## Scores

{scores["n"]:.0f} scenes of the test seeds, {scores["questions"]:.0f} questions, 640×480, through
`XSam.segment`: `python -m xsam.eval.scenes tiny`. All numbers are in `scores.json`.

{score_table(scores)}

Weak points: relations between objects, sizes and distances; saying that something is not there; small or
partly hidden objects; several objects of one category close together.

## How it was made

```bash
python -m xsam.sim.shards --start 0 --count 24000 --size 192 --out data/train
python -m xsam.sim.shards --start 1000000 --count 500 --size 192 --out data/val
{run}
python -m xsam.train.publish runs/tiny --out xsam/assets/tiny
```

Two CPU cores. Training seeds 0 to 23999, validation seeds 1000000 to 1000499, test seeds 2000000 to
2000499; nothing was trained or chosen on test scenes. A run stops by the clock, so the number of steps
depends on the machine. Every prompt teaches the masks of all objects, its wording only their classes;
category and colour are also read off pixels and queries during training. Weights are an exponential
average, stored in float16.

`model.safetensors`: {size / 1e6:.1f} MB, sha256 `{digest}`

Licence: Apache-2.0, like the project.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m xsam.train.publish`."""
    parser = argparse.ArgumentParser(prog="xsam.train.publish", description="Ship a finished run.")
    parser.add_argument("run", type=Path, help="folder of `xsam.train.tiny`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=parse_seeds, default=range(TEST_SEEDS.start, TEST_SEEDS.start + 500))
    options = parser.parse_args(arguments)
    tokenizer = build_tiny_tokenizer()
    model = XSamModel(tiny_config(vocab_size=len(tokenizer)))
    load_weights(model, read_tensors(options.run / "checkpoint"))
    save_checkpoint(model, tokenizer, options.out, dtype=torch.float16)
    scores = evaluate(XSam.load(options.out), options.scenes, show_progress=True)
    (options.out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    weights = options.out / "model.safetensors"
    settings = (options.run / "command.txt").read_text(encoding="utf-8").strip()
    card = model_card(
        scores,
        digest=sha256(weights),
        size=weights.stat().st_size,
        parameters=sum(p.numel() for p in model.parameters()),
        run=settings,
    )
    (options.out / "README.md").write_text(card, encoding="utf-8")
    print(json.dumps(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
