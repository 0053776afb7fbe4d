"""An annotated recording as MCAP: overlay, masks, markers and results as topics, for Foxglove and ROS 2."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xsam.media.sinks.base import SegmentedFrame, Sink, merged, overlay
from xsam.types.location import Location3D
from xsam.types.requests import Segments
from xsam.wire.conversion import result_to_body

if TYPE_CHECKING:
    from mcap.writer import Writer

FILE = "annotated.mcap"
OVERLAY, LABELS, MARKERS, RESULTS = (
    "/xsam/overlay/compressed",
    "/xsam/label_image",
    "/xsam/markers",
    "/xsam/results",
)
_TYPES = {
    OVERLAY: "sensor_msgs/msg/CompressedImage",
    LABELS: "sensor_msgs/msg/Image",
    MARKERS: "visualization_msgs/msg/MarkerArray",
    RESULTS: "std_msgs/msg/String",
}
_JPEG_QUALITY = 85
_TEXT_HEIGHT_M = 0.03
_MIN_EDGE_M = 0.002  # viewers warn about boxes without volume


class McapSink(Sink):
    """One file with a topic for each kind of output, stamped as the source.

    `/xsam/results` has the JSON of `results.jsonl` as text: a channel with a schema of its own would keep
    others from reading the file. The other topics have the contents of those of the node. Markers need
    locations.
    """

    needs_all_frames = True

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._draft = folder / f".{FILE}.part"
        self._writer: Writer | None = None
        self._stream: Any = None
        self._channels: dict[str, int] = {}
        self._store: Any = None

    def add(self, item: SegmentedFrame) -> None:
        import cv2

        self._opened()
        stamp_ns = max(0, item.source.stamp_ns)
        head = self._header(stamp_ns, item.frame.frame_id or "camera")
        segments = merged(item.results, item.frame.image_hw)
        _, jpeg = cv2.imencode(
            ".jpg", np.ascontiguousarray(overlay(item)[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        )
        types = self._store.types
        self._write(
            OVERLAY,
            types[_TYPES[OVERLAY]](header=head, format="jpeg", data=np.frombuffer(jpeg.tobytes(), np.uint8)),
            stamp_ns,
        )
        if item.answered:
            labels = segments.label_map()
            image = types[_TYPES[LABELS]](
                header=head,
                height=labels.shape[0],
                width=labels.shape[1],
                encoding="mono16",
                is_bigendian=0,
                step=2 * labels.shape[1],
                data=np.frombuffer(labels.astype("<u2").tobytes(), np.uint8),
            )
            self._write(LABELS, image, stamp_ns)
        if item.source.locate is not None:
            self._write(MARKERS, self._markers(head, segments), stamp_ns)
        body = {
            "source": item.source.source,
            "frame": item.source.index,
            "results": [result_to_body(result).model_dump(mode="json") for result in item.results],
        }
        self._write(RESULTS, types[_TYPES[RESULTS]](data=json.dumps(body)), stamp_ns)

    def finish(self, entries: Callable[[], Iterable[dict[str, Any]]]) -> list[Path]:
        self._opened().finish()  # type: ignore[no-untyped-call]
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.replace(self._draft, self._path)
        return [self._path]

    def abandon(self) -> None:
        if self._stream is not None:
            self._stream.close()
            with suppress(OSError):
                self._draft.unlink()

    def _opened(self) -> Writer:
        if self._writer is not None:
            return self._writer
        from mcap.writer import CompressionType, Writer
        from rosbags.typesys import Stores, get_typestore

        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._stream = self._draft.open("wb")
        self._writer = Writer(self._stream, compression=CompressionType.ZSTD)
        self._writer.start("ros2", "xsam")
        for topic, kind in _TYPES.items():
            definition, _ = self._store.generate_msgdef(kind, ros_version=2)
            schema = self._writer.register_schema(kind, "ros2msg", definition.encode())
            self._channels[topic] = self._writer.register_channel(topic, "cdr", schema)
        return self._writer

    def _write(self, topic: str, message: Any, stamp_ns: int) -> None:
        assert self._writer is not None
        data = bytes(self._store.serialize_cdr(message, _TYPES[topic]))
        self._writer.add_message(self._channels[topic], stamp_ns, data, stamp_ns)

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        types = self._store.types
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        stamp = types["builtin_interfaces/msg/Time"](sec=sec & 0x7FFFFFFF, nanosec=nanosec)
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)

    def _markers(self, head: Any, segments: Segments) -> Any:
        from xsam.draw.shapes import color_of

        made = [self._marker(head, 0, {"action": 3})]  # delete those of the frame before
        for index, place in enumerate(segments.locations):
            if place is None or not place.valid:
                continue
            number = int(segments.track_ids[index]) or index + 1
            red, green, blue = (value / 255.0 for value in color_of(number - 1))
            box = {"ns": "boxes", "type": 1, "color": (red, green, blue, 0.4), "place": place}
            text = f"{number} {segments.labels[index]} {place.distance_m:.2f} m"
            label = {"ns": "labels", "type": 9, "color": (1.0, 1.0, 1.0, 1.0), "place": place, "text": text}
            made += [self._marker(head, index + 1, fields) for fields in (box, label)]
        return self._store.types[_TYPES[MARKERS]](markers=made)

    def _marker(self, head: Any, number: int, fields: dict[str, Any]) -> Any:
        types = self._store.types
        place: Location3D | None = fields.get("place")
        is_text = fields.get("type") == 9
        xyz, turn, size = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), (1.0, 1.0, 1.0)
        if place is not None and is_text:
            xyz, size = place.position_m, (_TEXT_HEIGHT_M,) * 3
        elif place is not None:
            xyz, turn = place.center_m, place.orientation_xyzw
            size = tuple(max(edge, _MIN_EDGE_M) for edge in place.size_m)  # type: ignore[assignment]
        duration = types["builtin_interfaces/msg/Duration"](sec=0, nanosec=0)
        empty = np.zeros(0, np.uint8)
        return types["visualization_msgs/msg/Marker"](
            header=head,
            ns=fields.get("ns", ""),
            id=number,
            type=fields.get("type", 0),
            action=fields.get("action", 0),
            pose=types["geometry_msgs/msg/Pose"](
                position=types["geometry_msgs/msg/Point"](*xyz),
                orientation=types["geometry_msgs/msg/Quaternion"](*turn),
            ),
            scale=types["geometry_msgs/msg/Vector3"](*size),
            color=types["std_msgs/msg/ColorRGBA"](*fields.get("color", (0.0, 0.0, 0.0, 0.0))),
            lifetime=duration,
            frame_locked=False,
            points=[],
            colors=[],
            texture_resource="",
            texture=types["sensor_msgs/msg/CompressedImage"](
                header=head, format="", data=np.zeros(0, np.uint8)
            ),
            uv_coordinates=[],
            text=fields.get("text", ""),
            mesh_resource="",
            mesh_file=types["visualization_msgs/msg/MeshFile"](filename="", data=empty),
            mesh_use_embedded_materials=False,
        )
