"""Clients of the segmenter node that never give a request up before the node had time to end it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from xsam_ros.action import Segment as SegmentAction
from xsam_ros.client.goal import Goal
from xsam_ros.runtime.qos import ACTION_QOS, SERVICE_QOS
from xsam_ros.runtime.spin import spin
from xsam_ros.srv import Segment

SLACK_S = 15.0
"""A request that has not ended so long after its own deadline is lost."""

LATE_S = 1.0
"""One that ended more than this after its deadline is late, as some are on a machine with too much to do."""

_NAP_S = 0.05
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
        self._actions: dict[str, ActionClient] = {}
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
        for action in self._actions.values():
            action.destroy()
        self.node.destroy_node()
        self._context.try_shutdown()

    def call(self, service_type: type[Any], name: str, request: Any, *, timeout_s: float) -> Any | None:
        """Call a service; None when no response came in time.

        Raises:
            RuntimeError: there is no such service.
        """
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(
                service_type, name, qos_profile=SERVICE_QOS
            )
        _wait(client.service_is_ready, name)
        ended = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: ended.set())
        if not ended.wait(timeout_s):
            client.remove_pending_request(future)
            return None
        return future.result()

    def call_action(
        self, name: str, goal: SegmentAction.Goal, *, timeout_s: float, cancel_after_s: float | None = None
    ) -> SegmentAction.Result | None:
        """Send a goal, and take it back after a while if that is asked for; None when it did not end in time.

        Raises:
            RuntimeError: there is no such action.
            SegmenterUnavailableError: the node did not accept the goal.
        """
        action = self._actions.get(name)
        if action is None:
            action = self._actions[name] = ActionClient(self.node, SegmentAction, name, **ACTION_QOS)
        _wait(action.server_is_ready, name)
        sent = Goal(action, goal, lambda _: None)
        self._executor.create_task(sent.send)
        if cancel_after_s is not None:
            if not sent.ended.wait(cancel_after_s):
                self._executor.create_task(sent.cancel)
            timeout_s -= cancel_after_s
        return sent.result() if sent.ended.wait(timeout_s) else None


def _wait(is_ready: Callable[[], bool], name: str) -> None:
    until = time.monotonic() + _DISCOVERY_S
    while not is_ready():
        if time.monotonic() >= until:
            raise RuntimeError(f"no {name} within {_DISCOVERY_S:.0f} s")
        time.sleep(0.02)


class Stalls:
    """When this process did not get to run: what is late because of that is no fault of the node's."""

    def __init__(self) -> None:
        self._noted: list[tuple[float, float]] = []  # end, seconds too long
        threading.Thread(target=self._watch, name="stalls", daemon=True).start()

    def during(self, began_s: float, ended_s: float) -> float:
        """Seconds of standstill in a span of the monotonic clock."""
        return sum(stalled_s for end_s, stalled_s in list(self._noted) if began_s < end_s <= ended_s + _NAP_S)

    def _watch(self) -> None:
        while True:
            before_s = time.monotonic()
            time.sleep(_NAP_S)
            now_s = time.monotonic()
            if now_s - before_s > 2 * _NAP_S:
                self._noted.append((now_s, now_s - before_s - _NAP_S))


class Tally:
    """How requests ended. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self._stalls = Stalls()
        self.requests = 0
        self.answers = 0
        self.refusals: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.lost: list[str] = []
        self.late: list[str] = []
        self.latency_s: list[float] = []

    def ask(
        self, side: RosSide, service: str, request: Segment.Request, words: str
    ) -> Segment.Response | None:
        """Send a request and note how it ends.

        Args:
            request: with a `timeout_s` of its own; otherwise it has the node's default of 30 s.
            words: what is asked, for the lists of lost and late ones.
        """
        return self._timed(
            lambda patience_s: side.call(Segment, service, request, timeout_s=patience_s), request, words
        )

    def ask_goal(
        self,
        side: RosSide,
        action: str,
        goal: SegmentAction.Goal,
        words: str,
        *,
        cancel_after_s: float | None = None,
    ) -> SegmentAction.Result | None:
        """The same with a goal of the action, which may be taken back."""
        return self._timed(
            lambda patience_s: side.call_action(
                action, goal, timeout_s=patience_s, cancel_after_s=cancel_after_s
            ),
            goal,
            words,
        )

    def _timed(self, send: Callable[[float], Any], request: Any, words: str) -> Any:
        own_s = float(request.timeout_s)
        limit_s = own_s if 0.0 < own_s < 30.0 else 30.0
        began_s = time.monotonic()
        words = f"{words}, {began_s - self._began_s:.1f} s after the beginning"
        response = send(limit_s + SLACK_S)
        ended_s = time.monotonic()
        self._note(response, began_s, ended_s, limit_s, words)
        return response

    def _note(self, response: Any, began_s: float, ended_s: float, limit_s: float, words: str) -> None:
        with self._lock:
            self.requests += 1
            if response is None or response.status == Segment.Response.STATUS_UNKNOWN:
                self.lost.append(words)
                return
            over_s = ended_s - began_s - limit_s
            if over_s > LATE_S:
                stalled_s = self._stalls.during(began_s, ended_s)
                outcome = response.code or "answered"
                self.late.append(f"{words}: {outcome} {over_s:.1f} s late; stood still for {stalled_s:.1f} s")
            if response.status == Segment.Response.STATUS_ANSWERED:
                self.answers += 1
                self.latency_s.append(ended_s - began_s)
            elif response.status == Segment.Response.STATUS_REFUSED:
                self.refusals[response.code] += 1
            else:
                self.failures[response.code] += 1
