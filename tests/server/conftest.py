"""Fixtures: a server over a fake engine that sees a red patch, and functions to ask it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")

from support.browser import browser
from support.model_server import PATIENCE_S, FakeEngine, RunningServer, running_server
from xsam import Frame, Query
from xsam.remote import RemoteSegmenter

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HEIGHT, WIDTH = 31, 47


def picture(shade: int = 90) -> np.ndarray:
    """Return an RGB picture with a red patch; another shade is another picture."""
    rgb = np.full((HEIGHT, WIDTH, 3), shade, np.uint8)
    rgb[5:15, 10:30] = (255, 0, 0)
    return rgb


RED_QUERY = [Query(text="red")]
RED = (picture() == (255, 0, 0)).all(axis=2)


def png(rgb: np.ndarray) -> bytes:
    done, content = cv2.imencode(".png", rgb[..., ::-1])
    assert done
    return bytes(content)


def new_engine(**options: Any) -> FakeEngine:
    return FakeEngine({"red": [RED], "floor": [~RED]}, **options)


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return new_engine()


@pytest.fixture(scope="module")
def server(engine: FakeEngine) -> Iterator[RunningServer]:
    with running_server(lambda: engine) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(autouse=True)
def _fresh_engine(engine: FakeEngine) -> Iterator[None]:
    """Leave the engine of the module as it was."""
    yield
    engine.free.set()
    engine.entered.clear()
    engine.error = None
    engine.doubt = ""
    engine.asked.clear()
    engine.ended_early.clear()


Ask = Callable[..., httpx.Response]


def ask_with(http: httpx.Client) -> Ask:
    """Return a function that sends a request: an image file if there is one, and fields of the JSON."""

    def ask(
        content: bytes | None = None, /, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        fields.setdefault("queries", [{"text": "red"}])
        if content is None:
            return http.post("/v1/segment", json=fields, headers=headers)
        files = {"request": (None, json.dumps(fields)), "image": ("image", content)}
        return http.post("/v1/segment", files=files, headers=headers)

    return ask


@pytest.fixture
def ask(http: httpx.Client) -> Ask:
    return ask_with(http)


def form(content: bytes, *headers: str) -> bytes:
    """Return a whole request as it goes over the wire, for clients that misbehave."""
    part = b'--b\r\nContent-Disposition: form-data; name="'
    request = json.dumps({"queries": [{"text": "red"}]}).encode()
    body = b"".join([part, b'request"\r\n\r\n', request, b"\r\n", part, b'image"\r\n\r\n', content])
    body += b"\r\n--b--\r\n"
    lines = [
        "POST /v1/segment HTTP/1.1",
        "Host: localhost",
        "Content-Type: multipart/form-data; boundary=b",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def program() -> Iterator[Browser]:
    """Start a browser."""
    with browser() as program:
        yield program


@pytest.fixture(scope="module")
def remote(server: RunningServer) -> Iterator[RemoteSegmenter]:
    with RemoteSegmenter(server.url) as segmenter:
        yield segmenter


def frame_of(shade: int) -> Frame:
    """Return a frame that no other test asks about."""
    return Frame(rgb=picture(shade), camera="wrist", frame_id="lens", stamp_ns=5)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
