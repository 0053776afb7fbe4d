"""Images of tasks: from the one Label Studio that the server was told of, and from nowhere else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from support.model_server import running_server
from tests.server.conftest import new_engine, picture, png
from tests.server.test_label_studio import predict, results_of
from xsam import InvalidOptionError
from xsam.errors import DeadlineExceededError, InvalidImageError, RequestTooLargeError
from xsam.types.deadline import Deadline
from xsam_server.dialects.task_images import TaskImages, check_label_studio_url
from xsam_server.settings import ServerSettings

IMAGE = png(picture())
PERSONAL = "eyJh.eyJi.sig-sig"


class LabelStudio(ThreadingHTTPServer):
    """A stand-in for Label Studio's files and tokens."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []
        self.slow = threading.Event()  # set when answers may go on
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: LabelStudio

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization", "")))
        if self.path.startswith("/data/slow"):
            self._send(200, b"", length=1000)
            while not self.server.slow.wait(0.02):
                self.wfile.write(b"x")
        elif self.path.startswith("/data/moved"):
            self._send(302, b"", Location="http://169.254.169.254/a.png")
        elif self.path.startswith("/data/"):
            self._send(200, IMAGE)
        else:
            self._send(404, b"no such file")

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, sent["refresh"]))
        known = sent["refresh"] == PERSONAL
        self._send(200 if known else 401, json.dumps({"access": "short-lived"} if known else {}).encode())

    def _send(self, status: int, content: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def studio() -> Iterator[LabelStudio]:
    with LabelStudio() as studio:
        thread = threading.Thread(target=studio.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield studio
        studio.slow.set()
        studio.shutdown()
        thread.join()


def fetch(images: TaskImages, reference: str, *, deadline_s: float = 5.0) -> bytes:
    return images.fetch(reference, lambda _: None, Deadline(deadline_s))


def images_of(studio: LabelStudio, *, path: str = "", token: str = "", max_bytes: int = 10_000) -> TaskImages:
    return TaskImages(url=studio.url + path, token=token, max_bytes=max_bytes)


def test_a_task_of_the_label_studio_that_was_named(studio: LabelStudio) -> None:
    settings = ServerSettings(label_studio_url=studio.url, label_studio_token="legacy-token")
    with running_server(new_engine, settings) as running, httpx.Client(base_url=running.url) as http:
        for reference in ("/data/upload/1/a.png", f"{studio.url}/data/upload/1/a.png"):
            assert len(results_of(predict(http, images=(reference,)))[0]["result"]) == 2
        assert studio.asked == [("/data/upload/1/a.png", "Token legacy-token")] * 2
        answer = predict(http, images=("http://127.0.0.1:1/data/a.png",))
        assert answer.json()["code"] == "INVALID_IMAGE"
        assert studio.url in answer.json()["message"]
        answer = predict(http, images=("/data/moved.png",))
        assert "redirected" in answer.json()["message"]


@pytest.mark.parametrize(
    "reference",
    [
        "/data/../admin",
        "/data/%2e%2e/admin",
        "/data/%252e%252e/admin",
        "/data/local-files/?d=../../etc/passwd",
        "/data/a\r\nX-Evil: 1",
        "/data/..\\admin",
        "/api/tasks",
        "/tasks/1/resolve/?fileuri=aHR0cDovL3g=",
        "data/upload/a.png",
        "http://localhost/data/a.png",
        "https://{host}/data/a.png",
        "http://{host}@evil.example/data/a.png",
        "http://evil.example/data/a.png",
        "//evil.example/data/a.png",
        "ftp://{host}/data/a.png",
        "file:///data/a.png",
        "http://[::1/data/a.png",
        "http://{host}:99999/data/a.png",
        "s3://bucket/data/a.png",
        "",
    ],
)
def test_everything_else_is_refused_without_a_request(studio: LabelStudio, reference: str) -> None:
    images = images_of(studio, token="legacy-token")
    with pytest.raises(InvalidImageError):
        fetch(images, reference.replace("{host}", studio.url.partition("//")[2]))
    assert studio.asked == []


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("/data/upload/1/my photo ü.png", "/data/upload/1/my%20photo%20%C3%BC.png"),
        ("/data/upload/1/a%20b.png", "/data/upload/1/a%20b.png"),
        ("/data/local-files/?d=set/a.png", "/data/local-files/?d=set/a.png"),
    ],
)
def test_names_of_files(studio: LabelStudio, reference: str, path: str) -> None:
    assert fetch(images_of(studio), reference) == IMAGE
    assert studio.asked == [(path, "")]


def test_a_label_studio_below_a_path(studio: LabelStudio) -> None:
    images = images_of(studio, path="/data/")  # so that the stand-in has it
    assert fetch(images, "/data/a.png") == IMAGE
    assert fetch(images, f"{studio.url}/data/data/a.png") == IMAGE
    assert [path for path, _ in studio.asked] == ["/data/data/a.png"] * 2


def test_a_personal_token_is_exchanged_once(studio: LabelStudio) -> None:
    images = images_of(studio, token=PERSONAL)
    for _ in range(2):
        fetch(images, "/data/a.png")
    assert studio.asked == [("/api/token/refresh", PERSONAL), *[("/data/a.png", "Bearer short-lived")] * 2]
    with pytest.raises(InvalidImageError, match="does not accept the token"):
        fetch(images_of(studio, token="a.b.c"), "/data/a.png")


def test_size_and_time_have_limits(studio: LabelStudio) -> None:
    with pytest.raises(RequestTooLargeError):
        fetch(images_of(studio, max_bytes=len(IMAGE) - 1), "/data/a.png")
    with pytest.raises(DeadlineExceededError):
        fetch(images_of(studio), "/data/slow.png", deadline_s=0.3)


def test_what_is_not_there(studio: LabelStudio) -> None:
    images = TaskImages(url="http://127.0.0.1:9", token="", max_bytes=1000)
    with pytest.raises(InvalidImageError, match="ConnectionRefusedError"):
        fetch(images, "/data/a.png")
    with pytest.raises(InvalidImageError, match="HTTP 404"):
        fetch(images_of(studio, path="/elsewhere"), "/data/a.png")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080",
        "ftp://h",
        "http://",
        "http://u:p@h",
        "http://h?x=1",
        "http://h:x",
        "http://h/a b",
        "http://h:0",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InvalidOptionError, match="label-studio-url"):
        check_label_studio_url(url)


def test_addresses_that_are_fine() -> None:
    for url in ("http://localhost:8080", "https://labels.example/studio/", "http://[::1]:8080"):
        assert check_label_studio_url(url) == url
