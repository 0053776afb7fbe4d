"""From a segmenter's results to objects with ids: selection, pixel geometry, duplicates, ambiguity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xsam.errors import XSamError, error_for_code
from xsam.types.masks import BoolMask, MaskRle
from xsam.types.requests import SegmentationResult, Status
from xsam_agent_tools.memory.scene_store import Scene, SceneObject, SceneStore
from xsam_agent_tools.perception import Capture
from xsam_agent_tools.phrases import expects_one_object
from xsam_agent_tools.spatial.pieces import main_piece

SAME_IOU = 0.8  # masks that overlap more show the same object
MAX_LABEL_CHARS = 40
MAX_POSSIBLE = 5  # doubtful objects that are listed beside certain ones

FAILURE_STATUSES = (Status.REFUSED, Status.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Findings:
    """Objects that one capture added to a scene, and the phrases that went without.

    An object gets an id when it is listed: what is not listed is counted and not stored, so no answer can
    name an id that was never shown.
    """

    scene: Scene
    objects: tuple[SceneObject, ...]  # the new ones, in the order of the phrases, best score first
    same_as: dict[str, str]  # object id → earlier id of the same object
    not_found: tuple[str, ...]
    ambiguous: tuple[str, ...]  # phrases that expect one object and match several
    unsure: tuple[str, ...]  # phrases that match nothing but objects with a doubt
    failed: tuple[tuple[str, XSamError], ...]
    truncated: int  # number of objects left out, without those that `possible` leaves out
    more_possible: int = 0  # number of doubtful objects that `possible` leaves out
    unlisted: tuple[str, ...] = ()  # phrases that match objects without a doubt that were left out
    hints: tuple[str, ...] = ()  # the segmenter's own advice, for example about words it does not know

    @property
    def certain(self) -> tuple[SceneObject, ...]:
        """The objects without a doubt, and those of the unsure phrases, which have no better ones."""
        return tuple(item for item in self.objects if not item.doubt or item.query in self.unsure)

    @property
    def possible(self) -> tuple[SceneObject, ...]:
        """The doubtful objects of phrases that match others for certain."""
        return tuple(item for item in self.objects if item.doubt and item.query not in self.unsure)


def store_findings(
    capture: Capture, phrases: Sequence[str], *, max_objects: int, store: SceneStore
) -> Findings:
    """Put the objects that are to be listed into the store, which assigns their ids.

    Args:
        capture: one result per phrase.
        phrases: the phrases, in the order of the results.
        max_objects: bound on the objects of all phrases together; it is shared fairly among them.
        store: where the objects go.

    Raises:
        XSamError: every query failed, or the image is full or was dropped meanwhile.
    """
    raise_if_all_failed(capture.results)
    pairs = list(zip(phrases, capture.results, strict=True))
    found = [
        sorted(  # the certain ones first: no doubtful one takes their place
            (scene_object(result, index, query=phrase) for index in nonempty_segments(result)),
            key=lambda item: bool(item.doubt),
        )
        for phrase, result in pairs
    ]
    shares = fair_shares([len(items) for items in found], max_objects)
    selected = [item for items, share in zip(found, shares, strict=True) for item in items[:share]]
    left_out = [item for items, share in zip(found, shares, strict=True) for item in items[share:]]
    unsure = unsure_phrases([item for items in found for item in items])
    listed = _with_few_possible(selected, unsure)
    scene, objects = store_objects(capture, listed, store)
    return Findings(
        scene=scene,
        objects=objects,
        same_as=find_duplicates(scene, objects),
        not_found=tuple(
            phrase
            for (phrase, result), items in zip(pairs, found, strict=True)
            if not items and result.status not in FAILURE_STATUSES
        ),
        ambiguous=tuple(p for p, items in zip(phrases, found, strict=True) if _is_ambiguous(p, items)),
        unsure=unsure,
        failed=tuple(
            (phrase, error_for_code(result.code, result.message, hint=result.hint))
            for phrase, result in pairs
            if result.status in FAILURE_STATUSES
        ),
        truncated=len(left_out),
        more_possible=len(selected) - len(listed),
        unlisted=tuple(dict.fromkeys(item.query for item in left_out if not item.doubt)),
        hints=result_hints(capture.results),
    )


def store_overview(
    capture: Capture, *, max_objects: int, store: SceneStore
) -> tuple[Findings, dict[str, int]]:
    """Put each thing that the one result shows into the store, once and as far as it is to be listed.

    Args:
        capture: one result for many categories.
        max_objects: bound on the objects without a doubt.
        store: where the objects go.

    Returns:
        The findings, with labels in place of phrases, and how many of each label there are without a doubt.

    Raises:
        XSamError: the query failed, or the image is full or was dropped meanwhile.
    """
    raise_if_all_failed(capture.results)
    (result,) = capture.results
    distinct: list[SceneObject] = []
    found = (scene_object(result, index, query="") for index in nonempty_segments(result))
    for item in sorted(found, key=lambda item: bool(item.doubt)):
        if not any(_show_same_object(item, other) for other in distinct):
            distinct.append(item)
    unsure = unsure_phrases(distinct)
    certain = [item for item in distinct if not item.doubt or unsure]
    selected = [*certain[:max_objects], *(item for item in distinct if item.doubt and not unsure)]
    listed = _with_few_possible(selected, unsure)
    scene, objects = store_objects(capture, listed, store)
    counts = Counter(item.label for item in distinct if not item.doubt)
    findings = Findings(
        scene=scene,
        objects=objects,
        same_as={},
        not_found=(),
        ambiguous=(),
        unsure=unsure,
        failed=(),
        truncated=len(certain) - min(len(certain), max_objects),
        more_possible=len(selected) - len(listed),
        unlisted=tuple(dict.fromkeys(item.label for item in certain[max_objects:] if not item.doubt)),
        hints=result_hints(capture.results),
    )
    return findings, dict(counts.most_common())


def found_count(results: Sequence[SegmentationResult]) -> int:
    """Return how many objects the results have; none for those that failed."""
    return sum(len(nonempty_segments(result)) for result in results)


def result_hints(results: Sequence[SegmentationResult]) -> tuple[str, ...]:
    """Return the segmenter's own hints on the queries that did not fail, each once."""
    return tuple(dict.fromkeys(r.hint for r in results if r.hint and r.status not in FAILURE_STATUSES))


