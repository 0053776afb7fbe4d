"""`RemoteSegmenter`: a model server as a `Segmenter`."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from xsam.errors import (
    FrameNotKeptError,
    InvalidOptionError,
    InvalidQueryError,
    LinkDownError,
    SegmenterUnavailableError,
    UnknownCameraError,
    WrongModelError,
)
from xsam.remote.answers import parsed, read_events, server_seconds
from xsam.remote.link import LinkStatus, ServerLink, is_too_short_to_tell
from xsam.remote.pictures import ENCODINGS, Encoding, picture_of
from xsam.remote.plan import Progress, RequestPlan
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult
from xsam.web.gate import is_token
from xsam.wire.conversion import query_to_body
from xsam.wire.models import QueryBody, ResponseBody, StatusBody

T = TypeVar("T")

_KNOWN_FRAMES = 256
_CLOSE_WITHIN_S = 3.0


class RemoteSegmenter:
    """A segmenter that asks a server; an `Engine`, whose model is in another process or on another machine.

    Thread-safe; the connections belong to a thread of their own. Close it, or use it in a `with` block. In
    asyncio programs use `segment_async`.

    Requests are pure questions, so a request whose connection broke is sent again within its deadline. A
    frame is sent once: further queries on it send its id, and the frame again if the server has dropped it.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        token_file: Path | str | None = None,
        model: str | None = None,
        encoding: Encoding = "raw",
        jpeg_quality: int = 95,
        reconnect_within_s: float = 2.0,
        ca_file: Path | str | None = None,
    ) -> None:
        """Start the thread; nothing is sent.

        Args:
            url: of the server: http://HOST:PORT or https://HOST:PORT.
            token: of this client; see `xsam serve --token-file`.
            token_file: file whose only line is the token.
            model: identifier of the model that must answer; None = whichever the server has.
            encoding: how frames without a file of their own are sent; "jpeg" changes them a little.
            jpeg_quality: 1 to 100.
            reconnect_within_s: how long a request may try to get a connection, within its deadline.
            ca_file: certificates (PEM) to trust instead of the system's.

        Raises:
            InvalidOptionError: an option has a value that is not allowed.
            OSError: a file cannot be read.
        """
        if token and token_file is not None:
            raise InvalidOptionError("token and token_file are two ways to say the same: give one")
        if token_file is not None:
            token = Path(token_file).read_text(encoding="utf-8").strip()
        _check_options(url, encoding, jpeg_quality, token)
        self.url = url.rstrip("/")
        self._wanted_model = model
        self._encoding: Encoding = encoding
        self._jpeg_quality = jpeg_quality
        self._first_model = ""
        self._known: OrderedDict[str, None] = OrderedDict()  # ids of frames that the server has, oldest first
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._link = ServerLink(
            self.url,
            token=token,
            ca_file=None if ca_file is None else str(ca_file),
            reconnect_within_s=reconnect_within_s,
        )
        self._thread = threading.Thread(target=self._loop.run_forever, name="xsam_remote", daemon=True)
        self._thread.start()

    def __enter__(self) -> RemoteSegmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteSegmenter({self.url!r})"

    @property
    def model_id(self) -> str:
        """Identifier of the model that was asked for or has answered first; "" before that."""
        return self._wanted_model or self._first_model

    @property
    def link(self) -> LinkStatus:
        """State of the link after the last request."""
        return self._link.status

    def close(self) -> None:
        """End all requests and close the connections. May be called more than once.

        A connection that does not close in time is left to the thread, which ends with the program.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        wait([ending], timeout=_CLOSE_WITHIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_WITHIN_S)
        if not self._thread.is_alive():
            self._loop.close()
        if ending.done():
            ending.result()

    def warm_up(self) -> None:
        """Ask for the status, which opens a connection and tells the model."""
        self.status()

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        """See `xsam.segmenter.Engine.segment`; the deadline covers the connection and the server's queue.

        With a hook, the server reports its progress. The stages are "request", "waiting" (in the server's
        queue) and the stages of the model; hooks are called in the caller's thread.

        Raises:
            LinkDownError: the server cannot be reached, or the connection broke.
            RequestRefusedError: the server refused the request: queue full, rate or token, wrong model …
            ModelError: inference failed.
        """
        plan = self._plan(source, queries, Deadline(deadline_s), keep_frame)
        if not plan.valid:
            return plan.results(None)
        if on_stage is not None:
            on_stage("request")
        has_hook = on_stage is not None or on_text is not None
        events: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        future = self._start(self._ask(plan, events.put if has_hook else None))
        if has_hook:
            future.add_done_callback(lambda _: events.put(None))
        try:
            while has_hook and (event := events.get()) is not None:
                plan.report(event, on_stage, on_text)
            response = future.result()
        except CancelledError:
            raise _closed() from None
        finally:
            future.cancel()  # a hook has raised, or Ctrl-C: the connection is closed, and the server stops
        return self._results(plan, response)

    async def segment_async(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        """Segment as `segment` does, in an asyncio program; hooks are called in its event loop.

        Raises:
            XSamError: as for `segment`. If this coroutine is cancelled, the server stops, too.
        """
        plan = await asyncio.to_thread(self._plan, source, queries, Deadline(deadline_s), keep_frame)
        if not plan.valid:
            return plan.results(None)
        if on_stage is not None:
            on_stage("request")
        has_hook = on_stage is not None or on_text is not None
        events: asyncio.Queue[Progress | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(event: Progress | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        future = self._start(self._ask(plan, emit if has_hook else None))
        if has_hook:
            future.add_done_callback(lambda _: emit(None))
        try:
            while has_hook and (event := await events.get()) is not None:
                plan.report(event, on_stage, on_text)
            response = await asyncio.wrap_future(future)
        finally:
            future.cancel()
        return await asyncio.to_thread(self._results, plan, response)

    def status(self, *, deadline_s: float = 5.0) -> StatusBody:
        """Return the model and the limits of the server.

        Raises:
            LinkDownError: the server cannot be reached, or does not answer in time.
            UnauthorizedError: the token is missing or wrong.
        """
        deadline = Deadline(deadline_s)

        async def read(response: httpx2.Response) -> StatusBody:
            if response.status_code != 200:
                raise await self._link.error_of(response)
            return parsed(StatusBody, await self._link.read(response))

        status = self._start(self._in_time(self._link.ask("GET", "/v1/status", deadline, read), deadline))
        try:
            found = status.result()
        except CancelledError:
            raise _closed() from None
        finally:
            status.cancel()
        self._note_model(found.model)
        return found

    # -------------------------------------------------------------------------- in the caller's thread

    def _plan(
        self, source: Frame | CameraRef, queries: Sequence[Query], deadline: Deadline, keep_frame: bool
    ) -> RequestPlan:
        """Check a request and encode its image; what is invalid by itself is not sent."""
        if not queries:
            raise InvalidQueryError("no queries were given")
        deadline.check("request")
        if isinstance(source, CameraRef):
            raise UnknownCameraError(
                f"unknown camera {source.name!r}: a model server has no cameras",
                hint="pass the image itself",
            )
        refused: dict[int, SegmentationResult] = {}
        bodies: list[QueryBody] = []
        for index, query in enumerate(queries):
            try:
                query.validate(source.image_hw)
                bodies.append(query_to_body(query))
            except InvalidQueryError as error:
                refused[index] = SegmentationResult.from_error(error, query, source)
        picture = picture_of(source, self._encoding, self._jpeg_quality) if bodies else None
        return RequestPlan(
            frame=source,
            queries=tuple(queries),
            refused=refused,
            bodies=bodies,
            picture=picture,
            deadline=deadline,
            keep_frame=keep_frame,
            model=self._wanted_model,
        )

    def _results(self, plan: RequestPlan, response: ResponseBody) -> list[SegmentationResult]:
        models = {result.model for result in response.results if result.model}
        if self._wanted_model is not None and models - {self._wanted_model}:
            raise WrongModelError(f"{max(models)!r:.80} answered instead of {self._wanted_model!r:.80}")
        for model in sorted(models):
            self._note_model(model)
        notes = [
            f"{self.url} holds the model {model} now; before, it held {self._first_model}"
            for model in sorted(models - {self._first_model})
        ]
        return plan.results(response, notes)

    def _note_model(self, model: str) -> None:
        with self._lock:
            self._first_model = self._first_model or model

    def _start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the thread of the connections."""
        with self._lock:
            if self._closed:
                work.close()
                raise _closed()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    # -------------------------------------------------------------------- in the thread of connections

    async def _in_time(self, work: Coroutine[Any, Any, T], deadline: Deadline) -> T:
        """Wait for an answer; if it takes long, find out meanwhile whether the server is there at all."""
        task = asyncio.ensure_future(work)
        probe: asyncio.Future[bool] | None = None
        try:
            if not is_too_short_to_tell(deadline):
                await asyncio.wait({task}, timeout=_half(deadline))
                if not task.done():
                    probe = asyncio.ensure_future(self._link.is_alive(deadline))
            await asyncio.wait({task}, timeout=deadline.timeout_s)
            if task.done():
                return task.result()
            late = deadline.error("request")
            if is_too_short_to_tell(deadline) or (probe and probe.done() and probe.result()):
                raise late
            self._link.gave_up(late.message)
            raise LinkDownError(f"{late.message}, and {self.url} does not answer at all")
        finally:
            task.cancel()
            if probe is not None:
                probe.cancel()

    async def _ask(self, plan: RequestPlan, emit: Callable[[Progress], None] | None) -> ResponseBody:
        return await self._in_time(self._ask_until_kept(plan, emit), plan.deadline)

    async def _ask_until_kept(
        self, plan: RequestPlan, emit: Callable[[Progress], None] | None
    ) -> ResponseBody:
        """Ask with the id of the frame alone if the server has it; if it does not, with the frame."""
        accept = "application/json" if emit is None else "application/x-ndjson"
        by_id = plan.picture_id in self._known
        began_s = time.monotonic()

        def options() -> Mapping[str, Any]:
            nonlocal began_s
            began_s = time.monotonic()
            return plan.request(by_id=by_id, accept=accept)

        async def read(response: httpx2.Response) -> ResponseBody:
            if response.status_code != 200:
                raise await self._link.error_of(response)
            if emit is not None:
                return await read_events(self._link.chunks(response), emit)
            found = parsed(ResponseBody, await self._link.read(response))
            self._link.took(time.monotonic() - began_s - server_seconds(response))
            return found

        while True:
            try:
                found = await self._link.ask("POST", "/v1/segment", plan.deadline, read, options)
            except FrameNotKeptError:
                self._known.pop(plan.picture_id, None)
                if not by_id:
                    raise
                by_id = False
            else:
                if plan.keep_frame or by_id:
                    self._known[plan.picture_id] = None
                    self._known.move_to_end(plan.picture_id)
                    if len(self._known) > _KNOWN_FRAMES:
                        self._known.popitem(last=False)
                return found

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.close()


def _closed() -> SegmenterUnavailableError:
    return SegmenterUnavailableError("the client is closed", hint="")


def _half(deadline: Deadline) -> float | None:
    return None if deadline.timeout_s is None else deadline.timeout_s / 2


def _check_options(url: str, encoding: str, jpeg_quality: int, token: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise InvalidOptionError(
            f"no address of a server: {url!r:.80}", hint="give http://HOST:PORT or https://HOST:PORT"
        )
    if encoding not in ENCODINGS:
        raise InvalidOptionError(f"encoding must be one of {', '.join(ENCODINGS)}, got {encoding!r:.40}")
    if type(jpeg_quality) is not int or not 1 <= jpeg_quality <= 100:
        raise InvalidOptionError(f"jpeg_quality must be an integer from 1 to 100, got {jpeg_quality!r:.40}")
    if token and not is_token(token):
        raise InvalidOptionError("a token has 8 or more characters of ASCII without spaces")
