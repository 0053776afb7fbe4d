"""The MCP server and the official client over real transports: processes on this machine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import cv2
import numpy as np
import pytest

pytest.importorskip("mcp")

import httpx
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import ImageContent, TextContent
from pycocotools import mask as coco

from tests.agent.test_standard import EXAMPLES
from xsam.sim.oracle import simulated_view
from xsam_agent_tools.mcp.notifications import sent_progress
from xsam_agent_tools.mcp.options import ServerOptions, open_toolkit, run_command_line
from xsam_agent_tools.mcp.server import ARTIFACT_KEY, build_server
from xsam_agent_tools.tools import BUILDERS, CORE_BUILDERS

ROOT = Path(__file__).parents[3]
SEED = 2_000_012
PATIENCE_S = 60.0
ORACLE = ["--model", "oracle", "--scene", str(SEED)]

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]


def _command(*arguments: str) -> StdioServerParameters:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return StdioServerParameters(
        command=sys.executable, args=["-m", "xsam_agent_tools.mcp_server", *arguments], env=environment
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server over HTTP with all tools, on a free port."""
    log = tmp_path_factory.mktemp("mcp") / "server.log"
    command = _command(*ORACLE, "--mode", "full", "--transport", "http", "--port", "0")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [command.command, *command.args], stderr=output, stdin=subprocess.DEVNULL, env=command.env
        )
    try:
        until = time.monotonic() + PATIENCE_S
        while "http://" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.05)
        yield log.read_text().split("xsam: MCP on ")[1].split()[0]
    finally:
        process.terminate()
        process.wait(10)


@contextlib.asynccontextmanager
async def _over_http(url: str, mode: str = "auto") -> AsyncIterator[Client]:
    async with Client(url, mode=mode, read_timeout_seconds=PATIENCE_S) as client:
        yield client


