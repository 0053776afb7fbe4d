"""Who answers a request once it has been read: the model in this process, or replicas elsewhere (`fleet`)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from xsam.errors import (
    DeadlineExceededError,
    InvalidQueryError,
    QueueFullError,
    RequestCancelledError,
    WrongModelError,
    XSamError,
)
from xsam.segmenter import Engine
from xsam.types.deadline import Deadline, StageHook
from xsam.types.requests import Query
from xsam.wire.conversion import request_from_json, result_to_body
from xsam.wire.models import QueueEvent, RequestBody, ResponseBody, StageEvent, TextEvent
from xsam.worker import Job
from xsam_server.events import Outcome, Progress
from xsam_server.frames import FrameStore, HeldMemory, KeptFrame
from xsam_server.images import decode, frame_id
from xsam_server.metrics import RequestRecord, log_bug
from xsam_server.model import ModelState, ServedModel
from xsam_server.pace import Pace
from xsam_server.reading import Incoming
from xsam_server.settings import ServerSettings

_CLOSE_WITHIN_S = 2.0
_TIDY_EVERY_S = 5.0
_SMALL_JSON_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingAnswer:
    """An answer that is being worked on."""

    events: asyncio.Queue[Progress | Outcome]  # the last one is the outcome
    end: Callable[[], None]  # stop working on it, if it has not ended; call it in any case


class Answerer(Protocol):
    """Whatever answers requests. The event loop calls it, and never waits for a model."""

    @property
    def state(self) -> ModelState: ...

    @property
    def error(self) -> XSamError | None:
        """Why there is no model."""
        ...

    @property
    def model_id(self) -> str:
        """Identifier of the model; "" while it is not known."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that wait for the model."""
        ...

    @property
    def busy(self) -> bool: ...

    @property
    def frames_nbytes(self) -> int:
        """Memory of the frames that are kept here, bytes."""
        ...

    def start(self) -> None:
        """Begin to load; in the event loop."""
        ...

    async def close(self) -> None:
        """End all requests and release the memory."""
        ...

    def check_room(self) -> None:
        """Refuse a request before it is looked at.

        Raises:
            NotActiveError: there is no model yet, or not any more; or whatever kept it from being loaded.
            QueueFullError: too many requests are waiting.
        """
        ...

    async def ask(
        self, incoming: Incoming, *, record: RequestRecord, held: HeldMemory, progress: bool
    ) -> PendingAnswer:
        """Read a request, and begin to answer it.

        Args:
            incoming: the request as it arrived.
            record: says who asks and since when; gets what is told about the request.
            held: the memory of the request.
            progress: whether events are wanted besides the outcome.

        Raises:
            XSamError: it is refused.
        """
        ...

    def wait_s(self) -> float:
        """Return about how long the requests that wait will take."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRequest:
    """A request that has been understood."""

    body: RequestBody
    queries: Sequence[Query]
    deadline: Deadline


def check_request(content: bytes, *, record: RequestRecord, max_deadline_s: float) -> CheckedRequest:
    """Parse the JSON of a request; its deadline counts from the arrival of the request.

    Raises:
        InvalidQueryError: it is not understood, or has no queries.
        RequestTooLargeError: it has too many of them.
        DeadlineExceededError: there is no time left.
    """
    body, queries = request_from_json(content)
    record.queries = len(queries)
    if not queries:
        raise InvalidQueryError("no queries were given")
    allowed_s = max_deadline_s if body.deadline_s is None else min(max_deadline_s, body.deadline_s)
    if allowed_s <= record.elapsed_s:
        raise DeadlineExceededError(f"the deadline of {allowed_s:.3g} s passed before the request was read")
    return CheckedRequest(body=body, queries=queries, deadline=Deadline(allowed_s - record.elapsed_s))


def sent_frame_id(body: RequestBody, image: bytes | None) -> str:
    """Return the id of the frame that a request is about.

    Raises:
        InvalidQueryError: it has neither an image nor an id, or an id that belongs to another image.
    """
    if image is None:
        if body.frame is None:
            raise InvalidQueryError("the request has neither an image nor the id of a frame")
        return body.frame
    identifier = frame_id(image, body.image)
    if body.frame is not None and body.frame != identifier:
        raise InvalidQueryError("the id of the frame is not that of the image", hint="leave `frame` out")
    return identifier


def is_short_json(request: bytes) -> bool:
    """Return whether parsing the JSON of a request takes no time worth a thread.

    Large JSON would hold up other requests, and a mask of a few bytes may have millions of pixels.
    """
    return len(request) <= _SMALL_JSON_BYTES and b'"mask"' not in request


class LocalAnswerer:
    """Answers with a model in this process, and keeps the frames of its clients."""

    def __init__(
        self,
        load: Callable[[], Engine],
        settings: ServerSettings,
        *,
        on_failed: Callable[[], None] | None = None,
    ) -> None:
        """Prepare; the model is loaded when it starts.

        Args:
            load: returns the engine; called in the model's thread.
            settings: the limits.
            on_failed: see `ServedModel`.
        """
        self._settings = settings
        self.model = ServedModel(load, queue_size=settings.queue_size, log_error=log_bug, on_failed=on_failed)
        self._frames = FrameStore(limit_bytes=settings.frames_bytes, max_age_s=settings.frames_age_s)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="xsam_prepare")
        self._pace = Pace()
        self._tidying: asyncio.Future[None] | None = None

    @property
    def state(self) -> ModelState:
        return self.model.state

    @property
    def error(self) -> XSamError | None:
        return self.model.error

    @property
    def model_id(self) -> str:
        return self.model.model_id

    @property
    def waiting(self) -> int:
        return self.model.worker.waiting

    @property
    def busy(self) -> bool:
        return self.model.worker.busy

    @property
    def frames_nbytes(self) -> int:
        return self._frames.nbytes

    def start(self) -> None:
        """See `Answerer.start`."""
        self.model.start()
        self._tidying = asyncio.ensure_future(self._tidy())

    async def close(self) -> None:
        """See `Answerer.close`."""
        if self._tidying is not None:
            self._tidying.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.model.close, timeout_s=_CLOSE_WITHIN_S)

    def check_room(self) -> None:
        """See `Answerer.check_room`; it is checked again when a request is queued."""
        _ = self.model.engine
        if self.waiting >= self._settings.queue_size:
            raise QueueFullError(f"{self.waiting} requests are already waiting for the model")

    async def ask(
        self, incoming: Incoming, *, record: RequestRecord, held: HeldMemory, progress: bool
    ) -> PendingAnswer:
        """See `Answerer.ask`."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Progress | Outcome] = asyncio.Queue()

        def emit(event: Progress | Outcome) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
                loop.call_soon_threadsafe(events.put_nowait, event)

        began_s = record.elapsed_s
        checked = self._check(incoming, record) if is_short_json(incoming.request) else None

        def admit() -> Job[ResponseBody]:
            found = checked or self._check(incoming, record)
            kept = self._frame(found.body, incoming.image, held, record)
            record.stages_s["prepare"] = record.elapsed_s - began_s
            return self._submit(found, kept, record, emit, progress=progress)

        if checked is not None and incoming.image is None:
            job = admit()
        else:
            # The thread queues it as well: a way back to the event loop would be one more wait for a turn.
            job = await loop.run_in_executor(self._threads, admit)

        def end() -> None:
            if not job.ended:  # it stops at its next stage
                self.model.worker.cancel(job, RequestCancelledError("the client closed the connection"))

        return PendingAnswer(events=events, end=end)

    def keep(self, client: str, kept: KeptFrame) -> None:
        """Keep a frame that did not come from its client, such as one of a camera. Thread-safe."""
        self._frames.put(client, kept)

    def wait_s(self) -> float:
        """See `Answerer.wait_s`: those that wait, and the one that runs."""
        return self._pace.wait_s(self.waiting)

    def _check(self, incoming: Incoming, record: RequestRecord) -> CheckedRequest:
        """Understand a request, and refuse it if it would wait in vain: before its image is looked at."""
        checked = check_request(incoming.request, record=record, max_deadline_s=self._settings.max_deadline_s)
        model = checked.body.model
        if model is not None and model != self.model_id:
            raise WrongModelError(f"the server holds {self.model_id!r}, not {model!r:.80}")
        self._pace.check_wait(self.waiting, checked.deadline)
        return checked

    def _submit(
        self,
        checked: CheckedRequest,
        kept: KeptFrame,
        record: RequestRecord,
        emit: Callable[[Progress | Outcome], None],
        *,
        progress: bool,
    ) -> Job[ResponseBody]:
        """Queue a request for the model."""
        checked.deadline.check("prepare")
        self._pace.check_wait(self.waiting, checked.deadline)  # again: others may have come in the meantime
        submitted_s = time.monotonic()

        def work(on_stage: StageHook) -> ResponseBody:
            record.stages_s["queue"] = time.monotonic() - submitted_s
            self._pace.check_start(self.waiting, checked.deadline)
            with self._pace.turn(submitted_s):
                return self._segment(checked, kept, record, on_stage, emit if progress else None)

        def tell_ahead(ahead: int) -> None:
            if ahead:
                emit(QueueEvent(ahead=ahead))

        return self.model.worker.submit(
            work, emit, deadline=checked.deadline, on_queue_position=tell_ahead if progress else None
        )

    def _frame(
        self, body: RequestBody, image: bytes | None, held: HeldMemory, record: RequestRecord
    ) -> KeptFrame:
        identifier = sent_frame_id(body, image)
        if image is None:
            kept = self._frames.get(record.client, identifier)
            record.frame = "kept"
            return kept
        found = self._frames.find(record.client, identifier)
        record.frame = "" if found is None else "known"
        if found is None:
            found = decode(
                image,
                body.image,
                identifier=identifier,
                max_pixels=self._settings.max_pixels,
                take_memory=held.take,
            )
            record.frame = "new"
            if body.keep_frame:
                self._frames.put(record.client, found)
        return found

    def _segment(
        self,
        checked: CheckedRequest,
        kept: KeptFrame,
        record: RequestRecord,
        on_stage: StageHook,
        emit: Callable[[Progress], None] | None,
    ) -> ResponseBody:
        """Ask the model; in its thread."""

        def announce(stage: str) -> None:
            on_stage(stage)
            if emit is not None:
                emit(StageEvent(stage=stage))

        def tell(index: int, text: str) -> None:
            if emit is not None:
                emit(TextEvent(query=index, text=text))

        results = self.model.engine.segment(
            kept.frame,
            checked.queries,
            deadline_s=checked.deadline.remaining_s,
            on_stage=announce,
            on_text=tell if emit is not None else None,
            keep_frame=checked.body.keep_frame,
        )
        record.model_stages_s.update(results[0].timing.stages_s)
        return ResponseBody(
            frame=kept.id,
            results=[result_to_body(result.with_notes(kept.notes)) for result in results],
        )

    async def _tidy(self) -> None:
        """Drop old frames also while nobody asks."""
        while True:
            await asyncio.sleep(_TIDY_EVERY_S)
            self._frames.drop_old()
