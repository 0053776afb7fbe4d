"""Running of tasks: one conversation per task, through LangChain's own agent loop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage

from benchmarks.agent.judge import TaskOutcome, judge
from benchmarks.agent.recording import Conversations
from benchmarks.agent.tasks import CAMERAS, AgentTask
from xsam.segmenter import Segmenter
from xsam.sim.oracle import SimulatedTable
from xsam_agent_tools import SceneStore, XSamToolkit
from xsam_agent_tools.middleware import perception_middleware

SYSTEM_PROMPT = """\
You plan for a robot arm at a table. What you know of the table comes from your tools: two cameras, "front" \
and "side". "The table" is what the front camera sees; fetch things that only the side camera sees, too. \
"left" and "right" are those of the front camera's image. Do not guess.
End with one line, ANSWER: and one of: the id of the one object to hand over (f3/m1) · yes or no · a number \
· a position as three numbers x y z · kinds with their numbers (mug 2, knife 1) · none, when there is no \
such thing · ask, when several fit and the user must say which · unsure, when you cannot tell.\
"""
MAX_TOOL_CALLS = 15
RESTARTED = "r"  # at the end of the ids of a program that was restarted
DEADLINE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class BenchmarkRun:
    """Outcomes and conversations of all tasks."""

    outcomes: list[TaskOutcome]
    conversations: Conversations


def run_tasks(
    tasks: Sequence[AgentTask],
    model_for: Callable[[AgentTask], BaseChatModel],
    segmenter_for: Callable[[SimulatedTable], Segmenter],
    *,
    recorded: Conversations | None = None,
    images: bool = False,
) -> BenchmarkRun:
    """Hold a conversation for each task, with all its requests, and judge the last answer.

    Args:
        tasks: the tasks.
        model_for: returns the chat model for a task.
        segmenter_for: returns the segmenter for a table.
        recorded: earlier conversations whose tool results are compared with the present ones.
        images: show the overlays to a model whose profile says that it accepts images.
    """
    outcomes, conversations = [], {}
    for number, task in enumerate(tasks, start=1):
        table = task.table()

        def start_program(run: str, *, task: AgentTask = task, table: SimulatedTable = table) -> _Program:
            toolkit = XSamToolkit(
                segmenter_for(table),
                cameras=CAMERAS,
                mode="full",
                images="user" if images else "none",
                frame_source=table.frame,
                store=SceneStore(run=run),  # the same ids in every run, for recordings
                deadline_s=DEADLINE_S,
                max_position_age_s=None,  # the table stands still; slow models must not fail for it
                max_image_age_s=None,
            )
            agent = create_agent(
                model_for(task),
                toolkit.get_tools(),
                system_prompt=SYSTEM_PROMPT,
                middleware=perception_middleware(tool_calls=MAX_TOOL_CALLS),
            )
            return _Program(agent=agent, store=toolkit.store)

        program = start_program("")
        messages, failed = _hold_conversation(program.agent, [], task.request, thread=task.name)
        for turn in task.later:
            if failed:
                break
            table.cameras["front"] = turn.front_s
            if turn.restart:
                program = start_program(RESTARTED)
            messages, failed = _hold_conversation(program.agent, messages, turn.request, thread=task.name)
        before = (recorded or {}).get(task.name, ())
        outcome = judge(task, messages, program.store, failed=failed, recorded=before)
        outcomes.append(outcome)
        conversations[task.name] = messages
        mark = "ok  " if outcome.success else "?   " if outcome.abstained else "FAIL"
        print(
            f"[{number}/{len(tasks)}] {mark} {task.name}: {task.request} → {outcome.answer or failed}",
            file=sys.stderr,
            flush=True,
        )
    return BenchmarkRun(outcomes=outcomes, conversations=conversations)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Program:
    """What is lost when the agent's program is restarted."""

    agent: Any
    store: SceneStore


def _hold_conversation(
    agent: Any, messages: list[BaseMessage], request: str, *, thread: str
) -> tuple[list[BaseMessage], str]:
    """Continue a conversation with a request.

    Returns:
        The messages and, if a provider's error ended the conversation but not the run, its text.
    """
    messages = [*messages, HumanMessage(request)]
    config = {"recursion_limit": 100, "configurable": {"thread_id": thread}}
    try:
        for state in agent.stream({"messages": messages}, config, stream_mode="values"):
            messages = state["messages"]
    except Exception as error:
        return messages, f"{type(error).__name__}: {error}"[:300]
    return messages, ""
