"""Score a model on unseen simulated scenes, in every task, at camera resolution.

    python -m xsam.eval.scenes tiny --scenes 2000000:500

The last line of output is JSON; `xsam.eval.scoreboard` explains its keys. The keys in `SCORE_KEYS` are always
present, null if the scenes had no such question. Other keys:

* `iou_<kind>`: mean IoU of a kind of expression; `relation_miou`: of all kinds that compare objects.
* `absent_rejected`: share of the phrases and questions without a match that were answered "not found";
  `present_rejected`: the same share for those with a match, that is, of missed phrases.
* `questions`: number of questions, of which `failed` were refused or failed with an error and enter no score.
* `counts`: questions by task; `n`: number of scenes.
* `ms_per_query_median`: median over scenes of the time per question about one region, when asked together
  with the others about its scene.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

import typer

from xsam.console import ErrorCommand
from xsam.eval.loop import QuestionedImage, Round, evaluate_questions
from xsam.eval.pictures import PictureSample
from xsam.eval.predictions import PredictionFile
from xsam.eval.presence import FALSE_ALARMS
from xsam.eval.processes import Processes
from xsam.eval.questions import INTERACTIVE_KINDS, RegionTruth
from xsam.eval.scene_questions import scene_questions
from xsam.eval.scoreboard import Scores
from xsam.segmenter import Segmenter
from xsam.sim.language import EXPRESSION_KINDS, RELATION_KINDS
from xsam.sim.near_misses import NEAR_MISS_KINDS
from xsam.sim.render import render
from xsam.sim.scene import TEST_SEEDS, sample_scene

IMAGE_HW = (480, 640)
DEFAULT_SCENES = f"{TEST_SEEDS.start}:500"

SCORE_KEYS: tuple[str, ...] = (
    *("referring_miou", "referring_ciou", "referring_giou", "referring_p50", "relation_miou"),
    *(f"iou_{kind}" for kind in EXPRESSION_KINDS),
    *("reasoning_miou", "reasoning_ciou", "reasoning_giou", "reasoning_p50"),
    *(f"interactive_{kind.value}_{name}" for kind in INTERACTIVE_KINDS for name in ("iou", "ciou")),
    *("category_ap", "category_ap50", "category_ap75", "vgd_ap", "vgd_ap50", "vgd_ap75"),
    *("panoptic_pq", "panoptic_sq", "panoptic_rq", "panoptic_pq_things", "panoptic_pq_stuff"),
    "semantic_miou",
    *("gcg_miou", "gcg_truth_miou", "gcg_precision", "gcg_recall"),
    *("gcg_mention_precision", "gcg_mention_recall", "gcg_ap50", "gcg_caption_f1", "gcg_cider"),
    *("absent_rejected", "present_rejected", "presence_mcc", "presence_auc"),
    *(f"absent_rejected_at_{round(100 * share):02}" for share in FALSE_ALARMS),
    *("near_miss_believed", *(f"{kind}_believed" for kind in NEAR_MISS_KINDS)),
    *("count_exact", "count_mae"),
)


def evaluate(
    model: Segmenter,
    seeds: range,
    *,
    per_scene: int = 4,
    show_progress: bool = False,
    pictures: PictureSample | None = None,
    predictions: PredictionFile | None = None,
    processes: Processes | None = None,
) -> Scores:
    """Score a model on the scenes of non-negative `seeds`; equal results give equal scores.

    Args:
        model: the segmenter to evaluate.
        seeds: seeds of the scenes.
        per_scene: number of referring expressions per scene.
        show_progress: show a progress bar on stderr.
        pictures: collects results to be drawn.
        predictions: saves the results, and holds those of an earlier run.
        processes: the processes that share the work; those other than the first get no scores.
    """
    board, rest = evaluate_questions(
        model,
        _Scenes(seeds, per_scene),
        show_progress=show_progress,
        pictures=pictures,
        predictions=predictions,
        processes=processes,
    )
    if not rest:
        return {}
    relation = board.mean_iou(RELATION_KINDS)
    return {
        **dict.fromkeys(SCORE_KEYS),
        **board.scores(),
        "relation_miou": None if relation is None else round(relation, 4),
        "ms_per_query_median": rest.pop("ms_median"),
        "protocol": "simulated scenes of this project; not a published benchmark",
        **rest,
    }


class _Scenes:
    """Questions about simulated scenes: single regions first, then the others."""

    skipped: Mapping[str, int] = {}

    def __init__(self, seeds: range, per_scene: int) -> None:
        self._seeds = seeds
        self._per_scene = per_scene

    def __len__(self) -> int:
        return len(self._seeds)

    def image(self, index: int) -> QuestionedImage:
        seed = self._seeds[index]
        view = render(sample_scene(seed), image_hw=IMAGE_HW)
        questions = list(scene_questions(seed, view, per_scene=self._per_scene))
        regions = [question for question in questions if isinstance(question.truth, RegionTruth)]
        others = [question for question in questions if not isinstance(question.truth, RegionTruth)]
        return QuestionedImage(
            name=str(seed),
            rgb=view.rgb,
            rounds=(
                Round(key=f"{seed} regions", questions=regions, timed_as=len(regions)),
                Round(key=f"{seed} others", questions=others),
            ),
        )


def parse_seeds(text: str) -> range:
    """Parse START:COUNT into a range of seeds.

    Raises:
        typer.BadParameter: the text has another form.
    """
    start, _, count = text.partition(":")
    if not start.isdecimal() or not count.isdecimal() or int(count) < 1:
        raise typer.BadParameter(f"expected START:COUNT, got {text!r}")
    return range(int(start), int(start) + int(count))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=ErrorCommand)
def main(
    model: Annotated[str, typer.Argument(help='"tiny" or a checkpoint folder.')],
    scenes: Annotated[str, typer.Option(metavar="START:COUNT", help="Seeds of the scenes.")] = DEFAULT_SCENES,
    per_scene: Annotated[int, typer.Option(min=1, help="Referring expressions per scene.")] = 4,
) -> None:
    """Score a model on simulated scenes; `xsam eval` has more options."""
    from xsam.engine import XSam

    seeds = parse_seeds(scenes)
    scores = evaluate(XSam.load(model), seeds, per_scene=per_scene, show_progress=True)
    print(json.dumps(scores, allow_nan=False))


if __name__ == "__main__":
    app()
