"""The results of a stream, as they arrive."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from rclpy.node import Node
from rclpy.qos import QoSProfile

from xsam.errors import RequestCancelledError
from xsam.types.deadline import Deadline
from xsam.types.requests import Query, SegmentationResult
from xsam_ros.messages.queries import query_to_message
from xsam_ros.messages.results import result_from_message
from xsam_ros.msg import SegmentationResult as ResultMessage

_BUFFER_SIZE = 32  # results that a slow reader may be behind; older ones are dropped and counted


class ResultStream:
    """An iterator over the results of a stream; made by `RosSegmenter.start_stream`.

    ::

        with segmenter.start_stream("camera", [Query(text="the red mug")], rate_hz=5.0) as stream:
            for result in stream:
                print(result.segments.track_ids, result.segments.locations)

    Leaving the block stops the stream in the node; `close` only unsubscribes. With several queries, each
    frame gives one result per query, in their order.
    """

    def __init__(
        self,
        node: Node,
        *,
        camera: str,
        topic: str,
        queries: Sequence[Query],
        wait_s: float,
        stop: Callable[[], None],
    ) -> None:
        self.camera = camera
        self.topic = topic
        self.dropped = 0  # results that arrived faster than they were read
        self._node = node
        self._wait_s = wait_s
        self._stop = stop
        self._queries = [(query_to_message(query), query) for query in queries]
        self._changed = threading.Condition()
        self._received: deque[tuple[ResultMessage, Query]] = deque()
        self._closed = False
        self._subscription = node.create_subscription(
            ResultMessage, topic, self._on_result, QoSProfile(depth=_BUFFER_SIZE)
        )

    def __enter__(self) -> ResultStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._stop()

    def __iter__(self) -> Iterator[SegmentationResult]:
        while not self._closed:
            try:
                yield self.next()
            except RequestCancelledError:
                return

    def next(self, *, deadline_s: float | None = None) -> SegmentationResult:
        """Return the next result.

        Args:
            deadline_s: seconds from now; None = `wait_s` of `start_stream`.

        Raises:
            DeadlineExceededError: none arrived in time, for example because the camera stopped.
            RequestCancelledError: the stream was closed.
            ModelError: the result message contradicts itself.
        """
        deadline = Deadline(self._wait_s if deadline_s is None else deadline_s)
        with self._changed:
            self._changed.wait_for(lambda: self._received or self._closed, deadline.timeout_s)
            if not self._received:
                if self._closed:
                    raise RequestCancelledError("the stream is closed")
                raise deadline.error()
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

    def _on_result(self, message: ResultMessage) -> None:
        query = next((query for sent, query in self._queries if sent == message.query), None)
        if query is None:
            return  # the result of somebody else's request for the same camera
        with self._changed:
            if len(self._received) == _BUFFER_SIZE:
                self._received.popleft()
                self.dropped += 1
            self._received.append((message, query))
            self._changed.notify_all()
