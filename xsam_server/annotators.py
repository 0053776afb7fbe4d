"""The paths by which annotation tools ask, and their ways to send a token."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from xsam.errors import NotActiveError, XSamError
from xsam.web.gate import App, Receive, Scope, Send
from xsam_server.answering import Answerer
from xsam_server.answers import error_response
from xsam_server.dialects.base import Dialect
from xsam_server.dialects.label_studio import LabelStudioDialect, check_setup
from xsam_server.dialects.task_images import TaskImages
from xsam_server.dialects.x_anylabeling import XAnyLabelingDialect, models_body
from xsam_server.reading import read_body
from xsam_server.settings import ServerSettings

_X_ANYLABELING_PATHS = ("/v1/models", "/v1/predict")
_LABEL_STUDIO_PATHS = ("/health", "/setup", "/predict")
_MAX_SETUP_BYTES = 1 << 20


class AnnotatorTokens:
    """ASGI application in front of the gate: it puts tokens of annotation tools where the gate looks.

    X-AnyLabeling sends `Token: TOKEN`, Label Studio a name and password of HTTP Basic, the password being
    the token. On other paths, and beside a token in its usual place, neither counts.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with its token moved."""
        if scope["type"] == "http":
            token = _token(scope["path"], scope["headers"])
            if token is not None:
                others = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
                scope = {**scope, "headers": [*others, (b"authorization", b"Bearer " + token)]}
        await self._app(scope, receive, send)


def _token(path: str, headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """Return the token that an annotation tool has sent in its own way; None = it has not."""
    usual = [value for name, value in headers if name == b"authorization"]
    if path in _X_ANYLABELING_PATHS and not usual:
        tokens = [value for name, value in headers if name == b"token"]
        return tokens[0] if len(tokens) == 1 and tokens[0] else None
    if path in _LABEL_STUDIO_PATHS and len(usual) == 1:
        scheme, _, coded = usual[0].partition(b" ")
        if scheme.lower() == b"basic":
            try:
                _, separator, password = base64.b64decode(coded.strip(), validate=True).partition(b":")
            except (binascii.Error, ValueError):
                return None
            return password if separator else None
    return None


def annotator_dialects(settings: ServerSettings) -> Mapping[str, Dialect]:
    """Return the forms in which annotation tools ask the model, by path."""
    images = None
    if settings.label_studio_url:
        images = TaskImages(
            url=settings.label_studio_url,
            token=settings.label_studio_token,
            max_bytes=settings.max_body_bytes,
        )
    return {
        "/v1/predict": XAnyLabelingDialect(),
        "/predict": LabelStudioDialect(fetch=None if images is None else images.fetch),
    }


def add_annotators(app: FastAPI, answerer: Answerer) -> None:
    """Add the paths of annotation tools; those of `annotator_dialects` are described only."""

    def model_id() -> str:
        if not answerer.model_id:
            raise answerer.error or NotActiveError(f"the model is {answerer.state.value}")
        return answerer.model_id

    @app.get("/v1/models", summary="X-AnyLabeling: the model and its tasks")
    async def models() -> Response:
        return _answer(lambda: models_body(model_id()))

    @app.post("/v1/predict", summary="X-AnyLabeling: segment an image")
    async def x_anylabeling() -> Response:
        """See docs/annotate-x-anylabeling.md."""
        raise NotImplementedError

    @app.get("/health", summary="Label Studio: the server runs")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "UP", "model_class": "X-SAM"})

    @app.post("/setup", summary="Label Studio: connect a project")
    async def setup(request: Request) -> Response:
        """See docs/annotate-label-studio.md."""
        try:
            incoming = await read_body(
                request.stream(),
                content_type=request.headers.get("content-type", ""),
                content_length=request.headers.get("content-length"),
                max_bytes=_MAX_SETUP_BYTES,
                take_memory=lambda _: None,
            )
            check_setup(incoming.request)
        except XSamError as error:
            return error_response(error)
        return _answer(lambda: {"model_version": model_id()})

    @app.post("/predict", summary="Label Studio: segment the images of tasks")
    async def predict() -> Response:
        """See docs/annotate-label-studio.md."""
        raise NotImplementedError


def _answer(body: Callable[[], dict[str, Any]]) -> Response:
    """Answer with what a function returns, or with the error that it raises: there is no model yet."""
    try:
        return JSONResponse(body())
    except XSamError as error:
        return error_response(error)
