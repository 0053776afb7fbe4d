"""Segmentation by pointing instead of naming: `segment_with_prompt` and `refine_object`.

Both report what the marks did: a model may well ignore a negative one, and that must not look like success.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xsam.spatial.marks import obeys_mark
from xsam.types.masks import BoolMask, mask_iou
from xsam.types.requests import Query, SegmentationResult, Task, VisualPrompt
from xsam_agent_tools.errors import ArgumentsError
from xsam_agent_tools.findings import (
    FAILURE_STATUSES,
    find_duplicates,
    nonempty_segments,
    raise_if_failed,
    scene_object,
    store_objects,
    union_mask,
)
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.perception import Capture
from xsam_agent_tools.prompt_arguments import MarkArguments, PromptArguments, place_marks
from xsam_agent_tools.runtime.progress import progress_reporter
from xsam_agent_tools.schemas import DEFAULT_OBJECTS, refine_object_args, segment_with_prompt_args
from xsam_agent_tools.spatial.under_marks import Named, named_under
from xsam_agent_tools.text.artifact import segmentation_artifact
from xsam_agent_tools.text.content import header, object_payload, percent, to_text
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec

POINTED_LABELS = frozenset({"marked", "similar"})  # labels of objects that were pointed at, not named
UNCHANGED_IOU = 0.98  # masks that overlap more are the same outline
_ALIKE_IOU = 0.5  # masks that overlap less are not of the same object

_SEGMENT_WITH_PROMPT = """\
Segment what you point at, for when words do not tell it apart. prompts: marks on the image in whole pixels \
of its `size` [width,height], as in box_xyxy and center_xy: a point, a box (x,y to x2,y2) or a scribble (x,y \
and further points in path); label negative = not this. Give the image_id you saw the place on. scope one = \
the object under the marks; all_similar = everything that looks like it. marks_px = the marks as they were \
used, and what each is on: compare it with what you meant. status unsure = the result does not obey the \
marks in ignored, or differs from the objects in differs_from, which are under the marks, too. \
iou_without_negatives = overlap with the result without the negative marks (1.0 = they changed nothing).\
"""

_REFINE_OBJECT = """\
Correct the outline of one object: add = marks on what is missing, remove = marks on what does not belong \
to it (whole pixels, as in segment_with_prompt). Gives a new object id; the old one (parent) stays valid. \
marks_px = the marks as they were used, with what they are on; iou_with_parent = overlap of new and old \
outline (1.0 = nothing changed). status unsure = the new outline does not obey the marks in ignored: check \
before you use it.\
"""


def segment_with_prompt(toolbox: Toolbox) -> ToolSpec:
    """Build `segment_with_prompt`: interactive and visual-grounded segmentation."""
    perception = toolbox.perception
    name = "segment_with_prompt"

    def run(
        prompts: list[PromptArguments],
        scope: str = "one",
        camera: str = perception.cameras[0],
        image_id: str = "",
    ) -> Output:
        if scope not in ("one", "all_similar"):
            raise ArgumentsError(f"scope is 'one' or 'all_similar', not {scope[:40]!r}")
        if all(item.label == "negative" for item in prompts):
            raise ArgumentsError("at least one mark must be positive")
        task = Task.INTERACTIVE if scope == "one" else Task.VISUAL_GROUNDED

        def queries(image_hw: tuple[int, int]) -> list[Query]:
            """Return a query with all marks, one without negative ones to compare with, and one for names."""
            marks = place_marks([(item, item.positive) for item in prompts], image_hw).prompts
            positive = tuple(mark for mark in marks if mark.positive)
            groups = [marks] if len(positive) == len(marks) else [marks, positive]
            return [*(Query(task=task, prompts=group) for group in groups), _names(toolbox)]

        progress = progress_reporter(name)
        progress("looking", camera=camera, image_id=image_id, queries=[scope])
        capture = perception.capture(queries, camera=camera, image_id=image_id)
        result = capture.results[0]
        raise_if_failed(result)
        indices = nonempty_segments(result)
        if scope == "one":
            indices = indices[:1]
        label = "marked" if scope == "one" else "similar"
        kept = indices[:DEFAULT_OBJECTS]
        scene, objects = store_objects(
            capture, [scene_object(result, index, query="", label=label) for index in kept], perception.store
        )
        union = union_mask([item.mask for item in objects], scene.image_hw)
        placed = place_marks([(item, item.positive) for item in prompts], scene.image_hw)
        names = [f"prompt {n}" for n in range(1, len(prompts) + 1)]
        whole_object = scope == "one" and sum(item.positive for item in prompts) == 1
        ignored = _ignored_marks(placed.prompts, names, union, whole_object=whole_object)
        known = _found_by_words(scene)
        same_as = find_duplicates(scene, objects)
        other = _other_outlines(known, placed.prompts, objects) if scope == "one" else {}
        status = ("unsure" if ignored or other else "ok") if objects else "no_match"
        payload = header(status, scene, perception.age(scene))
        payload["objects"] = [
            object_payload(item, scene.image_hw, same_as=same_as.get(item.object_id)) for item in objects
        ]
        payload["truncated"] = len(indices) - len(kept)
        targets = _targets(placed.prompts, known, capture.results[-1])
        payload.update({**placed.payload(targets), **other, **ignored})
        if len(capture.results) > 2 and objects:
            payload["iou_without_negatives"] = _iou_without_negatives(
                capture, union, best_only=scope == "one"
            )
        if not objects:
            payload["hint"] = "nothing was found at these marks: use a box around the object, or name it"
        progress("answered", status=payload["status"], image_id=scene.image_id)
        images = toolbox.overlays(scene, objects, "marked" if scope == "one" else "all similar")
        return to_text(payload), segmentation_artifact(scene, objects, payload, images=images)

    args = segment_with_prompt_args(perception.cameras, with_image_id=perception.keeps_frames)
    return ToolSpec(name=name, description=_SEGMENT_WITH_PROMPT, args=args, run=run)


def refine_object(toolbox: Toolbox) -> ToolSpec:
    """Build `refine_object`: a new outline for an object, as a new object; the old one stays."""
    perception = toolbox.perception
    name = "refine_object"

    def run(
        object_id: str, add: Sequence[MarkArguments] = (), remove: Sequence[MarkArguments] = ()
    ) -> Output:
        if not (add or remove):
            raise ArgumentsError("give marks in add, in remove, or in both")
        scene, parent = perception.store.object(object_id)
        old = parent.mask.decode()
        placed = place_marks(
            [*((mark, True) for mark in add), *((mark, False) for mark in remove)], scene.image_hw
        )
        query = Query(
            task=Task.INTERACTIVE, prompts=(VisualPrompt.from_mask(old), *placed.prompts), max_instances=1
        )
        progress = progress_reporter(name)
        progress("looking", camera=scene.camera, image_id=scene.image_id, queries=[object_id])
        queries = [query, _names(toolbox)]
        capture = perception.capture(queries, camera=scene.camera, image_id=scene.image_id)
        result = capture.results[0]
        raise_if_failed(result)
        selected = [
            scene_object(
                result,
                index,
                query=parent.query,
                parent_id=parent.object_id,
                label=parent.label,
                doubt=parent.doubt,  # another outline does not tell what it is
            )
            for index in nonempty_segments(result)[:1]
        ]
        scene, objects = store_objects(capture, selected, perception.store)
        names = [
            f"{kind} {n}"
            for kind, count in (("add", len(add)), ("remove", len(remove)))
            for n in range(1, count + 1)
        ]
        change = _outline_change(old, objects[0], placed.prompts, names) if objects else {}
        doubtful = parent.doubt or "ignored" in change
        status = ("unsure" if doubtful else "ok") if objects else "no_match"
        payload = header(status, scene, perception.age(scene))
        payload["objects"] = [object_payload(item, scene.image_hw) for item in objects]
        payload["parent"] = parent.object_id
        targets = _targets(placed.prompts, _found_by_words(scene), capture.results[-1])
        payload.update({**placed.payload(targets), **change})
        if not objects:
            payload["hint"] = f"the model gave no outline; {parent.object_id} is still valid"
        progress("answered", status=payload["status"], image_id=scene.image_id)
        images = toolbox.overlays(scene, objects, f"{parent.label}, refined")
        return to_text(payload), segmentation_artifact(scene, objects, payload, images=images)

    return ToolSpec(name=name, description=_REFINE_OBJECT, args=refine_object_args(), run=run)


def _names(toolbox: Toolbox) -> Query:
    """Return the query for the names of what marks may be on."""
    return Query(task=Task.OPEN_VOCABULARY, thing_classes=toolbox.thing_classes)


def _found_by_words(scene: Scene) -> list[SceneObject]:
    """Return the objects that were named: pointing at the same thing again proves nothing."""
    return [item for item in scene.objects if item.query or item.label not in POINTED_LABELS]


def _targets(
    marks: Sequence[VisualPrompt], known: Sequence[SceneObject], names: SegmentationResult
) -> list[dict[str, str]]:
    """Say for each mark what it is on: a known object, else one of the usual categories, else unknown.

    A mark whose numbers were meant in another unit hits something else, and only this shows it.
    """
    named = [Named(label=item.label, mask=item.mask, object_id=item.object_id) for item in known]
    segments = names.segments
    named += [
        Named(label=segments.labels[index], mask=segments.masks[index])
        for index in nonempty_segments(names)
        if not segments.doubts[index]
    ]
    targets = []
    for mark in marks:
        target = named_under(mark, named)
        if target is None:
            targets.append({"on": "unknown"})
        else:
            targets.append({"on": target.label, **({"on_id": target.object_id} if target.object_id else {})})
    return targets


def _iou_without_negatives(capture: Capture, union: BoolMask, *, best_only: bool) -> float | None:
    """Return the overlap with the result of the positive marks alone; None when that query failed."""
    other = capture.results[1]
    if other.status in FAILURE_STATUSES:
        return None
    indices = nonempty_segments(other)[: 1 if best_only else DEFAULT_OBJECTS]
    other_union = union_mask([other.segments.masks[i] for i in indices], other.segments.image_hw)
    return round(mask_iou(union, other_union), 3)


def _ignored_marks(
    marks: Sequence[VisualPrompt], names: Sequence[str], mask: BoolMask, *, whole_object: bool = False
) -> dict[str, Any]:
    """Name the marks that the result does not obey, with a hint; {} when it obeys all or is empty."""
    ignored = [
        name
        for name, mark in zip(names, marks, strict=True)
        if not obeys_mark(mask, mark, whole_object=whole_object)
    ]
    if not ignored or not mask.any():
        return {}
    return {"ignored": ignored, "hint": "the result does not obey every mark: try a box, or more marks"}


def _other_outlines(
    known: Sequence[SceneObject], marks: Sequence[VisualPrompt], found: Sequence[SceneObject]
) -> dict[str, Any]:
    """Name the objects found by words that are under the marks and look different from what was found.

    {} when one of those objects has the same outline, or none is under all the positive points.
    """
    points = [mark.points_xy for mark in marks if mark.positive and mark.points_xy is not None]
    if not points or not found:
        return {}
    columns, rows = np.rint(np.concatenate(points)).astype(int).T
    under = [item for item in known if not item.dropped and item.mask.decode()[rows, columns].all()]
    if not under or any(item.mask.iou(found[0].mask) >= _ALIKE_IOU for item in under):
        return {}
    ids = [item.object_id for item in under]
    return {
        "differs_from": ids,
        "hint": f"{ids[0]} is under this mark, too, with another outline: use it, or draw a box",
    }


def _outline_change(
    old: BoolMask, new: SceneObject, marks: Sequence[VisualPrompt], names: Sequence[str]
) -> dict[str, Any]:
    """Describe how the new outline differs from the old one."""
    mask = new.mask.decode()
    old_area = np.count_nonzero(old)
    iou = mask_iou(old, mask)
    change: dict[str, Any] = {
        "iou_with_parent": round(iou, 3),
        "added_pct": percent(np.count_nonzero(mask & ~old) / old_area),
        "removed_pct": percent(np.count_nonzero(old & ~mask) / old_area),
    }
    change.update(_ignored_marks(marks, names, mask))
    if iou >= UNCHANGED_IOU and "ignored" not in change:
        change["hint"] = "the outline did not change: it obeyed these marks before"
    elif iou >= UNCHANGED_IOU:
        change["hint"] = (
            "the outline did not change: the marks were ignored; draw a box with segment_with_prompt"
        )
    return change
