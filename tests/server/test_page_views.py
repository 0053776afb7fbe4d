"""The page with a live camera, on a phone, without its server; and the page of the API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from support.browser import missing_browser
from support.model_server import FakeEngine, RunningServer, running_server
from tests.server.browsing import (
    HW,
    MUG,
    SCRIPT,
    ask,
    colored,
    on_screen,
    open_picture,
    page_engine,
    poll,
    status_is,
)
from xsam import Frame, NoFrameError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

if MISSING := missing_browser():
    pytest.skip(MISSING, allow_module_level=True)


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return page_engine()


@pytest.fixture(scope="module")
def server(engine: FakeEngine) -> Iterator[RunningServer]:
    with running_server(lambda: engine) as server:
        yield server


class OneCamera:
    """A camera whose every picture is brighter than the one before."""

    node = "/lab/xsam"
    names = ("wrist", SCRIPT)

    def __init__(self) -> None:
        self.shade = 0

    def newest_frame(self, camera: str) -> Frame:
        if camera != "wrist":
            raise NoFrameError("camera 'dead' has not delivered a frame", hint="is its driver running?")
        self.shade += 1
        return Frame(rgb=np.full((*HW, 3), self.shade % 256, np.uint8), camera=camera)


def test_a_live_camera_of_the_robot(program: Browser, engine: FakeEngine) -> None:
    cameras = OneCamera()
    with running_server(lambda: engine, cameras=cameras) as running:
        page = program.new_context().new_page()
        page.set_default_timeout(20_000)
        page.goto(running.url)
        page.wait_for_selector("#camera", state="visible")
        page.select_option("#camera", "wrist")
        page.wait_for_selector("#live", state="visible")
        poll(lambda: cameras.shade > 3)
        page.click("#snap")
        page.wait_for_selector("#live", state="hidden")
        ask(page, "mug")
        status_is(page, "Found: 1 object")
        frame = engine.asked[-1][0]
        assert isinstance(frame, Frame)
        assert frame.camera == "wrist", "the frame itself, not the picture of it"
        page.click("summary:has-text('Use this answer')")
        page.click("[data-copy=ros2]")
        assert page.inner_text("#copied").startswith("ros2 service call /lab/xsam/segment ")
        assert 'camera: "wrist"' in page.inner_text("#copied")
        page.select_option("#camera", SCRIPT)
        status_is(page, "has not delivered a frame")
        assert page.locator("#live").is_hidden()
        assert page.title() != "1"
        page.context.close()


def test_the_api_page_works_without_a_network(program: Browser, server: RunningServer) -> None:
    context = program.new_context(viewport={"width": 360, "height": 740})
    elsewhere: list[str] = []

    def only_here(route: Any) -> None:
        url = route.request.url
        if url.startswith(server.url):
            route.continue_()
        else:
            elsewhere.append(url)
            route.abort()

    context.route("**/*", only_here)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(f"{server.url}/docs")
    page.wait_for_selector("article:has-text('POST /v1/segment')")
    assert "Segment one image by up to 32 queries" in page.inner_text("#paths")
    page.click("#paths a:has-text('ResponseBody') >> nth=0")
    assert page.url.endswith("#ResponseBody")
    assert "sha256 of the image as it was sent" in page.inner_text("#ResponseBody")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert (elsewhere, problems) == ([], [])
    context.close()


def test_on_a_phone_nothing_is_cut_off(program: Browser, server: RunningServer) -> None:
    context = program.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(server.url)
    open_picture(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.touchscreen.tap(*on_screen(page, 60, 50))
    status_is(page, "Found: 1 object")
    context.close()


def test_the_server_is_gone_and_comes_back(program: Browser) -> None:
    page = program.new_context().new_page()
    with running_server(lambda: FakeEngine({"mug": [MUG]})) as server:
        page.goto(server.url)
        page.wait_for_selector("#link[data-up=true]")
        open_picture(page)
        ask(page, "mug")
        status_is(page, "Found")
    page.click("#go")
    status_is(page, "The server does not answer")
    assert not colored(page).any(), "masks of another question are not left beside an error"
    page.wait_for_selector("#link[data-up=false]")
    with running_server(lambda: FakeEngine({"mug": [MUG]}), port=server.port):
        page.wait_for_selector("#link[data-up=true]")
        page.click("#go")
        status_is(page, "Found: 1 object")
    page.context.close()
