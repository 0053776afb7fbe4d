"""Clients of the segmenter node that never give a request up before the node had time to end it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from xsam_ros.spinning import spin
from xsam_ros.srv import Segment

SLACK_S = 15.0
"""A request that has not ended so long after its own deadline is lost."""

LATE_S = 1.0
"""One that ended more than this after its deadline is late, as some are on a machine with too much to do."""

_DISCOVERY_S = 120.0  # a node that is just starting counts too


class RosSide:
    """A context with one node and a thread that spins it."""

    def __init__(self, name: str) -> None:
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._clients: dict[str, Any] = {}
        self._thread = threading.Thread(
            target=lambda: spin(self._executor, until=self._closing.is_set), name=name, daemon=True
        )
        self._thread.start()

    def __enter__(self) -> RosSide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(5.0)
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def call(self, service_type: type[Any], name: str, request: Any, *, timeout_s: float) -> Any | None:
        """Call a service; None when no response came in time.

        Raises:
            RuntimeError: there is no such service.
        """
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(service_type, name)
        until = time.monotonic() + _DISCOVERY_S
        while not client.service_is_ready():
            if time.monotonic() >= until:
                raise RuntimeError(f"no service {name} within {_DISCOVERY_S:.0f} s")
            time.sleep(0.02)
        ended = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: ended.set())
        if not ended.wait(timeout_s):
            client.remove_pending_request(future)
            return None
        return future.result()


class Tally:
    """How requests ended. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self.requests = 0
        self.answers = 0
        self.refusals: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.lost: list[str] = []
        self.late = 0
        self.latency_s: list[float] = []

    def ask(
        self, side: RosSide, service: str, request: Segment.Request, words: str
    ) -> Segment.Response | None:
        """Send a request and note how it ends.

        Args:
            request: with a `timeout_s` of its own; otherwise it has the node's default of 30 s.
            words: what is asked, for the list of lost ones.
        """
        own_s = float(request.timeout_s)
        limit_s = own_s if 0.0 < own_s < 30.0 else 30.0
        started_s = time.monotonic()
        words = f"{words}, {started_s - self._began_s:.1f} s after the beginning"
        response = side.call(Segment, service, request, timeout_s=limit_s + SLACK_S)
        seconds = time.monotonic() - started_s
        self._note(response, seconds, seconds - limit_s, words)
        return response

    def _note(self, response: Segment.Response | None, seconds: float, over_s: float, words: str) -> None:
        with self._lock:
            self.requests += 1
            self.late += response is not None and over_s > LATE_S
            if response is None or response.status == Segment.Response.STATUS_UNKNOWN:
                self.lost.append(words)
                return
            if response.status == Segment.Response.STATUS_ANSWERED:
                self.answers += 1
                self.latency_s.append(seconds)
            elif response.status == Segment.Response.STATUS_REFUSED:
                self.refusals[response.code] += 1
            else:
                self.failures[response.code] += 1
