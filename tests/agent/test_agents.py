"""The tools inside a real agent loop, with a checkpointer, parallel calls and schema converters."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from support.scripted_model import ScriptedModel, segment_and_report
from tests.agent.table import MASKS, as_call
from xsam import FakeSegmenter


def _calls(*arguments: dict[str, Any]) -> AIMessage:
    return AIMessage(
        content="",
        tool_calls=[
            {
                "name": "segment_objects",
                "args": args,
                "id": f"call_{time.monotonic_ns()}_{i}",
                "type": "tool_call",
            }
            for i, args in enumerate(arguments)
        ],
    )


def _tool_answers(messages: list[BaseMessage]) -> list[dict[str, Any]]:
    return [json.loads(m.content) for m in messages if isinstance(m, ToolMessage)]  # type: ignore[arg-type]


def _find_the_red_mug(messages: list[BaseMessage]) -> AIMessage:
    """Search, follow the hint of a "no match", correct a refused argument, and name the object."""
    results = _tool_answers(messages)
    if not results:
        return _calls(
            {"queries": ["crimson espresso mug with a handle"], "camera": "/camera/color/image_raw"}
        )
    last = results[-1]
    if last.get("code") == "UNKNOWN_CAMERA":
        camera = last["hint"].removeprefix("use one of: ").split(", ")[0]
        return _calls({"queries": ["crimson espresso mug with a handle"], "camera": camera})
    if last["status"] == "no_match":
        assert last["next"] == "segment_objects(['espresso mug','mug'])"
        return _calls({"queries": ["mug", "red mug"], "image_id": last["image_id"]})
    same = next(o["same_as"] for o in last["objects"] if o["label"] == "red mug")
    spot = next(o["where"] for o in last["objects"] if o["id"] == same)
    return AIMessage(content=f"The red mug is {same}, {spot}.")


def _ask(agent: Any, text: str = "Where is the red mug?", **config: Any) -> list[BaseMessage]:
    result = agent.invoke({"messages": [HumanMessage(text)]}, {"recursion_limit": 20, **config})
    messages: list[BaseMessage] = result["messages"]
    return messages


def test_the_agent_of_the_examples_reports_an_object_that_is_listed_twice(make_toolkit) -> None:
    """`examples/agent_over_ros.py` ended in a KeyError: only the first of two ids has the region."""
    agent = create_agent(ScriptedModel(policy=segment_and_report), make_toolkit().get_tools())
    answer = _ask(agent, "mug, red mug")[-1].text
    assert "red mug (f1/m3): the same as f1/m2" in answer


def test_agent_recovers_from_errors_and_absence(make_toolkit) -> None:
    model = ScriptedModel(policy=_find_the_red_mug)
    messages = _ask(create_agent(model, make_toolkit().get_tools()))
    assert [a["status"] for a in _tool_answers(messages)] == ["error", "no_match", "ok"]
    assert messages[-1].content == "The red mug is f1/m2, right, top."
    assert [m.status for m in messages if isinstance(m, ToolMessage)] == ["error", "success", "success"]


@pytest.mark.asyncio
async def test_agent_async(make_toolkit) -> None:
    agent = create_agent(ScriptedModel(policy=_find_the_red_mug), make_toolkit().get_tools())
    result = await agent.ainvoke({"messages": [HumanMessage("Where is the red mug?")]})
    assert result["messages"][-1].content == "The red mug is f1/m2, right, top."


def test_agent_survives_a_broken_segmenter(make_toolkit) -> None:
    class CrashingSegmenter:
        def segment(self, source, queries, *, deadline_s):
            raise RuntimeError("CUDA error")

    def policy(messages: list[BaseMessage]) -> AIMessage:
        results = _tool_answers(messages)
        return AIMessage(content=results[-1]["code"]) if results else _calls({"queries": ["mug"]})

    messages = _ask(
        create_agent(ScriptedModel(policy=policy), make_toolkit(segmenter=CrashingSegmenter()).get_tools())
    )
    assert messages[-1].content == "INTERNAL"


def test_parallel_tool_calls_of_one_message(make_toolkit) -> None:
    queries = [["mug"], ["plate"], ["red mug"], ["fork"]]

    def policy(messages: list[BaseMessage]) -> AIMessage:
        results = _tool_answers(messages)
        return AIMessage(content="done") if results else _calls(*({"queries": q} for q in queries))

    toolkit = make_toolkit(segmenter=FakeSegmenter(MASKS, delay_s=0.02))
    messages = _ask(create_agent(ScriptedModel(policy=policy), toolkit.get_tools()))
    results = _tool_answers(messages)
    assert [a["status"] for a in results] == ["ok", "ok", "ok", "no_match"]
    assert [[o["label"] for o in a["objects"]] for a in results] == [
        ["mug", "mug"],
        ["plate"],
        ["red mug"],
        [],
    ]
    assert len({a["image_id"] for a in results}) == 4


def test_many_threads_on_one_image_get_ids_of_their_own(make_toolkit, call) -> None:
    kinds = {f"mug {n}": MASKS["mug"] for n in range(16)}
    tool = make_toolkit(segmenter=FakeSegmenter({**MASKS, **kinds})).get_tools()[0]
    call(tool, queries=["plate"])
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda kind: call(tool, queries=[kind], image_id="f1"), kinds))
    ids = [o["id"] for a in results for o in a["objects"]]
    assert sorted(ids) == sorted(f"f1/m{n}" for n in range(2, 34))


def test_the_segmenter_is_called_by_one_thread_at_a_time(make_toolkit, call) -> None:
    busy, overlaps = threading.Lock(), []

    class SingleThreadedSegmenter(FakeSegmenter):
        def segment(self, source, queries, *, deadline_s):
            overlaps.append(not busy.acquire(blocking=False))
            time.sleep(0.01)
            busy.release()
            return super().segment(source, queries, deadline_s=deadline_s)

    tool = make_toolkit(segmenter=SingleThreadedSegmenter(MASKS)).get_tools()[0]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: call(tool, queries=["mug"]), range(12)))
    assert overlaps == [False] * 12


@pytest.mark.asyncio
@pytest.mark.slow
async def test_async_side_leaves_the_event_loop_free(make_toolkit, acall) -> None:
    tool = make_toolkit(segmenter=FakeSegmenter(MASKS, delay_s=0.5)).get_tools()[0]
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.02)
            ticks += 1

    ticker = asyncio.create_task(tick())
    results = await asyncio.gather(acall(tool, queries=["mug"]), acall(tool, queries=["plate"]))
    ticker.cancel()
    assert [a["status"] for a in results] == ["ok", "ok"]
    assert ticks >= 5


@pytest.mark.parametrize("images", ["none", "user"])
def test_checkpointer_keeps_artifacts(make_toolkit, images: str) -> None:
    """NumPy scalars and PIL images in an artifact crash the checkpointer in the middle of a conversation."""
    saver = InMemorySaver()
    agent = create_agent(
        ScriptedModel(policy=_find_the_red_mug), make_toolkit(images=images).get_tools(), checkpointer=saver
    )
    config: Any = {"configurable": {"thread_id": "table"}}
    _ask(agent, **config)
    kept = [m.artifact for m in agent.get_state(config).values["messages"] if isinstance(m, ToolMessage)]
    assert [type(artifact) for artifact in kept] == [type(None), dict, dict]
    assert kept[2]["masks"][0]["rle"]["size"] == [480, 640]
    assert ("pictures" in kept[2]) == (images == "user")
    serde = JsonPlusSerializer()
    assert serde.loads_typed(serde.dumps_typed(kept[2])) == kept[2]


def test_images_do_not_pile_up_in_the_context(make_toolkit) -> None:
    def policy(messages: list[BaseMessage]) -> AIMessage:
        return _calls({"queries": ["mug"]}) if len(_tool_answers(messages)) < 5 else AIMessage(content="done")

    model = ScriptedModel(policy=policy)
    _ask(create_agent(model, make_toolkit(images="user").get_tools()))
    texts = [m.content for m in model.received[-1]]
    assert len(model.received) == 6
    assert all(isinstance(text, str) for text in texts)
    assert sum(map(len, texts)) < 5 * 700


def _schema(tool: Any) -> dict[str, Any]:
    return convert_to_openai_tool(tool)["function"]["parameters"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("cameras", [["wrist"], ["left eye", "right eye"]])
def test_cameras_are_an_enumeration_with_the_first_as_default(make_toolkit, cameras: list[str]) -> None:
    tool = make_toolkit(cameras=cameras).get_tools()[0]
    camera = _schema(tool)["properties"]["camera"]
    choices = [*cameras, "all"] if len(cameras) > 1 else cameras
    assert (camera["enum"], camera["default"]) == (choices, cameras[0])


def test_description_tells_how_queries_are_read(tool) -> None:
    assert len(tool.description) <= 1024  # the limit of the strictest provider
    for words in ("'the ...'", "'?'", "no_match", "ambiguous", "stale", "same_as", "age_s"):
        assert words in tool.description


def test_tools_called_without_a_tool_call_give_text(tool) -> None:
    assert json.loads(tool.invoke({"queries": ["mug"]}))["status"] == "ok"
    assert json.loads(tool.invoke({"queries": []}))["code"] == "INVALID_ARGUMENTS"
    assert tool.invoke(as_call(tool, {"queries": ["mug"]})).tool_call_id == "call_1"


@pytest.mark.parametrize("statement", ["import xsam_agent_tools", "from xsam_agent_tools import XSamToolkit"])
@pytest.mark.slow
def test_import_is_light(statement: str) -> None:
    heavy = ("torch", "rclpy", "cv2", "langchain")
    code = f"{statement}; import sys; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"
