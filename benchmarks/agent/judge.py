"""Was it right? Answers are compared with the simulator, by masks; what the tools said counts for nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from benchmarks.agent.tasks import Task
from benchmarks.agent.tokens import estimate_tokens
from xsam.errors import XSamError
from xsam.types.masks import BoolMask, mask_iou
from xsam_agent_tools import SceneStore

MIN_IOU = 0.5  # an object that is handed over must have at least this outline
MAX_POSITION_ERROR_M = 0.03

_ANSWER = re.compile(r"\bANSWER[\s*_]*:[\s*_`]*([^\n]*?)[\s*_`.]*$", re.IGNORECASE | re.MULTILINE)
_ID = re.compile(r"f\d+/m\d+")
_AGE = re.compile(r'"age_s":\d+(?:\.\d+)?')  # its digits are no matter of the planner's
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one task went.

    Attributes:
        answer: the text behind "ANSWER:"; empty = there was none.
        success: the answer is right.
        wrong_object: an object was handed over that is not one of those wanted.
        poor_outline: the right object, but its mask overlaps the true one by less than `MIN_IOU`.
        said_absent: the answer was that there is no such thing.
        calls: tool calls.
        tool_tokens: of all tool answers, see `estimate_tokens`.
        failed: why the conversation ended without an answer.
        diverged: answers of tools that differ from those of a recording.
    """

    task: str
    kind: str
    answer: str
    success: bool
    wrong_object: bool = False
    poor_outline: bool = False
    said_absent: bool = False
    calls: int = 0
    tool_tokens: int = 0
    tools: dict[str, int] = field(default_factory=dict)
    failed: str = ""
    diverged: int = 0


def judge(
    task: Task,
    messages: Sequence[BaseMessage],
    store: SceneStore,
    *,
    failed: str = "",
    recorded: Sequence[BaseMessage] = (),
) -> Outcome:
    """The outcome of a conversation; `store` is that of its tools."""
    last = messages[-1] if messages else None
    answer = answer_of(last.text) if isinstance(last, AIMessage) else ""
    calls = [call["name"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls]
    said = [str(m.content) for m in messages if isinstance(m, ToolMessage)]
    told = [str(m.content) for m in recorded if isinstance(m, ToolMessage)]
    word = answer.lower()
    success, wrong, poor = _check(task, answer, store)
    return Outcome(
        task=task.name,
        kind=task.kind,
        answer=answer,
        success=success,
        wrong_object=wrong,
        poor_outline=poor,
        said_absent=word == "no" or word.startswith("none"),
        calls=len(calls),
        tool_tokens=sum(estimate_tokens(_AGE.sub('"age_s":0.12', text)) for text in said),
        tools={name: calls.count(name) for name in dict.fromkeys(calls)},
        failed=failed,
        diverged=sum(_timeless(a) != _timeless(b) for a, b in zip(said, told, strict=False)),
    )


def answer_of(text: str) -> str:
    """What stands behind the last "ANSWER:"; empty when there is none."""
    found = _ANSWER.findall(text)
    return found[-1].strip() if found else ""


def _check(task: Task, answer: str, store: SceneStore) -> tuple[bool, bool, bool]:
    """(success, wrong object, poor outline)."""
    wanted, word = task.wanted, answer.lower()
    handed = _ID.findall(answer)
    if wanted.yes is not None:
        return word == ("yes" if wanted.yes else "no"), False, False
    if wanted.count is not None:
        return word == str(wanted.count), False, False
    if wanted.place:
        return _is_place(task, answer), False, False
    if wanted.absent:
        return word.startswith("none"), bool(handed), False
    if wanted.ask:
        return word == "ask", False, False
    if len(handed) != 1:
        return False, False, False
    mask, camera = _mask_of(handed[0], store)
    if mask is None:
        return False, True, False
    table = task.table()
    ious = {
        item.instance_id: mask_iou(mask, table.mask(item.instance_id, camera))
        for item in table.visible(camera)
    }
    best = max(ious, key=lambda instance_id: ious[instance_id], default=0)
    if best not in wanted.objects or ious[best] == 0:
        return False, True, False
    return ious[best] >= MIN_IOU, False, ious[best] < MIN_IOU


def _mask_of(object_id: str, store: SceneStore) -> tuple[BoolMask | None, str]:
    try:
        scene, item = store.object(object_id)
    except XSamError:  # invented
        return None, ""
    return item.mask.decode(), scene.camera


def _is_place(task: Task, answer: str) -> bool:
    numbers = [float(number) for number in _NUMBER.findall(answer)]
    (truth,) = [
        item.position_camera_m
        for item in task.table().visible("front")
        if item.instance_id == task.wanted.place
    ]
    return len(numbers) == 3 and math.dist(numbers, truth) <= MAX_POSITION_ERROR_M


def _timeless(content: str) -> Any:
    """A tool's answer without what differs from run to run."""
    try:
        payload = json.loads(content)
    except ValueError:
        return content
    for name in ("age_s", "latency", "message"):
        payload.pop(name, None)
    return payload


def metrics(outcomes: Sequence[Outcome], tasks: Sequence[Task]) -> dict[str, Any]:
    """The numbers of a run.

    success: of all tasks. wrong_object_rate: tasks in which a wrong object was handed over, of all tasks.
    honest_absence_rate: tasks about things that are not there and that ended in saying so.
    false_absence_rate: tasks about things that are there and that ended in saying they are not. The rest are
    means a task.
    """
    by_name = {task.name: task for task in tasks}
    nothing = [o for o in outcomes if by_name[o.task].nothing_there]
    something = [o for o in outcomes if not by_name[o.task].nothing_there]
    kinds = list(dict.fromkeys(o.kind for o in outcomes))
    return {
        "tasks": len(outcomes),
        "success": _share([o.success for o in outcomes]),
        "wrong_object_rate": _share([o.wrong_object for o in outcomes]),
        "poor_outline_rate": _share([o.poor_outline for o in outcomes]),
        "honest_absence_rate": _share([o.said_absent for o in nothing]),
        "false_absence_rate": _share([o.said_absent for o in something]),
        "calls": _mean([o.calls for o in outcomes]),
        "tool_tokens": _mean([o.tool_tokens for o in outcomes]),
        "failed": sum(bool(o.failed) for o in outcomes),
        "diverged": sum(bool(o.diverged) for o in outcomes),
        "success_by_kind": {kind: _share([o.success for o in outcomes if o.kind == kind]) for kind in kinds},
    }


def _share(flags: Sequence[bool]) -> float | None:
    return round(float(np.mean(flags)), 3) if flags else None


def _mean(values: Sequence[int]) -> float | None:
    return round(float(np.mean(values)), 1) if values else None
