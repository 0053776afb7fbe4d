"""What the tests of the pages share: a picture, and how it is opened, clicked and looked at in a browser."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from support.model_server import FakeEngine
from support.polling import poll_until
from xsam.types.masks import BoolMask

if TYPE_CHECKING:
    from playwright.sync_api import Page

HW = (120, 200)
GRAY = 90
SCRIPT = '<img src=x onerror="document.title=1">'


def disk(x: int, y: int, radius: int) -> BoolMask:
    rows, columns = np.mgrid[: HW[0], : HW[1]]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


MUG, BOWL = disk(60, 50, 25), disk(150, 80, 18)


def page_engine() -> FakeEngine:
    return FakeEngine({"mug": [MUG], "bowl": [BOWL], SCRIPT: [disk(20, 100, 10)]})


def open_picture(
    page: Page, name: str = "gray picture.png", *, hw: tuple[int, int] = HW, noise: bool = False
) -> None:
    rgb = np.full((*hw, 3), GRAY, np.uint8)
    if noise:
        rgb = np.random.default_rng(0).integers(0, 256, rgb.shape, np.uint8)
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "PNG")
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data.getvalue()})
    page.wait_for_selector("#empty", state="hidden")


def ask(page: Page, text: str, *, kind: str = "auto") -> None:
    page.locator(f"label:has(input[value={kind}])").click()
    page.fill("#text", text)
    page.click("#go")


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """Return where the picture's position (x, y) is on the screen."""
    box = page.locator("#view").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"] / HW[1], box["y"] + y * box["height"] / HW[0]


def click(page: Page, x: int, y: int, *, negative: bool = False) -> None:
    """Click the middle of a pixel."""
    if negative:
        page.keyboard.down("Shift")
    page.mouse.click(*on_screen(page, x + 0.5, y + 0.5))
    if negative:
        page.keyboard.up("Shift")


def status_is(page: Page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#status').textContent.includes(text)", arg=text)


def colored(page: Page) -> BoolMask:
    """Return which pixels of the picture the canvas shows in another color than gray (H, W)."""
    image = Image.open(io.BytesIO(page.locator("#view").screenshot())).convert("RGB")
    shown: NDArray[np.int16] = np.asarray(image.resize((HW[1], HW[0]), Image.Resampling.BOX), np.int16)
    inside = np.pad(np.ones((HW[0] - 8, HW[1] - 8), np.bool_), 4)  # the frame around what has the focus
    return np.asarray(np.ptp(shown, axis=2) > 8) & inside


def poll(condition: Any) -> None:
    poll_until(condition, "the request", timeout_s=20.0)
