"""Pictures are kept in the store, and messages refer to them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from support.scripted_model import ScriptedModel, tool_call
from xsam_agent_tools.memory.pictures import PictureStore, find_picture
from xsam_agent_tools.middleware import artifact_images, perception_middleware

SIX_CAPTURES = 6


def _look_six_times(messages: list[BaseMessage]) -> AIMessage:
    done = sum(isinstance(message, ToolMessage) for message in messages)
    return tool_call("segment_objects", queries=["mug"]) if done < SIX_CAPTURES else AIMessage("done")


def _checkpoint_bytes(saver: InMemorySaver) -> int:
    """Return the size of everything that the checkpointer keeps, serialized."""
    blobs = sum(len(data) for _, data in saver.blobs.values())
    return blobs + sum(len(write[2][1]) for writes in saver.writes.values() for write in writes.values())


@pytest.mark.slow
def test_checkpoints_contain_no_pictures(make_toolkit) -> None:
    """Six captures grew the checkpoints to 10.7 MB, since every one repeats all messages."""
    sizes = {}
    for images in ("none", "user"):
        saver, toolkit = InMemorySaver(), make_toolkit(images=images)
        agent = create_agent(
            ScriptedModel(policy=_look_six_times, profile={"image_inputs": True}),
            toolkit.get_tools(),
            middleware=perception_middleware(),
            checkpointer=saver,
        )
        config: Any = {"configurable": {"thread_id": "a"}}
        messages = agent.invoke({"messages": [HumanMessage("look")]}, config)["messages"]
        sizes[images] = _checkpoint_bytes(saver)
    artifacts = [message.artifact for message in messages if isinstance(message, ToolMessage)]
    assert len(artifacts) == SIX_CAPTURES
    assert all(len(artifact["pictures"]) == 1 and "images" not in artifact for artifact in artifacts)
    assert sizes["user"] < sizes["none"] + 20_000


def test_pictures_of_a_former_process_are_gone_and_nothing_else_is_shown() -> None:
    message = ToolMessage(
        json.dumps({"status": "ok"}),
        tool_call_id="1",
        artifact={
            "schema": "xsam_agent_tools/segmentation/1",
            "result": {"image_id": "f1bcdfg"},
            "pictures": ["xsam-picture:0123456789ab/1"],
        },
    )
    assert artifact_images(message) == [None]


def test_references_are_unique_among_stores() -> None:
    first, second = PictureStore(), PictureStore()
    one, two = first.add("AAAA"), second.add("BBBB")
    assert (first.get(one), first.get(two), find_picture(two)) == ("AAAA", None, "BBBB")


def test_the_oldest_pictures_make_room() -> None:
    few, small = PictureStore(max_pictures=2), PictureStore(max_bytes=10)
    by_count = [few.add("AAAA") for _ in range(3)]
    by_size = [small.add("AAAA") for _ in range(3)]
    assert [few.get(reference) for reference in by_count] == [None, "AAAA", "AAAA"]
    assert [small.get(reference) for reference in by_size] == [None, "AAAA", "AAAA"]
    with pytest.raises(ValueError, match="positive"):
        PictureStore(max_bytes=0)
