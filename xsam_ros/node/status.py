"""Statistics → messages of `GetStatus`."""

from __future__ import annotations

from xsam_ros.cameras.camera import CameraStatistics
from xsam_ros.messages.text import replace_unsendable
from xsam_ros.msg import CameraStatus, StreamStatus
from xsam_ros.node.metrics import StreamStatistics


def camera_to_message(camera: CameraStatistics, stream: StreamStatistics, *, publishers: int) -> CameraStatus:
    """Return the status message of a camera and its stream.

    Args:
        camera: statistics of the camera.
        stream: statistics of its stream.
        publishers: number of publishers on the color topic, whether their QoS is compatible or not.
    """
    policies = {
        policy
        for topic in (camera.image, camera.depth, camera.info, camera.depth_info)
        if topic is not None and topic.incompatible_qos
        for policy in topic.incompatible_qos.split(", ")
    }
    return CameraStatus(
        name=camera.name,
        image_topic=camera.image.topic,
        depth_topic="" if camera.depth is None else camera.depth.topic,
        info_topic="" if camera.info is None else camera.info.topic,
        frames=camera.image.received,
        age_s=camera.image.age_s,
        rate_hz=camera.image.rate_hz,
        publishers=publishers,
        incompatible_qos=", ".join(sorted(policies)),
        no_depth_reason=camera.no_depth_reason,
        no_intrinsics_reason=camera.no_intrinsics_reason,
        decode_errors=camera.decode_errors,
        last_error=camera.last_error,
        stream=stream_to_message(stream),
        notes=[replace_unsendable(note) for note in camera.notes],
    )


def stream_to_message(stream: StreamStatistics) -> StreamStatus:
    """Return the status message of a stream."""
    return StreamStatus(
        running=stream.running,
        queries=list(stream.queries),
        requested_hz=stream.requested_hz,
        rate_hz=stream.rate_hz,
        latency_s=stream.latency_s,
        answers=stream.answers,
        dropped=stream.dropped,
        refused=stream.refused,
        last_error=replace_unsendable(stream.last_error),
        stream_id=stream.stream_id,
        owner=stream.owner,
        age_s=stream.age_s,
        lease_s=stream.lease_s,
        lease_left_s=stream.lease_left_s,
        end=int(stream.end),
        end_message=replace_unsendable(stream.end_message),
        sessions=stream.memory.sessions,
        memory_bytes=stream.memory.nbytes,
        no_memory_reason=replace_unsendable(stream.memory.no_memory_reason),
        propagate=stream.propagate,
        keyframes=stream.keyframes,
    )
