"""One goal of the action `~/segment`, from the side of the client."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.action import ActionClient  # type: ignore[attr-defined]

from xsam.errors import RequestCancelledError, SegmenterUnavailableError, XSamError
from xsam_ros.action import Segment as SegmentAction


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a request is coming along."""

    stage: str  # what has begun: "waiting", "image", "inference", "encode", ...
    ahead: int  # requests that go first, while the stage is "waiting"
    query: int  # index of the query that `text` answers
    text: str  # what the model has generated so far
    elapsed_s: float  # since the node accepted the request


class Goal:
    """One goal of the action. `send` and `cancel` run in the client's thread."""

    def __init__(
        self, action: ActionClient, request: SegmentAction.Goal, on_progress: Callable[[Progress], None]
    ) -> None:
        self.ended = threading.Event()
        self._action = action
        self._request = request
        self._on_progress = on_progress
        self._handle: Any = None
        self._given_up = False
        self._outcome: SegmentAction.Result | XSamError | None = None

    def result(self) -> SegmentAction.Result:
        """What the node answered; raises when it did not."""
        if isinstance(self._outcome, SegmentAction.Result):
            return self._outcome
        raise self._outcome or RequestCancelledError("the goal has not ended")

    def send(self) -> None:
        """Send it, and follow it to its end."""
        sent = self._action.send_goal_async(self._request, feedback_callback=self._on_feedback)
        sent.add_done_callback(self._on_sent)

    def cancel(self) -> None:
        """Take it back, as soon as the node has it."""
        self._given_up = True
        if self._handle is not None:
            self._handle.cancel_goal_async()

    def _on_sent(self, sent: Any) -> None:
        self._handle = sent.result()
        if not self._handle.accepted:
            self._end(SegmenterUnavailableError("the node did not accept the goal"))
            return
        self._handle.get_result_async().add_done_callback(lambda done: self._end(done.result().result))
        if self._given_up:
            self._handle.cancel_goal_async()

    def _on_feedback(self, message: Any) -> None:
        if not self._given_up:
            told = message.feedback
            self._on_progress(
                Progress(
                    stage=told.stage,
                    ahead=told.ahead,
                    query=told.query,
                    text=told.text,
                    elapsed_s=told.elapsed_s,
                )
            )

    def _end(self, outcome: SegmentAction.Result | XSamError) -> None:
        self._outcome = outcome
        self.ended.set()
