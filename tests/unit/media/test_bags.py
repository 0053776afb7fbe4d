"""Bags of ROS 2 without ROS: every storage and compression, parts, topics, and types."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.unit.media.clips import scene
from tests.unit.media.recordings import (
    TOPIC,
    assert_clip,
    clip,
    compressed,
    header,
    image,
    only_file,
    open_bag,
    problems,
    recorded,
    write_bag,
)
from xsam.errors import SourceError
from xsam.media.options import SourceOptions
from xsam.media.sources import open_sources


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        ("mcap", ""),
        ("mcap", "storage"),
        ("mcap", "message"),
        ("mcap", "file"),
        ("sqlite3", ""),
        ("sqlite3", "message"),
        ("sqlite3", "file"),
    ],
)
@pytest.mark.parametrize("with_metadata", [True, False])
def test_every_storage_and_compression(
    tmp_path: Path,
    storage: Literal["mcap", "sqlite3"],
    compression: Literal["", "file", "message", "storage"],
    with_metadata: bool,
) -> None:
    bag = write_bag(tmp_path / "bag", clip(), storage=storage, compression=compression)
    if not with_metadata:
        (bag / "metadata.yaml").unlink()
    assert_clip(open_bag(bag))
    assert_clip(open_bag(only_file(bag)))


def test_lz4_chunks_of_the_mcap_tools(tmp_path: Path) -> None:
    from mcap.writer import CompressionType
    from mcap.writer import Writer as McapWriter

    from tests.unit.media.recordings import STORE

    path = tmp_path / "tool.mcap"
    with path.open("wb") as stream:
        writer = McapWriter(stream, compression=CompressionType.LZ4)
        writer.start("ros2", "test")
        kind = "sensor_msgs/msg/Image"
        definition = STORE.generate_msgdef(kind, ros_version=2)[0]
        schema = writer.register_schema(kind, "ros2msg", definition.encode())
        channel = writer.register_channel(TOPIC, "cdr", schema)
        for item in clip():
            data = bytes(STORE.serialize_cdr(item.message, kind))
            writer.add_message(channel, item.stamp_ns, data, item.stamp_ns)
        writer.finish()
    assert_clip(open_bag(path))


def test_a_bag_in_parts_is_one_sequence(tmp_path: Path) -> None:
    """Part 10 comes after part 9; the parts are those of the metadata, if there is one."""
    folder = tmp_path / "bag"
    folder.mkdir()
    for step in range(12):
        part = write_bag(tmp_path / f"part{step}", clip(12)[step : step + 1])
        shutil.move(only_file(part), folder / f"bag_{step}.mcap")
    assert_clip(open_bag(folder), 12)
    names = "".join(f"  - bag_{step}.mcap\n" for step in range(12))
    (folder / "metadata.yaml").write_text(
        f"rosbag2_bagfile_information:\n  relative_file_paths:\n{names}".replace("  - ", "    - ")
    )
    (folder / "bag_3.mcap").unlink()
    frames = open_bag(folder)
    assert ["bag_3.mcap" in problem for problem in problems(frames)] == [True]
    assert len(frames) == 12


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_compressed_images(tmp_path: Path, kind: str) -> None:
    topic = f"{TOPIC}/compressed"
    bag = write_bag(
        tmp_path / "bag",
        [recorded(topic, compressed(scene(step), header(step), kind), step) for step in range(3)],
    )
    frames = open_bag(bag)
    assert len(frames) == 3
    assert np.abs(frames[2].load([]).rgb.astype(int) - scene(2)).mean() < (0.01 if kind == "png" else 4)


def test_a_topic_has_to_be_chosen_if_there_are_several(tmp_path: Path) -> None:
    other = [recorded("/left/image", image(scene(9), "rgb8", header(step)), step) for step in range(2)]
    bag = write_bag(tmp_path / "bag", [*clip(2), *other])
    with pytest.raises(SourceError, match=r"choose one with --topic: /camera/image_raw, /left/image"):
        open_bag(bag)
    assert_clip(open_bag(bag, color=TOPIC), 2)
    assert np.array_equal(open_bag(bag, color="/left/image")[0].load([]).rgb, scene(9))
    with pytest.raises(SourceError, match="the bag has no images on /right/image"):
        open_bag(bag, color="/right/image")


def test_types_come_from_the_bag(tmp_path: Path) -> None:
    """A definition with another order of fields, as an older or patched driver may have."""
    from mcap.writer import Writer as McapWriter
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    definition = """std_msgs/Header header
string encoding
uint32 width
uint32 height
float64[3] exposure
uint8 is_bigendian
uint32 step
uint8[] data
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
"""
    store = get_typestore(Stores.EMPTY)
    store.register(
        {
            k: v
            for k, v in get_typestore(Stores.ROS2_HUMBLE).fielddefs.items()
            if k.startswith("builtin_interfaces")
        }
    )
    store.register(get_types_from_msg(definition, "sensor_msgs/msg/Image"))
    kinds = store.types
    stamp = kinds["builtin_interfaces/msg/Time"](sec=3, nanosec=7)
    message = kinds["sensor_msgs/msg/Image"](
        header=kinds["std_msgs/msg/Header"](stamp=stamp, frame_id="camera_optical"),
        encoding="rgb8",
        width=64,
        height=48,
        exposure=np.array([1.0, 2.0, 3.0]),
        is_bigendian=0,
        step=192,
        data=scene(4).reshape(-1),
    )
    path = tmp_path / "patched.mcap"
    with path.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2", "test")
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", definition.encode())
        channel = writer.register_channel(TOPIC, "cdr", schema)
        writer.add_message(channel, 1, bytes(store.serialize_cdr(message, "sensor_msgs/msg/Image")), 1)
        writer.finish()
    (frame,) = open_bag(path)
    assert frame.stamp_ns == 3_000_000_007
    assert np.array_equal(frame.load([]).rgb, scene(4))


def test_a_bag_says_how_many_frames_it_has(tmp_path: Path) -> None:
    for storage in ("mcap", "sqlite3"):
        bag = write_bag(tmp_path / storage, clip(4), storage=storage)  # type: ignore[arg-type]
        assert open_sources([str(bag)], SourceOptions()).count == 4
