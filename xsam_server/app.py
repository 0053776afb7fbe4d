"""The FastAPI application: its routes, with the gate in front."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from xsam.types.requests import Status
from xsam.version import __version__
from xsam.web.gate import App, HttpGate, Receive, Refusal, Scope, Send, host_names
from xsam.wire.models import MAX_QUERIES, ErrorBody, LimitsBody, ResponseBody, StatusBody, json_schema
from xsam_server.annotators import AnnotatorTokens, add_annotators, annotator_dialects
from xsam_server.answering import Answerer
from xsam_server.answers import STATUS_OF
from xsam_server.asking import SegmentDesk
from xsam_server.cameras import LiveCameras
from xsam_server.clients import ClientLimits
from xsam_server.events import EVENT_STYLES
from xsam_server.frames import MemoryBudget
from xsam_server.images import FORMATS
from xsam_server.metrics import Metrics, RequestRecord
from xsam_server.model import ModelState
from xsam_server.page import PAGE_PATHS, add_page
from xsam_server.settings import ServerSettings

OPEN_PATHS = PAGE_PATHS | {"/healthz", "/readyz", "/health", "/docs", "/openapi.json", "/v1/schema"}
"""Paths that need no token: they tell nothing about cameras, clients or load."""

SEGMENT_PATH = "/v1/segment"

_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["request"],
                "properties": {
                    "request": {"type": "string", "description": "JSON, see RequestBody in /v1/schema"},
                    "image": {
                        "type": "string",
                        "format": "binary",
                        "description": f"{', '.join(FORMATS)} file, or raw RGB with its size in the request",
                    },
                },
            },
            "example": {"request": '{"queries": [{"text": "the red mug"}], "deadline_s": 10}'},
        },
        "application/json": {
            "schema": {"type": "object", "description": "RequestBody in /v1/schema, with the id of a frame"}
        },
    },
}


class ModelServer:
    """The application in front of whatever answers, and what it is made of."""

    def __init__(
        self, answerer: Answerer, settings: ServerSettings, *, cameras: LiveCameras | None = None
    ) -> None:
        """Build the application.

        Args:
            answerer: started and closed with the application.
            settings: whom to serve, and the limits.
            cameras: those that clients may look through; closed with the application.
        """
        self.settings = settings
        self._answerer = answerer
        self._cameras = cameras
        memory = MemoryBudget(settings.memory_bytes)
        self.metrics = Metrics(
            waiting=lambda: answerer.waiting,
            busy=lambda: answerer.busy,
            frames_bytes=lambda: answerer.frames_nbytes,
            memory_bytes=lambda: memory.used,
        )
        self._desk = SegmentDesk(
            settings=settings,
            answerer=answerer,
            memory=memory,
            limits=ClientLimits(clients=settings.clients),
            metrics=self.metrics,
        )
        self._dialects = annotator_dialects(settings)
        self._api = self._routes()
        gate = HttpGate(
            self._dispatch,
            names=host_names(settings.host, settings.allowed_hosts),
            tokens={client.name: client.token for client in settings.clients},
            open_paths=OPEN_PATHS,
            this_machine_only=not settings.clients,
            on_refused=self._count_refusal,
        )
        self.app: App = AnnotatorTokens(gate)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer requests to the model without the framework's own work on each, which takes as long."""
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "POST" else ""
        if path == SEGMENT_PATH or path in self._dialects:
            await self._desk.serve(scope, receive, send, dialect=self._dialects.get(path))
        else:
            await self._api(scope, receive, send)

    def _count_refusal(self, scope: Scope, refusal: Refusal) -> None:
        record = RequestRecord(client="unknown", code=refusal.code, http_status=refusal.status)
        self.metrics.ended(record)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self._answerer.start()
        try:
            yield
        finally:
            self._desk.close()
            if self._cameras is not None:
                self._cameras.close()
            await self._answerer.close()

    def _routes(self) -> FastAPI:
        app = FastAPI(
            title="X-SAM server",
            version=__version__,
            description="Segment what you can say or point at: one model for many clients.",
            lifespan=self._lifespan,
            docs_url=None,  # FastAPI's would load scripts from another host
            redoc_url=None,
        )
        errors: dict[int | str, dict[str, Any]] = {
            status: {"model": ErrorBody} for status in sorted({*STATUS_OF.values(), 403, 421} - {499})
        }
        streams = {style.media_type: {"schema": {"type": "string"}} for style in EVENT_STYLES}

        @app.post(
            SEGMENT_PATH,
            response_model=ResponseBody,
            responses={200: {"content": streams}, **errors},
            openapi_extra={"requestBody": _REQUEST_BODY},
            summary="Segment one image by up to 32 queries",
            description="Requests, responses, errors and events are described in docs/server.md.",
        )
        async def segment() -> Response:
            """Describe the path; `_dispatch` answers."""
            raise NotImplementedError

        @app.get("/v1/schema", summary="JSON schema of requests, responses, errors and events")
        async def schema() -> JSONResponse:
            return JSONResponse(json_schema())

        @app.get("/v1/status", summary="The model, its state, and the limits of this server")
        async def status() -> StatusBody:
            return self._status()

        @app.get("/healthz", summary="The server runs")
        async def healthz() -> JSONResponse:
            return JSONResponse({"status": "ok"})

        @app.get("/readyz", summary="The model is loaded and warm")
        async def readyz() -> JSONResponse:
            state = self._answerer.state
            return JSONResponse({"state": state.value}, status_code=200 if state is ModelState.READY else 503)

        @app.get("/metrics", summary="Metrics for Prometheus")
        async def metrics() -> Response:
            return Response(self.metrics.as_text(), media_type=self.metrics.content_type)

        add_annotators(app, self._answerer)
        if self._cameras is not None:
            self._cameras.add_to(app)
        add_page(app)

        @app.exception_handler(HTTPException)
        async def no_route(_: Request, error: HTTPException) -> Response:
            body = ErrorBody(
                status=Status.REFUSED, code="NO_SUCH_PATH", message=str(error.detail), hint="see /docs"
            )
            return Response(
                body.model_dump_json(), status_code=error.status_code, media_type="application/json"
            )

        return app

    def _status(self) -> StatusBody:
        settings, answerer = self.settings, self._answerer
        return StatusBody(
            version=__version__,
            state=answerer.state.value,
            model=answerer.model_id,
            last_error="" if answerer.error is None else str(answerer.error),
            waiting=answerer.waiting,
            node="" if self._cameras is None else self._cameras.source.node,
            cameras=[] if self._cameras is None else list(self._cameras.source.names),
            limits=LimitsBody(
                queries=MAX_QUERIES,
                queue=settings.queue_size,
                body_bytes=settings.max_body_bytes,
                pixels=settings.max_pixels,
                deadline_s=settings.max_deadline_s,
                frames_bytes=settings.frames_bytes,
                frames_age_s=settings.frames_age_s,
            ),
        )


def configure_logging() -> None:
    """Write the log of the server to the standard error, one line of JSON for each event."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("xsam_server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