async def _ask(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(name, arguments)
    return json.loads(result.content[0].text)  # type: ignore[no-any-return,union-attr]


# The handshake of 2025, and what came after it.
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_over_stdio_a_result_has_text_image_and_structure(mode: str) -> None:
    async with Client(_command(*ORACLE), mode=mode, read_timeout_seconds=PATIENCE_S) as client:
        listed = (await client.list_tools()).tools
        result = await client.call_tool("segment_objects", {"queries": ["mug", "fork"]})
        again = await _ask(client, "segment_objects", queries=["fork"])
        report = await _ask(client, "report_not_found", query="fork", tried=["fork"], reason="not there")
    assert [tool.name for tool in listed] == [*CORE_BUILDERS, "show_camera"]
    text, picture = result.content
    assert isinstance(text, TextContent)
    assert isinstance(picture, ImageContent)
    payload = json.loads(text.text)
    assert (payload["status"], payload["not_found"]) == ("ok", ["fork"])
    assert result.structured_content == payload
    assert result.is_error is False
    assert picture.mime_type == "image/jpeg"
    image = cv2.imdecode(np.frombuffer(base64.b64decode(picture.data), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (480, 640, 3)
    _, view, items = simulated_view(SEED)
    mugs = [item.instance_id for item in items if item.category == "mug"]
    masks = result.meta[ARTIFACT_KEY]["masks"]
    for mask, instance_id in zip(masks, mugs, strict=True):
        assert np.array_equal(coco.decode(mask["rle"]).astype(bool), view.instance_ids == instance_id)
    assert "masks" not in text.text  # they would cost thousands of tokens
    assert (again["code"], again["tried"]) == ("REPEATED_QUERY", ["mug", "fork"])
    assert report["reported"] is True


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_over_http_ids_stay_valid_from_call_to_call(url: str, mode: str) -> None:
    async with _over_http(url, mode) as client:
        found = await _ask(client, "segment_objects", queries=["mug"])
        ids = [item["id"] for item in found["objects"]]
        located = await _ask(client, "locate_objects_3d", object_ids=ids[:1])
        order = await _ask(client, "compare_objects", object_ids=ids, relation="leftmost")
    _, _, items = simulated_view(SEED)
    mugs = [item for item in items if item.category == "mug"]
    position = list(located["objects"][0]["position_m"].values())
    assert position == pytest.approx(mugs[0].position_camera_m, abs=0.01)
    by_x = sorted(zip(mugs, ids, strict=True), key=lambda pair: pair[0].centroid_xy[0])
    assert order["order"] == [object_id for _, object_id in by_x]


async def test_every_tool_is_read_only_and_has_its_schema(url: str) -> None:
    async with _over_http(url) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == [*BUILDERS, "show_camera"]
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.annotations.destructive_hint is False
        assert tool.input_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
    assert tools["segment_objects"].input_schema["properties"]["camera"]["enum"] == ["camera"]


async def test_every_tool_returns_a_result(url: str) -> None:
    async with _over_http(url) as client:
        first = await _ask(client, "segment_objects", queries=["mug"])
        for name, example in EXAMPLES.items():
            arguments = json.loads(json.dumps(example).replace("f1", first["image_id"]))
            arguments.pop("camera", None)
            result = await client.call_tool(name, arguments)
            assert result.is_error is False, (name, result.content)
            assert result.structured_content["status"] in ("ok", "no_match")


async def test_failures_are_typed_errors_that_the_model_can_act_on(url: str) -> None:
    async with _over_http(url) as client:
        for name, arguments, code in (
            ("segment_objects", {"queries": []}, "INVALID_ARGUMENTS"),
            ("segment_objects", {"queries": ["mug"], "topic": "/camera/image"}, "INVALID_ARGUMENTS"),
            ("segment_objects", {"queries": ["mug"], "camera": "/camera/image"}, "UNKNOWN_CAMERA"),
            ("inspect_object", {"object_id": "f999/m1"}, "UNKNOWN_ID"),
        ):
            result = await client.call_tool(name, arguments)
            assert result.is_error is True
            payload = json.loads(result.content[0].text)  # type: ignore[union-attr]
            assert (payload["code"], payload["retryable"]) == (code, False)
            assert payload["hint"]
            assert result.structured_content == payload
        with pytest.raises(MCPError, match="unknown tool"):
            await client.call_tool("rm", {})


async def test_sessions_do_not_see_each_others_history(url: str) -> None:
    for _ in range(2):
        async with _over_http(url, "legacy") as client:
            answer = await _ask(client, "segment_objects", queries=["spaceship"])
            assert answer["status"] == "no_match"


async def test_progress_reaches_the_client(url: str) -> None:
    messages: list[str] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        messages.append(message or "")

    async with _over_http(url) as client:
        await client.call_tool("segment_objects", {"queries": ["mug"]}, progress_callback=listen)
        with anyio.move_on_after(PATIENCE_S):
            while len(messages) < 2:  # the client runs callbacks beside the answer
                await anyio.sleep(0.01)
    assert messages == ["segment_objects: looking", "segment_objects: answered"]


class _SlowLine:
    """A session whose notifications take many steps of the event loop to be sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, str | None]] = []

    async def report_progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        self.sent.append((progress, message))


async def test_no_result_overtakes_its_progress() -> None:
    line = _SlowLine()
    async with sent_progress(line) as listener:
        events = [{"tool": "look", "stage": stage} for stage in ("looking", "answered")]
        await asyncio.to_thread(lambda: [listener(event) for event in events])
    assert line.sent == [(1, "look: looking"), (2, "look: answered")]


async def test_a_client_that_does_not_read_holds_no_result() -> None:
    class Blocked(_SlowLine):
        async def report_progress(self, *args: Any, **options: Any) -> None:
            await asyncio.Event().wait()

    with anyio.fail_after(PATIENCE_S):
        async with sent_progress(Blocked(), within_s=0.05) as listener:
            listener({"tool": "look", "stage": "looking"})


async def test_requests_from_foreign_pages_are_refused(url: str) -> None:
    """A web page that rebinds its own name to 127.0.0.1 could see through the robot's cameras."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        for name, value in (("host", "evil.example"), ("origin", "http://evil.example")):
            answer = await http.post(url, json=body, headers={**headers, name: value})
            assert answer.status_code in (403, 421), name


async def test_text_only() -> None:
    parsed: list[ServerOptions] = []
    with pytest.raises(SystemExit):
        run_command_line(parsed.append, [*ORACLE, "--no-images"])
    with open_toolkit(parsed[0]) as toolkit:
        async with Client(build_server(toolkit)) as client:  # in this process
            result = await client.call_tool("segment_objects", {"queries": ["mug"]})
    assert [block.type for block in result.content] == ["text"]


@pytest.mark.timeout(400)
async def test_the_tiny_model_segments_an_image_file(tmp_path: Path) -> None:
    path = tmp_path / "table.png"
    _, view, _ = simulated_view(SEED)
    assert cv2.imwrite(str(path), cv2.cvtColor(view.rgb, cv2.COLOR_RGB2BGR))
    arguments = ("--image", str(path), "--mode", "full", "--deadline-s", "300")
    async with Client(_command(*arguments), read_timeout_seconds=320) as client:
        assert (await _ask(client, "perception_status"))["state"] in ("loading", "ready")  # answers at once
        found = await _ask(client, "segment_objects", queries=["mug"])
    assert found["status"] == "ok"
    assert found["age_from"] == "arrival"  # when the picture was taken is not known
    assert [item["label"] for item in found["objects"]] == ["mug"] * len(found["objects"])
