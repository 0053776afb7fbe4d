"""Labels as a reviewer sees them: one item for an object in a keyframe and in the frames it is carried to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from xsam.errors import InvalidImageError, SourceError
from xsam.media.sinks.labels import is_answered
from xsam.types.masks import MaskRle

Line = dict[str, Any]
"""A line of the journal; see `xsam.media.journal`. Labeling asks one query, so it has one result."""

ACCEPT, REJECT, IGNORE, UNDECIDED = "accept", "reject", "ignore", "undecided"
DECISIONS = (ACCEPT, REJECT, IGNORE)
_LEAST = 1e-6
_SAME_PLACE = 0.5  # IoU from which a better label is a rival


def answered(entries: Iterable[Line]) -> Iterator[Line]:
    """Yield the frames that the model was asked about, and answered: only these are data."""
    return (entry for entry in entries if is_answered(entry))


def itemized(entries: Iterable[Line]) -> Iterator[tuple[Line, list[tuple[str, dict[str, Any]]]]]:
    """Yield each answered frame with its labels and the ids of their items.

    An item begins where its object is first seen after a keyframe, and its id names that frame, the place of
    the label in it, and its content: an id of other labels is never taken for one of these.
    """
    items: dict[tuple[int, str], str] = {}
    for entry in answered(entries):
        result = entry["results"][0]
        if "carried" not in result:
            items.clear()
        labels = []
        for index, segment in enumerate(result["segments"]):
            if not segment["area_px"]:
                continue
            key = (segment.get("track_id", 0), segment["label"])
            item = items.get(key) if key[0] else None
            if item is None:
                item = _identity(entry, index, segment)
                items[key] = item
            labels.append((item, segment))
        yield entry, labels


def decided(
    entries: Iterable[Line], decisions: Mapping[str, str], *, threshold: float | None, trust: float
) -> Iterator[Line]:
    """Yield the frames of the data set, with everything that is to be known about each label.

    What is in doubt is a region to ignore until it is accepted, unless it is trusted. What was rejected is
    not there.

    Args:
        entries: lines of the journal.
        decisions: by item.
        threshold: lowest score of a label; None = nobody knows.
        trust: a label in doubt is trusted if such answers are right this often, and if nothing with a
            better score is at its place.
    """
    for entry, labels in itemized(entries):
        result = entry["results"][0]
        trusted = _trusted([segment for _, segment in labels], trust)
        kept = []
        for index, (item, segment) in enumerate(labels):
            decision = decisions.get(item, "")
            if decision == REJECT:
                continue
            ignored = decision == IGNORE or not (decision or trusted[index])
            kept.append(
                {
                    **segment,
                    **({"ignore": 1} if ignored else {}),
                    "model": result["model"],
                    "prompt": segment["label"],
                    "threshold": threshold,
                    **({"carried": result["carried"]["frames"]} if "carried" in result else {}),
                    "item": item,
                    **({"decision": decision} if decision else {}),
                }
            )
        yield {**entry, "results": [{**result, "segments": kept}]}


def _trusted(segments: Sequence[Mapping[str, Any]], trust: float) -> list[bool]:
    """Return which labels of a frame are used without a decision."""
    found = [not segment.get("doubt") for segment in segments]
    if trust >= 1.0:
        return found
    # Without a chance nothing is known; it is 0 for words that the model does not know.
    chances = [segment.get("chance", 0.0) for segment in segments]
    likely = [index for index, sure in enumerate(found) if not sure and chances[index] >= max(trust, _LEAST)]
    if not likely:
        return found
    masks = [mask_of(segment) for segment in segments]
    overlaps = MaskRle.iou_matrix([masks[index] for index in likely], masks)
    for row, index in enumerate(likely):
        found[index] = not any(
            overlaps[row, other] > _SAME_PLACE and segments[other]["score"] >= segments[index]["score"]
            for other in range(len(segments))
            if other != index
        )
    return found


def mask_of(segment: Mapping[str, Any]) -> MaskRle:
    """Return the mask of a label.

    Raises:
        SourceError: it is damaged.
    """
    try:
        height, width = segment["mask"]["size"]
        return MaskRle.from_counts(height, width, segment["mask"]["counts"].encode())
    except (InvalidImageError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise SourceError(f"a mask in the results is damaged: {error}", hint="label again") from error


def _identity(entry: Line, index: int, segment: Mapping[str, Any]) -> str:
    content = json.dumps([segment[key] for key in ("label", "score", "mask")]).encode()
    return f"{entry['name']}:{index}:{hashlib.sha256(content).hexdigest()[:8]}"
