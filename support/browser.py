"""A real browser for tests and screenshots: an installed Chromium or Chrome, driven by Playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


def missing_browser() -> str:
    """Return what is not installed that `browser` needs; "" if nothing."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return "" if _program() else "Chromium is not installed (Debian: apt-get install chromium)"


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start the browser without a window, and end it with the context."""
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox needs a user other than root.
    flags = [*_FLAGS, "--no-sandbox"] if os.geteuid() == 0 else list(_FLAGS)
    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=_program(), args=flags)
        try:
            yield program
        finally:
            program.close()


def _program() -> str | None:
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)
