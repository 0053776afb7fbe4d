"""The server over stdio: it ends when the client or a signal wants that, and its ids end with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp import Client

from tests.agent.mcp.servers import PATIENCE_S, ROOT, SLOW_SERVER, ServerProcess, server_process
from tests.agent.mcp.test_http import INITIALIZE
from tests.agent.table import MASKS, new_frame
from xsam import FakeSegmenter
from xsam_agent_tools import XSamToolkit
from xsam_agent_tools.mcp.server import build_server
from xsam_agent_tools.mcp.stdio import MAX_LINE_BYTES

pytestmark = pytest.mark.slow

PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


def _send(server: ServerProcess, *messages: dict[str, Any]) -> None:
    stream = server.process.stdin
    assert stream is not None
    for message in messages:
        stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _read(server: ServerProcess) -> dict[str, Any]:
    stream = server.process.stdout
    assert stream is not None
    return json.loads(stream.readline())  # type: ignore[no-any-return]


def _greet(server: ServerProcess) -> None:
    _send(server, INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert _read(server)["result"]["serverInfo"]["name"] == "xsam"


def _search(query: str) -> dict[str, Any]:
    params = {"name": "segment_objects", "arguments": {"queries": [query]}}
    return {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}


@pytest.mark.parametrize(
    ("number", "busy"), [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, True)]
)
def test_a_signal_ends_the_server_at_once(tmp_path: Path, number: signal.Signals, busy: bool) -> None:
    """Two of them were ignored: a thread was waiting for input."""
    with server_process(tmp_path / "log", str(SLOW_SERVER), **PIPES) as server:
        _greet(server)
        if busy:
            _send(server, _search("cliff"))
            server.wait_for("hangs")
        server.process.send_signal(number)
        assert server.seconds_until_it_ends() < 5
        assert server.process.returncode == 0
        assert server.errors in ("", "hangs\n")


@pytest.mark.parametrize("busy", [False, True])
def test_the_end_of_the_input_ends_the_server(tmp_path: Path, busy: bool) -> None:
    with server_process(tmp_path / "log", str(SLOW_SERVER), **PIPES) as server:
        _greet(server)
        if busy:
            _send(server, _search("cliff"))
            server.wait_for("hangs")
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.seconds_until_it_ends() < 5
        assert server.process.returncode == 0


def test_calls_before_the_end_of_the_input_are_answered(tmp_path: Path) -> None:
    """As a shell script calls it: all lines, then the end."""
    with server_process(tmp_path / "log", str(SLOW_SERVER), **PIPES) as server:
        _send(server, INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"}, _search("mug"))
        assert server.process.stdin is not None
        server.process.stdin.close()
        answers = [_read(server) for _ in range(2)]
        assert answers[1]["result"]["structuredContent"]["status"] == "ok"


def test_a_line_that_is_too_long_or_no_json_does_no_harm(tmp_path: Path) -> None:
    with server_process(tmp_path / "log", str(SLOW_SERVER), **PIPES) as server:
        _greet(server)
        assert server.process.stdin is not None
        server.process.stdin.write(b"x" * (MAX_LINE_BYTES + 10) + b"\n\n{]\n\xff\n")
        _send(server, _search("mug"))
        while (answer := _read(server)).get("id") != 2:
            assert "result" not in answer
        assert answer["result"]["structuredContent"]["status"] == "ok"


async def _call(name: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool of a server that was started for this call, as the default of a common adapter does."""
    toolkit = XSamToolkit(FakeSegmenter(MASKS), ["front"], frame_source=new_frame)
    async with Client(build_server(toolkit)) as client:
        result = await client.call_tool(name, arguments)
    payload: dict[str, Any] = result.structured_content
    return {**payload, "meta": result.meta}


@pytest.mark.asyncio
async def test_a_process_per_call_is_told_what_to_change() -> None:
    """Every id was unknown, or named an object of another image; nothing said why."""
    found = await _call("segment_objects", queries=["mug"])
    answer = await _call("inspect_object", object_id=found["objects"][0]["id"])
    assert (answer["status"], answer["code"]) == ("stale", "STALE_ID")
    assert "look again" in answer["hint"]
    assert "client.session" in answer["note"]
    report = await _call("report_not_found", query="fork", tried=["fork"], reason="not in view")
    assert report["code"] == "NOT_LOOKED"
    assert "client.session" in report["note"]
    # JavaScript would round it: 1796025294115421783 is read as 1796025294115421700.
    stamp = found["meta"]["xsam-agent-tools/artifact"]["frame"]["stamp_ns"]
    assert isinstance(stamp, str)
    assert int(stamp) > 2**53


def test_a_missing_extra_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError('none', name='mcp')")
    run = subprocess.run(
        [sys.executable, "-m", "xsam_agent_tools.mcp_server", "--scene", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.strip() == "error: the MCP server needs mcp, of the extra mcp: pip install 'xsam[mcp]'"
