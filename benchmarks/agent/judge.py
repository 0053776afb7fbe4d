"""Judging of answers: they are compared with the simulator, by masks, never with what the tools reported."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from benchmarks.agent.tasks import AgentTask
from benchmarks.agent.tokens import estimate_tokens
from xsam.errors import XSamError
from xsam.types.masks import BoolMask, mask_iou
from xsam_agent_tools import SceneStore

MIN_IOU = 0.5  # an object that is handed over must have at least this outline
MAX_POSITION_ERROR_M = 0.03

_ANSWER = re.compile(r"\bANSWER[\s*_]*:[\s*_`]*([^\n]*?)[\s*_`.]*$", re.IGNORECASE | re.MULTILINE)
_ID = re.compile(r"f\d+[a-z]*/m\d+")
_AGE = re.compile(r'"age_s":\d+(?:\.\d+)?')  # its number of digits must not change the token count
_LISTED = re.compile(r"([a-z][a-z ]*?)[\s:]+(\d+)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """Outcome of one task.

    Attributes:
        answer: the text after "ANSWER:"; empty = there was none.
        success: the answer is right.
        wrong_object: the agent handed over an object that is not one of those wanted.
        poor_outline: the right object, but the IoU of its mask with the true one is below `MIN_IOU`.
        said_absent: the answer was that there is no such thing.
        abstained: the agent asked back, or said that it is unsure, or said nothing.
        misled: a wrong answer in a tone of certainty; neither a success nor abstained.
        calls: number of tool calls.
        tool_tokens: tokens of all tool results, see `estimate_tokens`.
        tools: number of calls by tool.
        failed: why the conversation ended without an answer.
        diverged: number of tool results that differ from those of a recording.
    """

    task: str
    kind: str
    answer: str
    success: bool
    wrong_object: bool = False
    poor_outline: bool = False
    said_absent: bool = False
    abstained: bool = False
    misled: bool = False
    calls: int = 0
    tool_tokens: int = 0
    tools: dict[str, int] = field(default_factory=dict)
    failed: str = ""
    diverged: int = 0


def judge(
    task: AgentTask,
    messages: Sequence[BaseMessage],
    store: SceneStore,
    *,
    failed: str = "",
    recorded: Sequence[BaseMessage] = (),
) -> TaskOutcome:
    """Judge a conversation.

    Args:
        task: the task.
        messages: the conversation.
        store: the scene store of its tools, to look up object ids.
        failed: why the conversation broke off.
        recorded: an earlier conversation whose tool results are compared with the present ones.
    """
    last = messages[-1] if messages else None
    answer = extract_answer(last.text) if isinstance(last, AIMessage) else ""
    calls = [call["name"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls]
    results = [str(m.content) for m in messages if isinstance(m, ToolMessage)]
    recorded_results = [str(m.content) for m in recorded if isinstance(m, ToolMessage)]
    lowered = answer.lower()
    success, wrong, poor = _check(task, answer, store)
    abstained = not success and _abstains(task, lowered)
    return TaskOutcome(
        task=task.name,
        kind=task.kind,
        answer=answer,
        success=success,
        wrong_object=wrong,
        poor_outline=poor,
        said_absent=lowered == "no" or lowered.startswith("none"),
        abstained=abstained,
        misled=not success and not abstained,
        calls=len(calls),
        tool_tokens=sum(estimate_tokens(_AGE.sub('"age_s":0.12', text)) for text in results),
        tools={name: calls.count(name) for name in dict.fromkeys(calls)},
        failed=failed,
        diverged=sum(
            _without_times(now) != _without_times(then)
            for now, then in zip(results, recorded_results, strict=False)
        ),
    )


def extract_answer(text: str) -> str:
    """Return the text after the last "ANSWER:"; empty when there is none."""
    found = _ANSWER.findall(text)
    return found[-1].strip() if found else ""


def _check(task: AgentTask, answer: str, store: SceneStore) -> tuple[bool, bool, bool]:
    """Return (success, wrong object, poor outline)."""
    wanted, lowered = task.wanted, answer.lower()
    object_ids = _ID.findall(answer)
    if wanted.yes is not None:
        return lowered == ("yes" if wanted.yes else "no"), False, False
    if wanted.count is not None:
        return lowered == str(wanted.count), False, False
    if wanted.kinds:
        return _is_complete(task, lowered), False, False
    if wanted.place:
        return _is_position(task, answer), False, False
    if wanted.absent:
        return lowered.startswith("none"), bool(object_ids), False
    if wanted.ask:
        return lowered == "ask", False, False
    if len(object_ids) != 1:
        return False, False, False
    mask, camera = _find_mask(object_ids[0], store)
    if mask is None:
        return False, True, False
    table = task.table_at_end()
    ious = {
        item.instance_id: mask_iou(mask, table.mask(item.instance_id, camera))
        for item in table.visible(camera)
    }
    best = max(ious, key=lambda instance_id: ious[instance_id], default=0)
    if best not in wanted.objects or ious[best] == 0:
        return False, True, False
    return ious[best] >= MIN_IOU, False, ious[best] < MIN_IOU


def _abstains(task: AgentTask, answer: str) -> bool:
    """Return whether an answer claims nothing; a list that says it is unsure must still be true."""
    if task.wanted.kinds:
        listed = _listed(answer)
        most = {name: most for name, _, most in task.wanted.kinds}
        return "unsure" in listed and all(
            count <= most.get(name, 0) for name, count in listed.items() if name != "unsure"
        )
    return answer.startswith("unsure") or answer in ("", "ask")


def _is_complete(task: AgentTask, answer: str) -> bool:
    """Return whether a list names every kind with its number, and nothing else."""
    listed = {name: count for name, count in _listed(answer).items() if name != "unsure"}
    bounds = {name: (least, most) for name, least, most in task.wanted.kinds}
    return listed.keys() == bounds.keys() and all(
        least <= listed[name] <= most for name, (least, most) in bounds.items()
    )


def _listed(answer: str) -> dict[str, int]:
    """Parse a list such as "mug 2, teddy bear 1, unsure 1"."""
    return {name: int(number) for name, number in _LISTED.findall(answer)}


def _find_mask(object_id: str, store: SceneStore) -> tuple[BoolMask | None, str]:
    """Return the mask of an object and its camera; None when the id was invented."""
    try:
        scene, item = store.object(object_id)
    except XSamError:
        return None, ""
    return item.mask.decode(), scene.camera


def _is_position(task: AgentTask, answer: str) -> bool:
    numbers = [float(number) for number in _NUMBER.findall(answer)]
    (truth,) = [
        item.position_camera_m
        for item in task.table().visible("front")
        if item.instance_id == task.wanted.place
    ]
    return len(numbers) == 3 and math.dist(numbers, truth) <= MAX_POSITION_ERROR_M


def _without_times(content: str) -> Any:
    """Parse a tool result and remove what differs from run to run."""
    try:
        payload = json.loads(content)
    except ValueError:
        return content
    for name in ("age_s", "latency", "message"):
        payload.pop(name, None)
    return payload


def metrics(outcomes: Sequence[TaskOutcome], tasks: Sequence[AgentTask]) -> dict[str, Any]:
    """Compute the metrics of a run.

    Returns:
        success: share of all tasks.
        misled, abstained: shares of all tasks; the three sum to 1.
        wrong_object_rate: share of all tasks in which a wrong object was handed over.
        poor_outline_rate: share of all tasks in which the right object had a poor outline.
        honest_absence_rate: share of the tasks about absent things that ended in saying so.
        false_absence_rate: share of the tasks about present things that ended in saying they are absent.
        calls, tool_tokens: means per task.
        failed, diverged: numbers of tasks.
        success_by_kind: success for each kind of task.
        by_kind: for each kind of task the number of tasks, and the shares of success, misled and abstained.
    """
    by_name = {task.name: task for task in tasks}
    absent = [o for o in outcomes if by_name[o.task].nothing_there]
    present = [o for o in outcomes if not by_name[o.task].nothing_there]
    kinds = list(dict.fromkeys(o.kind for o in outcomes))
    return {
        "tasks": len(outcomes),
        "success": _share([o.success for o in outcomes]),
        "misled": _share([o.misled for o in outcomes]),
        "abstained": _share([o.abstained for o in outcomes]),
        "wrong_object_rate": _share([o.wrong_object for o in outcomes]),
        "poor_outline_rate": _share([o.poor_outline for o in outcomes]),
        "honest_absence_rate": _share([o.said_absent for o in absent]),
        "false_absence_rate": _share([o.said_absent for o in present]),
        "calls": _mean([o.calls for o in outcomes]),
        "tool_tokens": _mean([o.tool_tokens for o in outcomes]),
        "failed": sum(bool(o.failed) for o in outcomes),
        "diverged": sum(bool(o.diverged) for o in outcomes),
        "success_by_kind": {kind: _share([o.success for o in outcomes if o.kind == kind]) for kind in kinds},
        "by_kind": {kind: _shares([o for o in outcomes if o.kind == kind]) for kind in kinds},
    }


def _shares(outcomes: Sequence[TaskOutcome]) -> dict[str, Any]:
    return {
        "tasks": len(outcomes),
        "success": _share([o.success for o in outcomes]),
        "misled": _share([o.misled for o in outcomes]),
        "abstained": _share([o.abstained for o in outcomes]),
    }


def _share(flags: Sequence[bool]) -> float | None:
    return round(float(np.mean(flags)), 3) if flags else None


def _mean(values: Sequence[int]) -> float | None:
    return round(float(np.mean(values)), 1) if values else None
