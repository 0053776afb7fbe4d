"""The lifecycle node: it wires cameras, worker, service and topics together, and nothing else.

`configure` loads and warms up the model, `activate` subscribes, `deactivate` stops, `cleanup` releases the
memory. Run it with `ros2 run xsam_ros xsam_node` or `python -m xsam_ros.segmenter_node`.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from xsam.errors import ModelError, NotActiveError, XSamError
from xsam.segmenter import Engine
from xsam.worker import ModelWorker
from xsam_ros.cameras.camera import CameraBuffer
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.cameras.subscriptions import CameraSubscriptions, create_camera_buffer
from xsam_ros.cameras.transforms import Transforms
from xsam_ros.messages.queries import MAX_ELEMENTS
from xsam_ros.messages.results import error_to_response
from xsam_ros.messages.text import replace_unsendable
from xsam_ros.node.action import SegmentAction
from xsam_ros.node.diagnostics import Diagnostics, resolved_device
from xsam_ros.node.engines import LinkedEngine, load_engine
from xsam_ros.node.lifecycle import not_active, release_memory, reported, settle_memory
from xsam_ros.node.metrics import NodeStatistics, QueueStatistics, StreamStatistics
from xsam_ros.node.parameters import NodeParameters, validator
from xsam_ros.node.requests import FrameResults, NodeContext, RequestHandler
from xsam_ros.node.service import SegmentService
from xsam_ros.node.status import camera_to_message
from xsam_ros.node.stream_query import check_rate, configured_stream, shortened
from xsam_ros.node.stream_service import refuse, respond
from xsam_ros.node.streams import Claim, Streams
from xsam_ros.publishers.camera import CameraPublishers
from xsam_ros.runtime.bounded_requests import bound_service
from xsam_ros.runtime.overrides import unknown_parameter_warnings, unused_file_warnings
from xsam_ros.runtime.parameters import declare, read
from xsam_ros.runtime.qos import SERVICE_QOS
from xsam_ros.runtime.rclpy_workarounds import (
    AwaitableResult,
    destroy_lifecycle_services,
    given_parameters,
    lifecycle_state,
    reject_invalid_transitions,
)
from xsam_ros.runtime.spin import run_node
from xsam_ros.srv import GetStatus, Segment, SetStreamQuery

_MAX_ERROR_CHARS = 4000
_LEASE_PERIOD_S = 0.25

EngineFactory = Callable[[NodeParameters], Engine]


class SegmenterNode(LifecycleNode):
    """A node that segments images of its cameras, and images that are sent to it, on demand."""

    def __init__(
        self, node_name: str = "xsam", *, engine_factory: EngineFactory = load_engine, **options: Any
    ) -> None:
        super().__init__(node_name, **options)
        self.last_error = ""
        self._engine_factory = engine_factory
        self._engine: Engine | None = None
        self._worker: ModelWorker | None = None
        self._service: SegmentService | None = None
        self._streams: Streams | None = None
        self._cameras: dict[str, CameraBuffer] = {}
        self._camera_publishers: dict[str, CameraPublishers] = {}
        self._camera_subscriptions: list[CameraSubscriptions] = []
        self._statistics = NodeStatistics(queue=self._queue_statistics, streams=self._stream_statistics)
        self.add_on_set_parameters_callback(validator(lambda: lifecycle_state(self) == "unconfigured"))
        declare(self, NodeParameters)
        try:
            self._declare_cameras()
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            self.get_logger().error(str(error))  # configuring will fail with it, before the model is loaded
        self._warn_of_unused_parameters()
        reject_invalid_transitions(self)
        group = ReentrantCallbackGroup()
        service_options: dict[str, Any] = {"callback_group": group, "qos_profile": SERVICE_QOS}
        segment = self.create_service(Segment, "~/segment", self._on_segment, **service_options)
        self.create_service(GetStatus, "~/get_status", self._on_get_status, **service_options)
        stream = self.create_service(
            SetStreamQuery, "~/set_stream_query", self._on_set_stream, **service_options
        )
        for service in (segment, stream):
            bound_service(service, MAX_ELEMENTS)
        self._action = SegmentAction(self, lambda: self._service, group=group)
        self._transforms = Transforms(self, wait_s=lambda: self._current_parameters().tf_wait_s)
        self._diagnostics = Diagnostics(
            self,
            self._statistics,
            self._cameras,
            model=self._model_description,
            link=self._linked_engine,
            transforms=lambda: self._transforms.problems,
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may not have begun, or stand still
        self.create_timer(_LEASE_PERIOD_S, self._elapse_leases, clock=steady, callback_group=group)
        if self._current_parameters().autostart:
            # In a group of its own: loading takes long, and the services of rclpy must respond meanwhile.
            loading = MutuallyExclusiveCallbackGroup()
            self._autostart_timer = self.create_timer(
                0.0, self._autostart, clock=steady, callback_group=loading
            )

    # ---------------------------------------------------------------------------- lifecycle

    @reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and warm it up; create what does not need images."""
        self._declare_cameras()
        parameters = self._current_parameters()
        self._release()
        self._worker = ModelWorker(queue_size=parameters.queue_size, log_error=self.get_logger().error)
        self.get_logger().info(f"loading model {parameters.model!r} on device {parameters.device!r}")
        try:
            self._engine = self._worker.call(
                functools.partial(self._load, parameters), stage="load", timeout_s=parameters.load_timeout_s
            )
            for name in parameters.cameras:
                self._cameras[name] = create_camera_buffer(self, name, look_up=self._transforms.look_up)
                self._camera_publishers[name] = CameraPublishers(self, name)
        except BaseException:
            self._release()
            raise
        context = NodeContext(
            handler=RequestHandler(self._engine, self._transforms, self._cameras, self._current_parameters),
            worker=self._worker,
            publishers=self._camera_publishers,
            parameters=self._current_parameters,
            statistics=self._statistics,
        )
        self._service = SegmentService(context)
        logger = self.get_logger()
        self._streams = Streams(context, log_error=logger.error, log_info=logger.info)
        self.last_error = ""
        settle_memory()
        self.get_logger().info(f"model {self._engine.model_id} is ready")
        return TransitionCallbackReturn.SUCCESS

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and accept requests."""
        try:
            for name, buffer in self._cameras.items():
                buffer.clear()
                self._camera_subscriptions.append(CameraSubscriptions(self, buffer))
                self.get_logger().info(f"camera {name!r} subscribes to {', '.join(buffer.topics)}")
            if self._worker is not None:
                self._worker.accept()
            if self._streams is not None:
                self._streams.accept()
            self._start_configured_streams()
            self._diagnostics.start()
        except BaseException:
            self._stop_working("the node could not be activated")
            raise
        return super().on_activate(state)

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and refuse waiting requests; a running inference ends at its next stage."""
        self._stop_working("the node was deactivated")
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model and its memory."""
        return TransitionCallbackReturn.SUCCESS if self._release() else TransitionCallbackReturn.FAILURE

    @reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop everything."""
        self.stop()
        return TransitionCallbackReturn.SUCCESS

    @reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop everything and return to the unconfigured state."""
        self.stop()
        return TransitionCallbackReturn.SUCCESS

    def stop(self, *, timeout_s: float | None = None) -> None:
        """Unsubscribe, refuse requests and release the model. May be called more than once.

        Args:
            timeout_s: how long the model may take to stop; None = the parameter `stop_timeout_s`.
        """
        self._stop_working("the node is shutting down")
        self._release(timeout_s)

    # ----------------------------------------------------------------------------- services

    async def _on_segment(self, request: Segment.Request, response: Segment.Response) -> Segment.Response:
        ended = AwaitableResult(self.executor)
        try:
            if self._service is None:
                raise not_active(lifecycle_state(self))
            self._service.submit(request, ended.set_result)
        except XSamError as error:
            ended.set_result(error)
        except Exception as error:  # a callback that raises never responds
            ended.set_result(self._internal_error(error))
        outcome: FrameResults | XSamError = await ended
        if isinstance(outcome, XSamError):
            return error_to_response(outcome, response)
        response.status = Segment.Response.STATUS_ANSWERED
        response.results = outcome.messages
        return response

    def destroy_node(self) -> None:
        """Destroy the node with all of its services; call `stop` first."""
        destroy_lifecycle_services(self)
        super().destroy_node()

    def _on_set_stream(
        self, request: SetStreamQuery.Request, response: SetStreamQuery.Response
    ) -> SetStreamQuery.Response:
        try:
            state = lifecycle_state(self)
            respond(self._streams, request, response, state=state, topic=self.resolve_topic_name)
        except XSamError as error:
            refuse(error, request, response, self._streams)
        except Exception as error:  # a callback that raises never responds
            refuse(self._internal_error(error), request, response, None)
        return response

    def _on_get_status(self, _: GetStatus.Request, response: GetStatus.Response) -> GetStatus.Response:
        try:
            return self._fill_status(response)
        except Exception as error:  # a callback that raises never responds
            return GetStatus.Response(
                state=lifecycle_state(self), last_error=self._internal_error(error).message
            )

    def _fill_status(self, response: GetStatus.Response) -> GetStatus.Response:
        snapshot = self._statistics.snapshot()
        response.state = lifecycle_state(self)
        response.model_id = self._engine.model_id if self._engine is not None else ""
        response.last_error = shortened(replace_unsendable(self.last_error), _MAX_ERROR_CHARS)
        for name, buffer in list(self._cameras.items()):
            publishers = self.count_publishers(buffer.image.topic)
            stream = snapshot.streams.get(name, StreamStatistics())
            response.cameras.append(camera_to_message(buffer.statistics(), stream, publishers=publishers))
        queue = snapshot.queue
        response.queue_size, response.waiting, response.busy = queue.size, queue.waiting, queue.busy
        response.answered = snapshot.answered
        response.refused = snapshot.refused
        response.failed = snapshot.failed
        return response

    # ------------------------------------------------------------------------------ helpers

    def _internal_error(self, error: Exception) -> ModelError:
        """Log an exception that nobody expected, and return what the caller gets to read."""
        self.get_logger().error(f"exception in a service callback:\n{traceback.format_exc()}")
        return ModelError(f"{type(error).__name__}: {error}", hint="this is a fault of the node, see its log")

    def _declare_cameras(self) -> None:
        """Declare the parameters of the cameras, which finds invalid values before the model is loaded."""
        for name in self._current_parameters().cameras:
            declare(self, CameraParameters, prefix=f"{name}.")
            camera: CameraParameters = read(self, CameraParameters, prefix=f"{name}.")
            field, value = "stream_rate_hz", str(camera.stream_rate_hz)
            try:
                check_rate(camera.stream_rate_hz)
                if camera.stream_text:
                    field, value = "stream_text", shortened(camera.stream_text)
                    configured_stream(camera)
            except XSamError as error:
                raise InvalidParameterValueException(f"{name}.{field}", value, str(error)) from error

    def _warn_of_unused_parameters(self) -> None:
        given = given_parameters(self)
        known = [name for name in self._parameters if not name.startswith("qos_overrides")]
        # Also those that could not be declared, because one of them has an invalid value.
        names = self._current_parameters().cameras
        known += [f"{name}.{row.name}" for name in names for row in fields(CameraParameters)]
        used = [name for name in given if not name.startswith("qos_overrides.")]
        for warning in (
            *unknown_parameter_warnings(used, known),
            *unused_file_warnings(sys.argv, self.get_fully_qualified_name(), given),
        ):
            self.get_logger().warning(warning)

    def _load(self, parameters: NodeParameters) -> Engine:
        engine = self._engine_factory(parameters)
        try:
            engine.warm_up()
        except BaseException:
            engine.close()
            raise
        return engine

    def _release(self, timeout_s: float | None = None) -> bool:
        """Release everything that configure created; return False if the model did not stop in time."""
        engine, self._engine, self._service, self._streams = self._engine, None, None, None
        worker, self._worker = self._worker, None
        stopped = True
        # While the process ends, a model in the middle of a stage is nothing to report.
        report = self.get_logger().error if timeout_s is None else self.get_logger().debug
        if worker is not None:
            if timeout_s is None:
                timeout_s = self._current_parameters().stop_timeout_s
            worker.refuse(NotActiveError("the node was cleaned up"))
            if engine is not None:
                try:
                    worker.call(engine.close, stage="close", timeout_s=timeout_s)
                except XSamError as error:
                    report(f"the model could not be closed: {error}")
                    stopped = False
            stopped = worker.close(timeout_s=timeout_s if stopped else 0.1) and stopped
        for publishers in self._camera_publishers.values():
            publishers.destroy()
        self._camera_publishers.clear()
        self._cameras.clear()
        del engine, worker
        release_memory()
        return stopped

    def _stop_working(self, reason: str) -> None:
        self._diagnostics.stop()
        if self._streams is not None:
            # Before their jobs are refused: a stream that is stopped has not failed.
            self._streams.stop_all(reason)
        if self._worker is not None:
            self._worker.refuse(NotActiveError(reason))
        while self._camera_subscriptions:
            self._camera_subscriptions.pop().destroy()

    def _start_configured_streams(self) -> None:
        for name in self._cameras:
            camera: CameraParameters = read(self, CameraParameters, prefix=f"{name}.")
            if self._streams is not None and camera.stream_text:
                claim = Claim(owner=f"parameter {name}.stream_text", gives_way=True)
                self._streams.start(name, configured_stream(camera), claim)

    def _elapse_leases(self) -> None:
        if self._streams is not None:
            self._streams.elapse(_LEASE_PERIOD_S)

    def _queue_statistics(self) -> QueueStatistics:
        size, worker = self._current_parameters().queue_size, self._worker
        if worker is None:
            return QueueStatistics(size=size)
        return QueueStatistics(size=size, waiting=worker.waiting, busy=worker.busy)

    def _stream_statistics(self) -> Mapping[str, StreamStatistics]:
        return {} if self._streams is None else self._streams.statistics()

    def _model_description(self) -> str:
        if self._engine is None:
            return "none"
        linked = self._linked_engine()
        if linked is not None and not linked.is_local:
            return f"{self._engine.model_id or 'unknown'} on {linked.url}"
        return f"{self._engine.model_id} on {resolved_device(self._current_parameters().device)}"

    def _linked_engine(self) -> LinkedEngine | None:
        return self._engine if isinstance(self._engine, LinkedEngine) else None

    def _autostart(self) -> None:
        self.destroy_timer(self._autostart_timer)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _current_parameters(self) -> NodeParameters:
        return read(self, NodeParameters)


def main(arguments: Sequence[str] | None = None, *, engine_factory: EngineFactory = load_engine) -> int:
    """Run the node until SIGINT or SIGTERM."""
    run_node(lambda: SegmenterNode(engine_factory=engine_factory), arguments=arguments, threads=4)
