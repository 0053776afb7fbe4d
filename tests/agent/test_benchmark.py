"""The agent benchmark: its right answers, its judge, its policies in the real loop, and replay."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from typer.testing import CliRunner

from benchmarks.agent.__main__ import app, main
from benchmarks.agent.judge import extract_answer, judge, metrics
from benchmarks.agent.models import policy_model
from benchmarks.agent.policies import POLICIES
from benchmarks.agent.probes import probe_metrics, run_probes
from benchmarks.agent.recording import load_recording
from benchmarks.agent.request_parser import parse_request
from benchmarks.agent.run import run_tasks
from benchmarks.agent.scripting import suggested_call
from benchmarks.agent.tasks import AgentTask, load_tasks
from xsam.types.masks import MaskRle, box_of_mask
from xsam_agent_tools import SceneObject, SceneStore

TASKS = {task.name: task for task in load_tasks()}
BY_KIND = {task.kind: task for task in reversed(TASKS.values())}  # the first of each kind
RESULTS = Path(__file__).parents[2] / "benchmarks" / "agent" / "results"


def test_there_are_many_tasks_of_many_kinds() -> None:
    assert len(TASKS) >= 40
    assert len(BY_KIND) >= 12
    assert len({(task.seed, task.request) for task in TASKS.values()}) == len(TASKS)
    assert all(parse_request(task.request) for task in TASKS.values())


# --------------------------------------------------------------------------------------- the truth


@pytest.mark.slow
def test_the_right_answer_fits_the_request() -> None:
    """Check against the scene itself one task of each kind whose request is simple to check."""
    for kind in ("category", "color", "nearer", "count", "present", "absent", "other camera"):
        task = BY_KIND[kind]
        request, table = parse_request(task.request), task.table()
        front = table.visible("front")
        side = table.visible("side") if kind in ("absent", "other camera") else ()
        names = Counter(item.category for item in front)
        wanted = [item for item in side or front if item.instance_id in task.wanted.objects]
        if kind in ("category", "color", "other camera"):
            assert {item.category for item in wanted} == {request.bare}
            assert not request.color or {item.color for item in wanted} == {request.color}
        if kind == "other camera":
            assert names[request.noun] == 0
        if kind == "nearer":
            both = [item for item in front if item.category in (request.noun, request.other)]
            nearest = min(both, key=lambda item: item.position_camera_m[2])
            assert (len(both), (nearest.instance_id,)) == (2, task.wanted.objects)
        if kind == "count":
            assert names[request.noun.removesuffix("s")] == task.wanted.count
        if kind in ("present", "absent"):
            assert (names[request.noun] > 0) is task.wanted.yes
        if kind == "absent":
            assert all(item.category != request.noun for item in side)


# --------------------------------------------------------------------------------------- the judge


def _judged(task: AgentTask, answer: str, masks: list[np.ndarray] | None = None):
    """Judge an answer; the store's f1/m1, f1/m2 … have these masks in the front image."""
    store = SceneStore(run="")
    objects = [
        SceneObject(
            query="it",
            label="a banana, says the tool",  # whatever it says
            score=1.0,
            box_xyxy=box_of_mask(mask),
            center_xy=(0, 0),
            mask=MaskRle.encode(mask),
        )
        for mask in masks or []
    ]
    store.add_scene(camera="front", frame_id="", stamp_ns=1, image_hw=(480, 640), objects=objects)
    return judge(task, [HumanMessage(task.request), AIMessage(answer)], store)


@pytest.mark.slow
def test_an_object_is_judged_by_its_mask() -> None:
    task = BY_KIND["color"]
    table = task.table()
    (right,) = task.wanted.objects
    wrong = next(i.instance_id for i in table.visible("front") if i.instance_id != right)
    good, bad = table.mask(right, "front"), table.mask(wrong, "front")
    part = good.copy()
    part.flat[np.flatnonzero(good)[np.count_nonzero(good) * 2 // 5 :]] = False  # 40 % of it
    assert _judged(task, "ANSWER: f1/m1", [good]).success
    outcome = _judged(task, "ANSWER: f1/m2", [good, bad])
    assert (outcome.success, outcome.wrong_object) == (False, True)
    outcome = _judged(task, "ANSWER: f1/m1", [part])
    assert (outcome.success, outcome.wrong_object, outcome.poor_outline) == (False, False, True)
    outcome = _judged(task, "ANSWER: f7/m1", [good])  # invented
    assert (outcome.success, outcome.wrong_object) == (False, True)
    assert not _judged(task, "It is f1/m1.", [good]).success  # no answer given


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("absent", "no", "yes"),
        ("present", "yes", "none"),
        ("missing", "none", "ask"),
        ("unclear", "ask", "none"),
    ],
)
def test_fixed_answers_are_judged(kind: str, right: str, wrong: str) -> None:
    assert _judged(BY_KIND[kind], f"Well. ANSWER: {right}.").success
    assert not _judged(BY_KIND[kind], f"ANSWER: {wrong}").success
    handed = _judged(BY_KIND["missing"], "ANSWER: f1/m1", [np.ones((480, 640), np.bool_)])
    assert (handed.success, handed.wrong_object, handed.said_absent) == (False, True, False)


