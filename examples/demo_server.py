"""Serve the same model over HTTP, ask it once, and take a picture of its page."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import httpx2
import numpy as np
from numpy.typing import NDArray

from support.browser import browser, missing_browser
from support.polling import poll_until
from support.processes import NodeProcess
from xsam import Frame, Query
from xsam.remote import RemoteSegmenter

_START_S, _REQUEST_S = 60.0, 30.0
_PAGE_MS = 30_000


def ask_server(rgb: NDArray[np.uint8], query: Query, out: Path) -> dict[str, Any]:
    """Start `xsam serve`, ask about an image (H, W, 3) over HTTP, and end the server.

    Args:
        rgb: the image.
        query: a phrase.
        out: folder for the log, and for a picture of the page where a browser is installed.

    Returns:
        Part of the report.
    """
    log = out / "server.log"
    process = NodeProcess([sys.executable, "-m", "xsam", "serve", "--port", "0"], log=log)
    try:
        address = poll_until(
            lambda: re.search(r"serving on (http://\S+)\s", log.read_text(encoding="utf-8")),
            "the server",
            timeout_s=_START_S,
        )
        assert address is not None
        url = address[1]
        poll_until(lambda: httpx2.get(f"{url}/readyz").is_success, "its model", timeout_s=_START_S)
        with RemoteSegmenter(url) as segmenter:
            began = time.monotonic()
            (result,) = segmenter.segment(Frame(rgb=rgb), [query], deadline_s=_REQUEST_S)
            round_trip_s = time.monotonic() - began
        missing = missing_browser()
        if not missing:
            _picture_page(url, rgb, query.text, out / "30_page.png")
    finally:
        process.stop()
    return {
        "asked": query.text,
        "status": result.status.value,
        "found": len(result),
        "round_trip_ms": round(1000 * round_trip_s, 1),
        "page": missing or "30_page.png",
    }


def _picture_page(url: str, rgb: NDArray[np.uint8], text: str, path: Path) -> None:
    picture = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
    with browser() as program:
        page = program.new_page(viewport={"width": 1280, "height": 720}, color_scheme="dark")
        page.set_default_timeout(_PAGE_MS)
        page.goto(url)
        page.set_input_files("#file", {"name": "table.png", "mimeType": "image/png", "buffer": picture})
        page.wait_for_selector("#empty", state="hidden")
        page.fill("#text", text)
        page.click("#go")
        page.wait_for_selector("#status:not([data-status=''])")
        page.screenshot(path=path)
