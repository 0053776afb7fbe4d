"""Clients of the segmenter node that wait long enough for the node to end every request itself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionClient

from support.polling import poll_until
from support.ros_peer import RosPeer
from xsam_ros.action import Segment as SegmentAction
from xsam_ros.client.goal import Goal
from xsam_ros.runtime.qos import ACTION_QOS, SERVICE_QOS
from xsam_ros.runtime.rclpy_workarounds import spin
from xsam_ros.srv import Segment

SLACK_S = 15.0
"""A request without a response this long after its own deadline counts as lost."""

LATE_S = 1.0
"""A response more than this after the deadline counts as late; some are, on an overloaded machine."""

_NAP_S = 0.05
_DISCOVERY_S = 120.0  # covers a node that is still starting


class LoadClient(RosPeer):
    """A client that keeps its connections open and survives errors in callbacks."""

    def __init__(self, name: str) -> None:
        self._clients: dict[str, Any] = {}
        self._actions: dict[str, ActionClient] = {}
        super().__init__(name)

    def try_call(self, service_type: type[Any], name: str, request: Any, *, timeout_s: float) -> Any | None:
        """Call a service; return its response, or None if there was none in time.

        Raises:
            TimeoutError: there is no such service.
        """
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(
                service_type, name, qos_profile=SERVICE_QOS
            )
        poll_until(client.service_is_ready, f"service {name}", timeout_s=_DISCOVERY_S)
        ended = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: ended.set())
        if not ended.wait(timeout_s):
            client.remove_pending_request(future)
            return None
        return future.result()

    def try_action(
        self, name: str, goal: SegmentAction.Goal, *, timeout_s: float, cancel_after_s: float | None = None
    ) -> SegmentAction.Result | None:
        """Send a goal, and cancel it after a while if asked to; return its result, or None.

        Raises:
            TimeoutError: there is no such action.
            SegmenterUnavailableError: the node rejected the goal.
        """
        action = self._actions.get(name)
        if action is None:
            action = self._actions[name] = ActionClient(self.node, SegmentAction, name, **ACTION_QOS)
        poll_until(action.server_is_ready, f"action {name}", timeout_s=_DISCOVERY_S)
        sent = Goal(action, goal, lambda _: None)
        self.executor.create_task(sent.send)
        if cancel_after_s is not None:
            if not sent.ended.wait(cancel_after_s):
                self.executor.create_task(sent.cancel)
            timeout_s -= cancel_after_s
        return sent.result() if sent.ended.wait(timeout_s) else None

    def _destroy_entities(self) -> None:
        for action in self._actions.values():
            action.destroy()

    def _spin(self) -> None:
        spin(self.executor, until=self._closing.is_set)


class Stalls:
    """Spans in which this process did not get to run: a delay in one of them is not the node's."""

    def __init__(self) -> None:
        self._stalls: list[tuple[float, float]] = []  # (end, length) in seconds
        threading.Thread(target=self._watch, name="stalls", daemon=True).start()

    def during(self, began_s: float, ended_s: float) -> float:
        """Return the stalled seconds in a span of the monotonic clock."""
        return sum(length_s for end_s, length_s in list(self._stalls) if began_s < end_s <= ended_s + _NAP_S)

    def _watch(self) -> None:
        while True:
            before_s = time.monotonic()
            time.sleep(_NAP_S)
            now_s = time.monotonic()
            if now_s - before_s > 2 * _NAP_S:
                self._stalls.append((now_s, now_s - before_s - _NAP_S))


class Tally:
    """Counts of how requests ended. Thread-safe."""

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

    def call(
        self, client: LoadClient, service: str, request: Segment.Request, description: str
    ) -> Segment.Response | None:
        """Send a request and count how it ends.

        Args:
            request: its `timeout_s` is its deadline; without one the node's default of 30 s holds.
            description: of the request, for the lists of lost and late ones.
        """
        return self._timed(
            lambda timeout_s: client.try_call(Segment, service, request, timeout_s=timeout_s),
            request,
            description,
        )

    def call_action(
        self,
        client: LoadClient,
        action: str,
        goal: SegmentAction.Goal,
        description: str,
        *,
        cancel_after_s: float | None = None,
    ) -> SegmentAction.Result | None:
        """Send a goal, perhaps cancel it, and count how it ends."""
        return self._timed(
            lambda timeout_s: client.try_action(
                action, goal, timeout_s=timeout_s, cancel_after_s=cancel_after_s
            ),
            goal,
            description,
        )

    def _timed(self, send: Callable[[float], Any], request: Any, description: str) -> Any:
        own_s = float(request.timeout_s)
        deadline_s = own_s if 0.0 < own_s < 30.0 else 30.0
        began_s = time.monotonic()
        description = f"{description}, {began_s - self._began_s:.1f} s after the start"
        response = send(deadline_s + SLACK_S)
        self._count(response, began_s, time.monotonic(), deadline_s, description)
        return response

    def _count(
        self, response: Any, began_s: float, ended_s: float, deadline_s: float, description: str
    ) -> None:
        with self._lock:
            self.requests += 1
            if response is None or response.status == Segment.Response.STATUS_UNKNOWN:
                self.lost.append(description)
                return
            over_s = ended_s - began_s - deadline_s
            if over_s > LATE_S:
                stalled_s = self._stalls.during(began_s, ended_s)
                outcome = response.code or "answered"
                self.late.append(
                    f"{description}: {outcome} {over_s:.1f} s late; stalled for {stalled_s:.1f} s"
                )
            if response.status == Segment.Response.STATUS_ANSWERED:
                self.answers += 1
                self.latency_s.append(ended_s - began_s)
            elif response.status == Segment.Response.STATUS_REFUSED:
                self.refusals[response.code] += 1
            else:
                self.failures[response.code] += 1
