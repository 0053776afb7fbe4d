"""Whom the server answers, what it refuses to read, and what it never says."""

from __future__ import annotations

import io
import logging
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import pytest
from PIL import Image

from support.model_server import PATIENCE_S, FakeEngine, RunningServer, running_server
from tests.server.conftest import Ask, ask_with, form, picture, png
from xsam import InvalidOptionError
from xsam_server.answering import LocalAnswerer
from xsam_server.app import ModelServer
from xsam_server.serving import check_settings
from xsam_server.settings import Client, ServerSettings

IMAGE = png(picture())
SPOT_TOKEN = "secret-of-spot"
SPOT = {"authorization": f"Bearer {SPOT_TOKEN}"}
ARM = {"authorization": "Bearer secret-of-the-arm"}
CLIENTS = (
    Client(name="spot", token="secret-of-spot", concurrent=1),
    Client(name="arm", token="secret-of-the-arm", requests_per_s=0.001),
)


@pytest.fixture(scope="module")
def server(engine: FakeEngine) -> Iterator[RunningServer]:
    settings = ServerSettings(clients=CLIENTS, max_body_bytes=100_000, max_pixels=50_000)
    with running_server(lambda: engine, settings) as running:
        yield running


@pytest.mark.parametrize(
    "token",
    [
        None,
        "Bearer",
        "Bearer wrong",
        "Bearer secret-of-spo",
        "Basic secret-of-spot",
        "secret-of-spot",
        "Bearer é",
    ],
)
def test_nobody_is_served_without_a_token(http: httpx.Client, token: str | None) -> None:
    headers = {} if token is None else {"authorization": token.encode("latin-1")}
    for path in ("/v1/status", "/metrics"):
        answer = http.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
    answer = http.post("/v1/segment", content=b"x" * 90_000, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/v1/schema"])
def test_what_everybody_may_know(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


def test_a_token_opens_the_door(ask: Ask, http: httpx.Client) -> None:
    assert ask(IMAGE, headers=SPOT).status_code == 200
    assert http.get("/v1/status", headers=SPOT).json()["model"] == "fake"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("host", "localhost:9", 200),
        ("host", "evil.example", 421),
        ("host", "localhost.evil.example", 421),
        ("origin", "http://localhost:3000", 200),
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
    ],
)
def test_pages_of_other_sites_cannot_use_a_browser(
    http: httpx.Client, name: str, value: str, status: int
) -> None:
    assert http.get("/v1/status", headers={**SPOT, name: value}).status_code == status


def test_a_client_may_not_ask_about_the_frames_of_another(ask: Ask) -> None:
    frame = ask(IMAGE, headers=SPOT).json()["frame"]
    assert ask(None, frame=frame, headers=SPOT).status_code == 200
    assert ask(None, frame=frame, headers=ARM).json()["code"] == "FRAME_NOT_KEPT"


def test_limits_of_a_client_over_http(ask: Ask, engine: FakeEngine) -> None:
    ask(IMAGE, headers=ARM)
    refused = ask(IMAGE, headers=ARM)
    assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
    assert int(refused.headers["retry-after"]) > 100
    engine.free.clear()
    with ThreadPoolExecutor(1) as clients:
        running = clients.submit(ask, IMAGE, headers=SPOT)
        assert engine.entered.wait(PATIENCE_S)
        refused = ask(IMAGE, headers=SPOT)
        assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
        engine.free.set()
        assert running.result().status_code == 200


def _in_pieces() -> Iterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    yield from [b"x" * 10_000] * 100


