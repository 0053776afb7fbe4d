"""The action `~/segment` of a node in its own process: progress, cancellation, preemption, typed errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient

import xsam_ros.msg as messages
from tests.ros.node_client import NodeClient
from xsam import CameraRef, Frame, ModelError, NoFrameError, Query, RequestCancelledError, Status
from xsam_ros.action import Segment
from xsam_ros.client import Progress, RosSegmenter
from xsam_ros.messages.image_messages import image_from_array

Eventually = Callable[..., Any]


def _image() -> np.ndarray:
    rgb = np.full((20, 30, 3), 90, np.uint8)
    rgb[5:15, 10:20] = (255, 0, 0)
    return rgb


class SentGoal:
    """A goal as any client would send it, with its feedback and result."""

    def __init__(self, client: ActionClient, text: str, **fields: Any) -> None:
        self.feedback: list[Segment.Feedback] = []
        request = Segment.Goal(queries=[messages.SegmentQuery(text=text)], **fields)
        if not request.camera:
            request.image = image_from_array(_image(), "rgb8")
        sent = client.send_goal_async(request, feedback_callback=lambda m: self.feedback.append(m.feedback))
        self.handle: Any = None
        self._result: Any = None
        sent.add_done_callback(self._on_sent)

    def _on_sent(self, sent: Any) -> None:
        self.handle = sent.result()
        self._result = self.handle.get_result_async()

    @property
    def stages(self) -> list[str]:
        return [item.stage for item in self.feedback]

    @property
    def ended(self) -> bool:
        return self._result is not None and self._result.done()

    @property
    def end(self) -> tuple[int, str]:
        """Status of the goal and error code of the result."""
        response = self._result.result()
        return response.status, str(response.result.code)

    @property
    def result(self) -> Segment.Result:
        return self._result.result().result


@pytest.fixture(scope="module")
def node(module_spawn: Callable[..., Any], module_ros: Any, eventually: Eventually) -> Any:
    process = module_spawn("tests/ros/color_node.py", params={"cameras": "[dark]", "queue_size": 2})

    eventually(lambda: NodeClient(module_ros).active, "the active state", 60.0)
    return process


@pytest.fixture(scope="module")
def action(node: Any, module_ros: Any, eventually: Eventually) -> Iterator[ActionClient]:
    client = ActionClient(module_ros.node, Segment, "/xsam/segment")
    eventually(client.server_is_ready, "the action")
    yield client
    client.destroy()


@pytest.fixture(scope="module")
def segmenter(node: Any) -> Iterator[RosSegmenter]:
    with RosSegmenter("/xsam") as segmenter:
        yield segmenter


@pytest.fixture
def idle(module_ros: Any, eventually: Eventually) -> Callable[[float], None]:
    node = NodeClient(module_ros)

    def wait(timeout_s: float = 15.0) -> None:
        eventually(lambda: node.idle, "an idle model", timeout_s)

    wait()
    return wait


def test_progress_and_results(segmenter: RosSegmenter) -> None:
    """Every stage is reported, and the text of the second query grows; the first query is refused."""
    reports: list[Progress] = []
    frame = Frame(rgb=_image(), camera="mine", frame_id="lens", stamp_ns=5)
    queries = [Query(text=""), Query(text="tell me what is red, slow")]
    refused, found = segmenter.segment_with_progress(
        frame, queries, deadline_s=15.0, on_progress=reports.append
    )
    assert (refused.status, refused.code, found.status) == (Status.REFUSED, "INVALID_QUERY", Status.FOUND)
    assert (found.camera, found.frame_id, found.stamp_ns) == ("mine", "lens", 5)
    np.testing.assert_array_equal(found.masks[0], (frame.rgb == (255, 0, 0)).all(axis=2))
    stages = list(dict.fromkeys(item.stage for item in reports))
    assert stages.index("image") < stages.index("inference") < stages.index("step 0") < stages.index("step 9")
    texts = [item.text for item in reports if item.text]
    assert len(texts) > 1
    assert texts == sorted(texts, key=len)
    assert texts[-1].startswith(texts[0])
    assert {item.query for item in reports if item.text} == {1}
    elapsed_s = [item.elapsed_s for item in reports]
    assert elapsed_s == sorted(elapsed_s)


def test_a_goal_succeeds(action: ActionClient, eventually: Eventually) -> None:
    goal = SentGoal(action, "red")
    eventually(lambda: goal.ended, "the end")
    assert goal.end == (GoalStatus.STATUS_SUCCEEDED, "")
    assert goal.result.status == Segment.Result.STATUS_ANSWERED
    assert [item.label for item in goal.result.results[0].instances] == ["red"]


def test_a_running_goal_is_cancelled_between_stages(
    action: ActionClient, eventually: Eventually, idle: Callable[[float], None]
) -> None:
    goal = SentGoal(action, "slow red")
    eventually(lambda: "step 2" in goal.stages, "some steps")
    goal.handle.cancel_goal_async()
    eventually(lambda: goal.ended, "the end", 1.0)
    assert goal.end == (GoalStatus.STATUS_CANCELED, "CANCELLED")
    assert goal.result.status == Segment.Result.STATUS_REFUSED
    idle(0.7)  # 30 steps take 1.5 s: the model has stopped
    assert "step 29" not in goal.stages


def test_a_waiting_goal_is_cancelled_at_once_and_leaves_the_queue(
    action: ActionClient, eventually: Eventually, idle: Callable[[float], None]
) -> None:
    first = SentGoal(action, "slow red")
    eventually(lambda: "step 0" in first.stages, "the first to run")
    waiting = []
    for ahead in (1, 2):
        goal = SentGoal(action, "red")
        waiting.append(goal)
        eventually(lambda goal=goal: goal.feedback, "it to wait")
        assert goal.feedback[0].ahead == ahead
    assert {goal.feedback[0].stage for goal in waiting} == {"waiting"}
    waiting[0].handle.cancel_goal_async()
    eventually(lambda: waiting[0].ended, "the end of the cancelled one")
    eventually(lambda: waiting[1].feedback[-1].ahead == 1, "the other to move up")
    assert waiting[0].end == (GoalStatus.STATUS_CANCELED, "CANCELLED")
    assert not first.ended
    third = SentGoal(action, "red")  # the queue has room for two
    eventually(lambda: first.ended and waiting[1].ended and third.ended, "the others")
    assert first.end == waiting[1].end == third.end == (GoalStatus.STATUS_SUCCEEDED, "")


def test_a_goal_that_preempts_replaces_those_before(
    action: ActionClient, eventually: Eventually, idle: Callable[[float], None]
) -> None:
    running = SentGoal(action, "slow red")
    eventually(lambda: "step 0" in running.stages, "the first to run")
    waiting = SentGoal(action, "red")
    eventually(lambda: waiting.feedback, "the second to wait")
    newest = SentGoal(action, "red", preempt=True)
    eventually(lambda: running.ended and waiting.ended and newest.ended, "all ends", 5.0)
    assert running.end == waiting.end == (GoalStatus.STATUS_ABORTED, "CANCELLED")
    assert "newer goal" in running.result.message
    assert newest.end == (GoalStatus.STATUS_SUCCEEDED, "")


@pytest.mark.parametrize(
    ("text", "fields", "status", "code"),
    [
        ("red", {"camera": "attic"}, Segment.Result.STATUS_REFUSED, "UNKNOWN_CAMERA"),
        ("red", {"camera": "dark"}, Segment.Result.STATUS_REFUSED, "NO_FRAME"),
        ("red", {"timeout_s": float("nan")}, Segment.Result.STATUS_REFUSED, "INVALID_QUERY"),
        ("stuck", {"timeout_s": 0.2}, Segment.Result.STATUS_REFUSED, "DEADLINE"),
        ("broken", {}, Segment.Result.STATUS_FAILED, "MODEL_ERROR"),
        ("memory", {}, Segment.Result.STATUS_FAILED, "OUT_OF_MEMORY"),
    ],
)
def test_every_other_error_is_typed(
    action: ActionClient,
    eventually: Eventually,
    idle: Callable[[float], None],
    text: str,
    fields: dict[str, Any],
    status: int,
    code: str,
) -> None:
    goal = SentGoal(action, text, **fields)
    eventually(lambda: goal.ended, "the end")
    assert goal.end == (GoalStatus.STATUS_ABORTED, code)
    assert goal.result.status == status
    assert goal.result.message
    assert list(goal.result.results) == []


def test_queue_full(action: ActionClient, eventually: Eventually, idle: Callable[[float], None]) -> None:
    first = SentGoal(action, "slow red")
    eventually(lambda: "step 0" in first.stages, "the first to run")
    others = [SentGoal(action, "red") for _ in range(3)]
    eventually(lambda: any(goal.ended for goal in others), "the refusal", 1.0)
    eventually(lambda: all(goal.ended for goal in (first, *others)), "all ends")
    assert sorted(goal.end[1] for goal in others) == ["", "", "QUEUE_FULL"]


def test_a_client_that_gives_up_stops_the_model(
    segmenter: RosSegmenter, idle: Callable[[float], None]
) -> None:
    cancel = threading.Event()

    def give_up(progress: Progress) -> None:
        if progress.stage == "step 1":
            cancel.set()

    with pytest.raises(RequestCancelledError):
        segmenter.segment_with_progress(
            Frame(rgb=_image()),
            [Query(text="slow red")],
            deadline_s=10.0,
            on_progress=give_up,
            cancel=cancel,
        )
    idle(0.8)


def test_refusals_and_failures_are_raised(segmenter: RosSegmenter, idle: Callable[[float], None]) -> None:
    with pytest.raises(NoFrameError):
        segmenter.segment_with_progress(
            CameraRef(name="dark"), [Query(text="red")], deadline_s=5.0, on_progress=print
        )
    with pytest.raises(ModelError, match="wrong device"):
        segmenter.segment_with_progress(
            Frame(rgb=_image()), [Query(text="broken")], deadline_s=5.0, on_progress=print
        )


def test_deactivated_while_it_runs(
    node: Any, action: ActionClient, module_ros: Any, eventually: Eventually, idle: Callable[[float], None]
) -> None:
    client = NodeClient(module_ros)
    running = SentGoal(action, "slow red")
    eventually(lambda: "step 0" in running.stages, "the goal to run")
    assert client.change(Transition.TRANSITION_DEACTIVATE)
    eventually(lambda: running.ended, "the end")
    assert running.end == (GoalStatus.STATUS_ABORTED, "NOT_ACTIVE")
    refused = SentGoal(action, "red")
    eventually(lambda: refused.ended, "the refusal")
    assert refused.end == (GoalStatus.STATUS_ABORTED, "NOT_ACTIVE")
    assert client.change(Transition.TRANSITION_ACTIVATE)
    again = SentGoal(action, "red")
    eventually(lambda: again.ended, "the result")
    assert again.end == (GoalStatus.STATUS_SUCCEEDED, "")
    assert node.running
