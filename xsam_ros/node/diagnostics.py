"""`/diagnostics` once a second: cameras, queue, latency, refusals and memory, with hints on what to do.

Source: REP 107 and diagnostic_msgs. The package diagnostic_updater is not used.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.node import Node

from xsam_ros.cameras.buffer import TopicStatistics
from xsam_ros.cameras.camera import CameraBuffer, CameraStatistics
from xsam_ros.node.engines import LinkedEngine
from xsam_ros.node.metrics import NodeStatistics, StatisticsSnapshot, StreamStatistics
from xsam_ros.runtime.qos import NO_EVENTS

_PERIOD_S = 1.0
_LATE_S = 1.0
"""A camera is late when its newest frame is older than this, and silent after ten times as long."""

_SILENT_FACTOR = 10.0


class Diagnostics:
    """Publisher of `/diagnostics`; active between `start` and `stop`."""

    def __init__(
        self,
        node: Node,
        statistics: NodeStatistics,
        cameras: Mapping[str, CameraBuffer],
        *,
        model: Callable[[], str],
        link: Callable[[], LinkedEngine | None] = lambda: None,
        transforms: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Prepare; nothing is published yet.

        Args:
            node: its full name is the prefix of every status name.
            statistics: of the node.
            cameras: by name; read each time, so it may change.
            model: returns a description of the model and its device, for people.
            link: returns the engine if its model is behind a link to a server.
            transforms: returns what is wrong with TF.
        """
        self._node = node
        self._statistics = statistics
        self._cameras = cameras
        self._model = model
        self._link = link
        self._transforms = transforms
        self._publisher: Any = None
        self._timer: Any = None
        self._before: StatisticsSnapshot | None = None

    def start(self) -> None:
        """Publish once a second from now on. May be called more than once."""
        if self._timer is None:
            self._publisher = self._node.create_publisher(
                DiagnosticArray, "/diagnostics", 10, event_callbacks=NO_EVENTS
            )
            steady = Clock(clock_type=ClockType.STEADY_TIME)  # also when simulated time stands still
            self._timer = self._node.create_timer(_PERIOD_S, self.publish, clock=steady)

    def stop(self) -> None:
        """Stop publishing. May be called more than once."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._node.destroy_publisher(self._publisher)
        self._timer = self._publisher = None

    def publish(self) -> None:
        """Publish the current state."""
        message = DiagnosticArray(status=self.statuses())
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def statuses(self) -> list[DiagnosticStatus]:
        """Return the status of the model, of each camera, of a server, and of TF where it fails."""
        now = self._statistics.snapshot()
        before, self._before = self._before, now
        name, model = self._node.get_fully_qualified_name(), self._model()
        cameras = list(self._cameras.items())
        shared = _shared_topics(cameras)
        statuses = [_with_doubt(model_status(name, model, now, before), "node name", self._namesakes())]
        for camera, buffer in cameras:
            status = camera_status(name, buffer.statistics(), now.streams.get(camera, StreamStatistics()))
            statuses.append(_with_doubt(status, "shared topic", shared.get(camera, "")))
        if (engine := self._link()) is not None:
            statuses.append(server_status(name, engine))
        if problems := self._transforms():
            values = {f"problem {number}": problem for number, problem in enumerate(problems, 1)}
            statuses.append(
                _status(DiagnosticStatus.WARN, f"{name}: transforms", problems[-1], "/tf", values)
            )
        return statuses

    def _namesakes(self) -> str:
        """Return what is wrong with the name of the node; "" = it is the only one of this name."""
        own = (self._node.get_name(), self._node.get_namespace())
        count = self._node.get_node_names_and_namespaces().count(own)
        if count < 2:
            return ""
        return (
            f"{count} nodes are called {self._node.get_fully_qualified_name()}: requests may reach any of "
            "them; stop the others, or start one with another name (-r __node:=NAME)"
        )


def _with_doubt(status: DiagnosticStatus, key: str, doubt: str) -> DiagnosticStatus:
    """Return a status with something that is wrong; it becomes a warning unless it is worse already."""
    if doubt:
        status.values.append(KeyValue(key=key, value=doubt))
        if status.level == DiagnosticStatus.OK:
            status.level, status.message = DiagnosticStatus.WARN, doubt
    return status


def _shared_topics(cameras: Sequence[tuple[str, CameraBuffer]]) -> dict[str, str]:
    """Return for each camera whose color or depth topic is that of another camera which one it is."""
    users: dict[str, dict[str, None]] = {}  # sets that keep their order
    for name, buffer in cameras:
        for topic in (buffer.image, buffer.depth):
            if topic is not None:
                users.setdefault(topic.topic, {})[name] = None
    return {
        name: f"cameras {' and '.join(names)} have the same topic, {topic}: is one of them wrong?"
        for topic, names in users.items()
        if len(names) > 1
        for name in names
    }


def server_status(node: str, engine: LinkedEngine) -> DiagnosticStatus:
    """Return the status of the link to a model server."""
    link = engine.link
    values = {
        "round trip": f"{1000 * link.round_trip_s:.1f} ms",
        "sent": f"{link.bytes_sent / 1e6:.1f} MB",
        "received": f"{link.bytes_received / 1e6:.1f} MB",
        "connections lost": str(link.connections_lost),
        "answers now": "the local model" if engine.is_local else "the server",
    }
    level, message = DiagnosticStatus.OK, "connected"
    if not link.is_up:
        level, message = DiagnosticStatus.ERROR, f"the server is away: {link.last_error or 'not asked yet'}"
    if engine.is_local:
        level, message = DiagnosticStatus.WARN, f"the local model answers; {message}"
    return _status(level, f"{node}: server", message, engine.url, values)


def model_status(
    node: str, model: str, now: StatisticsSnapshot, before: StatisticsSnapshot | None
) -> DiagnosticStatus:
    """Return the status of the model: queue, latency, refusals and memory.

    Errors since `before` decide the level; None = since the node started.
    """
    new = {
        code: count - (before.by_code.get(code, 0) if before else 0) for code, count in now.by_code.items()
    }
    errors = {code: count for code, count in new.items() if count > 0}
    failed = now.failed - (before.failed if before else 0)
    listed = ", ".join(f"{count} × {code}" for code, count in sorted(errors.items()))
    values: dict[str, Any] = {
        "model": model,
        "busy": now.queue.busy,
        "waiting": f"{now.queue.waiting} of {now.queue.size}",
        "answered": now.answered,
        "refused": now.refused,
        "failed": now.failed,
        **{f"ended with {code}": count for code, count in sorted(now.by_code.items())},
    }
    for stage, times_s in now.stages_s.items():
        if times_s:
            p50_ms, p99_ms = np.percentile(times_s, [50, 99]) * 1000
            values[f"{stage} p50 / p99 [ms]"] = f"{p50_ms:.1f} / {p99_ms:.1f}"
    sessions = sum(stream.memory.sessions for stream in now.streams.values())
    if sessions:
        nbytes = sum(stream.memory.nbytes for stream in now.streams.values())
        values["sessions that remember frames"] = sessions
        values["memory of sessions [MB]"] = f"{nbytes / 1e6:.3g}"
    values["resident memory [MB]"] = f"{resident_mb():.0f}"
    gpu_mb = gpu_memory_mb()
    if gpu_mb is not None:
        values["GPU memory [MB]"] = f"{gpu_mb:.0f}"
    level, text = DiagnosticStatus.OK, "ready"
    if errors.get("OUT_OF_MEMORY"):
        level, text = DiagnosticStatus.ERROR, f"out of memory: {listed}"
    elif failed > 0:
        level, text = DiagnosticStatus.ERROR, f"the model failed: {listed}"
    elif errors.get("QUEUE_FULL") or errors.get("DEADLINE"):
        level, text = DiagnosticStatus.WARN, f"too many requests for the model: {listed}"
    elif errors:
        text = f"ready; refused in the last second: {listed}"
    return _status(level, f"{node}: model", text, node, values)


def camera_status(node: str, camera: CameraStatistics, stream: StreamStatistics) -> DiagnosticStatus:
    """Return the status of a camera: frames, their age and rate, depth, QoS, and its stream."""
    values: dict[str, Any] = {
        "image topic": camera.image.topic,
        "frames": camera.image.received,
        "rate [Hz]": _number(camera.image.rate_hz),
        "age of the newest [s]": _number(camera.image.age_s),
        "lost on the way": camera.image.lost,
        "used": camera.used,
        "passed over for newer ones": camera.overwritten,
        "not readable": camera.decode_errors,
    }
    others = (
        ("depth", camera.depth),
        ("camera info", camera.info),
        ("depth camera info", camera.depth_info),
    )
    for kind, topic in others:
        if topic is not None:
            values |= {f"{kind} topic": topic.topic, f"{kind} messages": topic.received}
    if camera.no_depth_reason:
        values["no depth"] = camera.no_depth_reason
    if camera.no_intrinsics_reason:
        values["no camera matrix"] = camera.no_intrinsics_reason
    if camera.notes:
        values["notes"] = "; ".join(camera.notes)
    if stream.running:
        values |= {
            "stream": ", ".join(stream.queries),
            "stream owner": stream.owner or "anonymous",
            "stream rate [Hz]": _number(stream.rate_hz),
            "stream latency [s]": _number(stream.latency_s),
            "stream answers": stream.answers,
            "stream dropped frames": stream.dropped,
            "stream refused": stream.refused,
            "stream sessions": stream.memory.sessions,
            "stream memory [MB]": f"{stream.memory.nbytes / 1e6:.3g}",
        }
        if stream.memory.no_memory_reason:
            values["stream without memory"] = stream.memory.no_memory_reason
    elif stream.end_message:
        values["stream"] = f"none; the last one has ended: {stream.end_message}"
    level, text = _camera_state(camera, stream)
    return _status(level, f"{node}: camera {camera.name}", text, camera.image.topic, values)


def _camera_state(camera: CameraStatistics, stream: StreamStatistics) -> tuple[bytes, str]:
    image = camera.image
    all_topics = (image, camera.depth, camera.info, camera.depth_info)
    topics = [topic for topic in all_topics if topic is not None]
    for topic in topics:
        if topic.incompatible_qos and not topic.received:
            return DiagnosticStatus.ERROR, _qos_description(topic)
    if not image.received:
        problem = image.problem or "is its driver running?"
        return DiagnosticStatus.STALE, f"no frame on {image.topic} yet; {problem}"
    if image.age_s > _LATE_S * _SILENT_FACTOR:
        return DiagnosticStatus.ERROR, f"no frame on {image.topic} for {image.age_s:.0f} s"
    if image.age_s > _LATE_S:
        return DiagnosticStatus.WARN, f"no frame on {image.topic} for {image.age_s:.1f} s"
    if camera.last_error and camera.decode_errors:
        undecoded = f"{camera.decode_errors} messages could not be decoded"
        return DiagnosticStatus.WARN, f"{undecoded}: {camera.last_error}"
    for topic in topics:
        if topic.incompatible_qos:
            return DiagnosticStatus.WARN, _qos_description(topic)
    if stream.running and stream.last_error:
        return DiagnosticStatus.WARN, f"the stream has no results: {stream.last_error}"
    if stream.running and stream.memory.is_full:
        without = stream.memory.no_memory_reason
        return DiagnosticStatus.WARN, f"queries of the stream have no memory of earlier frames: {without}"
    for topic in topics[1:]:
        if not topic.received:
            problem = f"; {topic.problem}" if topic.problem else ""
            return (
                DiagnosticStatus.WARN,
                f"no message on {topic.topic} yet, so there are no 3D locations{problem}",
            )
    if camera.depth is not None and camera.no_depth_reason:
        return DiagnosticStatus.WARN, f"the last frame had no depth: {camera.no_depth_reason}"
    if camera.info is not None and camera.no_intrinsics_reason:
        return DiagnosticStatus.WARN, f"the last frame had no camera matrix: {camera.no_intrinsics_reason}"
    for topic in topics:
        if topic.problem:
            return DiagnosticStatus.WARN, topic.problem
    return DiagnosticStatus.OK, f"{_number(image.rate_hz)} Hz"


def _qos_description(topic: TopicStatistics) -> str:
    return (
        f"{topic.incompatible_publishers} publisher(s) on {topic.topic} offer an incompatible "
        f"{topic.incompatible_qos}; change the qos parameter of the camera"
    )


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "unknown"


def _status(level: bytes, name: str, text: str, hardware: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    pairs: Sequence[KeyValue] = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=text, hardware_id=hardware, values=pairs)


def resident_mb() -> float:
    """Return the resident memory of this process in MB (10^6 bytes); NaN where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return math.nan
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def gpu_memory_mb() -> float | None:
    """Return the GPU memory reserved by PyTorch in this process in MB; None without PyTorch or GPU."""
    torch = sys.modules.get("torch")  # diagnostics must not import it
    if torch is None or not torch.cuda.is_available():
        return None
    return float(torch.cuda.memory_reserved()) / 1e6


def resolved_device(device: str) -> str:
    """Return `device` with "auto" replaced: "cuda" if the model's PyTorch has it, else "cpu"."""
    if device != "auto":
        return device
    torch = sys.modules.get("torch")
    return "cuda" if torch is not None and torch.cuda.is_available() else "cpu"
