"""The page with a node behind it: the simulated camera, the node, the server and the browser, all real."""

from __future__ import annotations

import importlib
import io
import shlex
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image
from rosidl_parser.definition import AbstractSequence, NamespacedType

from support.browser import browser, missing_browser
from xsam_ros.client import RosSegmenter
from xsam_ros.srv import Segment

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytestmark = pytest.mark.slow

Eventually = Callable[..., Any]
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def page_url(module_spawn: Callable[..., Any], eventually: Eventually) -> str:
    """Start a node that finds colors, a simulated camera over a red thing, and the page."""
    params = {
        "cameras": "[camera]",
        "camera.depth_topic": "/camera/depth",
        "camera.info_topic": "/camera/camera_info",
    }
    module_spawn("tests/ros/color_node.py", params=params)
    module_spawn("-m", "xsam_ros.camera_sim", params={"seed": 9, "width": 320, "height": 240, "rate_hz": 5.0})
    page = module_spawn("-m", "xsam_ros.page", "--port", "0")

    def url() -> str | None:
        _, found, rest = page.output.partition("serving on ")
        return rest.split()[0] if found else None

    url_of_page = eventually(url, "the page", timeout_s=PATIENCE_S)
    with RosSegmenter("/xsam") as segmenter:
        eventually(
            lambda: segmenter.status(deadline_s=20.0).cameras[0].frames > 0, "a frame", timeout_s=PATIENCE_S
        )
    eventually(
        lambda: httpx.get(f"{url_of_page}/v1/status").json().get("cameras"),
        "the status",
        timeout_s=PATIENCE_S,
    )
    return str(url_of_page)


def test_pictures_and_answers_come_from_the_node(page_url: str, eventually: Eventually) -> None:
    with httpx.Client(base_url=page_url, timeout=PATIENCE_S) as http:
        status = http.get("/v1/status").json()
        assert (status["model"], status["node"], status["cameras"]) == ("colors", "/xsam", ["camera"])
        picture = http.get("/v1/cameras/camera")
        with Image.open(io.BytesIO(picture.content)) as shown:
            assert shown.size == (320, 240)

        def ask() -> dict[str, Any]:
            frame = http.get("/v1/cameras/camera").headers["x-xsam-frame"]
            request = {"frame": frame, "queries": [{"text": "red"}], "deadline_s": PATIENCE_S}
            (result,) = http.post("/v1/segment", json=request).json()["results"]
            assert (result["status"], result["model"]) == ("found", "colors")
            return dict(result["segments"][0])

        # The very first picture may come before its depth.
        location = eventually(lambda: ask().get("location"), "depth", timeout_s=PATIENCE_S)
        assert location["frame_id"] == "camera_optical_frame"
        assert 0.2 < location["position_m"][2] < 3.0
        assert http.get("/v1/cameras/rear").json()["code"] == "UNKNOWN_CAMERA"
        assert http.get("/v1/status", headers={"host": "evil.example"}).status_code == 421


def fill(message: Any, values: dict[str, Any]) -> None:
    """Fill in a message from YAML, as `ros2 service call` does: lists of dictionaries are nested messages."""
    kinds = dict(zip(message.get_fields_and_field_types(), message.SLOT_TYPES, strict=True))
    for name, value in values.items():
        kind = kinds[name]
        if isinstance(kind, AbstractSequence) and isinstance(kind.value_type, NamespacedType):
            of = kind.value_type
            cls = getattr(importlib.import_module(".".join(of.namespaces)), of.name)
            setattr(message, name, [cls() for _ in value])
            for part, fields in zip(getattr(message, name), value, strict=True):
                fill(part, fields)
        else:
            setattr(message, name, value)


@pytest.mark.skipif(bool(missing_browser()), reason=missing_browser())
def test_the_copied_command_asks_the_node_the_same(page_url: str, ros: Any, eventually: Eventually) -> None:
    """`ros2 service call` is not in this environment; it fills in the request just as this test does."""
    with browser() as program:
        page = program.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(page_url)
        page.wait_for_selector("#camera", state="visible")
        page.select_option("#camera", "camera")
        page.wait_for_selector("#live", state="visible")
        page.click("#snap")
        page.fill("#text", "red")
        page.click("#go")
        page.wait_for_function("() => document.querySelector('#status').textContent.startsWith('Found')")
        assert " m in camera_optical_frame" in page.locator("#objects").inner_text()
        page.click("summary:has-text('Use this answer')")
        page.click("[data-copy=ros2]")
        words = shlex.split(page.inner_text("#copied"))
        page.context.close()
    assert words[:5] == ["ros2", "service", "call", "/xsam/segment", "xsam_ros/srv/Segment"]
    request = Segment.Request()
    fill(request, yaml.safe_load(words[5]))
    client = ros.node.create_client(Segment, words[3])
    eventually(client.service_is_ready, "the service", timeout_s=PATIENCE_S)
    future = client.call_async(request)
    eventually(future.done, "the response", timeout_s=PATIENCE_S)
    (result,) = future.result().results
    assert [instance.label for instance in result.instances] == ["red"]


def test_wrong_usage_is_said(spawn: Callable[..., Any], eventually: Eventually) -> None:
    process = spawn("-m", "xsam_ros.page", "--host", "0.0.0.0", exit_code=1)
    eventually(lambda: not process.running, "the end", timeout_s=PATIENCE_S)
    assert "--token-file" in process.output