def _with_few_possible(selected: Sequence[SceneObject], unsure: Sequence[str]) -> list[SceneObject]:
    """Leave out all but the first doubtful objects of phrases that match others for certain."""
    listed: list[SceneObject] = []
    possible = 0
    for item in selected:
        is_possible = bool(item.doubt) and item.query not in unsure
        possible += is_possible
        if not is_possible or possible <= MAX_POSSIBLE:
            listed.append(item)
    return listed


def unsure_phrases(objects: Sequence[SceneObject]) -> tuple[str, ...]:
    """Return the phrases whose objects all have a doubt."""
    certain = {item.query for item in objects if not item.doubt}
    return tuple(dict.fromkeys(item.query for item in objects if item.query not in certain))


def store_objects(
    capture: Capture, selected: Sequence[SceneObject], store: SceneStore
) -> tuple[Scene, tuple[SceneObject, ...]]:
    """Store the selected objects on the capture's image; return the scene and the objects with their ids.

    Raises:
        XSamError: the image is full or was dropped meanwhile.
    """
    if capture.scene is not None:
        scene = store.add_objects(capture.scene.image_id, selected)
    else:
        succeeded = (r for r in capture.results if r.status not in FAILURE_STATUSES)
        result = next(succeeded, capture.results[0])
        scene = store.add_scene(
            camera=capture.camera,
            frame_id=result.frame_id,
            stamp_ns=int(result.stamp_ns),
            image_hw=result.segments.image_hw,
            arrived_ns=capture.arrived_ns,
            frame=capture.frame,
            notes=result.notes,
            objects=selected,
        )
    return scene, scene.objects[len(scene.objects) - len(selected) :]


def raise_if_all_failed(results: Sequence[SegmentationResult]) -> None:
    """Raise the first query's error when every query failed: a failure must not look like absence."""
    if all(result.status in FAILURE_STATUSES for result in results):
        raise_if_failed(results[0])


def raise_if_failed(result: SegmentationResult) -> None:
    """Raise the error of a refused or failed query."""
    if result.status in FAILURE_STATUSES:
        raise error_for_code(result.code, result.message, hint=result.hint)


def nonempty_segments(result: SegmentationResult) -> list[int]:
    """Return the indices of the segments whose mask has pixels, best score first."""
    if result.status not in (Status.FOUND, Status.UNSURE):
        return []
    return [index for index, mask in enumerate(result.segments.masks) if mask.area > 0]


def scene_object(
    result: SegmentationResult,
    index: int,
    *,
    query: str,
    parent_id: str = "",
    label: str = "",
    doubt: str | None = None,
) -> SceneObject:
    """Convert one segment to an object that has no id yet; `label` and `doubt` replace the segment's own."""
    segments = result.segments
    piece = main_piece(segments.masks[index].decode())
    score = float(segments.scores[index])
    return SceneObject(
        parent_id=parent_id,
        query=query,
        label=_shorten_label(label or segments.labels[index] or query),
        score=score if np.isfinite(score) else None,
        box_xyxy=piece.box_xyxy,
        center_xy=piece.center_xy,
        pieces=piece.pieces,
        mask=segments.masks[index],
        location=segments.locations[index],
        doubt=segments.doubts[index] if doubt is None else doubt,
    )


def union_mask(masks: Sequence[MaskRle], image_hw: tuple[int, int]) -> BoolMask:
    """Return the union of the masks, bool (H, W)."""
    union = np.zeros(image_hw, np.bool_)
    for mask in masks:
        union |= mask.decode()
    return union


def find_duplicates(scene: Scene, new: Sequence[SceneObject]) -> dict[str, str]:
    """Map the new objects that show what an earlier one of the scene shows to that one, by id."""
    duplicates: dict[str, str] = {}
    for item in new:
        for earlier in scene.objects[: item.mark - 1]:
            if earlier.object_id not in duplicates and _show_same_object(earlier, item):
                duplicates[item.object_id] = earlier.object_id
                break
    return duplicates


def fair_shares(counts: Sequence[int], room: int) -> list[int]:
    """Return how many objects of each group fit into `room` so that no group starves another."""
    shares = [0] * len(counts)
    while room and shares != list(counts):
        for i, count in enumerate(counts):
            if room and shares[i] < count:
                shares[i] += 1
                room -= 1
    return shares


def _shorten_label(label: str) -> str:
    label = " ".join(label.split())
    return label if len(label) <= MAX_LABEL_CHARS else label[: MAX_LABEL_CHARS - 1].rstrip() + "…"


def _show_same_object(one: SceneObject, two: SceneObject) -> bool:
    return one.mask.iou(two.mask) > SAME_IOU


def _is_ambiguous(phrase: str, found: Sequence[SceneObject]) -> bool:
    if not expects_one_object(phrase):
        return False
    certain = [item for item in found if not item.doubt] or found
    return any(not _show_same_object(certain[0], item) for item in certain[1:])
