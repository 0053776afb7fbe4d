"""The pages at `/` and `/docs`: static files, which everyone who may connect can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Response

_FOLDER = Path(__file__).parent / "static"
_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; object-src 'none'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _files() -> dict[str, Path]:
    files = {f"/{path.name}": path for path in sorted(_FOLDER.iterdir()) if path.suffix in _MEDIA_TYPES}
    return {"/": files.pop("/index.html"), "/docs": files.pop("/docs.html"), **files}


_FILES = _files()
PAGE_PATHS = frozenset(_FILES)


def add_page(app: FastAPI) -> None:
    """Serve the pages and their files; nothing else of the folder, and no path of a request."""
    for path, file in _FILES.items():
        app.get(path, include_in_schema=False)(_sender(file))


def _sender(file: Path) -> Callable[[], Response]:
    content, media_type = file.read_bytes(), _MEDIA_TYPES[file.suffix]

    def send() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return send
