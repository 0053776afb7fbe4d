"""The ingress asks replicas: which one, until when, and what to tell if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from xsam.errors import (
    ModelError,
    NotActiveError,
    QueueFullError,
    ReplicaLostError,
    RequestCancelledError,
    XSamError,
)
from xsam.types.deadline import Deadline
from xsam_server.answering import CheckedRequest, PendingAnswer, check_request, is_short_json, sent_frame_id
from xsam_server.events import Outcome, Progress
from xsam_server.fleet.lines import read_line
from xsam_server.fleet.options import FleetOptions
from xsam_server.frames import HeldMemory
from xsam_server.metrics import RequestRecord, log_bug
from xsam_server.model import ModelState
from xsam_server.reading import Incoming

_LOOK_EVERY_S = 1.0
_LOOK_WITHIN_S = 10.0
_MODEL_ID_WITHIN_S = 5.0


class RemoteAnswerer:
    """An `Answerer` whose models are replicas of a deployment."""

    def __init__(
        self,
        replicas: Any,
        options: FleetOptions,
        *,
        count_running: Callable[[], tuple[int, str]],
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            replicas: `ray.serve.handle.DeploymentHandle` of `EngineReplica`.
            options: the limits.
            count_running: returns the replicas that have loaded their model, and why others could not; may
                take a while, and is called in a thread.
            affinity: send requests about a frame to the same replica.
        """
        self._replicas = replicas
        self._options = options
        self._count_running = count_running
        self._running = 0
        self._problem = ""
        self._model_id = ""
        self._in_flight = 0
        self._call_s = 0.0  # about how long a call of the model takes
        self._closed = False
        self._watching: asyncio.Future[None] | None = None

    @property
    def state(self) -> ModelState:
        if self._closed:
            return ModelState.CLOSED
        if self._running:
            return ModelState.READY
        return ModelState.FAILED if self._problem else ModelState.LOADING

    @property
    def error(self) -> XSamError | None:
        return None if self._running or not self._problem else ModelError(self._problem)

    @property
    def model_id(self) -> str:
        return self._model_id

    @property
    def waiting(self) -> int:
        """Requests that this ingress has passed on, less those that can run at the same time."""
        return max(0, self._in_flight - self._running)

    @property
    def busy(self) -> bool:
        return self._in_flight > 0

    @property
    def frames_nbytes(self) -> int:
        """0: the replicas keep them."""
        return 0

    def start(self) -> None:
        """See `Answerer.start`."""
        self._watching = asyncio.ensure_future(self._watch())

    async def close(self) -> None:
        """See `Answerer.close`."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()

    def check_room(self) -> None:
        """See `Answerer.check_room`.

        Ray Serve counts requests as waiting while it routes them, and forgets those that a replica has sent
        back: its own limit refuses bursts for which there is room, and lets more wait than it says.
        """
        if self.error is not None:
            raise self.error
        if self.state is not ModelState.READY:
            raise NotActiveError(
                "no replica has its model loaded", hint="ask again in a while; /readyz tells when"
            )
        options = self._options
        if self._in_flight >= self._running * options.max_ongoing_requests + options.max_queued_requests:
            raise QueueFullError(f"{self._in_flight} requests are with {self._running} replicas already")

    def wait_s(self) -> float:
        """See `Answerer.wait_s`."""
        return self._call_s * self.waiting / max(1, self._running)

    async def ask(
        self, incoming: Incoming, *, record: RequestRecord, held: HeldMemory, progress: bool
    ) -> PendingAnswer:
        """See `Answerer.ask`."""
        if incoming.image is None and is_short_json(incoming.request):
            checked, key = self._read(incoming, record)
        else:
            checked, key = await asyncio.to_thread(self._read, incoming, record)
        self.check_room()  # again: others may have come while this one was read
        request = _SentRequest(checked.deadline, record, on_end=self._ended)
        self._in_flight += 1
        replicas = self._replicas.options(
            stream=True, **({"session_id": key} if self._options.affinity else {})
        )
        await request.send(replicas.answer, incoming, progress=progress)
        return PendingAnswer(events=request.events, end=request.end)

    def _read(self, incoming: Incoming, record: RequestRecord) -> tuple[CheckedRequest, str]:
        """Return a request, and what decides which replica it goes to: a client finds its own frames only."""
        checked = check_request(incoming.request, record=record, max_deadline_s=self._options.max_deadline_s)
        return checked, f"{record.client}/{sent_frame_id(checked.body, incoming.image)}"

    def _ended(self, record: RequestRecord) -> None:
        self._in_flight -= 1
        if took_s := sum(record.model_stages_s.values()):
            self._call_s += (0.2 if self._call_s else 1.0) * (took_s - self._call_s)

    async def look(self) -> None:
        """Find out how many replicas there are; what was known last holds where that cannot be told."""
        try:
            looking = asyncio.to_thread(self._count_running)
            self._running, self._problem = await asyncio.wait_for(looking, _LOOK_WITHIN_S)
            if self._running and not self._model_id:
                asking = self._replicas.model_id.remote()
                self._model_id = str(await asyncio.wait_for(asking, _MODEL_ID_WITHIN_S))
        except Exception:  # the controller is restarted, or busy
            log_bug(traceback.format_exc())

    async def _watch(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_EVERY_S)


class _SentRequest:
    """One request on its way through a replica. Its methods run in the event loop."""

    def __init__(
        self, deadline: Deadline, record: RequestRecord, *, on_end: Callable[[RequestRecord], None]
    ) -> None:
        self.events: asyncio.Queue[Progress | Outcome] = asyncio.Queue()
        self._deadline = deadline
        self._record = record
        self._on_end = on_end
        self._response: Any = None
        self._reading: asyncio.Future[None] | None = None
        self._queued = asyncio.Event()
        self._outcome: Outcome | None = None

    async def send(self, answer: Any, incoming: Incoming, *, progress: bool) -> None:
        """Send the request, and return when a replica has queued it.

        Args:
            answer: method of the replicas' handle.
            incoming: the request.
            progress: see `Answerer.ask`.

        Raises:
            XSamError: it is refused, or did not get so far before its deadline.
        """
        record, began_s = self._record, time.monotonic()
        # Ray waits for a free replica for ever, and a replica's clock starts when the request gets there.
        late = asyncio.get_running_loop().call_later(self._deadline.remaining_s, self._be_late)
        try:
            self._response = answer.remote(
                record.client, incoming.request, incoming.image, record.elapsed_s, progress
            )
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(self._reading_ended)
            self._reading.add_done_callback(lambda _: late.cancel())
            await self._queued.wait()
        except BaseException:
            self.end()
            raise
        if isinstance(self._outcome, XSamError):
            raise self._outcome
        record.stages_s["route"] = time.monotonic() - began_s

    def end(self) -> None:
        """Stop working on it, unless it has ended."""
        self._end(RequestCancelledError("the client closed the connection"))
        self._cancel()

    async def _read(self) -> None:
        async for line in self._response:
            event = read_line(line, self._record)
            if isinstance(event, Outcome):
                self._end(event)
                return
            self._queued.set()
            if event is not None:
                self.events.put_nowait(event)

    def _reading_ended(self, reading: asyncio.Future[None]) -> None:
        error = None if reading.cancelled() else reading.exception()
        self._end(ReplicaLostError("the replica ended the request") if error is None else typed_error(error))

    def _be_late(self) -> None:
        self._end(self._deadline.error("waiting for a replica"))
        self._cancel()

    def _end(self, outcome: Outcome) -> None:
        """Take the first outcome."""
        if self._outcome is None:
            self._outcome = outcome
            self.events.put_nowait(outcome)
            self._queued.set()
            self._on_end(self._record)

    def _cancel(self) -> None:
        """Cancel what the replica may still be doing."""
        if self._reading is None or self._reading.done():
            return
        self._reading.cancel()
        with contextlib.suppress(Exception):  # raises what the call raised, if it has failed just now
            self._response.cancel()


def typed_error(error: BaseException) -> XSamError:
    """Return what a client is told about an error of Ray Serve."""
    if isinstance(error, BackPressureError):
        return QueueFullError("all replicas are busy, and too many requests wait for one")
    if isinstance(error, DeploymentUnavailableError):
        return NotActiveError("the replicas could not be started", hint="see the log of Ray Serve")
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        return ReplicaLostError(f"the replica that had the request has ended: {type(error).__name__}")
    log_bug("".join(traceback.format_exception(error)))
    return ModelError(f"internal error: {type(error).__name__}", hint="see the log of the ingress")
