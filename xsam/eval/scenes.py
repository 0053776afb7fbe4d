"""Score a model on simulated scenes it has not seen, in every task, on camera-size pictures.

    python -m xsam.eval.scenes tiny --scenes 2000000:500

The last line is JSON; `xsam.eval.scoreboard` says what its keys mean. Those of every run are in `SCORE_KEYS`,
null where the scenes did not ask for it. Further ones:

* `iou_<kind>`: mean IoU of a kind of expression; `relation_miou`: of all that compare objects.
* `absent_rejected`: share of the phrases and questions nothing fits that were answered "not found";
  `false_alarm`: the same share of those that something fits.
* `questions` asked, of them `failed`: refused or without an answer because of an error. These enter no score.
* `counts` by task, `n` scenes.
* `ms_per_query_median`: median over the scenes of the time a question about one region takes, asked together
  with the others on its scene.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence

from tqdm import tqdm

from xsam.eval.asking import ask_and_score
from xsam.eval.pictures import PictureSample
from xsam.eval.questions import INTERACTIVE_KINDS, RegionTruth
from xsam.eval.scene_questions import scene_questions
from xsam.eval.scoreboard import Scoreboard, Scores
from xsam.segmenter import Segmenter
from xsam.sim.language import EXPRESSION_KINDS, RELATION_KINDS
from xsam.sim.render import render
from xsam.sim.scene import TEST_SEEDS, sample_scene

IMAGE_HW = (480, 640)
DEFAULT_SEEDS = range(TEST_SEEDS.start, TEST_SEEDS.start + 500)

SCORE_KEYS: tuple[str, ...] = (
    *("referring_miou", "referring_ciou", "referring_giou", "referring_p50", "relation_miou"),
    *(f"iou_{kind}" for kind in EXPRESSION_KINDS),
    *("reasoning_miou", "reasoning_ciou", "reasoning_giou", "reasoning_p50"),
    *(f"interactive_{kind.value}_iou" for kind in INTERACTIVE_KINDS),
    *("category_ap", "category_ap50", "category_ap75", "vgd_ap", "vgd_ap50", "vgd_ap75"),
    *("panoptic_pq", "panoptic_sq", "panoptic_rq", "panoptic_pq_things", "panoptic_pq_stuff"),
    "semantic_miou",
    *("gcg_miou", "gcg_truth_miou", "gcg_recall", "gcg_ap50", "gcg_caption_f1", "gcg_cider"),
    *("absent_rejected", "false_alarm"),
)


def evaluate(
    model: Segmenter,
    seeds: range,
    *,
    per_scene: int = 4,
    show_progress: bool = False,
    pictures: PictureSample | None = None,
) -> Scores:
    """Scores of a model on the scenes of `seeds`, any non-negative ones; the same for the same answers.

    Args:
        per_scene: number of referring expressions a scene.
        show_progress: on stderr.
        pictures: takes answers to be drawn.
    """
    board = Scoreboard()
    latency_s: list[float] = []
    for seed in tqdm(seeds, unit="scene", disable=not show_progress, mininterval=5.0):
        view = render(sample_scene(seed), image_hw=IMAGE_HW)
        asked = list(scene_questions(seed, view, per_scene=per_scene))
        regions = [question for question in asked if isinstance(question.truth, RegionTruth)]
        others = [question for question in asked if not isinstance(question.truth, RegionTruth)]
        seconds = ask_and_score(model, view.rgb, regions, board, pictures, name=str(seed))
        if regions:
            latency_s.append(seconds / len(regions))
        ask_and_score(model, view.rgb, others, board, pictures, name=str(seed))
    relation = board.mean_iou(RELATION_KINDS)
    return {
        **dict.fromkeys(SCORE_KEYS),
        **board.scores(),
        "relation_miou": None if relation is None else round(relation, 4),
        "ms_per_query_median": round(1000 * statistics.median(latency_s), 1) if latency_s else None,
        "n": len(seeds),
    }


def parse_seeds(text: str) -> range:
    """Seeds of a text START:COUNT."""
    start, _, count = text.partition(":")
    if not start.isdecimal() or not count.isdecimal() or int(count) < 1:
        raise argparse.ArgumentTypeError(f"expected START:COUNT, got {text!r}")
    return range(int(start), int(start) + int(count))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m xsam.eval.scenes`; `xsam eval` can do more."""
    from xsam.engine import XSam

    parser = argparse.ArgumentParser(
        prog="xsam.eval.scenes", description="Score a model on simulated scenes."
    )
    parser.add_argument("model", help='"tiny" or a checkpoint folder')
    parser.add_argument("--scenes", type=parse_seeds, default=DEFAULT_SEEDS)
    parser.add_argument("--per-scene", type=int, default=4, help="referring expressions a scene")
    options = parser.parse_args(arguments)
    scores = evaluate(
        XSam.load(options.model), options.scenes, per_scene=options.per_scene, show_progress=True
    )
    print(json.dumps(scores, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
