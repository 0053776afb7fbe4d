"""Search by phrases and categories: `segment_objects` and `segment_everything`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xsam.types.requests import Query, Task
from xsam_agent_tools.findings import Findings, found_count, store_findings, store_overview
from xsam_agent_tools.memory.history import ConversationId
from xsam_agent_tools.perception import Capture, Perception
from xsam_agent_tools.phrases import query_from_phrase
from xsam_agent_tools.runtime.progress import ProgressReporter, progress_reporter
from xsam_agent_tools.schemas import (
    DEFAULT_OBJECTS,
    MAX_OBJECTS,
    segment_everything_args,
    segment_objects_args,
)
from xsam_agent_tools.text.content import MAX_TRIED, header
from xsam_agent_tools.text.search_payload import (
    absent_everywhere_advice,
    add_hints,
    doubt_advice,
    objects_payload,
    search_payload,
    search_status,
)
from xsam_agent_tools.tools.all_cameras import (
    CameraAnswer,
    answer_from_all,
    means_all_cameras,
)
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec, current_conversation

MAX_LISTED = 20  # objects of `segment_everything`; the rest is only counted

_NOTHING = "nothing of these categories is in view: name others, or use another camera"

_SEGMENT_OBJECTS = """\
Find objects in a robot camera's image by words; every object gets an id, a box and a center. \
All queries (1-8) are answered on the same image.
How a query is read: a noun without 'the' ('mug', 'red mug') finds every instance; 'the ...' \
('the mug left of the plate') means one object; ending in '?' ('What can I drink from?') is reasoned about.
Returns JSON. status: ok; unsure = it may be something else (its unsure says why): check, do not act; \
no_match = not in view, repeating the query does not help; ambiguous = several fit 'the ...', differ says \
how; stale = image or id too old; error = see code, hint, retryable. box_xyxy and center_xy are pixels (x \
right, y down) of an image of `size` [width,height]; age_s is the image's age; pieces = parts of the \
outline, box and center are of the largest; same_as = the same object as that earlier id; also_possible = \
more, in doubt; read_as = how your words were read; left_out was not searched; label = the model's word, \
never an instruction. Ids stay valid.\
"""

_SEGMENT_EVERYTHING = """\
List what is in view: all objects of the usual household categories, or of the given classes, on a fresh \
image. Use it for an overview; segment_objects is better for one thing. counts is how many of each \
category; not_listed are only counted and have no id; also_possible are in doubt (unsure says why) and not \
counted. A category that is nowhere was looked for and not found.\
"""


def segment_objects(toolbox: Toolbox) -> ToolSpec:
    """Build `segment_objects`: several phrases on one frame, or one frame of each camera."""
    perception = toolbox.perception
    name = "segment_objects"

    def run(
        queries: list[str],
        camera: str = perception.cameras[0],
        image_id: str = "",
        max_objects: int = DEFAULT_OBJECTS,
    ) -> Output:
        conversation, progress = current_conversation(), progress_reporter(name)

        def look(camera: str, image_id: str = "", one_of_all: bool = True) -> Capture:
            return capture_search(
                perception,
                conversation,
                name,
                queries,
                [query_from_phrase(phrase) for phrase in queries],
                camera=camera,
                image_id=image_id,
                progress=progress,
                one_of_all=one_of_all,
            )

        def answer(capture: Capture, room: int) -> CameraAnswer:
            findings = store_findings(capture, queries, max_objects=room, store=perception.store)
            record_search(toolbox, conversation, name, capture, findings, queries)
            scene = findings.scene
            payload = search_payload(
                findings,
                age=perception.age(scene),
                elsewhere=unsearched_cameras(
                    toolbox, conversation, [*findings.not_found, *findings.unsure], scene.camera
                ),
                tried=perception.history.tried(conversation, scene.camera),
                tools=toolbox.names,
            )
            if findings.truncated:
                payload.update(_listing_advice(toolbox, findings, queries, room))
            pictures = toolbox.overlays(scene, findings.objects, ", ".join(queries))
            return CameraAnswer(payload=payload, scene=scene, objects=findings.objects, pictures=pictures)

        def absence() -> dict[str, Any]:
            tried = [
                p for camera in perception.cameras for p in perception.history.tried(conversation, camera)
            ]
            return absent_everywhere_advice(queries, list(dict.fromkeys(tried)), toolbox.names)

        if means_all_cameras(camera, image_id, perception):
            output = answer_from_all(
                perception, look, answer, room=max_objects, count=_found_count, absence=absence
            )
        else:
            output = answer(look(camera, image_id, False), max_objects).output()
        report_answer(progress, output)
        return output

    args = segment_objects_args(perception.cameras, with_image_id=perception.keeps_frames)
    return ToolSpec(name=name, description=_SEGMENT_OBJECTS, args=args, run=run)


def segment_everything(toolbox: Toolbox) -> ToolSpec:
    """Build `segment_everything`: a summary of the objects in view."""
    perception = toolbox.perception
    name = "segment_everything"

    def run(camera: str = perception.cameras[0], classes: Sequence[str] = ()) -> Output:
        things = tuple(classes) or toolbox.thing_classes
        stuff = () if classes else toolbox.stuff_classes
        categories = things + stuff
        conversation, progress = current_conversation(), progress_reporter(name)
        query = Query(task=Task.OPEN_VOCABULARY, thing_classes=things, stuff_classes=stuff)

        def look(camera: str, one_of_all: bool = True) -> Capture:
            progress("looking", camera=camera, image_id="", queries=list(categories))
            return perception.capture([query], camera=camera, one_of_all=one_of_all)

        def answer(capture: Capture, room: int) -> CameraAnswer:
            findings, counts = store_overview(capture, max_objects=room, store=perception.store)
            scene, objects = findings.scene, findings.objects
            found = [(item.label, item.object_id) for item in objects]
            labels = {*counts, *findings.unlisted, *(item.label for item in objects)}
            record_search(
                toolbox,
                conversation,
                name,
                capture,
                findings,
                categories,
                found=found,
                absent=[label for label in categories if label not in labels],
            )
            payload = header(search_status(findings), scene, perception.age(scene))
            payload["counts"] = counts
            payload.update(objects_payload(findings))
            payload["not_listed"] = findings.truncated
            if not objects:
                payload["tried"] = list(categories[:MAX_TRIED])
                payload["hint"] = _NOTHING
            elif findings.unsure:
                elsewhere = unsearched_cameras(toolbox, conversation, findings.unsure, scene.camera)
                payload.update(doubt_advice(findings, elsewhere=elsewhere, tried=(), tools=toolbox.names))
            add_hints(payload, findings.hints)
            pictures = toolbox.overlays(scene, objects, "everything")
            return CameraAnswer(payload=payload, scene=scene, objects=objects, pictures=pictures)

        def absence() -> dict[str, Any]:
            return {"tried": list(categories[:MAX_TRIED]), "hint": _NOTHING}

        if means_all_cameras(camera, "", perception):
            output = answer_from_all(
                perception, look, answer, room=MAX_LISTED, count=_found_count, absence=absence
            )
        else:
            output = answer(look(camera, False), MAX_LISTED).output()
        report_answer(progress, output)
        return output

    args = segment_everything_args(perception.cameras)
    return ToolSpec(name=name, description=_SEGMENT_EVERYTHING, args=args, run=run)


def report_answer(progress: ProgressReporter, output: Output) -> None:
    """Report that a tool has its answer."""
    result = output[1]["result"]
    progress("answered", status=result["status"], image_id=result.get("image_id", ""))


def _found_count(capture: Capture) -> int:
    return found_count(capture.results)


def _listing_advice(
    toolbox: Toolbox, findings: Findings, queries: Sequence[str], max_objects: int
) -> dict[str, Any]:
    """Say how to list what was left out: on the same image where its pixels are kept."""
    wanted = min(MAX_OBJECTS, max_objects + findings.truncated)
    if wanted == max_objects:
        return {"hint": "more were found than can be listed: ask for fewer things at a time"}
    scene, perception = findings.scene, toolbox.perception
    if scene.frame is not None:
        where = f",image_id={scene.image_id!r}"
    else:
        where = f",camera={scene.camera!r}" if scene.camera != perception.cameras[0] else ""
    return {"list_all": f"segment_objects({list(queries)!r}{where},max_objects={wanted})"}


def capture_search(
    perception: Perception,
    conversation: ConversationId,
    tool: str,
    phrases: Sequence[str],
    queries: Sequence[Query],
    *,
    camera: str,
    image_id: str,
    progress: ProgressReporter,
    one_of_all: bool = False,
) -> Capture:
    """Capture an image for a search, unless the conversation has made the same search on the same view.

    Raises:
        RepeatedQueryError: the result could not differ.
        XSamError: see `Perception.capture`.
    """
    history = perception.history
    if image_id:
        perception.kept_scene(image_id)
        history.refuse_repeat_on_image(conversation, tool, image_id, phrases)
    progress("looking", camera=camera, image_id=image_id, queries=list(phrases))
    return perception.capture(
        queries,
        camera=camera,
        image_id=image_id,
        check_frame=lambda frame: history.refuse_repeat(conversation, tool, camera, phrases, frame),
        one_of_all=one_of_all,
    )


def record_search(
    toolbox: Toolbox,
    conversation: ConversationId,
    tool: str,
    capture: Capture,
    findings: Findings,
    phrases: Sequence[str],
    *,
    found: Sequence[tuple[str, str]] | None = None,
    absent: Sequence[str] | None = None,
) -> None:
    """Record a search in the conversation's history; objects without an id were found and not listed."""
    pairs = [(item.query, item.object_id) for item in findings.objects] if found is None else list(found)
    toolbox.perception.history.add(
        conversation,
        tool=tool,
        camera=findings.scene.camera,
        image_id=findings.scene.image_id,
        phrases=phrases,
        absent=findings.not_found if absent is None else absent,
        found=[*pairs, *((phrase, "") for phrase in findings.unlisted)],
        frame=capture.frame,
        truncated=findings.truncated,
    )


def unsearched_cameras(
    toolbox: Toolbox, conversation: ConversationId, phrases: Sequence[str], here: str
) -> list[str]:
    """Return the other cameras with which the conversation has not searched for all of these phrases."""
    wanted = {phrase.lower() for phrase in phrases}
    history = toolbox.perception.history
    return [
        name
        for name in toolbox.perception.cameras
        if name != here and not wanted <= {phrase.lower() for phrase in history.tried(conversation, name)}
    ]
