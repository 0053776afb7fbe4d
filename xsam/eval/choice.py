"""Whether a model fails to outline an object or fails to choose it: all of its masks for a phrase, ranked.

    python -m xsam.eval.choice tiny --scenes 2400000:70

Prints one JSON line. For each kind of phrase, on the network's own scores (nothing is corrected by place):

* `oracle_iou`: mean IoU of the best of its masks;
* `rank`: mean rank of that mask by score, from 1;
* `right_category`: share of phrases whose best-scored mask shows an object of the right category (IoU ≥ 0.5);
* `right_object`: of these, among phrases whose category is there more than once, the share of the right one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer

from xsam.console import ErrorCommand
from xsam.eval.scenes import IMAGE_HW, parse_seeds
from xsam.inference.examine import predict
from xsam.inference.forward import ForwardPass
from xsam.inference.postprocess import always_go_on, encode_queries, probabilities
from xsam.inference.upsample import MaskGeometry
from xsam.sim.annotate import annotate
from xsam.sim.language import EXPRESSION_KINDS, Expression, referring_expressions
from xsam.sim.render import render
from xsam.sim.scene import sample_scene
from xsam.types.masks import MaskRle
from xsam.types.requests import Frame, Query, Task

MIN_IOU = 0.5
MAX_PER_KIND = 2  # phrases of a scene


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskChoice:
    """How the masks of a model compare with the object that a phrase means.

    Attributes:
        oracle_iou: of the best mask.
        rank: of that mask by score, from 1.
        right_category: the best-scored mask shows an object of the right category.
        right_object: it shows the right one.
        rivals: number of other objects of the category.
    """

    oracle_iou: float
    rank: int
    right_category: bool
    right_object: bool
    rivals: int


@torch.inference_mode()
def scene_choices(forward: ForwardPass, seed: int) -> list[tuple[str, MaskChoice]]:
    """Rank all masks for phrases about a scene: (kind of the phrase, choice)."""
    view = render(sample_scene(seed), image_hw=IMAGE_HW)
    items = annotate(sample_scene(seed), view)
    rng = np.random.default_rng([seed, 103])
    phrases: list[Expression] = []
    everything = referring_expressions(items, view.rgb.shape[1])
    for kind in EXPRESSION_KINDS:
        same = [e for e in everything if e.kind == kind]
        phrases += [same[i] for i in rng.permutation(len(same))[:MAX_PER_KIND]]
    if not phrases:
        return []
    masks = {item.instance_id: MaskRle.encode(view.instance_ids == item.instance_id) for item in items}
    category = {item.instance_id: item.category for item in items}
    frame = Frame(rgb=view.rgb)
    geometry = MaskGeometry.for_image(frame.image_hw, forward.model.config.square)
    queries = [Query(task=Task.REFERRING, text=phrase.text) for phrase in phrases]
    found = []
    for phrase, prediction in zip(phrases, predict(forward, frame, queries), strict=True):
        assert prediction.class_logits is not None
        assert prediction.mask_logits is not None
        scores = probabilities(prediction.class_logits)
        order = scores[:, 0].argsort(descending=True)
        ranked = encode_queries(
            scores, prediction.mask_logits, geometry, order, torch.zeros_like(order), always_go_on
        )
        (wanted,) = phrase.instance_ids
        ids = list(masks)
        ious = MaskRle.iou_matrix(ranked.masks, [masks[key] for key in ids])
        own = ious[:, ids.index(wanted)]
        shown = ids[int(ious[0].argmax())]
        visible = bool(ious[0].max() >= MIN_IOU)
        found.append(
            (
                phrase.kind,
                MaskChoice(
                    oracle_iou=float(own.max()),
                    rank=int(own.argmax()) + 1,
                    right_category=visible and category[shown] == category[wanted],
                    right_object=visible and shown == wanted,
                    rivals=sum(name == category[wanted] for name in category.values()) - 1,
                ),
            )
        )
    return found


def summarize(choices: list[MaskChoice]) -> dict[str, Any]:
    """Average choices; `right_object` is None where no phrase had a rival and the right category."""
    contested = [choice for choice in choices if choice.rivals and choice.right_category]
    return {
        "n": len(choices),
        "oracle_iou": round(float(np.mean([choice.oracle_iou for choice in choices])), 4),
        "rank": round(float(np.mean([choice.rank for choice in choices])), 2),
        "right_category": round(float(np.mean([choice.right_category for choice in choices])), 4),
        "right_object": round(float(np.mean([choice.right_object for choice in contested])), 4)
        if contested
        else None,
    }


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=ErrorCommand)
def main(
    model: Annotated[str, typer.Argument(help='"tiny" or a checkpoint folder.')],
    scenes: Annotated[str, typer.Option(metavar="START:COUNT", help="Seeds of the scenes.")] = "2400000:70",
) -> None:
    """Tell masks that a model lacks from masks that it does not choose."""
    from xsam.weights.checkpoint import load_checkpoint, resolve_model

    network, tokenizer = load_checkpoint(resolve_model(model)[0])
    forward = ForwardPass(network.eval(), tokenizer, model_id=model)
    choices: dict[str, list[MaskChoice]] = defaultdict(list)
    for seed in parse_seeds(scenes):
        for kind, choice in scene_choices(forward, seed):
            choices[kind].append(choice)
    together = [choice for kind in choices.values() for choice in kind]
    if not together:
        raise typer.BadParameter("there is nothing to refer to in these scenes")
    print(json.dumps({"all": summarize(together), **{kind: summarize(choices[kind]) for kind in choices}}))


if __name__ == "__main__":
    app()
