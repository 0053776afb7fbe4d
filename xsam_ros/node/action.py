"""The action `~/segment`: requests with progress, which can be cancelled and replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.callback_groups import CallbackGroup
from rclpy.lifecycle import LifecycleNode

from xsam.errors import NotActiveError, RequestCancelledError, XSamError
from xsam_ros.action import Segment
from xsam_ros.messages.results import error_to_response
from xsam_ros.node.requests import Answer
from xsam_ros.node.service import SegmentService
from xsam_ros.node.worker import Job
from xsam_ros.runtime.executor import Outcome
from xsam_ros.runtime.qos import ACTION_QOS

_CANCEL_S = 1.0
_RESULT_S = 10
"""How long goals are kept after their end, with image and masks; rclpy's default is 15 minutes."""

_FEEDBACK_S = 0.2
"""Text so far is told no more often than this; every stage is told."""


class SegmentAction:
    """Hands goals to the service that answers requests, and tells their callers how they come along."""

    def __init__(
        self,
        node: LifecycleNode,
        service: Callable[[], SegmentService | None],
        *,
        group: CallbackGroup,
    ) -> None:
        """Offer the action.

        Args:
            node: the segmenter node.
            service: takes the requests; None while the node has no model.
            group: reentrant, so that goals don't wait for each other here.
        """
        self._node = node
        self._service = service
        self._lock = threading.Lock()
        self._goals: dict[bytes, _Goal] = {}
        self._server = ActionServer(
            node,
            Segment,
            "~/segment",
            execute_callback=self._execute,
            cancel_callback=self._on_cancel,
            callback_group=group,
            result_timeout=_RESULT_S,
            **ACTION_QOS,
        )

    def destroy(self) -> None:
        """Take the action away; goals that still run end with the model's jobs."""
        self._server.destroy()

    async def _execute(self, handle: ServerGoalHandle) -> Segment.Result:
        goal = _Goal(handle, self._node)
        key = bytes(handle.goal_id.uuid)
        if handle.request.preempt:
            with self._lock:
                earlier = list(self._goals.values())
            for other in earlier:
                other.end(RequestCancelledError("a newer goal replaced this one"))
        with self._lock:
            self._goals[key] = goal
        try:
            outcome = await self._outcome(goal)
        finally:
            with self._lock:
                del self._goals[key]
        result = Segment.Result()
        if isinstance(outcome, XSamError):
            error_to_response(outcome, result)
            if isinstance(outcome, RequestCancelledError) and handle.is_cancel_requested:
                handle.canceled()
            else:
                handle.abort()
            return result
        result.status = Segment.Result.STATUS_ANSWERED
        result.results = outcome.messages
        handle.succeed()
        return result

    async def _outcome(self, goal: _Goal) -> Answer | XSamError:
        ended = Outcome(self._node.executor)
        service = self._service()
        if service is None:
            return NotActiveError("the node has no model; it is not configured")
        try:
            goal.job = service.submit(
                goal.handle.request,
                ended.set_result,
                on_stage=goal.on_stage,
                on_text=goal.on_text,
                on_moved=goal.on_moved,
            )
        except XSamError as error:
            return error
        goal.service = service
        if goal.ending is not None:  # cancelled or replaced before there was a job
            goal.end(goal.ending)
        outcome: Answer | XSamError = await ended
        return outcome

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        with self._lock:
            goal = self._goals.get(bytes(handle.goal_id.uuid))
        if goal is None:
            return CancelResponse.REJECT  # it has ended
        threading.Thread(target=goal.cancel, name="xsam_cancel", daemon=True).start()
        return CancelResponse.ACCEPT


class _Goal:
    """A goal that is being answered."""

    def __init__(self, handle: ServerGoalHandle, node: LifecycleNode) -> None:
        self.handle = handle
        self.service: SegmentService | None = None
        self.job: Job[Answer] | None = None
        self.ending: XSamError | None = None
        self._node = node
        self._started_s = time.monotonic()
        self._told_s = 0.0
        self._stage = ""
        self._telling = threading.RLock()

    def on_stage(self, stage: str) -> None:
        """The next stage has begun."""
        self.tell(stage)

    def on_moved(self, ahead: int) -> None:
        """So many requests go first."""
        with self._telling:
            if self._stage in ("", "waiting"):  # else it has begun meanwhile
                self.tell("waiting", ahead=ahead)

    def on_text(self, query: int, text: str) -> None:
        """The model has generated this much for a query."""
        if time.monotonic() - self._told_s >= _FEEDBACK_S:
            self.tell(self._stage, query=query, text=text)

    def tell(self, stage: str, **fields: Any) -> None:
        """Send feedback."""
        with self._telling:  # in the order of their times, whoever tells
            self._stage, self._told_s = stage, time.monotonic()
            if self.handle.is_active:
                elapsed_s = self._told_s - self._started_s
                self.handle.publish_feedback(Segment.Feedback(stage=stage, elapsed_s=elapsed_s, **fields))

    def cancel(self) -> None:
        """End the job once the goal's state says "cancelling", which it does after the callback."""
        until = time.monotonic() + _CANCEL_S
        while not self.handle.is_cancel_requested and time.monotonic() < until:
            time.sleep(0.002)
        self.end(RequestCancelledError("the goal was cancelled"))

    def end(self, error: XSamError) -> None:
        """End the job with an error; the model stops at its next stage."""
        self.ending = error
        if self.job is not None and self.service is not None:
            self.service.cancel(self.job, error)
