"""`POST /v1/segment` from the first byte to the last: admission, body, frame, queue, model, answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from xsam.errors import (
    DeadlineExceededError,
    InvalidQueryError,
    ModelError,
    QueueFullError,
    RateLimitError,
    RequestCancelledError,
    WrongModelError,
    XSamError,
)
from xsam.types.deadline import Deadline, StageHook
from xsam.types.requests import Query
from xsam.web.gate import CLIENT_KEY, LINGER_BYTES, LINGER_S, NO_TOKEN_CLIENT, Receive, Scope, Send
from xsam.wire.conversion import error_to_body, request_from_json, result_to_body
from xsam.wire.models import (
    ErrorEvent,
    QueueEvent,
    RequestBody,
    ResponseBody,
    ResponseEvent,
    StageEvent,
    TextEvent,
)
from xsam_server.answers import error_response, http_status
from xsam_server.clients import ClientLimits
from xsam_server.events import EventStyle, Outcome, Progress, event_style, events_until_gone
from xsam_server.frames import FrameStore, HeldMemory, KeptFrame, MemoryBudget
from xsam_server.images import decode, frame_id
from xsam_server.metrics import Metrics, RequestRecord, log_bug
from xsam_server.model import ServedModel
from xsam_server.reading import Incoming, read_body
from xsam_server.settings import ServerSettings

_SMALL_JSON_BYTES = 16_384
_CAUTION = 1.25  # calls differ: an answer that comes just too late has cost a whole call


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedRequest:
    """A request that has been read and found to be in order."""

    body: RequestBody
    queries: Sequence[Query]
    kept: KeptFrame
    deadline: Deadline


@dataclass(slots=True, kw_only=True)
class SegmentDesk:
    """Answers requests. Its coroutines run in the event loop, which never waits for the model."""

    settings: ServerSettings
    model: ServedModel
    frames: FrameStore
    memory: MemoryBudget
    limits: ClientLimits
    metrics: Metrics
    _threads: ThreadPoolExecutor = field(
        init=False, default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="xsam_prepare")
    )
    _call_s: float | None = field(init=False, default=None)  # about how long a call of the model takes

    def close(self) -> None:
        """Release the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Whatever happens, it ends with a typed answer, if anybody still listens."""
        record = RequestRecord(client=str(scope.get(CLIENT_KEY, NO_TOKEN_CLIENT)))
        request = Request(scope, receive)
        try:
            with self.limits.admit(record.client), self.memory.hold() as held:
                question = await self._read(request, held, record)
                await self._answer(question, request, send, record)
        except (ClientDisconnect, asyncio.CancelledError) as error:
            record.code, record.http_status = RequestCancelledError.code, 499
            if isinstance(error, asyncio.CancelledError):  # the server ends
                raise
        except XSamError as error:
            await self._refuse(error, request, send, record)
        except Exception as error:  # a bug must not look like a broken connection
            log_bug(traceback.format_exc())
            bug = ModelError(f"internal error: {type(error).__name__}", hint="see the log of the server")
            await self._refuse(bug, request, send, record)
        finally:
            self.metrics.ended(record)

    # ------------------------------------------------------------------------------------ request

    async def _read(self, request: Request, held: HeldMemory, record: RequestRecord) -> AdmittedRequest:
        """Read a request and find its frame; refuse it at once if there is no room in the queue."""
        chunks = _chunks(request, record)
        try:
            incoming = await read_body(
                chunks,
                content_type=request.headers.get("content-type", ""),
                content_length=request.headers.get("content-length"),
                max_bytes=self.settings.max_body_bytes,
                take_memory=held.take,
            )
        except XSamError:
            await _read_on(chunks)
            raise
        record.stages_s["receive"] = record.elapsed_s
        _ = self.model.engine  # raises while there is none
        if self.model.worker.waiting >= self.settings.queue_size:  # checked again when it is queued
            raise QueueFullError(f"{self.model.worker.waiting} requests are already waiting for the model")
        small = incoming.image is None and len(incoming.request) <= _SMALL_JSON_BYTES
        if small and b'"mask"' not in incoming.request:  # a mask of a few bytes may have millions of pixels
            question = self._prepare(incoming, held, record)
        else:  # in a thread: large images and JSON would hold up the other requests
            loop = asyncio.get_running_loop()
            question = await loop.run_in_executor(self._threads, self._prepare, incoming, held, record)
        record.stages_s["prepare"] = record.elapsed_s - record.stages_s["receive"]
        return question

    def _prepare(self, incoming: Incoming, held: HeldMemory, record: RequestRecord) -> AdmittedRequest:
        body, queries = request_from_json(incoming.request)
        record.queries = len(queries)
        if not queries:
            raise InvalidQueryError("no queries were given")
        if body.model is not None and body.model != self.model.model_id:
            raise WrongModelError(f"the server holds {self.model.model_id!r}, not {body.model!r:.80}")
        allowed_s = self.settings.max_deadline_s
        if body.deadline_s is not None:
            allowed_s = min(allowed_s, body.deadline_s)
        if allowed_s <= record.elapsed_s:
            raise DeadlineExceededError(
                f"the deadline of {allowed_s:.3g} s passed before the request was read"
            )
        deadline = Deadline(allowed_s - record.elapsed_s)
        kept = self._frame(body, incoming.image, held, record)
        deadline.check("prepare")
        return AdmittedRequest(body=body, queries=queries, kept=kept, deadline=deadline)

    def _frame(
        self, body: RequestBody, image: bytes | None, held: HeldMemory, record: RequestRecord
    ) -> KeptFrame:
        if image is None:
            if body.frame is None:
                raise InvalidQueryError("the request has neither an image nor the id of a frame")
            kept = self.frames.get(record.client, body.frame)
            record.frame = "kept"
            return kept
        identifier = frame_id(image, body.image)
        if body.frame is not None and body.frame != identifier:
            raise InvalidQueryError("the id of the frame is not that of the image", hint="leave `frame` out")
        found = self.frames.find(record.client, identifier)
        record.frame = "" if found is None else "known"
        if found is None:
            found = decode(
                image,
                body.image,
                identifier=identifier,
                max_pixels=self.settings.max_pixels,
                take_memory=held.take,
            )
            record.frame = "new"
            if body.keep_frame:
                self.frames.put(record.client, found)
        return found

    # ------------------------------------------------------------------------------------- answer

    async def _answer(
        self, question: AdmittedRequest, request: Request, send: Send, record: RequestRecord
    ) -> None:
        """Queue the request, and send its progress, if it is asked for, and its outcome."""
        style = event_style(request.headers.get("accept", ""))
        events: asyncio.Queue[Progress | Outcome] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(event: Progress | Outcome) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
                loop.call_soon_threadsafe(events.put_nowait, event)

        self._check_wait(question.deadline)
        submitted_s = time.monotonic()

        def work(on_stage: StageHook) -> ResponseBody:
            record.stages_s["queue"] = time.monotonic() - submitted_s
            return self._ask(question, on_stage, emit if style is not None else None)

        def tell_ahead(ahead: int) -> None:
            if ahead:
                emit(QueueEvent(ahead=ahead))

        job = self.model.worker.submit(
            work,
            emit,
            deadline=question.deadline,
            on_queue_position=None if style is None else tell_ahead,
        )
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            if style is None:
                await self._send_outcome(events, gone, request, send, record)
            else:
                await self._send_events(events, gone, style, send, record)
        finally:
            gone.cancel()
            if not job.ended:  # it stops at its next stage
                self.model.worker.cancel(job, RequestCancelledError("the client closed the connection"))

    def _ask(
        self, question: AdmittedRequest, on_stage: StageHook, emit: Callable[[Progress], None] | None
    ) -> ResponseBody:
        """Ask the model; in its thread."""

        def announce(stage: str) -> None:
            on_stage(stage)
            if emit is not None:
                emit(StageEvent(stage=stage))

        def tell(index: int, text: str) -> None:
            if emit is not None:
                emit(TextEvent(query=index, text=text))

        began_s = time.monotonic()
        results = self.model.engine.segment(
            question.kept.frame,
            question.queries,
            deadline_s=question.deadline.remaining_s,
            on_stage=announce,
            on_text=tell if emit is not None else None,
            keep_frame=question.body.keep_frame,
        )
        took_s = time.monotonic() - began_s
        self._call_s = took_s if self._call_s is None else self._call_s + 0.2 * (took_s - self._call_s)
        self.metrics.answered(len(results), results[0].timing.stages_s)
        return ResponseBody(
            frame=question.kept.id,
            results=[result_to_body(result.with_notes(question.kept.notes)) for result in results],
        )

    async def _send_outcome(
        self,
        events: asyncio.Queue[Progress | Outcome],
        gone: asyncio.Future[None],
        request: Request,
        send: Send,
        record: RequestRecord,
    ) -> None:
        async for event in events_until_gone(events, gone, every_s=None):
            if isinstance(event, XSamError):
                await self._refuse(event, request, send, record)
                return
            if isinstance(event, ResponseBody):
                timing = {"server-timing": f"total;dur={record.elapsed_s * 1000:.2f}"}
                response = Response(event.model_dump_json(), headers=timing, media_type="application/json")
                record.bytes_out = len(response.body)
                await response(request.scope, request.receive, send)
                return

    async def _send_events(
        self,
        events: asyncio.Queue[Progress | Outcome],
        gone: asyncio.Future[None],
        style: EventStyle,
        send: Send,
        record: RequestRecord,
    ) -> None:
        """Send events as they come, and empty ones in between; HTTP 200 says that the request is queued."""
        headers = [
            (b"content-type", f"{style.media_type}; charset=utf-8".encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # nginx would hold the events back
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for event in events_until_gone(events, gone, every_s=self.settings.heartbeat_s):
            ended = isinstance(event, Outcome)
            if event is None:
                chunk = style.heartbeat.encode()
            elif isinstance(event, ResponseBody):
                chunk = style.encode(ResponseEvent(frame=event.frame, results=event.results))
            elif isinstance(event, XSamError):
                record.code = event.code
                chunk = style.encode(ErrorEvent(**error_to_body(event).model_dump()))
            else:
                chunk = style.encode(event)
            record.bytes_out += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": not ended})
            if ended:
                return

    async def _refuse(self, error: XSamError, request: Request, send: Send, record: RequestRecord) -> None:
        record.code, record.http_status = error.code, http_status(error)
        if not record.body_began:
            await _read_on(_chunks(request, record))
        response = error_response(error, retry_after_s=self._retry_after_s(error))
        record.bytes_out = len(response.body)
        await response(request.scope, request.receive, send)

    def _retry_after_s(self, error: XSamError) -> float:
        if isinstance(error, RateLimitError):
            return error.retry_after_s
        return self._wait_s(self.model.worker.waiting) if isinstance(error, QueueFullError) else 1.0

    def _wait_s(self, ahead: int) -> float:
        """Return about how long the requests ahead will take, and the one that runs."""
        return (self._call_s or 0.0) * (ahead + 0.5)

    def _check_wait(self, deadline: Deadline) -> None:
        """Refuse a request that would wait in vain: it would only make others late as well.

        Raises:
            QueueFullError: its deadline will pass before the model has answered.
        """
        ahead = self.model.worker.waiting
        needed_s = _CAUTION * (self._wait_s(ahead) + (self._call_s or 0.0))
        if ahead and needed_s > deadline.remaining_s:
            raise QueueFullError(
                f"with {ahead} requests ahead the answer would take about {needed_s:.2g} s, and the deadline"
                f" is in {deadline.remaining_s:.2g} s"
            )


async def _chunks(request: Request, record: RequestRecord) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, and take note of how much there was."""
    record.body_began = True
    async for chunk in request.stream():
        record.bytes_in += len(chunk)
        yield chunk


async def _read_on(chunks: AsyncIterator[bytes]) -> None:
    """Read some of a refused body and forget it: a client that is cut off while it sends may not read why."""

    async def read() -> None:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > LINGER_BYTES:
                return

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), LINGER_S)


async def _disconnected(request: Request) -> None:
    """Return once the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
