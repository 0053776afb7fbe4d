"""Finding by words: `segment_objects` and `segment_everything`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from xsam.types.requests import Query, Task
from xsam_agent_tools.perception import Look
from xsam_agent_tools.runtime.progress import progress_of
from xsam_agent_tools.schemas import DEFAULT_OBJECTS, segment_everything_args, segment_objects_args
from xsam_agent_tools.text.answers import Answer, answer_from
from xsam_agent_tools.text.artifact import segmentation_artifact
from xsam_agent_tools.text.content import cut, header, object_payload, to_text
from xsam_agent_tools.text.findings import answer_payload
from xsam_agent_tools.text.phrases import query_for
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec, conversation, picture_signature

MAX_LISTED = 20  # objects of `segment_everything`; the rest is only counted

_SEGMENT_OBJECTS = """\
Find objects in a robot camera's image by words; every object gets an id, a box and a center. \
All queries (1-8) are answered on the same image.
How a query is read: a noun without 'the' ('mug', 'red mug') finds every instance; 'the ...' \
('the mug left of the plate') means one object; ending in '?' ('What can I drink from?') is reasoned about.
Returns JSON. status: ok; no_match = not in view, repeating the query does not help; ambiguous = several \
fit 'the ...', differ says how they differ; stale = image or id too old; error = see code, hint, retryable. \
box_xyxy and center_xy are pixels (x right, y down) of an image of `size` [width,height]; age_s is the \
image's age; same_as = the same object as that earlier id. Ids stay valid in later calls.\
"""

_SEGMENT_EVERYTHING = """\
List what is in view: all objects of the usual household categories, or of the given classes, on a fresh \
image. Use it for an overview; segment_objects is better for one thing. counts is how many of each \
category; not_listed are only counted. A category that is not in counts was looked for and not found.\
"""


def segment_objects(box: Toolbox) -> ToolSpec:
    """Several phrases on one frame."""
    perception = box.perception
    name = "segment_objects"

    def run(
        queries: list[str],
        camera: str = perception.cameras[0],
        image_id: str = "",
        max_objects: int = DEFAULT_OBJECTS,
    ) -> Output:
        scope, progress, history = conversation(), progress_of(name), perception.history
        if image_id:
            perception.kept_scene(image_id)
            history.refuse_repeat_on_image(scope, name, image_id, queries)
        progress("looking", camera=camera, image_id=image_id, queries=queries)
        look = perception.look(
            [query_for(phrase) for phrase in queries],
            camera=camera,
            image_id=image_id,
            refuse=lambda frame: history.refuse_repeat(
                scope, name, camera, queries, picture_signature(frame)
            ),
        )
        answer = answer_from(look, queries, max_objects=max_objects, store=perception.store)
        remember(box, scope, name, look, answer, queries)
        payload = answer_payload(
            answer,
            age=perception.age(answer.scene),
            elsewhere=not_asked(box, scope, answer.not_found, answer.scene.camera),
            tried=history.tried(scope, answer.scene.camera),
            tools=box.names,
        )
        progress("answered", status=payload["status"], image_id=answer.scene.image_id)
        pictures = box.pictures(answer.scene, answer.objects, ", ".join(queries))
        return to_text(payload), segmentation_artifact(answer.scene, answer.objects, payload, images=pictures)

    args = segment_objects_args(perception.cameras, with_image_id=perception.keeps_frames)
    return ToolSpec(name=name, description=_SEGMENT_OBJECTS, args=args, run=run)


def segment_everything(box: Toolbox) -> ToolSpec:
    """A summary of what is in view."""
    perception = box.perception
    name = "segment_everything"

    def run(camera: str = perception.cameras[0], classes: Sequence[str] = ()) -> Output:
        things = tuple(classes) or box.thing_classes
        stuff = () if classes else box.stuff_classes
        progress = progress_of(name)
        progress("looking", camera=camera, image_id="", queries=list(things + stuff))
        query = Query(task=Task.OPEN_VOCABULARY, thing_classes=things, stuff_classes=stuff)
        look = perception.look([query], camera=camera)
        answer = answer_from(look, [""], max_objects=query.max_instances, store=perception.store)
        counts = Counter(item.label for item in answer.objects if item.object_id not in answer.same_as)
        found = [(item.label, item.object_id) for item in answer.objects]
        absent = [label for label in things + stuff if label not in counts]
        remember(box, conversation(), name, look, answer, things + stuff, found=found, absent=absent)
        listed = [item for item in answer.objects if item.object_id not in answer.same_as]
        payload = header("ok" if listed else "no_match", answer.scene, perception.age(answer.scene))
        payload["counts"] = dict(counts.most_common())
        payload["objects"] = [object_payload(item, answer.scene.image_hw) for item in listed[:MAX_LISTED]]
        payload["not_listed"] = max(0, len(listed) - MAX_LISTED)
        if not listed:
            payload["tried"] = [*(things + stuff)][:12]
            payload["hint"] = "nothing of these categories is in view: name others, or use another camera"
        if answer.hints:
            payload["note"] = cut(answer.hints[0], 160)
        progress("answered", status=payload["status"], image_id=answer.scene.image_id)
        pictures = box.pictures(answer.scene, listed[:MAX_LISTED], "everything")
        return to_text(payload), segmentation_artifact(answer.scene, listed, payload, images=pictures)

    args = segment_everything_args(perception.cameras)
    return ToolSpec(name=name, description=_SEGMENT_EVERYTHING, args=args, run=run)


def remember(
    box: Toolbox,
    scope: str,
    tool: str,
    look: Look,
    answer: Answer,
    phrases: Sequence[str],
    *,
    found: Sequence[tuple[str, str]] | None = None,
    absent: Sequence[str] | None = None,
) -> None:
    """Put a look into the conversation's history."""
    box.perception.history.add(
        scope,
        tool=tool,
        camera=answer.scene.camera,
        image_id=answer.scene.image_id,
        phrases=phrases,
        absent=answer.not_found if absent is None else absent,
        found=[(item.query, item.object_id) for item in answer.objects] if found is None else found,
        picture=picture_signature(look.frame),
    )


def not_asked(box: Toolbox, scope: str, phrases: Sequence[str], here: str) -> list[Any]:
    """The other cameras with which the conversation has not looked for all of these phrases."""
    wanted = {phrase.lower() for phrase in phrases}
    return [
        name
        for name in box.perception.cameras
        if name != here and not wanted <= {p.lower() for p in box.perception.history.tried(scope, name)}
    ]
