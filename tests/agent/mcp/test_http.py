"""The server over HTTP: who is served, and what idle connections, sessions and signals do."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("mcp")

import httpx
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.agent.mcp.servers import PATIENCE_S, SLOW_SERVER, ServerProcess, server_process

TOKEN = "a-long-secret"
LIST_TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
HEADERS = {"accept": "application/json, text/event-stream"}

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def _serving(folder: Path, **settings: Any) -> Iterator[ServerProcess]:
    with server_process(folder / "log", str(SLOW_SERVER), json.dumps(settings)) as server:
        server.wait_for("http://")
        yield server


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with _serving(tmp_path_factory.mktemp("open"), allowed_hosts=["robot.local", "10.0.0.7:8000"]) as server:
        yield server


@pytest.fixture(scope="module")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Return a server that other machines reach, too, with short times."""
    settings: dict[str, Any] = {"host": "0.0.0.0", "allowed_hosts": ["robot.local"], "token": TOKEN}
    times = {"session_idle_s": 0.5, "request_within_s": 0.5}
    with _serving(tmp_path_factory.mktemp("locked"), **settings, **times) as server:
        yield server


def _post(url: str, body: dict[str, Any] = INITIALIZE, **headers: str) -> httpx.Response:
    return httpx.post(url, json=body, headers={**HEADERS, **headers}, timeout=PATIENCE_S)


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("host", "localhost", 200),
        ("host", "LOCALHOST:8000", 200),
        ("host", "[::1]:8000", 200),
        ("host", "robot.local", 200),
        ("host", "robot.local:443", 200),
        ("host", "10.0.0.7:8000", 200),
        ("host", "10.0.0.7:8001", 421),
        ("host", "10.0.0.7", 421),
        ("host", "evil.example", 421),
        # A prefix was enough: these begin with a name that is allowed and a colon.
        ("host", "localhost:evil.example", 421),
        ("host", "localhost:80@evil.example", 421),
        ("host", "localhost:99999", 421),
        ("host", "localhost.evil.example", 421),
        ("host", "xlocalhost", 421),
        ("origin", "http://localhost:3000", 200),
        ("origin", "https://robot.local", 200),
        ("origin", "http://localhost:80.evil.example", 403),
        ("origin", "http://localhost:80@evil.example", 403),
        ("origin", "http://127.0.0.1.evil.example", 403),
        ("origin", "http://evil.example", 403),
        ("origin", "file://localhost", 403),
        ("origin", "null", 403),
    ],
)
def test_host_and_origin_are_compared_exactly(
    open_server: ServerProcess, name: str, value: str, status: int
) -> None:
    assert _post(open_server.url, **{name: value}).status_code == status


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer", 401),
        (TOKEN, 401),
        (None, 401),
    ],
)
def test_a_token(locked_server: ServerProcess, authorization: str | None, status: int) -> None:
    url = locked_server.url.replace("0.0.0.0", "127.0.0.1")
    headers = {"authorization": authorization} if authorization else {}
    answer = _post(url, host="robot.local", **headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.asyncio
async def test_the_official_client_with_a_token(locked_server: ServerProcess) -> None:
    url = locked_server.url.replace("0.0.0.0", "127.0.0.1")
    headers = {"host": "robot.local", "authorization": f"Bearer {TOKEN}"}
    async with (
        httpx.AsyncClient(headers=headers, timeout=PATIENCE_S) as http,
        Client(streamable_http_client(url, http_client=http), read_timeout_seconds=PATIENCE_S) as client,
    ):
        result = await client.call_tool("segment_objects", {"queries": ["mug"]})
    assert result.structured_content["status"] == "ok"


def test_sessions_of_clients_that_vanished_end(locked_server: ServerProcess) -> None:
    """3,000 clients that only said hello took 38 kB each, forever."""
    url = locked_server.url.replace("0.0.0.0", "127.0.0.1")
    headers = {"host": "robot.local", "authorization": f"Bearer {TOKEN}"}
    session = _post(url, **headers).headers["mcp-session-id"]
    headers["mcp-session-id"] = session
    assert _post(url, LIST_TOOLS, **headers).status_code == 200
    until = time.monotonic() + PATIENCE_S
    while _post(url, {"jsonrpc": "2.0", "method": "notifications/initialized"}, **headers).status_code != 404:
        assert time.monotonic() < until
        time.sleep(1.0)


def test_a_connection_without_a_whole_request_is_closed(locked_server: ServerProcess) -> None:
    address = ("127.0.0.1", urlsplit(locked_server.url).port)
    body = b"POST /mcp HTTP/1.1\r\nHost: robot.local\r\nContent-Length: 10\r\n\r\n"
    for sent in (b"", b"POST /mcp HT", body):
        with socket.create_connection(address, timeout=PATIENCE_S) as connection:
            connection.sendall(sent)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):  # an error, perhaps; then the end
                    pass


def test_half_open_connections_do_not_block_the_others(open_server: ServerProcess) -> None:
    """1,024 of them took every file descriptor of the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    address = ("127.0.0.1", urlsplit(open_server.url).port)
    with contextlib.ExitStack() as connections:
        connections.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            connections.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
        assert _post(open_server.url).status_code == 200


def _call(url: str, query: str) -> subprocess.Popen[bytes]:
    """Call a tool from another process, which may wait for its answer for ever."""
    body = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "segment_objects", "arguments": {"queries": [query]}},
    }
    headers = [
        f"-H{name}: {value}" for name, value in {**HEADERS, "content-type": "application/json"}.items()
    ]
    session = _post(url).headers["mcp-session-id"]
    return subprocess.Popen(
        ["curl", "-sN", *headers, f"-Hmcp-session-id: {session}", "-d", json.dumps(body), url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("number", "busy"), [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, True)]
)
def test_a_signal_ends_the_server_once_and_quietly(
    tmp_path: Path, number: signal.Signals, busy: bool
) -> None:
    with _serving(tmp_path) as server, contextlib.ExitStack() as clients:
        if busy:
            client = clients.enter_context(_call(server.url, "cliff"))
            clients.callback(client.kill)
            server.wait_for("hangs")
        server.process.send_signal(number)
        assert server.seconds_until_it_ends() < 10
        assert server.process.returncode == 0
        assert "Traceback" not in server.errors
        assert "Aborted" not in server.errors
