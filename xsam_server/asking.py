"""A request to the model from the first byte to the last: admission, body, frame, queue, model, answer."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from xsam.errors import ModelError, QueueFullError, RateLimitError, RequestCancelledError, XSamError
from xsam.types.deadline import Deadline
from xsam.web.gate import CLIENT_KEY, LINGER_BYTES, LINGER_S, NO_TOKEN_CLIENT, Receive, Scope, Send
from xsam.wire.conversion import error_to_body
from xsam.wire.models import ErrorEvent, ResponseBody, ResponseEvent
from xsam_server.answering import Answerer
from xsam_server.answers import error_response, http_status
from xsam_server.clients import ClientLimits
from xsam_server.dialects.base import Dialect
from xsam_server.events import EventStyle, Outcome, Progress, event_style, events_until_gone
from xsam_server.frames import HeldMemory, MemoryBudget
from xsam_server.metrics import Metrics, RequestRecord, log_bug
from xsam_server.reading import MAX_JSON_BYTES, Incoming, read_body
from xsam_server.settings import ServerSettings


@dataclass(slots=True, kw_only=True)
class SegmentDesk:
    """Answers requests. Its coroutines run in the event loop, which never waits for the model."""

    settings: ServerSettings
    answerer: Answerer
    memory: MemoryBudget
    limits: ClientLimits
    metrics: Metrics
    # Apart from the threads that read other requests: a dialect may wait for the server of its tool.
    _threads: ThreadPoolExecutor = field(
        init=False, default_factory=lambda: ThreadPoolExecutor(4, thread_name_prefix="xsam_dialect")
    )

    def close(self) -> None:
        """Release the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, *, dialect: Dialect | None = None
    ) -> None:
        """Answer one request. Whatever happens, it ends with a typed answer, if anybody still listens.

        Args:
            scope: see ASGI.
            receive: see ASGI.
            send: see ASGI.
            dialect: form of request and answer; None = the server's own.
        """
        record = RequestRecord(client=str(scope.get(CLIENT_KEY, NO_TOKEN_CLIENT)))
        request = Request(scope, receive)
        try:
            with self.limits.admit(record.client), self.memory.hold() as held:
                if dialect is None:
                    incoming = await self._read(request, held, record, MAX_JSON_BYTES)
                    await self._answer(incoming, held, request, send, record)
                else:
                    incoming = await self._read(request, held, record, self.settings.max_body_bytes)
                    await self._answer_in(dialect, incoming, held, request, send, record)
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

    async def _read(
        self, request: Request, held: HeldMemory, record: RequestRecord, max_json_bytes: int
    ) -> Incoming:
        """Read a request; refuse it at once if there is no room for it."""
        chunks = _chunks(request, record)
        try:
            incoming = await read_body(
                chunks,
                content_type=request.headers.get("content-type", ""),
                content_length=request.headers.get("content-length"),
                max_bytes=self.settings.max_body_bytes,
                max_json_bytes=max_json_bytes,
                take_memory=held.take,
            )
        except XSamError:
            await _read_on(chunks)
            raise
        record.stages_s["receive"] = record.elapsed_s
        self.answerer.check_room()
        return incoming

    async def _answer(
        self, incoming: Incoming, held: HeldMemory, request: Request, send: Send, record: RequestRecord
    ) -> None:
        """Have the request answered, and send its progress, if it is asked for, and its outcome."""
        style = event_style(request.headers.get("accept", ""))
        pending = await self.answerer.ask(incoming, record=record, held=held, progress=style is not None)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            if style is None:
                await self._send_outcome(pending.events, gone, request, send, record)
            else:
                await self._send_events(pending.events, gone, style, send, record)
        finally:
            gone.cancel()
            pending.end()

    async def _answer_in(
        self,
        dialect: Dialect,
        incoming: Incoming,
        held: HeldMemory,
        request: Request,
        send: Send,
        record: RequestRecord,
    ) -> None:
        """Have the questions of a dialect answered one after the other, and send the answer in its form."""
        loop = asyncio.get_running_loop()
        deadline = Deadline(max(0.0, self.settings.max_deadline_s - record.elapsed_s))
        parsed = await loop.run_in_executor(
            self._threads, dialect.parse, incoming.request, held.take, deadline
        )
        gone = asyncio.ensure_future(_disconnected(request))
        responses: list[ResponseBody] = []
        try:
            for question in parsed.questions:
                own = question.request(model=parsed.model, keep_frame=parsed.keep_frames)
                pending = await self.answerer.ask(own, record=record, held=held, progress=False)
                try:
                    responses.append(await _response(pending.events, gone))
                finally:
                    pending.end()
        finally:
            gone.cancel()
        record.queries = len(responses)
        content = await loop.run_in_executor(self._threads, dialect.write, parsed, responses)
        record.bytes_out = len(content)
        response = Response(content, media_type="application/json")
        await response(request.scope, request.receive, send)

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
        return self.answerer.wait_s() if isinstance(error, QueueFullError) else 1.0


async def _response(events: asyncio.Queue[Progress | Outcome], gone: asyncio.Future[None]) -> ResponseBody:
    """Wait for the outcome of a request; raise it if it is an error."""
    async for event in events_until_gone(events, gone, every_s=None):
        if isinstance(event, XSamError):
            raise event
        if isinstance(event, ResponseBody):
            return event
    raise ClientDisconnect


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
