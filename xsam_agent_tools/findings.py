"""From a segmenter's results to objects with ids: selection, pixel geometry, duplicates, ambiguity."""

from __future__ import annotations

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

FAILURE_STATUSES = (Status.REFUSED, Status.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Findings:
    """Objects that one capture added to a scene, and the phrases that went without."""

    scene: Scene
    objects: tuple[SceneObject, ...]  # the new ones, in the order of the phrases, best score first
    same_as: dict[str, str]  # object id → earlier id of the same object
    not_found: tuple[str, ...]
    ambiguous: tuple[str, ...]  # phrases that expect one object and match several
    unsure: tuple[str, ...]  # phrases that match nothing but objects with a doubt
    failed: tuple[tuple[str, XSamError], ...]
    truncated: int  # number of objects left out
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
    """Put the found objects into the store, which assigns their ids.

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
    found = [nonempty_segments(result) for result in capture.results]
    shares = _fair_shares([len(indices) for indices in found], max_objects)
    selected = [
        scene_object(result, index, query=phrase)
        for (phrase, result), indices, share in zip(pairs, found, shares, strict=True)
        for index in indices[:share]
    ]
    scene, objects = store_objects(capture, selected, store)
    same_as = find_duplicates(scene, objects)
    return Findings(
        scene=scene,
        objects=objects,
        same_as=same_as,
        not_found=tuple(
            phrase
            for (phrase, result), indices in zip(pairs, found, strict=True)
            if not indices and result.status not in FAILURE_STATUSES
        ),
        ambiguous=tuple(phrase for phrase in phrases if _is_ambiguous(phrase, objects, same_as)),
        unsure=unsure_phrases(objects),
        failed=tuple(
            (phrase, error_for_code(result.code, result.message, hint=result.hint))
            for phrase, result in pairs
            if result.status in FAILURE_STATUSES
        ),
        truncated=sum(map(len, found)) - len(selected),
        hints=tuple(
            dict.fromkeys(r.hint for r in capture.results if r.hint and r.status not in FAILURE_STATUSES)
        ),
    )


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


def _fair_shares(counts: Sequence[int], room: int) -> list[int]:
    """Return how many objects of each phrase fit into `room` so that no phrase starves another."""
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


def _is_ambiguous(phrase: str, objects: Sequence[SceneObject], same_as: dict[str, str]) -> bool:
    if not expects_one_object(phrase):
        return False
    fitting = [item for item in objects if item.query == phrase]
    certain = [item for item in fitting if not item.doubt] or fitting
    return len({same_as.get(item.object_id, item.object_id) for item in certain}) > 1
