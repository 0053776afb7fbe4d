"""The streams of all cameras: who owns each, when its lease expires, and why the last one ended.

A camera has at most one stream, because its topics cannot tell two apart. See docs/adr/0011-streams.md.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from xsam.errors import InvalidQueryError, NotActiveError, StreamEndedError, StreamTakenError
from xsam_ros.messages.streams import StreamEnd
from xsam_ros.messages.text import require_sendable
from xsam_ros.node.camera_stream import CameraStream, Lease
from xsam_ros.node.memory import MemoryStatistics
from xsam_ros.node.metrics import StreamStatistics
from xsam_ros.node.propagating_stream import PropagatingStream
from xsam_ros.node.requests import NodeContext
from xsam_ros.node.status import stream_to_message
from xsam_ros.node.stream_query import StreamQuery
from xsam_ros.srv import SetStreamQuery

MIN_LEASE_S = 1.0
MAX_LEASE_S = 86_400.0
MAX_OWNER_CHARS = 128
MAX_ID_CHARS = 64
_REMEMBERED = 256
"""Number of ended streams whose end can still be told to a late owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who asks for the stream of a camera, and how; see `SetStreamQuery`."""

    owner: str = ""
    stream_id: str = ""
    replace: bool = False
    lease_s: float = 0.0
    gives_way: bool = False  # anybody may replace or stop the stream: that of a parameter

    def __post_init__(self) -> None:
        """Raise `InvalidQueryError` if a field is out of bounds."""
        for field, text, most in (
            ("owner", self.owner, MAX_OWNER_CHARS),
            ("stream_id", self.stream_id, MAX_ID_CHARS),
        ):
            if len(require_sendable(field, text)) > most or not (text.isprintable() or not text):
                raise InvalidQueryError(f"{field} must be up to {most} printable characters")
        if not (self.lease_s == 0.0 or MIN_LEASE_S <= self.lease_s <= MAX_LEASE_S):
            raise InvalidQueryError(
                f"lease_s must be 0 (no lease) or {MIN_LEASE_S:g} to {MAX_LEASE_S:g}, got {self.lease_s:g}"
            )

    @classmethod
    def of(cls, request: SetStreamQuery.Request) -> Claim:
        """Return the claim in a request."""
        return cls(
            owner=request.owner,
            stream_id=request.stream_id,
            replace=request.replace,
            lease_s=request.lease_s,
        )

    def owns(self, stream: CameraStream) -> bool:
        """Return whether the stream is the claimant's."""
        return self.owner == stream.owner and self.stream_id in ("", stream.stream_id)


