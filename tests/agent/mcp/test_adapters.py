"""The server with LangChain's real MCP adapters; runs where `langchain-mcp-adapters` is installed.

They need version 1 of the MCP package, and the server version 2: it runs with the Python of `.venv`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_mcp_adapters")

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

from support.scripted_model import ScriptedModel, tool_call
from tests.agent.mcp.servers import ROOT, server_process

PYTHON = ROOT / ".venv" / "bin" / "python"
SERVER = ["-m", "xsam_agent_tools.mcp_server", "--model", "oracle", "--scene", "2000012", "--mode", "full"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv; run make setup"),
]

Connection = dict[str, Any]


@pytest.fixture(params=["stdio", "http"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return a connection to the server, as the adapters' configuration has it."""
    if request.param == "stdio":
        env = {"PYTHONPATH": str(ROOT)}
        yield {"transport": "stdio", "command": str(PYTHON), "args": SERVER, "cwd": str(ROOT), "env": env}
        return
    arguments = [*SERVER, "--transport", "http", "--port", "0"]
    with server_process(tmp_path / "log", *arguments, program=str(PYTHON)) as server:
        server.wait_for("xsam: MCP on ")
        yield {"transport": "streamable_http", "url": server.url}


def _in_session(connection: Connection, run: Callable[[dict[str, BaseTool]], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        client = MultiServerMCPClient({"xsam": connection})  # type: ignore[dict-item]
        async with client.session("xsam") as session:
            return await run({tool.name: tool for tool in await load_mcp_tools(session)})

    return asyncio.run(asyncio.wait_for(main(), 90.0))


def _json(message: ToolMessage) -> dict[str, Any]:
    """Return the JSON of a result: the first text block."""
    blocks = message.content
    text = blocks if isinstance(blocks, str) else next(b["text"] for b in blocks if b["type"] == "text")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


async def _call(tool: BaseTool, **arguments: Any) -> ToolMessage:
    call = {"name": tool.name, "args": arguments, "id": "1", "type": "tool_call"}
    message = await tool.ainvoke(call)
    assert isinstance(message, ToolMessage)
    return message


def test_ids_of_one_tool_are_known_to_the_others(connection: Connection) -> None:
    async def run(tools: dict[str, BaseTool]) -> None:
        found = await _call(tools["segment_objects"], queries=["mug"])
        assert any(block["type"] == "image" for block in found.content), "the overlay"
        (first, *_) = _json(found)["objects"]
        located = await _call(tools["locate_objects_3d"], object_ids=[first["id"]])
        assert _json(located)["objects"][0]["distance_m"] > 0
        refined = await _call(
            tools["refine_object"],
            object_id=first["id"],
            add=[{"type": "point", "x": first["center_xy"][0], "y": first["center_xy"][1]}],
        )
        assert _json(refined)["parent"] == first["id"]

    _in_session(connection, run)


def test_refusals_reach_the_model_as_json(connection: Connection) -> None:
    async def run(tools: dict[str, BaseTool]) -> None:
        unknown = await _call(tools["inspect_object"], object_id="f99/m1")
        assert unknown.status == "error"
        assert _json(unknown)["code"] == "UNKNOWN_ID"
        invalid = await _call(tools["segment_objects"], queries=["red"])
        assert _json(invalid)["code"] == "INVALID_ARGUMENTS"

    _in_session(connection, run)


def test_an_agent_sees_through_the_adapters(connection: Connection) -> None:
    def policy(messages: list[Any]) -> AIMessage:
        results = [_json(m) for m in messages if isinstance(m, ToolMessage)]
        if not results:
            return tool_call("segment_objects", queries=["mugs"])
        return AIMessage(f"there are {len(results[0]['objects'])}, read as {results[0]['read_as']}")

    async def run(tools: dict[str, BaseTool]) -> str:
        agent = create_agent(ScriptedModel(policy=policy), list(tools.values()))
        state = await agent.ainvoke({"messages": [HumanMessage("How many mugs are there?")]})
        return str(state["messages"][-1].content)

    reply = _in_session(connection, run)
    assert reply.startswith("there are ")
    assert reply.endswith("read as {'mugs': 'mug'}")


@pytest.mark.parametrize("connection", ["stdio"], indirect=True)  # over HTTP the server stays
def test_a_server_for_each_call_says_what_to_change(connection: Connection) -> None:
    """That is the adapters' default: every id is of an earlier process."""

    async def main() -> dict[str, Any]:
        tools = await MultiServerMCPClient({"xsam": connection}).get_tools()  # type: ignore[dict-item]
        by_name = {tool.name: tool for tool in tools}
        found = _json(await _call(by_name["segment_objects"], queries=["mug"]))
        return _json(await _call(by_name["inspect_object"], object_id=found["objects"][0]["id"]))

    stale = asyncio.run(asyncio.wait_for(main(), 90.0))
    assert (stale["status"], stale["code"]) == ("stale", "STALE_ID")
    assert "load_mcp_tools" in stale["note"]
