"""The action `~/segment`: requests with progress, which can be cancelled and replaced."""

from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.callback_groups import CallbackGroup
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from xsam.errors import ModelError, RequestCancelledError, XSamError
from xsam.worker import Job
from xsam_ros.action import Segment
from xsam_ros.messages.queries import MAX_ELEMENTS
from xsam_ros.messages.results import error_to_response
from xsam_ros.node.lifecycle import not_active
from xsam_ros.node.requests import FrameResults
from xsam_ros.node.service import SegmentService
from xsam_ros.runtime.bounded_requests import bound_action
from xsam_ros.runtime.qos import ACTION_QOS
from xsam_ros.runtime.rclpy_workarounds import (
    RESULT_TIMEOUT_S,
    AwaitableResult,
    call_when_canceling,
    lifecycle_state,
)

_TEXT_PERIOD_S = 0.2
"""Generated text is reported no more often than this; every stage is reported."""


class SegmentAction:
    """Passes goals to the segment service and reports their progress."""

    def __init__(
        self,
        node: LifecycleNode,
        service: Callable[[], SegmentService | None],
        *,
        group: CallbackGroup,
    ) -> None:
        """Create the action server.

        Args:
            node: the segmenter node.
            service: returns the service that takes the requests; None while the node has no model.
            group: reentrant, so that goals do not wait for each other here.
        """
        self._node = node
        self._service = service
        self._lock = threading.Lock()
        self._goals: dict[bytes, _ActiveGoal] = {}
        self._server = ActionServer(
            node,
            Segment,
            "~/segment",
            execute_callback=self._execute,
            cancel_callback=self._on_cancel,
            callback_group=group,
            result_timeout=RESULT_TIMEOUT_S,
            **ACTION_QOS,
        )
        bound_action(self._server, MAX_ELEMENTS)

    def destroy(self) -> None:
        """Destroy the action server; running goals end with their jobs."""
        self._server.destroy()

    async def _execute(self, handle: ServerGoalHandle) -> Segment.Result:
        goal = _ActiveGoal(handle)
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
            # rclpy keeps the goal as long as its result, and the image may be large.
            handle.request.image, handle.request.queries = Image(), []
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

    async def _outcome(self, goal: _ActiveGoal) -> FrameResults | XSamError:
        """Submit the goal as a job, and wait until it ends."""
        ended = AwaitableResult(self._node.executor)
        service = self._service()
        if service is None:
            return not_active(lifecycle_state(self._node))
        try:
            goal.job = service.submit(
                goal.handle.request,
                ended.set_result,
                on_stage=goal.on_stage,
                on_text=goal.on_text,
                on_queue_position=goal.on_queue_position,
            )
        except XSamError as error:
            return error
        except Exception as error:  # the goal gets a result, whatever happened
            self._node.get_logger().error(f"exception in a goal:\n{traceback.format_exc()}")
            return ModelError(f"{type(error).__name__}: {error}")
        goal.service = service
        if goal.ending is not None:  # cancelled or replaced before there was a job
            goal.end(goal.ending)
        outcome: FrameResults | XSamError = await ended
        return outcome

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        with self._lock:
            goal = self._goals.get(bytes(handle.goal_id.uuid))
        if goal is None:
            return CancelResponse.REJECT  # it has ended
        end = functools.partial(goal.end, RequestCancelledError("the goal was cancelled"))
        call_when_canceling(self._node.executor, handle, end)
        return CancelResponse.ACCEPT


class _ActiveGoal:
    """A goal that has not ended, and its job."""

    def __init__(self, handle: ServerGoalHandle) -> None:
        self.handle = handle
        self.service: SegmentService | None = None
        self.job: Job[FrameResults] | None = None
        self.ending: XSamError | None = None
        self._started_s = time.monotonic()
        self._published_s = 0.0
        self._stage = ""
        self._feedback_lock = threading.RLock()

    def on_stage(self, stage: str) -> None:
        """Report the next stage."""
        self._publish_feedback(stage)

    def on_queue_position(self, ahead: int) -> None:
        """Report the number of requests ahead."""
        with self._feedback_lock:
            if self._stage in ("", "waiting"):  # else the job has begun meanwhile
                self._publish_feedback("waiting", ahead=ahead)

    def on_text(self, query: int, text: str) -> None:
        """Report the text generated for a query so far."""
        if time.monotonic() - self._published_s >= _TEXT_PERIOD_S:
            self._publish_feedback(self._stage, query=query, text=text)

    def end(self, error: XSamError) -> None:
        """End the job with an error: at once if it is waiting, else the model stops at its next stage."""
        self.ending = error
        if self.job is not None and self.service is not None:
            self.service.cancel(self.job, error)

    def _publish_feedback(self, stage: str, **fields: Any) -> None:
        with self._feedback_lock:  # feedback comes in the order of its times, whichever thread publishes it
            self._stage, self._published_s = stage, time.monotonic()
            if self.handle.is_active:
                elapsed_s = self._published_s - self._started_s
                self.handle.publish_feedback(Segment.Feedback(stage=stage, elapsed_s=elapsed_s, **fields))
