"""From a segmenter's results to objects with ids: selection, geometry in pixels, duplicates, ambiguity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xsam.errors import XSamError, error_for_code
from xsam.types.masks import BoolMask, MaskRle, box_of_mask, centroid_of_mask
from xsam.types.requests import SegmentationResult, Status
from xsam_agent_tools.memory.scene_store import Scene, SceneObject, SceneStore
from xsam_agent_tools.perception import Look
from xsam_agent_tools.text.phrases import means_one

SAME_IOU = 0.8  # masks that overlap more show the same object
MAX_LABEL_CHARS = 40

FAILURES = (Status.REFUSED, Status.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What one look found, phrase by phrase."""

    scene: Scene
    objects: tuple[SceneObject, ...]  # new ones, in the order of the phrases, best score first
    same_as: dict[str, str]  # object id → earlier id of the same object
    not_found: tuple[str, ...]
    ambiguous: tuple[str, ...]  # phrases that mean one object and fit several
    failed: tuple[tuple[str, XSamError], ...]
    truncated: int  # objects left out
    hints: tuple[str, ...] = ()  # what the segmenter itself advises, for example words it does not know


def answer_from(look: Look, phrases: Sequence[str], *, max_objects: int, store: SceneStore) -> Answer:
    """Give the found objects ids and put them into the store.

    Raises:
        XSamError: no phrase got an answer, or the image is full or was dropped meanwhile.
    """
    raise_if_all_failed(look.results)
    asked = list(zip(phrases, look.results, strict=True))
    found = [with_pixels(result) for result in look.results]
    shares = _fair_shares([len(indices) for indices in found], max_objects)
    chosen = [
        object_of(result, index, query=phrase)
        for (phrase, result), indices, share in zip(asked, found, shares, strict=True)
        for index in indices[:share]
    ]
    scene, objects = put(look, chosen, store)
    same_as = same_objects(scene, objects)
    return Answer(
        scene=scene,
        objects=objects,
        same_as=same_as,
        not_found=tuple(
            phrase
            for (phrase, result), indices in zip(asked, found, strict=True)
            if not indices and result.status not in FAILURES
        ),
        ambiguous=tuple(phrase for phrase in phrases if _is_ambiguous(phrase, objects, same_as)),
        failed=tuple(
            (phrase, error_for_code(result.code, result.message, hint=result.hint))
            for phrase, result in asked
            if result.status in FAILURES
        ),
        truncated=sum(map(len, found)) - len(chosen),
        hints=tuple(dict.fromkeys(r.hint for r in look.results if r.hint and r.status not in FAILURES)),
    )


def put(
    look: Look, chosen: Sequence[SceneObject], store: SceneStore
) -> tuple[Scene, tuple[SceneObject, ...]]:
    """The scene of a look, and the chosen objects with the ids they got on it.

    Raises:
        XSamError: the image is full or was dropped meanwhile.
    """
    if look.scene is not None:
        scene = store.add_objects(look.scene.image_id, chosen)
    else:
        answered = next((r for r in look.results if r.status not in FAILURES), look.results[0])
        scene = store.add_scene(
            camera=look.camera,
            frame_id=answered.frame_id,
            stamp_ns=int(answered.stamp_ns),
            image_hw=answered.segments.image_hw,
            arrived_ns=look.arrived_ns,
            frame=look.frame,
            objects=chosen,
        )
    return scene, scene.objects[len(scene.objects) - len(chosen) :]


def raise_if_all_failed(results: Sequence[SegmentationResult]) -> None:
    """Raise the first query's error when no query got an answer: a failure must not look like absence."""
    if all(result.status in FAILURES for result in results):
        first = results[0]
        raise error_for_code(first.code, first.message, hint=first.hint)


def with_pixels(result: SegmentationResult) -> list[int]:
    """Indices of the segments that show something, best score first."""
    if result.status is not Status.FOUND:
        return []
    return [index for index, mask in enumerate(result.segments.masks) if mask.area > 0]


def object_of(
    result: SegmentationResult, index: int, *, query: str, parent_id: str = "", label: str = ""
) -> SceneObject:
    """One segment as an object that has no id yet; `label` replaces the segment's own."""
    segments = result.segments
    mask = segments.masks[index].decode()
    score = float(segments.scores[index])
    return SceneObject(
        parent_id=parent_id,
        query=query,
        label=_short(label or segments.labels[index] or query),
        score=score if np.isfinite(score) else None,
        box_xyxy=box_of_mask(mask),
        center_xy=_point_on(mask),
        mask=segments.masks[index],
        location=segments.locations[index],
    )


def union(masks: Sequence[MaskRle], image_hw: tuple[int, int]) -> BoolMask:
    """All masks together, bool (H, W)."""
    whole = np.zeros(image_hw, np.bool_)
    for mask in masks:
        whole |= mask.decode()
    return whole


def _fair_shares(counts: Sequence[int], room: int) -> list[int]:
    """How many of each phrase's objects fit into `room` so that no phrase starves another."""
    shares = [0] * len(counts)
    while room and shares != list(counts):
        for i, count in enumerate(counts):
            if room and shares[i] < count:
                shares[i] += 1
                room -= 1
    return shares


def _point_on(mask: BoolMask) -> tuple[int, int]:
    """The object pixel (x, y) nearest to the centroid: for a ring or a crescent not the centroid itself."""
    x_px, y_px = centroid_of_mask(mask)
    column, row = round(x_px), round(y_px)
    if not mask[row, column]:
        rows, columns = np.nonzero(mask)
        nearest = np.argmin((columns - x_px) ** 2 + (rows - y_px) ** 2)
        column, row = int(columns[nearest]), int(rows[nearest])
    return column, row


def _short(label: str) -> str:
    label = " ".join(label.split())
    return label if len(label) <= MAX_LABEL_CHARS else label[: MAX_LABEL_CHARS - 1].rstrip() + "…"


def same_objects(scene: Scene, new: Sequence[SceneObject]) -> dict[str, str]:
    """Which new objects show what an earlier one of the scene shows."""
    same: dict[str, str] = {}
    for item in new:
        for earlier in scene.objects[: item.mark - 1]:
            if earlier.object_id not in same and _overlap(earlier, item):
                same[item.object_id] = earlier.object_id
                break
    return same


def _overlap(one: SceneObject, two: SceneObject) -> bool:
    a, b = one.box_xyxy, two.box_xyxy
    apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    return not apart and one.mask.iou(two.mask) > SAME_IOU


def _is_ambiguous(phrase: str, objects: Sequence[SceneObject], same_as: dict[str, str]) -> bool:
    if not means_one(phrase):
        return False
    things = {same_as.get(item.object_id, item.object_id) for item in objects if item.query == phrase}
    return len(things) > 1
