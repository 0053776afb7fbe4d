"""Descriptions in the names of the census: it names what a mask shows, and adds what is missing.

A small model may outline the green block, call it "a green can", and end its list after three of five
objects, while it finds all of them when it is asked for its categories. The census of the frame is that
question (`xsam.inference.census`).
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from xsam.inference.census import SAME_PIXELS, Census, best_label, named_category
from xsam.inference.descriptions import join_phrases, list_parts
from xsam.inference.mask_support import MaskSupport
from xsam.types.masks import MaskRle
from xsam.types.nouns import NUMBER_WORDS, with_article
from xsam.types.requests import SegmentationResult, Segments, Status, Task

COMPLETED = "named and completed by a look for every known category"

_DETERMINERS = ("a", "an", "the", "some", *NUMBER_WORDS)
_WORD = re.compile(r"[^\W\d_]+")


def completed(
    result: SegmentationResult, support: MaskSupport, task: Task, census: Census
) -> tuple[SegmentationResult, MaskSupport]:
    """Return a description with one phrase for each object, in the names of the census, and with the rest.

    Attributes ("green") are the model's own; what is added has none. Running text stays as it is, and so does
    a description whose query sets its own threshold, so that all that the model said is wanted. If anything
    changes, `hint` says so.

    Args:
        result: of one query, before anything is doubted.
        support: what the network says for its masks.
        task: of the query.
        census: of the frame.
    """
    answered = result.status in (Status.FOUND, Status.NOT_FOUND)
    if task is not Task.GROUNDED_CONVERSATION or not answered or result.query.score_threshold is not None:
        return result, support
    parts = list_parts(result.text, result.phrases)
    objects = census.objects("object")
    if not objects or parts is None:
        return result, support
    named = [
        (index, _named(phrase, result.segments.masks[index], census))
        for number, phrase in enumerate(result.phrases)
        for index in _shown_by(result.segments, number, phrase, census)
    ]
    own = [index for index, _ in named]
    masks = [census.masks[index] for index in objects]
    seen = MaskRle.iou_matrix([result.segments.masks[index] for index in own], masks) > SAME_PIXELS
    room = max(0, result.query.max_instances - len(own))
    added = [index for k, index in enumerate(objects) if not seen[:, k].any()][:room]
    phrases = (*(phrase for _, phrase in named), *(with_article(census.labels[index]) for index in added))
    found = Segments.joined((result.segments[own], census.segments(added, result.segments.image_hw)))
    segments = replace(found, labels=phrases, label_indices=np.arange(len(phrases), dtype=np.int32))
    support = MaskSupport.joined((support.pick(own), census.support.pick(added)))
    order = np.argsort(-segments.scores, kind="stable")
    hint = result.hint if phrases == result.phrases else "; ".join(filter(None, (result.hint, COMPLETED)))
    complete = replace(
        result,
        status=Status.FOUND,
        message="",
        hint=hint,
        text=join_phrases(*parts, phrases),
        phrases=phrases,
        segments=segments[order],
    )
    return complete, support.pick(order.tolist())


def _shown_by(segments: Segments, number: int, phrase: str, census: Census) -> list[int]:
    """Return the best segments of a phrase, as many as it speaks of: "two mugs" → 2."""
    own = np.flatnonzero(segments.label_indices == number).tolist()
    first = phrase.split(maxsplit=1)[0].lower() if phrase.strip() else ""
    if named_category(phrase, census.names) is None:
        return own
    return own[: NUMBER_WORDS.index(first) + 1 if first in NUMBER_WORDS else 1]


def _named(phrase: str, mask: MaskRle, census: Census) -> str:
    """Return a phrase for one object with the name that the census has for its mask.

    A phrase that goes on after its noun ("a mug with a handle") stays as it is.
    """
    category = named_category(phrase, census.names)
    if category is None:
        return phrase
    words = [word for word in _WORD.findall(phrase.lower()) if word not in _DETERMINERS]
    end = len(words) - len(_WORD.findall(category))
    if named_category(" ".join(words[end:]), (category,)) is None:
        return phrase
    return with_article(" ".join((*words[:end], best_label(census.on(mask), category))))
