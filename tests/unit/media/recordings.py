"""Small bags, written with `rosbags`: an implementation that shares nothing with the one that reads them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from tests.unit.media.clips import scene
from xsam import InvalidImageError
from xsam.media.frames import SourceFrame
from xsam.media.options import BagTopics, SourceOptions
from xsam.media.sources import open_sources

STORE = get_typestore(Stores.ROS2_HUMBLE)
T = STORE.types
START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Recorded:
    topic: str
    message: Any
    stamp_ns: int


def header(step: int, frame_id: str = "camera_optical") -> Any:
    return header_at(START_NS + step * STEP_NS, frame_id)


def header_at(stamp_ns: int, frame_id: str = "camera_optical") -> Any:
    stamp = T["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return T["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def image(pixels: NDArray[Any], encoding: str, head: Any, *, padding: int = 0, big: bool = False) -> Any:
    """An image with padded rows: the padding is not zero."""
    stored = pixels.astype(pixels.dtype.newbyteorder(">")) if big else pixels
    rows = np.ascontiguousarray(stored).view(np.uint8).reshape(pixels.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=201)
    return T["sensor_msgs/msg/Image"](
        header=head,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=padded.shape[1],
        data=padded.reshape(-1),
    )


def compressed(pixels: NDArray[Any], head: Any, kind: str = "png") -> Any:
    done, content = cv2.imencode(f".{kind}", pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    assert done
    text = f"rgb8; {kind} compressed bgr8"
    return T["sensor_msgs/msg/CompressedImage"](header=head, format=text, data=content.reshape(-1))


def compressed_depth(depth_mm: NDArray[np.uint16], head: Any, coding: Literal["png", "rvl"]) -> Any:
    if coding == "png":
        content = cv2.imencode(".png", depth_mm)[1].tobytes()
    else:
        content = struct.pack("<II", depth_mm.shape[1], depth_mm.shape[0]) + encode_rvl(depth_mm)
    data = struct.pack("<iff", 0, 0.0, 0.0) + content
    return T["sensor_msgs/msg/CompressedImage"](
        header=head, format=f"16UC1; compressedDepth {coding}", data=np.frombuffer(data, np.uint8)
    )


def encode_rvl(depth: NDArray[np.uint16]) -> bytes:
    """Wilson's RVL: runs of zeros and differences in variable-length nibbles."""
    nibbles: list[int] = []

    def put(value: int) -> None:
        while True:
            nibble, value = value & 7, value >> 3
            nibbles.append(nibble | (8 if value else 0))
            if not value:
                return

    values, position, previous = depth.reshape(-1).tolist(), 0, 0
    while position < len(values):
        zeros = position
        while position < len(values) and values[position] == 0:
            position += 1
        put(position - zeros)
        start = position
        while position < len(values) and values[position]:
            position += 1
        put(position - start)
        for value in values[start:position]:
            delta = value - previous
            put((delta << 1) ^ (delta >> 63))
            previous = value
    nibbles += [0] * (-len(nibbles) % 8)
    words = np.array(nibbles, np.uint32).reshape(-1, 8)
    packed = sum(words[:, index] << np.uint32(28 - 4 * index) for index in range(8))
    return np.asarray(packed, "<u4").tobytes()


def camera_info(hw: tuple[int, int], head: Any, focal_px: float = 60.0, *, tx: float = 0.0) -> Any:
    height, width = hw
    k = np.array([focal_px, 0, (width - 1) / 2, 0, focal_px, (height - 1) / 2, 0, 0, 1], np.float64)
    p = np.insert(k.reshape(3, 3), 3, (tx, 0.0, 0.0), axis=1).reshape(-1)
    region = T["sensor_msgs/msg/RegionOfInterest"](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    return T["sensor_msgs/msg/CameraInfo"](
        header=head,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=k,
        r=np.eye(3).reshape(-1),
        p=p,
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def static_transform(parent: str, child: str, xyz: tuple[float, float, float]) -> Any:
    transform = T["geometry_msgs/msg/Transform"](
        translation=T["geometry_msgs/msg/Vector3"](*xyz),
        rotation=T["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
    )
    stamped = T["geometry_msgs/msg/TransformStamped"](
        header=header(0, parent), child_frame_id=child, transform=transform
    )
    return T["tf2_msgs/msg/TFMessage"](transforms=[stamped])


def write_bag(
    path: Path,
    messages: Sequence[Recorded],
    *,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    compression: Literal["", "file", "message", "storage"] = "",
) -> Path:
    """Write a folder with metadata and one file."""
    writer = Writer(
        path, version=9, storage_plugin=StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    )
    if compression:
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections: dict[tuple[str, str], Any] = {}
        for item in messages:
            kind = item.message.__msgtype__
            if (item.topic, kind) not in connections:
                connections[item.topic, kind] = writer.add_connection(item.topic, kind, typestore=STORE)
            data = STORE.serialize_cdr(item.message, kind)
            writer.write(connections[item.topic, kind], item.stamp_ns, data)
    return path


def only_file(bag: Path) -> Path:
    (path,) = (file for file in bag.iterdir() if file.name != "metadata.yaml")
    return path


TOPIC = "/camera/image_raw"
HW = (48, 64)
DEPTH = np.full(HW, 2000, np.uint16)
DEPTH[6:16, 2:12] = 800  # the red square of step 0
DEPTH[:3] = 0


def recorded(topic: str, message: Any, step: int, delay_ns: int = 5_000_000) -> Recorded:
    return Recorded(topic=topic, message=message, stamp_ns=START_NS + step * STEP_NS + delay_ns)


def clip(count: int = 5) -> list[Recorded]:
    """Color images with rows that are padded."""
    return [
        recorded(TOPIC, image(scene(step), "rgb8", header(step), padding=7), step) for step in range(count)
    ]


def open_bag(path: Path, **chosen: str) -> list[SourceFrame]:
    return list(open_sources([str(path)], SourceOptions(bag=BagTopics(**chosen))).frames())


def problems(frames: Sequence[SourceFrame]) -> list[str]:
    found = []
    for frame in frames:
        try:
            frame.load([])
        except InvalidImageError as error:
            found.append(error.message)
    return found


def assert_clip(frames: Sequence[SourceFrame], count: int = 5) -> None:
    assert [frame.stamp_ns for frame in frames] == [START_NS + step * STEP_NS for step in range(count)]
    for step, frame in enumerate(frames):
        loaded = frame.load([])
        assert np.array_equal(loaded.rgb, scene(step))
        assert (loaded.frame_id, loaded.camera, loaded.stamp_ns) == ("camera_optical", TOPIC, frame.stamp_ns)


def with_depth(
    depth: Any, *, frame_id: str = "camera_optical", info_first: bool = True, tx: float = 0.0
) -> list[Recorded]:
    """One color image, with depth and camera info that come a little later."""
    topic = "/camera/depth/image_raw" + ("/compressedDepth" if hasattr(depth, "format") else "")
    depth.header = header(0, frame_id)
    infos = [
        recorded(
            "/camera/camera_info",
            camera_info(HW, header(0), tx=tx),
            0,
            1_000_000 if info_first else 30_000_000,
        ),
        recorded("/camera/depth/camera_info", camera_info(HW, header(0, frame_id)), 0, 2_000_000),
    ]
    messages = [*clip(1), *infos, recorded(topic, depth, 0, 40_000_000)]
    return sorted(messages, key=lambda item: item.stamp_ns)
