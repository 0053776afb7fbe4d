"""Cameras that a server can see: their pictures, and questions about exactly the frame that is shown."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from support.model_server import FakeEngine, RunningServer, running_server
from tests.server.conftest import HEIGHT, WIDTH, Ask, ask_with, new_engine, picture
from xsam import Frame, NoFrameError, UnknownCameraError
from xsam_server.settings import Client, ServerSettings

DEPTH_M = np.full((HEIGHT, WIDTH), 2.0, np.float32)


class FakeCameras:
    """A camera with depth, and one that delivers nothing."""

    node = "/lab/xsam"
    names = ("front", "dead")

    def newest_frame(self, camera: str) -> Frame:
        if camera == "dead":
            raise NoFrameError("camera 'dead' has not delivered a frame")
        if camera != "front":
            raise UnknownCameraError(f"unknown camera {camera!r}")
        return Frame(rgb=picture(), camera="front", frame_id="lens", depth_m=DEPTH_M)


@pytest.fixture(scope="module")
def server(engine: FakeEngine) -> Iterator[RunningServer]:
    with running_server(lambda: engine, cameras=FakeCameras()) as running:
        yield running


def test_the_status_names_them(http: httpx.Client) -> None:
    status = http.get("/v1/status").json()
    assert (status["node"], status["cameras"]) == ("/lab/xsam", ["front", "dead"])


def test_a_server_without_cameras_does_not_speak_of_them(engine: FakeEngine) -> None:
    with running_server(lambda: engine) as running, httpx.Client(base_url=running.url) as http:
        assert not {"node", "cameras"} & set(http.get("/v1/status").json())
        assert http.get("/v1/cameras/front").json()["code"] == "NO_SUCH_PATH"


def test_a_question_about_a_picture_is_about_its_frame(
    http: httpx.Client, ask: Ask, engine: FakeEngine
) -> None:
    answer = http.get("/v1/cameras/front")
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("image/jpeg", "no-store")
    with Image.open(io.BytesIO(answer.content)) as shown:
        assert (shown.format, shown.size) == ("JPEG", (WIDTH, HEIGHT))
    for request in ({"frame": answer.headers["x-xsam-frame"]}, {}):
        response = ask(None if request else answer.content, **request)
        assert response.json()["frame"] == answer.headers["x-xsam-frame"]
        frame = engine.asked[-1][0]
        assert isinstance(frame, Frame)
        assert np.array_equal(frame.rgb, picture()), "not what JPEG has made of it"
        assert frame.depth_m is not None
        assert (frame.camera, frame.frame_id) == ("front", "lens")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("dead", 503, "NO_FRAME"),
        ("rear", 404, "UNKNOWN_CAMERA"),
        ("..%2Fstatus", 404, "NO_SUCH_PATH"),
        ("", 404, "NO_SUCH_PATH"),
    ],
)
def test_what_there_is_no_picture_of(http: httpx.Client, path: str, status: int, code: str) -> None:
    answer = http.get(f"/v1/cameras/{path}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_pictures_need_a_token_and_are_their_clients_own() -> None:
    clients = tuple(Client(name=name, token=f"secret-of-{name}") for name in ("spot", "arm"))
    with (
        running_server(new_engine, ServerSettings(clients=clients), cameras=FakeCameras()) as running,
        httpx.Client(base_url=running.url) as http,
    ):
        assert http.get("/v1/cameras/front").status_code == 401
        spot, arm = ({"authorization": f"Bearer secret-of-{name}"} for name in ("spot", "arm"))
        frame = http.get("/v1/cameras/front", headers=spot).headers["x-xsam-frame"]
        assert ask_with(http)(None, frame=frame, headers=arm).json()["code"] == "FRAME_NOT_KEPT"
        assert ask_with(http)(None, frame=frame, headers=spot).status_code == 200
