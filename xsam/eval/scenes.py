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
import statistics
from typing import Annotated

import typer
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
DEFAULT_SCENES = f"{TEST_SEEDS.start}:500"

SCORE_KEYS: tuple[str, ...] = (
    *("referring_miou", "referring_ciou", "referring_giou", "referring_p50", "relation_miou"),
    *(f"iou_{kind}" for kind in EXPRESSION_KINDS),
    *("reasoning_miou", "reasoning_ciou", "reasoning_giou", "reasoning_p50"),
    *(f"interactive_{kind.value}_iou" for kind in INTERACTIVE_KINDS),
    *("category_ap", "category_ap50", "category_ap75", "vgd_ap", "vgd_ap50", "vgd_ap75"),
    *("panoptic_pq", "panoptic_sq", "panoptic_rq", "panoptic_pq_things", "panoptic_pq_stuff"),
    "semantic_miou",
    *("gcg_miou", "gcg_truth_miou", "gcg_recall", "gcg_ap50", "gcg_caption_f1", "gcg_cider"),
    *("absent_rejected", "present_rejected"),
)


def evaluate(
    model: Segmenter,
    seeds: range,
    *,
    per_scene: int = 4,
    show_progress: bool = False,
    pictures: PictureSample | None = None,
) -> Scores:
    """Score a model on the scenes of non-negative `seeds`; equal results give equal scores.

    Args:
        model: the segmenter to evaluate.
        seeds: seeds of the scenes.
        per_scene: number of referring expressions per scene.
        show_progress: show a progress bar on stderr.
        pictures: collects results to be drawn.
    """
    board = Scoreboard()
    latency_s: list[float] = []
    for seed in tqdm(seeds, unit="scene", disable=not show_progress, mininterval=5.0):
        view = render(sample_scene(seed), image_hw=IMAGE_HW)
        questions = list(scene_questions(seed, view, per_scene=per_scene))
        regions = [question for question in questions if isinstance(question.truth, RegionTruth)]
        others = [question for question in questions if not isinstance(question.truth, RegionTruth)]
        seconds = ask_and_score(model, view.rgb, regions, board, pictures, name=str(seed))
        if regions and seconds is not None:
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
    """Parse START:COUNT into a range of seeds.

    Raises:
        typer.BadParameter: the text has another form.
    """
    start, _, count = text.partition(":")
    if not start.isdecimal() or not count.isdecimal() or int(count) < 1:
        raise typer.BadParameter(f"expected START:COUNT, got {text!r}")
    return range(int(start), int(start) + int(count))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[str, typer.Argument(help='"tiny" or a checkpoint folder.')],
    scenes: Annotated[str, typer.Option(metavar="START:COUNT", help="Seeds of the scenes.")] = DEFAULT_SCENES,
    per_scene: Annotated[int, typer.Option(help="Referring expressions per scene.")] = 4,
) -> None:
    """Score a model on simulated scenes; `xsam eval` has more options."""
    from xsam.engine import XSam

    seeds = parse_seeds(scenes)
    scores = evaluate(XSam.load(model), seeds, per_scene=per_scene, show_progress=True)
    print(json.dumps(scores, allow_nan=False))


if __name__ == "__main__":
    app()
