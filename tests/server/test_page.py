"""The page in a real browser, with a real server: what is clicked, sent and drawn."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from support.browser import missing_browser
from support.model_server import FakeEngine, RunningServer, running_server
from tests.server.browsing import (
    BOWL,
    GRAY,
    HW,
    MUG,
    SCRIPT,
    ask,
    click,
    colored,
    on_screen,
    open_picture,
    page_engine,
    poll,
    status_is,
)
from xsam import Task
from xsam.types.masks import BoolMask
from xsam.types.visual_prompts import PromptKind

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

if MISSING := missing_browser():
    pytest.skip(MISSING, allow_module_level=True)


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return page_engine()


@pytest.fixture(scope="module")
def server(engine: FakeEngine) -> Iterator[RunningServer]:
    with running_server(lambda: engine) as server:
        yield server


@pytest.fixture
def page(program: Browser, server: RunningServer, engine: FakeEngine) -> Iterator[Page]:
    """Open the page with a gray picture; any error in its scripts fails the test."""
    context = program.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.set_default_timeout(20_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server.url)
    open_picture(page)
    engine.asked.clear()
    yield page
    context.close()
    assert problems == []


def last_query(engine: FakeEngine) -> Any:
    return engine.asked[-1][1][0]


def iou(a: BoolMask, b: BoolMask) -> float:
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))


def test_text_draws_the_masks_that_the_server_sent(page: Page, engine: FakeEngine) -> None:
    assert not colored(page).any()
    ask(page, "mug, bowl,mug", kind="categories")
    status_is(page, "Found: 2 objects")
    assert last_query(engine).thing_classes == ("mug", "bowl")
    assert iou(colored(page), MUG | BOWL) > 0.85, "the number discs are dark"
    assert page.locator("#objects li .label").all_inner_texts() == ["mug", "bowl"]
    assert page.inner_text("#model") == "fake"


def test_a_click_is_a_point_in_pixels(page: Page, engine: FakeEngine) -> None:
    click(page, 75, 40)
    status_is(page, "Found: 1 object")
    query = last_query(engine)
    assert query.task is Task.INTERACTIVE
    (mark,) = query.prompts
    assert (mark.kind, mark.positive) == (PromptKind.POINT, True)
    assert mark.points_xy.tolist() == [[75, 40]]
    assert page.locator("#objects li .label").all_inner_texts() == ["mug"]


def test_negative_clicks_and_undo(page: Page, engine: FakeEngine) -> None:
    click(page, 75, 40)
    status_is(page, "Found")
    click(page, 150, 80, negative=True)
    page.wait_for_function("document.querySelector('#undo').disabled === false")
    poll(lambda: len(engine.asked) == 2)
    assert [mark.positive for mark in last_query(engine).prompts] == [True, False]
    page.keyboard.press("Control+z")
    poll(lambda: len(engine.asked) == 3)
    assert len(last_query(engine).prompts) == 1
    page.keyboard.press("Escape")
    status_is(page, "Nothing asked yet")
    assert not colored(page).any()


def test_a_box_and_a_stroke(page: Page, engine: FakeEngine) -> None:
    page.keyboard.press("b")
    page.mouse.move(*on_screen(page, 130, 60))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 150, 90))
    page.mouse.move(*on_screen(page, 170, 100))
    page.mouse.up()
    status_is(page, "Found: 1 object")
    assert last_query(engine).prompts[0].box_xyxy == (130, 60, 170, 100)
    page.click("#clear")
    page.keyboard.press("s")
    page.mouse.move(*on_screen(page, 50.5, 50.5))
    page.mouse.down()
    for x in range(52, 72, 4):
        page.mouse.move(*on_screen(page, x + 0.5, 50.5))
    page.mouse.up()
    status_is(page, "Found: 1 object")
    (stroke,) = last_query(engine).prompts
    assert stroke.kind is PromptKind.SCRIBBLE
    assert stroke.points_xy[0].tolist() == [50, 50]
    assert stroke.points_xy[-1].tolist() == [68, 50]


def test_the_keyboard_is_enough(page: Page, engine: FakeEngine) -> None:
    page.focus("#view")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    poll(lambda: len(engine.asked) == 1)
    assert last_query(engine).prompts[0].points_xy.tolist() == [[95, 60]]
    page.keyboard.press("/")
    page.keyboard.type("the bowl")
    page.keyboard.press("Enter")
    status_is(page, "Found: 1 object")
    assert (last_query(engine).text, last_query(engine).prompts) == ("the bowl", ())


def test_absent_things_are_not_found(page: Page) -> None:
    ask(page, "mug")
    status_is(page, "Found")
    ask(page, "elephant")
    status_is(page, "Not found · nothing matches 'elephant'")
    assert not colored(page).any()
    assert page.locator("#objects li").count() == 0


def test_the_picture_travels_once(page: Page, server: RunningServer) -> None:
    def received_bytes() -> float:
        lines = server.server.metrics.as_text().decode().splitlines()
        (line,) = (line for line in lines if line.startswith("xsam_bytes_total") and '"in"' in line)
        return float(line.split()[-1])

    open_picture(page, noise=True)
    ask(page, "elephant")
    status_is(page, "Not found")
    counts = [received_bytes()]
    for text in ("mug", "bowl"):
        ask(page, text)
        page.wait_for_selector(f"#objects li:has-text('{text}')")
        counts.append(received_bytes())
    assert counts[0] > 3 * HW[0] * HW[1], "noise cannot be compressed"
    assert 0 < max(np.diff(counts)) < 2000


def test_labels_are_only_text(page: Page) -> None:
    ask(page, SCRIPT, kind="categories")
    status_is(page, "Found: 1 object")
    assert page.locator("#objects li .label").inner_text() == SCRIPT
    assert page.locator("#objects img").count() == 0
    assert page.title() == "X-SAM"


def test_scripts_of_others_do_not_run(page: Page, server: RunningServer) -> None:
    """The policy of the page forbids inline scripts and other servers."""
    policy = page.request.get(server.url).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=2\">')")
    page.wait_for_timeout(200)
    assert page.title() == "X-SAM"


def test_the_last_question_wins(page: Page, engine: FakeEngine) -> None:
    engine.free.clear()
    try:
        ask(page, "mug")
        poll(lambda: len(engine.asked) == 1)
        assert page.get_attribute("#stage", "data-busy") == "true"
        ask(page, "bowl")
    finally:
        engine.free.set()
    status_is(page, "Found: 1 object")
    assert page.locator("#objects li .label").all_inner_texts() == ["bowl"]
    assert page.get_attribute("#stage", "data-busy") == "false"


def test_an_answer_goes_with_its_picture(page: Page) -> None:
    ask(page, "mug")
    status_is(page, "Found")
    page.fill("#text", "")
    open_picture(page, "another.png", hw=(48, 64))
    status_is(page, "Nothing asked yet")
    assert page.locator("#objects li").count() == 0


def test_hovering_a_line_shows_its_mask(page: Page) -> None:
    ask(page, "mug, bowl", kind="categories")
    status_is(page, "Found: 2 objects")
    before = page.locator("#view").screenshot()
    page.hover("#objects li:nth-child(2)")
    page.wait_for_selector("#objects li:nth-child(2).hovered")
    assert page.locator("#view").screenshot() != before
    page.mouse.move(*on_screen(page, 60, 40))
    page.wait_for_selector("#objects li:nth-child(1).hovered")


def test_an_object_keeps_its_color(page: Page) -> None:
    ask(page, "mug, bowl", kind="categories")
    status_is(page, "Found: 2 objects")
    color = page.locator("#objects li:nth-child(2) .number").evaluate("n => n.style.borderColor")
    ask(page, "bowl", kind="auto")
    status_is(page, "Found: 1 object")
    assert page.locator("#objects li .number").evaluate("n => n.style.borderColor") == color


def test_the_copied_python_runs(
    page: Page, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    click(page, 60, 50)
    status_is(page, "Found")
    page.click("summary:has-text('Use this answer')")
    page.click("[data-copy=python]")
    Image.fromarray(np.full((*HW, 3), GRAY, np.uint8)).save(tmp_path / "gray picture.png")
    monkeypatch.chdir(tmp_path)
    engine.asked.clear()
    names: dict[str, Any] = {}
    exec(page.inner_text("#copied"), names)
    assert names["result"].found
    assert last_query(engine).prompts[0].points_xy.tolist() == [[60, 50]]


def test_the_answer_as_code(page: Page, server: RunningServer) -> None:
    text = 'the "mug" of O\'Brien\\n; $(rm -rf .) ü'
    ask(page, "mug")
    status_is(page, "Found")
    ask(page, text)
    status_is(page, "Not found")
    page.click("summary:has-text('Use this answer')")
    page.click("[data-copy=python]")
    tree = ast.parse(page.inner_text("#copied"))
    assert text in {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    page.click("[data-copy=curl]")
    words = shlex.split(page.inner_text("#copied").replace("\\\n", " "))
    assert words[:3] == ["curl", "-sS", f"{server.url}/v1/segment"]
    request = next(word for word in words if word.startswith("request=")).removeprefix("request=")
    assert json.loads(request)["queries"][0]["text"] == text
    assert "image=@gray picture.png" in words
    page.click("[data-copy=ros2]")
    words = shlex.split(page.inner_text("#copied"))
    assert words[:5] == ["ros2", "service", "call", "/xsam/segment", "xsam_ros/srv/Segment"]
    assert len(words) == 6


def test_downloads(page: Page, tmp_path: Path) -> None:
    ask(page, "mug, bowl", kind="categories")
    status_is(page, "Found: 2 objects")
    page.click("summary:has-text('Use this answer')")
    with page.expect_download() as download:
        page.click("#save_coco")
    assert download.value.suggested_filename == "gray picture_coco.json"
    coco = json.loads(Path(download.value.path()).read_text())
    masks = [coco_mask.decode(item["segmentation"]).astype(bool) for item in coco["annotations"]]
    np.testing.assert_array_equal(masks, [MUG, BOWL])
    assert coco["annotations"][0]["bbox"] == [35, 25, 51, 51]
    with page.expect_download() as download:
        page.click("#save_png")
    with Image.open(download.value.path()) as saved:
        assert saved.size == (HW[1], HW[0])


def test_the_webcam(page: Page) -> None:
    """The browser's own test picture stands in for the camera."""
    page.click("#webcam")
    page.wait_for_selector("#snap", state="visible")
    page.click("#snap")
    page.wait_for_selector("#video", state="hidden")
    ask(page, "mug")
    status_is(page, "Not found")
