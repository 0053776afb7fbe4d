"""The planner tasks of the agent benchmark: their right answers, their judge, and the scripted planners."""

from __future__ import annotations

import json

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from benchmarks.agent.judge import judge, metrics
from benchmarks.agent.models import policy_model
from benchmarks.agent.planner_tasks import TRACK_S, planner_tasks
from benchmarks.agent.policies import POLICIES
from benchmarks.agent.request_parser import parse_request
from benchmarks.agent.run import run_tasks
from benchmarks.agent.scripting import call
from benchmarks.agent.tasks import AgentTask, ExpectedAnswer, labeled
from xsam_agent_tools import SceneStore

SEEDS = (2_000_007, 2_005_005, 2_005_007)
KINDS = {
    *("inventory", "nearest", "presence", "containment", "count"),
    *("extreme", "middle", "farthest by use", "track", "restart"),
}
LIST = AgentTask(
    name="list",
    kind="inventory",
    seed=2_000_012,
    request="What is on the table? List every kind with its number.",
    wanted=ExpectedAnswer(kinds=(("mug", 2, 3), ("teddy bear", 1, 1))),
)


@pytest.fixture(scope="module")
def tasks() -> list[AgentTask]:
    return [task for seed in SEEDS for task in planner_tasks(seed)]


@pytest.mark.slow
def test_there_are_ten_kinds_and_every_request_is_understood(tasks: list[AgentTask]) -> None:
    assert {task.kind for task in tasks} == KINDS
    assert all(parse_request(task.request).kind for task in tasks)
    assert [t.request for t in planner_tasks(SEEDS[0])] == [t.request for t in tasks if t.seed == SEEDS[0]]


@pytest.mark.slow
def test_the_right_answers_fit_the_scenes(tasks: list[AgentTask]) -> None:
    for task in tasks:
        table = task.table()
        items = {item.instance_id: item for item in table.visible("front")}
        wanted = [items[instance_id] for instance_id in task.wanted.objects]
        if task.kind == "nearest":
            assert wanted[0].depth_m == min(item.depth_m for item in items.values())
        if task.kind == "middle":
            same = [i.centroid_xy[0] for i in items.values() if i.category == wanted[0].category]
            assert (len(same), sorted(same)[1]) == (3, wanted[0].centroid_xy[0])
        if task.kind == "inventory":
            assert {name for name, _, _ in task.wanted.kinds} == {
                i.category for i in labeled(tuple(items.values()))
            }
        if task.kind == "track":
            for seconds in TRACK_S:
                table.cameras["front"] = seconds
                assert set(task.wanted.objects) <= {i.instance_id for i in labeled(table.visible("front"))}
        if task.kind == "containment" and task.put_in:
            inner, outer = (table.mask(instance_id, "front") for instance_id in task.put_in)
            rows, columns = np.nonzero(inner)
            around = np.nonzero(outer)
            assert around[1].min() < columns.mean() < around[1].max()
            assert around[0].min() < rows.max() <= around[0].max()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("mug 2, teddy bear 1", "success"),
        ("teddy bear 1, mug 3", "success"),  # the third mug can hardly be seen
        ("mug 2, teddy bear 1, unsure 2", "success"),
        ("mug 2, unsure 1", "abstained"),
        ("mug 2", "misled"),
        ("mug 2, teddy bear 1, vase 1", "misled"),
        ("mug 4, unsure 1", "misled"),
        ("none", "misled"),
    ],
)
def test_a_list_is_judged_by_what_it_claims(answer: str, outcome: str) -> None:
    judged = judge(LIST, [HumanMessage(LIST.request), AIMessage(f"ANSWER: {answer}")], SceneStore())
    assert [name for name in ("success", "abstained", "misled") if getattr(judged, name)] == [outcome]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("no", "success"), ("yes", "misled"), ("unsure", "abstained"), ("ask", "abstained"), ("", "abstained")],
)
def test_saying_that_one_cannot_tell_misleads_nobody(answer: str, outcome: str) -> None:
    task = AgentTask(name="a", kind="presence", seed=0, request="", wanted=ExpectedAnswer(yes=False))
    judged = judge(task, [HumanMessage("Is it?"), AIMessage(f"ANSWER: {answer}")], SceneStore())
    assert [name for name in ("success", "abstained", "misled") if getattr(judged, name)] == [outcome]


def test_a_policy_is_sent_texts_only() -> None:
    sent: list[object] = []

    def policy(text: str):
        sent.append(text)
        sent.append((yield call("segment_everything")))
        sent.append((yield "ANSWER: unsure"))
        return "ANSWER: none"

    model = policy_model(policy)
    result = ToolMessage(json.dumps({"status": "ok"}), tool_call_id="call_1", artifact={"masks": ["secret"]})
    heard = [HumanMessage("first"), AIMessage("", tool_calls=[]), result, HumanMessage("second")]
    assert model.invoke(heard).text == "ANSWER: none"
    assert sent == ["first", {"status": "ok"}, "second"]


@pytest.mark.slow
def test_with_perfect_masks_a_careful_planner_is_never_misled(tasks: list[AgentTask]) -> None:
    outcomes = run_tasks(tasks, lambda _: policy_model(POLICIES["hints"]), lambda table: table).outcomes
    found = metrics(outcomes, tasks)
    assert (found["misled"], found["failed"]) == (0.0, 0)
    assert found["success"] >= 0.85
    assert found["by_kind"]["restart"]["success"] == found["by_kind"]["track"]["success"] == 1.0


@pytest.mark.slow
def test_an_id_of_before_a_restart_misleads_a_planner_that_trusts_it(tasks: list[AgentTask]) -> None:
    chosen = [task for task in tasks if task.kind == "restart"]
    outcomes = run_tasks(chosen, lambda _: policy_model(POLICIES["naive"]), lambda table: table).outcomes
    assert all(outcome.misled and outcome.wrong_object for outcome in outcomes)
