"""A query whose result cannot differ is refused, with the queries tried so far; a useful one never is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from support.scripted_model import ScriptedModel, tool_call
from tests.agent.table import MASKS, new_frame, rectangle
from xsam import FakeSegmenter, Frame
from xsam_agent_tools.errors import RepeatedQueryError
from xsam_agent_tools.memory.history import ConversationId, History, frame_signature, show_same_view


def test_a_query_that_found_nothing_is_refused_on_the_same_view(tools, call) -> None:
    """Agents searched for a missing fork until their budget was spent."""
    call(tools["segment_objects"], queries=["spoon"])
    call(tools["segment_objects"], queries=["fork"])
    result = call(tools["segment_objects"], queries=["Fork"])
    assert result.message.status == "error"
    assert (result["status"], result["code"], result["retryable"]) == ("error", "REPEATED_QUERY", False)
    assert result["tried"] == ["spoon", "fork"]
    assert "f2" in result["message"]
    assert "report_not_found" in result["hint"]


def test_other_phrases_other_cameras_and_mixed_queries_are_not_refused(tools, call) -> None:
    call(tools["segment_objects"], queries=["fork", "spoon"])
    assert call(tools["segment_objects"], queries=["fork"])["code"] == "REPEATED_QUERY"
    assert call(tools["segment_objects"], queries=["silver fork"])["status"] == "no_match"
    assert call(tools["segment_objects"], queries=["fork", "mug"])["status"] == "ok"
    assert call(tools["segment_objects"], queries=["fork"], camera="wrist")["status"] == "no_match"


def test_a_query_that_found_something_may_always_be_repeated(tools, call) -> None:
    """A fresh position may be needed; a refusal would leave the agent with only stale ids."""
    for _ in range(3):
        assert call(tools["segment_objects"], queries=["mug"])["status"] == "ok"


def test_a_changed_view_may_be_searched_again(make_tools, call) -> None:
    picture = new_frame("front").rgb.copy()
    segmenter = FakeSegmenter(MASKS)
    tools = make_tools(
        segmenter=segmenter,
        frame_source=lambda camera: Frame(rgb=picture.copy(), camera=camera, stamp_ns=new_frame().stamp_ns),
    )
    call(tools["segment_objects"], queries=["fork"])
    assert call(tools["segment_objects"], queries=["fork"])["code"] == "REPEATED_QUERY"
    picture[300:310, 400:450] = 255  # somebody puts down a fork
    assert call(tools["segment_objects"], queries=["fork"])["status"] == "no_match"


def test_a_refused_query_reaches_no_model(make_tools, call) -> None:
    received = []

    class CountingSegmenter(FakeSegmenter):
        def segment(self, source, queries, *, deadline_s):
            received.append(queries)
            return super().segment(source, queries, deadline_s=deadline_s)

    tools = make_tools(segmenter=CountingSegmenter(MASKS))
    for _ in range(2):
        call(tools["segment_objects"], queries=["fork"])
    assert len(received) == 1


def test_the_same_query_on_the_same_image_is_refused_with_its_ids(tools, call) -> None:
    call(tools["segment_objects"], queries=["mug"])
    result = call(tools["segment_objects"], queries=["MUG"], image_id="f1")
    assert result["code"] == "REPEATED_QUERY"
    assert "f1/m1, f1/m2" in result["message"]
    assert result["hint"] == "use those ids"
    call(tools["segment_objects"], queries=["fork"], image_id="f1")
    absent = call(tools["segment_objects"], queries=["fork"], image_id="f1")
    assert "nothing was found" in absent["message"]
    assert absent["tried"] == ["mug", "fork"]


def test_questions_are_not_repeated_either(sim_tools, call) -> None:
    question = "What can I fly with?"
    assert call(sim_tools["ask_scene"], question=question)["status"] == "no_match"
    assert call(sim_tools["ask_scene"], question=question)["code"] == "REPEATED_QUERY"
    assert call(sim_tools["segment_objects"], queries=[question])["status"] == "no_match"  # another tool


def test_it_can_be_switched_off(make_tools, call) -> None:
    tools = make_tools(repeat_within_s=0)
    for _ in range(2):
        assert call(tools["segment_objects"], queries=["fork"])["status"] == "no_match"
        assert call(tools["segment_objects"], queries=["mug"], image_id="f1")["status"] == "ok"
    with pytest.raises(ValueError, match="repeat_within_s"):
        make_tools(repeat_within_s=-1)


def test_without_pixels_the_time_decides(make_tools, call) -> None:
    frames = {"front": new_frame("front")}
    tools = make_tools(segmenter=FakeSegmenter(MASKS, frames=frames), frame_source=None)
    call(tools["segment_objects"], queries=["fork"])
    assert call(tools["segment_objects"], queries=["fork"])["code"] == "REPEATED_QUERY"


def _remember(history: History, scope: str = "one", phrase: str = "fork") -> None:
    history.add(
        ConversationId(name=scope, turn="1"),
        tool="t",
        camera="front",
        image_id="f1",
        phrases=[phrase],
        absent=[phrase],
        found=[],
        frame=None,
    )


def test_a_refusal_ends_after_a_while() -> None:
    now_s = [100.0]
    history = History(repeat_within_s=30, clock_s=lambda: now_s[0])
    _remember(history)
    now_s[0] += 29
    with pytest.raises(RepeatedQueryError, match="29 s ago"):
        history.refuse_repeat(ConversationId(name="one", turn="1"), "t", "front", ["fork"], None)
    now_s[0] += 2
    history.refuse_repeat(ConversationId(name="one", turn="1"), "t", "front", ["fork"], None)


def test_the_history_is_bounded() -> None:
    history = History()
    for n in range(200):
        _remember(history, phrase=f"thing {n}")
        _remember(history, scope=f"conversation {n}")
    _remember(history)
    assert len(history.searches(ConversationId(name="one"))) <= 64
    assert history.searches(ConversationId(name="conversation 0")) == ()
    assert len(history.searches(ConversationId(name="conversation 199"))) == 1


# ------------------------------------------------------------------------- users and their requests


def _search(messages: list[BaseMessage]) -> AIMessage:
    """Answer every request of the user by one search for a fork."""
    if isinstance(messages[-1], HumanMessage):
        return tool_call("segment_objects", queries=["fork"])
    return AIMessage(json.loads(messages[-1].content).get("code") or "looked")


def _search_twice(messages: list[BaseMessage]) -> AIMessage:
    results = [m for m in messages if isinstance(m, ToolMessage)]
    return tool_call("segment_objects", queries=["fork"]) if len(results) < 2 else AIMessage("done")


def test_please_check_again(make_toolkit) -> None:
    """A second request of the user within a minute was refused."""
    agent = create_agent(
        ScriptedModel(policy=_search), make_toolkit().get_tools(), checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "a"}}
    for request in ("Is there a fork?", "Please check again."):
        assert agent.invoke({"messages": [HumanMessage(request)]}, config)["messages"][-1].text == "looked"


@pytest.mark.parametrize("thread", ["a", None])
def test_a_loop_within_a_request_is_refused(make_toolkit, thread: str | None) -> None:
    saver = InMemorySaver() if thread else None
    agent = create_agent(ScriptedModel(policy=_search_twice), make_toolkit().get_tools(), checkpointer=saver)
    config: Any = {"configurable": {"thread_id": thread}} if thread else {}
    messages = agent.invoke({"messages": [HumanMessage("Is there a fork?")]}, config)["messages"]
    first, second = [json.loads(m.content) for m in messages if isinstance(m, ToolMessage)]
    assert (first["status"], second["code"]) == ("no_match", "REPEATED_QUERY")


@pytest.mark.asyncio
async def test_a_loop_within_a_request_is_refused_on_the_async_side(make_toolkit) -> None:
    agent = create_agent(ScriptedModel(policy=_search_twice), make_toolkit().get_tools())
    messages = (await agent.ainvoke({"messages": [HumanMessage("Is there a fork?")]}))["messages"]
    codes = [json.loads(m.content).get("code") for m in messages if isinstance(m, ToolMessage)]
    assert codes == [None, "REPEATED_QUERY"]


def test_users_without_thread_ids_share_no_history(make_toolkit) -> None:
    """The first question of the second user was an error: somebody else had asked it."""
    agent = create_agent(ScriptedModel(policy=_search), make_toolkit().get_tools())
    for _ in range(2):
        assert agent.invoke({"messages": [HumanMessage("A fork?")]})["messages"][-1].text == "looked"


def test_calls_that_belong_to_nobody_share_no_history(tools) -> None:
    search, report = tools["segment_objects"], tools["report_not_found"]
    for _ in range(3):
        assert json.loads(search.invoke({"queries": ["fork"]}))["status"] == "no_match"
    told = json.loads(report.invoke({"query": "fork", "tried": ["fork"], "reason": "not in view"}))
    assert (told["reported"], told["unchecked"]) == (True, ["fork"])
    assert "not known" in told["hint"]


def test_where_turns_are_not_known_a_refused_call_may_be_repeated(tools, call) -> None:
    search = tools["segment_objects"]
    answers = [call(search, queries=["fork"]) for _ in range(4)]
    assert [a.json.get("code") for a in answers] == [None, "REPEATED_QUERY", None, "REPEATED_QUERY"]
    assert "checked again" in answers[1]["hint"]
    call(search, queries=["spoon"])
    assert call(search, queries=["fork"])["code"] == "REPEATED_QUERY"  # the refusal before was not the last


def test_what_was_not_listed_can_be_listed(make_tools, call) -> None:
    """Raising max_objects on the same image ended in REPEATED_QUERY, so the rest was out of reach."""
    masks = [rectangle(20 * n, 20, 20 * n + 15, 60) for n in range(12)]
    tools = make_tools(segmenter=FakeSegmenter({"block": masks}))
    search = tools["segment_objects"]
    first = call(search, queries=["block"], max_objects=5)
    assert (len(first["objects"]), first["truncated"]) == (5, 7)
    assert first["list_all"] == "segment_objects(['block'],image_id='f1',max_objects=12)"
    rest = call(search, queries=["block"], image_id="f1", max_objects=12)
    assert (len(rest["objects"]), rest["truncated"]) == (12, 0)
    assert len([item for item in rest["objects"] if "same_as" not in item]) == 7
    assert call(search, queries=["block"], image_id="f1")["code"] == "REPEATED_QUERY"


def test_the_advice_for_the_rest_names_no_image_without_pixels(make_tools, call) -> None:
    masks = [rectangle(20 * n, 20, 20 * n + 15, 60) for n in range(3)]
    segmenter = FakeSegmenter({"block": masks}, frames={"front": new_frame("front")})
    search = make_tools(segmenter=segmenter, frame_source=None)["segment_objects"]
    first = call(search, queries=["block"], max_objects=2)
    assert first["list_all"] == "segment_objects(['block'],max_objects=3)"
    assert len(call(search, queries=["block"], max_objects=3)["objects"]) == 3


def _signature(rgb: np.ndarray) -> np.ndarray:
    signature = frame_signature(Frame(rgb=rgb))
    assert signature is not None
    return signature


def test_views_are_compared_by_blocks() -> None:
    rng = np.random.default_rng(0)
    still = rng.integers(0, 255, (480, 640, 3)).astype(np.uint8)
    noisy = np.clip(still + rng.normal(0, 8, still.shape), 0, 255).astype(np.uint8)
    fork = still.copy()
    fork[200:208, 300:360] = 250
    lamp = np.clip(still * 0.8, 0, 255).astype(np.uint8)
    assert show_same_view(_signature(still), _signature(noisy))
    assert not show_same_view(_signature(still), _signature(fork))
    assert not show_same_view(_signature(still), _signature(lamp))
    assert _signature(still[:100, :50]).shape == _signature(still).shape
