"""Questions about the whole scene: `ask_scene`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from xsam.types.requests import Query, SegmentationResult, Task
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.perception import Look
from xsam_agent_tools.runtime.progress import progress_of
from xsam_agent_tools.schemas import DEFAULT_OBJECTS, ask_scene_args
from xsam_agent_tools.text.answers import (
    FAILURES,
    Answer,
    object_of,
    put,
    raise_if_all_failed,
    same_objects,
    with_pixels,
)
from xsam_agent_tools.text.artifact import segmentation_artifact
from xsam_agent_tools.text.content import cut, header, object_payload, to_text
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec, conversation, picture_signature
from xsam_agent_tools.tools.searching import not_asked, remember

MAX_ANSWER_CHARS = 1200

_DESCRIPTION = """\
Ask about a robot camera's image in a sentence. A question about use or meaning ('What can I drink from?', \
'Which of these is hot?') is reasoned about and answered with objects; a request to describe ('Describe the \
scene.', 'What do you see?') gives a sentence whose phrases carry object ids in brackets. answer is the \
model's own words and may be wrong: objects are what it really found. For things you can name, use \
segment_objects. Positions, sizes and who is left or nearer come from other tools, not from this one.\
"""

_WANTS_DESCRIPTION = re.compile(
    r"^(please )?(can you |could you )?(describe|list|summari[sz]e|caption|tell me what)\b"
    r"|\bwhat (do|can) (you|i|we|the robot) see\b"
    r"|^what('s| is| are| objects are| things are)? (there|here|in view|in front|visible|on the|in the)\b",
    re.IGNORECASE,
)


def ask_scene(box: Toolbox) -> ToolSpec:
    """Reasoning, or a description whose phrases have masks."""
    perception = box.perception
    name = "ask_scene"

    def run(question: str, camera: str = perception.cameras[0], image_id: str = "") -> Output:
        scope, progress, history = conversation(), progress_of(name), perception.history
        if image_id:
            perception.kept_scene(image_id)
            history.refuse_repeat_on_image(scope, name, image_id, [question])
        progress("looking", camera=camera, image_id=image_id, queries=[question])
        look = perception.look(
            queries_for(question),
            camera=camera,
            image_id=image_id,
            refuse=lambda frame: history.refuse_repeat(
                scope, name, camera, [question], picture_signature(frame)
            ),
        )
        raise_if_all_failed(look.results)
        best = _best(look.results)
        answer, phrase_ids = _grounded(box, look, best, question)
        text = _with_ids(best.text or next((r.text for r in look.results if r.text), ""), phrase_ids)
        remember(
            box, scope, name, look, answer, [question], absent=() if answer.objects or text else [question]
        )
        status = "ok" if answer.objects or text else "no_match"
        payload = header(status, answer.scene, perception.age(answer.scene))
        if text:
            payload["answer"] = cut(text, MAX_ANSWER_CHARS)
        payload["objects"] = [
            object_payload(item, answer.scene.image_hw, same_as=answer.same_as.get(item.object_id))
            for item in answer.objects
        ]
        payload["truncated"] = answer.truncated
        if status == "no_match":
            payload["tried"] = [question]
            payload["hint"] = "nothing here answers that: name the things you think of with segment_objects"
            if others := not_asked(box, scope, [question], answer.scene.camera):
                payload["hint"] += f", or ask about another camera ({', '.join(others[:3])})"
        progress("answered", status=status, image_id=answer.scene.image_id)
        pictures = box.pictures(answer.scene, answer.objects, question)
        return to_text(payload), segmentation_artifact(answer.scene, answer.objects, payload, images=pictures)

    args = ask_scene_args(perception.cameras, with_image_id=perception.keeps_frames)
    return ToolSpec(name=name, description=_DESCRIPTION, args=args, run=run)


def queries_for(question: str) -> list[Query]:
    """A description, or reasoning twice: plainly, for the masks, and with an explanation, for the words.

    An explanation is generated and may hold no mask, or that of something else it has talked itself into.
    """
    if _WANTS_DESCRIPTION.search(question):
        return [Query(task=Task.GROUNDED_CONVERSATION, text=question)]
    return [
        Query(task=Task.REASONING, text=question),
        Query(task=Task.REASONING, text=question, explain=True),
    ]


def _best(results: Sequence[SegmentationResult]) -> SegmentationResult:
    """The first result with masks, else the first that is an answer at all."""
    answered = [result for result in results if result.status not in FAILURES]
    return next((result for result in answered if with_pixels(result)), answered[0])


def _grounded(
    box: Toolbox, look: Look, best: SegmentationResult, question: str
) -> tuple[Answer, list[tuple[str, list[str]]]]:
    """The answer's objects in the store, and for each phrase of the text the ids of its objects."""
    indices = with_pixels(best)
    kept = indices[:DEFAULT_OBJECTS]
    label = "" if best.phrases else "answer"  # the whole question is no label
    chosen = [object_of(best, index, query=question, label=label) for index in kept]
    scene, objects = put(look, chosen, box.perception.store)
    phrases = [
        (
            phrase,
            [item.object_id for item, i in zip(objects, kept, strict=True) if _phrase_index(best, i) == n],
        )
        for n, phrase in enumerate(best.phrases)
    ]
    return _answer(scene, objects, question, truncated=len(indices) - len(kept)), phrases


def _phrase_index(result: SegmentationResult, segment: int) -> int:
    return int(result.segments.label_indices[segment])


def _answer(scene: Scene, objects: tuple[SceneObject, ...], question: str, *, truncated: int) -> Answer:
    return Answer(
        scene=scene,
        objects=objects,
        same_as=same_objects(scene, objects),
        not_found=() if objects else (question,),
        ambiguous=(),
        failed=(),
        truncated=truncated,
    )


def _with_ids(text: str, phrase_ids: Sequence[tuple[str, list[str]]]) -> str:
    """The text with the ids of its objects behind each phrase: "a red mug [f1/m1] is on the table"."""
    done, rest = "", text
    for phrase, ids in phrase_ids:
        start = rest.lower().find(phrase.lower()) if phrase else -1
        if start < 0 or not ids:
            continue
        end = start + len(phrase)
        done, rest = f"{done}{rest[:end]} [{', '.join(ids)}]", rest[end:]
    return done + rest
