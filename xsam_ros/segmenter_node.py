"""The lifecycle node: it wires cameras, worker, service and topics together, and nothing else.

`configure` loads and warms up the model, `activate` subscribes, `deactivate` stops, `cleanup` frees
the memory. Run it with `ros2 run xsam_ros xsam_node` or `python -m xsam_ros.segmenter_node`.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future

from xsam.errors import NotActiveError, XSamError
from xsam_ros.camera import CameraSlot
from xsam_ros.camera_subscriptions import CameraSubscriptions, make_slot
from xsam_ros.conversions import error_to_response
from xsam_ros.msg import CameraStatus
from xsam_ros.outputs import CameraOutputs
from xsam_ros.parameters import NodeParameters, declare, read, validator
from xsam_ros.segment_service import Counts, Engine, SegmentService
from xsam_ros.spinning import run_node
from xsam_ros.srv import GetStatus, Segment
from xsam_ros.worker import ModelWorker

Transition = Callable[["SegmenterNode", LifecycleState], TransitionCallbackReturn]
EngineFactory = Callable[[NodeParameters], Engine]


def load_engine(parameters: NodeParameters) -> Engine:
    """Load the model that the parameters name."""
    from xsam.engine import XSam  # brings PyTorch along, so not before it is needed

    dtype: Any = parameters.dtype  # one of the choices in the table
    return XSam.load(parameters.model, device=parameters.device, dtype=dtype)


def _reported(transition: Transition) -> Transition:
    """Log what goes wrong in a transition and fail it; rclpy would swallow the exception."""

    @functools.wraps(transition)
    def guarded(node: SegmenterNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except XSamError as error:
            node.last_error = str(error)
            node.get_logger().error(f"{transition.__name__}: {error.code}: {error}")
        except Exception as error:  # whatever it is, the node stays up and says so
            node.last_error = f"{type(error).__name__}: {error}"
            node.get_logger().error(f"{transition.__name__} failed:\n{traceback.format_exc()}")
        return TransitionCallbackReturn.FAILURE

    return guarded


class SegmenterNode(LifecycleNode):
    """Segments the images of its cameras, and images that are sent to it, on demand."""

    def __init__(
        self, node_name: str = "xsam", *, engine_factory: EngineFactory = load_engine, **options: Any
    ) -> None:
        super().__init__(node_name, **options)
        self.last_error = ""
        self._engine_factory = engine_factory
        self._engine: Engine | None = None
        self._worker: ModelWorker | None = None
        self._service: SegmentService | None = None
        self._cameras: dict[str, CameraSlot] = {}
        self._outputs: dict[str, CameraOutputs] = {}
        self._camera_subscriptions: list[CameraSubscriptions] = []
        self._counts = Counts()
        self.add_on_set_parameters_callback(validator(lambda: self._state() == "unconfigured"))
        declare(self, NodeParameters)
        self._answer_invalid_transitions()
        requests = ReentrantCallbackGroup()
        self.create_service(Segment, "~/segment", self._on_segment, callback_group=requests)
        self.create_service(GetStatus, "~/get_status", self._on_get_status, callback_group=requests)
        if self._parameters_now().autostart:
            steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may not have begun yet
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=steady)

    # ---------------------------------------------------------------------------- lifecycle

    @_reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and warm it up; create what does not need images."""
        parameters = self._parameters_now()
        self._free()
        self._worker = ModelWorker(queue_size=parameters.queue_size, log_error=self.get_logger().error)
        self.get_logger().info(f"loading model {parameters.model!r} on device {parameters.device!r}")
        try:
            self._engine = self._worker.call(
                functools.partial(self._load, parameters), stage="load", timeout_s=parameters.load_timeout_s
            )
            for name in parameters.cameras:
                self._cameras[name] = make_slot(self, name)
                self._outputs[name] = CameraOutputs(self, name)
        except BaseException:
            self._free()
            raise
        self._service = SegmentService(
            engine=self._engine,
            worker=self._worker,
            cameras=self._cameras,
            outputs=self._outputs,
            parameters=self._parameters_now,
        )
        self.last_error = ""
        self.get_logger().info(f"model {self._engine.model_id} is ready")
        return TransitionCallbackReturn.SUCCESS

    @_reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and take requests."""
        try:
            for name, slot in self._cameras.items():
                slot.clear()
                self._camera_subscriptions.append(CameraSubscriptions(self, slot))
                self.get_logger().info(f"camera {name!r} listens to {', '.join(slot.topics)}")
        except BaseException:
            self._unsubscribe()
            raise
        if self._worker is not None:
            self._worker.accept()
        return super().on_activate(state)

    @_reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and refuse what waits; a running inference ends at its next stage."""
        if self._worker is not None:
            self._worker.refuse(NotActiveError("the node was deactivated"))
        self._unsubscribe()
        return super().on_deactivate(state)

    @_reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and its memory."""
        return TransitionCallbackReturn.SUCCESS if self._free() else TransitionCallbackReturn.FAILURE

    @_reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop everything."""
        self.stop()
        return TransitionCallbackReturn.SUCCESS

    @_reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured."""
        self.stop()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> None:
        """Unsubscribe, refuse requests, free the model. May be called more than once."""
        self._unsubscribe()
        self._free()

    # ----------------------------------------------------------------------------- services

    async def _on_segment(self, request: Segment.Request, response: Segment.Response) -> Segment.Response:
        future = Future(executor=self.executor)
        # rclpy wakes the executor to run callbacks of a future, not to resume who awaits it.
        future.add_done_callback(lambda _: None)
        try:
            if self._service is None:
                raise NotActiveError(f"the node is {self._state()}")
            self._service.submit(request, future.set_result)
        except XSamError as error:
            future.set_result(error_to_response(error, response))
        answer: Segment.Response = await future
        self._counts.add(answer)
        return answer

    def _on_get_status(self, _: GetStatus.Request, response: GetStatus.Response) -> GetStatus.Response:
        response.state = self._state()
        response.model_id = self._engine.model_id if self._engine is not None else ""
        response.last_error = self.last_error
        for name, slot in list(self._cameras.items()):
            image = slot.image.statistics()
            camera = CameraStatus(name=name, image_topic=image.topic, frames=image.received)
            camera.age_s, camera.rate_hz = image.age_s, image.rate_hz
            camera.publishers = self.count_publishers(image.topic)
            response.cameras.append(camera)
        response.queue_size = self._parameters_now().queue_size
        if self._worker is not None:
            response.waiting = self._worker.waiting
            response.busy = self._worker.busy
        response.answered = self._counts.answered
        response.refused = self._counts.refused
        response.failed = self._counts.failed
        return response

    # ------------------------------------------------------------------------------ helpers

    def _load(self, parameters: NodeParameters) -> Engine:
        engine = self._engine_factory(parameters)
        engine.warm_up()
        return engine

    def _free(self) -> bool:
        """Give everything back that configure made; False if the model did not stop in time."""
        engine, self._engine, self._service = self._engine, None, None
        worker, self._worker = self._worker, None
        stopped = True
        if worker is not None:
            timeout_s = self._parameters_now().stop_timeout_s
            worker.refuse(NotActiveError("the node was cleaned up"))
            if engine is not None:
                try:
                    worker.call(engine.close, stage="close", timeout_s=timeout_s)
                except XSamError as error:
                    self.get_logger().error(f"closing the model: {error}")
                    stopped = False
            stopped = worker.close(timeout_s=timeout_s if stopped else 0.1) and stopped
        for outputs in self._outputs.values():
            outputs.destroy()
        self._outputs.clear()
        self._cameras.clear()
        return stopped

    def _unsubscribe(self) -> None:
        while self._camera_subscriptions:
            self._camera_subscriptions.pop().destroy()

    def _autostart(self) -> None:
        self.destroy_timer(self._autostart_timer)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _answer_invalid_transitions(self) -> None:
        """Answer an impossible transition with "no"; rclpy raises instead, and its caller waits for ever."""
        service = getattr(self, "_service_change_state", None)
        if service is None:
            return
        change_state = service.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except Exception as error:  # rclpy's RCLError has no public name
                wanted = request.transition.label or request.transition.id
                self.get_logger().warning(f"transition {wanted} is impossible from {self._state()}: {error}")
                response.success = False
                return response

        service.callback = guarded

    def _parameters_now(self) -> NodeParameters:
        return read(self, NodeParameters)

    def _state(self) -> str:
        return str(self._state_machine.current_state[1])


def main(arguments: Sequence[str] | None = None, *, engine_factory: EngineFactory = load_engine) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(lambda: SegmenterNode(engine_factory=engine_factory), arguments=arguments, threads=4)


if __name__ == "__main__":
    raise SystemExit(main())
