"""The results of a stream, as they arrive."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from rclpy.node import Node
from rclpy.qos import QoSProfile

from xsam.errors import RequestCancelledError, StreamEndedError, XSamError
from xsam.types.deadline import Deadline
from xsam.types.requests import Query, SegmentationResult
from xsam_ros.client.lease import StreamLease
from xsam_ros.messages.queries import query_to_message
from xsam_ros.messages.results import result_from_message
from xsam_ros.messages.streams import StreamEnd
from xsam_ros.msg import SegmentationResult as ResultMessage

_BUFFER_SIZE = 32  # results that a slow reader may be behind; older ones are dropped and counted


class ResultStream:
    """An iterator over the results of a stream; made by `RosSegmenter.start_stream`.

    ::

        with segmenter.start_stream("camera", [Query(text="the red mug")], rate_hz=5.0) as stream:
            for result in stream:
                print(result.segments.track_ids, result.segments.locations)

    Leaving the block stops the stream in the node; `close` only unsubscribes. With several queries, each
    frame gives one result per query, in their order. Only results of this stream are delivered: not those of
    requests on the same camera, nor of another stream that has taken its place.

    A stream that ends by itself, because the node was deactivated, crashed or gave the camera to another
    client, ends the iteration with `StreamEndedError`; one that this client stops ends it normally.
    """

    def __init__(
        self,
        node: Node,
        lease: StreamLease,
        *,
        topic: str,
        queries: Sequence[Query],
        wait_s: float,
        stop: Callable[[], None],
    ) -> None:
        self.camera = lease.camera
        self.stream_id = lease.stream_id
        self.topic = topic
        self.dropped = 0  # results that arrived faster than they were read
        self._node = node
        self._lease = lease
        self._wait_s = wait_s
        self._stop = stop
        self._queries = [(query_to_message(query), query) for query in queries]
        self._changed = threading.Condition()
        self._received: deque[tuple[ResultMessage, Query]] = deque()
        self._closed = False
        self._subscription = node.create_subscription(
            ResultMessage, topic, self._on_result, QoSProfile(depth=_BUFFER_SIZE)
        )
        lease.on_end = self._wake

    def __enter__(self) -> ResultStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        # An error in the block must not be replaced by one of stopping.
        with contextlib.suppress(*([XSamError] if error is not None else [])):
            self._stop()

    def __iter__(self) -> Iterator[SegmentationResult]:
        while not self._closed:
            try:
                result = self.next()
            except RequestCancelledError:
                return
            except StreamEndedError as error:
                if error.reason == StreamEnd.STOPPED.name:
                    return
                raise
            yield result

    def next(self, *, deadline_s: float | None = None) -> SegmentationResult:
        """Return the next result.

        Args:
            deadline_s: seconds from now; None = `wait_s` of `start_stream`.

        Raises:
            StreamEndedError: the stream has ended, and all of its results were read; `reason` says why.
            SegmenterUnavailableError: none arrived in time, and the node does not respond either.
            DeadlineExceededError: none arrived in time, for example because the camera stopped; the message
                says what the node knows.
            RequestCancelledError: the stream was closed.
            ModelError: the result message contradicts itself.
        """
        deadline = Deadline(self._wait_s if deadline_s is None else deadline_s)
        with self._changed:
            self._changed.wait_for(
                lambda: self._received or self._closed or self._lease.ended, deadline.timeout_s
            )
            if not self._received:
                if self._closed:
                    raise RequestCancelledError("the stream is closed")
                ended = self._lease.ended
                if ended is not None:
                    raise StreamEndedError(ended.message, hint=ended.hint, reason=ended.reason)
                raise self._lease.why_no_result(deadline)
            message, query = self._received.popleft()
        return result_from_message(message, query=query)

    def close(self) -> None:
        """Unsubscribe. May be called more than once, and from another thread."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._node.destroy_subscription(self._subscription)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _on_result(self, message: ResultMessage) -> None:
        if message.stream_id != self.stream_id:
            return  # of somebody's request for the same camera, or of another stream
        query = next((query for sent, query in self._queries if sent == message.query), None)
        if query is None:
            return  # the owner has changed the stream
        with self._changed:
            if len(self._received) == _BUFFER_SIZE:
                self._received.popleft()
                self.dropped += 1
            self._received.append((message, query))
            self._changed.notify_all()