class Streams:
    """The streams of all cameras, at most one per camera. Thread-safe."""

    def __init__(
        self,
        context: NodeContext,
        *,
        log_error: Callable[[str], None],
        log_info: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._context = context
        self._log_error = log_error
        self._log_info = log_info
        self._lock = threading.Lock()
        self._closed = "the node is not active"  # why no stream can start; "" = they can
        self._streams: dict[str, CameraStream] = {}
        self._last: dict[str, StreamStatistics] = {}  # the last stream of each camera that has none
        self._ended: OrderedDict[tuple[str, str], StreamStatistics] = OrderedDict()  # by camera and id
        self._first_track_id: dict[str, int] = {}

    def accept(self) -> None:
        """Allow streams to start."""
        with self._lock:
            self._closed = ""

    def start(self, camera: str, query: StreamQuery, claim: Claim) -> tuple[StreamStatistics, bool]:
        """Start or change the stream of a camera.

        Returns:
            The stream, and whether one was running before.

        Raises:
            UnknownCameraError: there is no such camera.
            InvalidQueryError: too many queries; a running stream is left as it is.
            StreamTakenError: the camera has a stream of another owner.
            NotActiveError: streams are not accepted now.
        """
        buffer = self._context.handler.camera(camera)
        self._context.handler.check_query_count(len(query))
        with self._lock:
            if self._closed:
                raise NotActiveError(self._closed)
            running = self._streams.get(camera)
            if running is not None:
                self._check_owner(camera, running, claim)
                if claim.owns(running) and claim.stream_id:
                    self._stop(camera)  # it changes, and keeps its id
                else:
                    self._end(camera, StreamEnd.REPLACED, f"{_named(claim.owner)} replaced it")
            kind = PropagatingStream if query.propagate else CameraStream
            stream = self._streams[camera] = kind(
                buffer,
                query,
                self._context,
                stream_id=claim.stream_id or secrets.token_hex(8),
                owner=claim.owner,
                lease=Lease(claim.lease_s),
                gives_way=claim.gives_way,
                first_track_id=self._first_track_id.get(camera, 1),
                sessions=self._context.handler.memory.stream_sessions(camera),
                log_error=self._log_error,
            )
            self._ended.pop((camera, stream.stream_id), None)
            statistics = stream.statistics()
            self._announce(camera, statistics)
            self._log_info(f"camera {camera!r} has stream {stream.stream_id} of {_named(stream.owner)}")
            return statistics, running is not None

    def stop(self, camera: str, claim: Claim) -> tuple[StreamStatistics, bool]:
        """Stop the stream of a camera; one that is not running, or not the claimed one, is left alone.

        Returns:
            The stream, and whether it was running.

        Raises:
            UnknownCameraError: there is no such camera.
            StreamTakenError: the stream is another owner's.
        """
        self._context.handler.camera(camera)
        with self._lock:
            running = self._streams.get(camera)
            if running is None:
                last = self._last.get(camera, StreamStatistics())
                return self._ended.get((camera, claim.stream_id), last), False
            if claim.stream_id not in ("", running.stream_id):
                return self._ended.get((camera, claim.stream_id), StreamStatistics()), False
            self._check_owner(camera, running, claim)
            end = StreamEnd.STOPPED if claim.owns(running) else StreamEnd.REPLACED
            return self._end(camera, end, f"{_named(claim.owner)} stopped it"), True

    def renew(self, camera: str, claim: Claim) -> StreamStatistics:
        """Extend the lease of a stream.

        Raises:
            UnknownCameraError: there is no such camera.
            InvalidQueryError: the claim names no stream.
            StreamEndedError: it does not run any more.
        """
        self._context.handler.camera(camera)
        if not claim.stream_id:
            raise InvalidQueryError("stream_id says which stream to renew")
        with self._lock:
            running = self._streams.get(camera)
            if running is not None and claim.owns(running):
                running.lease.renew()
                return running.statistics()
            ended = self._ended.get((camera, claim.stream_id))
        if ended is None:
            raise StreamEndedError(
                f"stream {claim.stream_id} is not known: the node was restarted, or it ended long ago",
                reason=StreamEnd.NODE_LOST.name,
            )
        raise StreamEndedError(
            f"stream {claim.stream_id} of camera {camera!r} has ended: {ended.end_message}",
            reason=ended.end.name,
        )

    def elapse(self, seconds: float) -> None:
        """Count down the leases, and end streams whose lease is over or that have failed."""
        with self._lock:
            for camera, stream in list(self._streams.items()):
                stream.lease.elapse(seconds)
                if stream.lease.is_over:
                    self._end(
                        camera,
                        StreamEnd.LEASE_EXPIRED,
                        f"{_named(stream.owner)} did not renew its lease of {stream.lease.lease_s:g} s",
                    )
                elif not (statistics := stream.statistics()).running:
                    self._end(camera, StreamEnd.FAILED, statistics.last_error)

    def stop_all(self, reason: str) -> None:
        """End every stream, because the node stops for this reason, and start none until `accept`."""
        with self._lock:
            self._closed = reason
            for camera in list(self._streams):
                self._end(camera, StreamEnd.DEACTIVATED, reason)

    def statistics(self) -> dict[str, StreamStatistics]:
        """Return the statistics of the running or else the last stream, by camera."""
        running = {camera: stream.statistics() for camera, stream in list(self._streams.items())}
        return {**self._last, **running}

    def _check_owner(self, camera: str, running: CameraStream, claim: Claim) -> None:
        if claim.replace or claim.owns(running) or running.gives_way:
            return
        statistics = running.statistics()
        lease = ""
        if statistics.lease_s:
            lease = f"; its lease ends in {statistics.lease_left_s:.1f} s unless it is renewed"
        owner, since = _named(running.owner), f"{statistics.age_s:.0f} s ago"
        raise StreamTakenError(
            f"{owner} started a stream of camera {camera!r} {since}{lease}", owner=running.owner
        )

    def _end(self, camera: str, end: StreamEnd, message: str) -> StreamStatistics:
        """End the running stream of a camera and tell its owner."""
        statistics = self._streams[camera].statistics()
        ended = replace(statistics, running=False, end=end, end_message=message, memory=MemoryStatistics())
        # First, because `statistics` does not wait for the stream to stop.
        self._last[camera] = self._ended[camera, ended.stream_id] = ended
        self._stop(camera)
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        self._announce(camera, ended)
        self._log_info(f"stream {ended.stream_id} of camera {camera!r} has ended: {message}")
        return ended

    def _stop(self, camera: str) -> None:
        stream = self._streams.pop(camera)
        stream.stop()
        self._first_track_id[camera] = stream.next_track_id

    def _announce(self, camera: str, statistics: StreamStatistics) -> None:
        publishers = self._context.publishers.get(camera)
        if publishers is not None:
            publishers.publish_stream(stream_to_message(statistics))


def _named(owner: str) -> str:
    return repr(owner) if owner else "an anonymous owner"