def test_a_body_that_is_too_large_is_not_read(http: httpx.Client) -> None:
    headers = {**SPOT, "content-type": "multipart/form-data; boundary=b"}
    for content in (b"x" * 1_000_000, _in_pieces()):
        answer = http.post("/v1/segment", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")


def test_a_huge_body_is_refused_before_it_is_sent(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        head = form(b"", "Authorization: Bearer secret-of-spot").partition(b"Content-Length")[0]
        connection.sendall(
            head + b"Content-Length: 99999999999\r\nAuthorization: Bearer secret-of-spot\r\n\r\n"
        )
        assert b" 413 " in connection.recv(1000)


def _png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize("size", [(300, 300), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_header(ask: Ask, size: tuple[int, int]) -> None:
    answer = ask(_png_that_claims(*size), headers=SPOT)
    assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")


def test_a_raw_image_is_no_larger_than_its_bytes(ask: Ask) -> None:
    answer = ask(b"", headers=SPOT, image={"width": 100, "height": 100})
    assert answer.json()["code"] == "INVALID_IMAGE"
    answer = ask(b"", headers=SPOT, image={"width": 10**12, "height": 10**12})
    assert answer.json()["code"] == "TOO_LARGE"


def test_a_jpeg_of_many_scans_is_refused(ask: Ask) -> None:
    """Each scan of a progressive file may go over all pixels: minutes for a few kilobytes."""
    progressive = bytes(cv2.imencode(".jpg", picture(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])
    assert ask(progressive, headers=SPOT).status_code == 200
    start = progressive.index(b"\xff\xda")
    bomb = progressive[:start] + progressive[start:-2] * 100 + progressive[-2:]
    assert ask(bomb, headers=SPOT).json()["code"] == "TOO_LARGE"


def test_a_jpeg_of_many_scans_with_a_preview_behind_it_is_refused(ask: Ask) -> None:
    """Pillow calls such a file MPO, as phones write it, and the scans of one named so were not counted."""
    content = io.BytesIO()
    photo = Image.fromarray(picture())
    photo.save(content, "MPO", save_all=True, append_images=[photo], progressive=True)
    phone = content.getvalue()
    assert ask(phone, headers=SPOT).status_code == 200
    end = phone.index(b"\xff\xd9")
    bomb = phone[:end] + phone[phone.rindex(b"\xff\xda", 0, end) : end] * 100 + phone[end:]
    assert ask(bomb, headers=SPOT).json()["code"] == "TOO_LARGE"


def test_the_log_has_neither_tokens_nor_images_nor_questions(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="xsam_server"):
        ask(IMAGE, headers=SPOT, queries=[{"text": "the diary"}])
        ask(IMAGE, headers={"authorization": "Bearer a-wrong-token"})
    lines = [record.getMessage() for record in caplog.records if record.name == "xsam_server"]
    assert len(lines) == 2
    assert '"client": "spot", "code": "OK"' in lines[0]
    assert '"client": "unknown", "code": "UNAUTHORIZED"' in lines[1]
    assert not any(word in line for line in lines for word in ("secret", "wrong-token", "diary", "PNG"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (ServerSettings(host="0.0.0.0"), "--host 0.0.0.0: other machines"),
        (ServerSettings(host="192.168.1.5"), "other machines"),
        (ServerSettings(host="0.0.0.0", clients=CLIENTS), "the names by which"),
        (ServerSettings(host="not a host", clients=CLIENTS), "no address"),
        (ServerSettings(allowed_hosts=("http://robot",)), "--allowed-host"),
    ],
)
def test_settings_that_open_the_server_are_refused(settings: ServerSettings, named: str) -> None:
    with pytest.raises(InvalidOptionError, match=named):
        check_settings(settings)


def test_settings_that_are_fine(tmp_path: Path) -> None:
    fine = (
        ServerSettings(),
        ServerSettings(host="::1"),
        ServerSettings(host="192.168.1.5", clients=CLIENTS),
        ServerSettings(host="0.0.0.0", clients=CLIENTS, allowed_hosts=("robot.local",)),
    )
    assert [check_settings(settings) for settings in fine] == list(fine)
    with pytest.raises(FileNotFoundError):
        check_settings(ServerSettings(tls=(tmp_path / "cert.pem", tmp_path / "key.pem")))


def test_other_names_of_this_machine_must_be_allowed(engine: FakeEngine) -> None:
    settings = ServerSettings(allowed_hosts=("robot.local",))
    with running_server(lambda: engine, settings) as running, httpx.Client(base_url=running.url) as http:
        ask = ask_with(http)
        assert ask(IMAGE, headers={"host": "robot.local:8080"}).status_code == 200
        assert ask(IMAGE, headers={"host": "robot.evil"}).status_code == 421


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("address", "served"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.7", False),
        ("::ffff:192.0.2.7", False),
        ("2001:db8::1", False),
        (None, False),
    ],
)
async def test_without_tokens_only_this_machine_is_served_wherever_the_server_listens(
    engine: FakeEngine, address: str | None, served: bool
) -> None:
    """`Host` can be forged. On Ray Serve, whoever starts it decides where it listens, not this program."""
    for clients, expected in (((), served), (CLIENTS, True)):
        settings = ServerSettings(clients=clients)
        app = ModelServer(LocalAnswerer(lambda: engine, settings), settings).app
        transport = httpx.ASGITransport(app, client=(address, 1))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.get("/healthz")
        assert (answer.status_code == 200) == expected
        if not expected:
            assert (answer.status_code, answer.json()["code"]) == (403, "UNAUTHORIZED")