@pytest.mark.slow
def test_a_position_may_be_three_centimeters_off() -> None:
    task = BY_KIND["place"]
    (item,) = [i for i in task.table().visible("front") if i.instance_id == task.wanted.place]
    x, y, z = item.position_camera_m
    assert _judged(task, f"ANSWER: {x:.3f} {y:.3f} {z + 0.02:.3f}").success
    assert not _judged(task, f"ANSWER: {x:.3f} {y:.3f} {z + 0.04:.3f}").success
    assert not _judged(task, f"ANSWER: {y:.3f} {x:.3f} {z:.3f}").success


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("ANSWER: f1/m2", "f1/m2"),
        ("I think so.\n**ANSWER:** `f1/m2`.", "f1/m2"),
        ("ANSWER: -0.1 0.2 0.9", "-0.1 0.2 0.9"),
        ("ANSWER: no\nANSWER: yes\n", "yes"),
        ("no idea", ""),
    ],
)
def test_the_answer_is_found_in_the_text(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


# ------------------------------------------------------------------------- policies, loop, replay


@pytest.mark.parametrize(
    ("text", "tool", "arguments"),
    [
        ("segment_objects(['mug'],camera='side')", "segment_objects", {"queries": ["mug"], "camera": "side"}),
        (
            "report_not_found('fork',['fork'],'not in view')",
            "report_not_found",
            {"query": "fork", "tried": ["fork"], "reason": "not in view"},
        ),
    ],
)
def test_suggested_calls_are_read(text: str, tool: str, arguments: dict[str, object]) -> None:
    call = suggested_call({"next": text})
    assert (call.tool, call.arguments) == (tool, arguments)
    assert suggested_call({"next": "tell the user"}) is suggested_call({}) is None


def _run(policy: str, tasks: list[AgentTask]):
    return run_tasks(tasks, lambda _: policy_model(POLICIES[policy]), lambda table: table)


@pytest.mark.slow
def test_following_the_hints_finds_what_the_naive_policy_misses() -> None:
    tasks = [BY_KIND[kind] for kind in ("other camera", "wordy", "unclear", "missing", "ordinal")]
    naive, hints = (metrics(_run(policy, tasks).outcomes, tasks) for policy in ("naive", "hints"))
    assert hints["success"] == 1.0
    assert naive["success"] <= 0.6
    assert naive["success_by_kind"]["other camera"] == 0.0
    assert hints["honest_absence_rate"] == 1.0
    assert hints["calls"] > naive["calls"]
    assert hints["tool_tokens"] > 100


@pytest.mark.slow
def test_a_recording_is_scored_again_without_the_model(tmp_path: Path, capsys) -> None:
    recording, out = tmp_path / "talk.json", tmp_path / "out"
    options = {"segmenter": "oracle", "task": ["other-camera-1", "missing-1"], "out": out}
    first = main(model="policy:hints", record=recording, **options)
    again = main(model=f"replay:{recording}", **options)
    assert first["runs"]["hints-oracle"] == again["runs"]["talk-oracle"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == again
    assert sorted(path.name for path in out.iterdir()) == ["hints-oracle.json", "talk-oracle.json"]
    raw = json.loads(recording.read_text())
    for message in raw["conversations"]["missing-1"]:
        if message["role"] == "tool":
            message["content"] = '{"status":"ok"}'  # as if the model had seen something else
    recording.write_text(json.dumps(raw))
    changed = main(model=f"replay:{recording}", **options)
    assert changed["runs"]["talk-oracle"]["diverged"] == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--modle", "x"], "--modle"),
        (["--task", "dishes"], "dishes"),
        (["--model", "policy:greedy"], "'greedy'"),
        (["--planner"], "--scenes"),
        (["--scenes", "2000000:1", "--task", "count"], "--task"),
        (["--model", "replay:nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert named in error


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("[]", "{", '{"model": "x", "conversations": {"a": [{"role": "assistant"}]}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a recording"):
            load_recording(path)


def test_a_model_that_fails_fails_its_task_only() -> None:
    def broken(text: str):
        yield from ()
        raise OSError("rate limit")

    outcomes = run_tasks([BY_KIND["absent"]], lambda _: policy_model(broken), lambda table: table).outcomes
    assert (outcomes[0].success, "rate limit" in outcomes[0].failed) == (False, True)


@pytest.mark.parametrize("name", ["naive-oracle", "hints-oracle", "naive-tiny", "hints-tiny"])
def test_the_shipped_results_are_of_these_tasks(name: str) -> None:
    result = json.loads((RESULTS / f"{name}.json").read_text())
    assert [outcome["task"] for outcome in result["outcomes"]] == list(TASKS)
    assert result["metrics"]["tasks"] == len(TASKS)


@pytest.mark.slow
def test_probes_of_perfect_masks_are_all_right() -> None:
    """The simulator's truth answers every probe; its objects are right, and what is absent is not found."""
    outcomes = run_probes(range(2_000_012, 2_000_014), lambda table: table)
    metrics = probe_metrics(outcomes)
    assert {outcome.kind for outcome in outcomes} >= {"category", "absent category", "unknown", "use"}
    assert (metrics["ok_precision"], metrics["false_ok"], metrics["presence_mcc"]) == (1.0, 0.0, 1.0)
