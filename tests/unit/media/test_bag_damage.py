"""What a crash leaves of a bag, files that are none, and bags of strangers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tests.unit.media.clips import scene
from tests.unit.media.recordings import (
    HW,
    START_NS,
    STEP_NS,
    TOPIC,
    T,
    assert_clip,
    clip,
    compressed,
    header,
    header_at,
    image,
    only_file,
    open_bag,
    problems,
    recorded,
    write_bag,
)
from xsam.errors import SourceError


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_bag_that_is_cut_off_gives_what_is_in_it(tmp_path: Path, share: float) -> None:
    """As after a power failure: no index, and the last chunk is not whole."""
    noise = [np.random.default_rng(step).integers(0, 255, (*HW, 3), np.uint8) for step in range(300)]
    messages = [recorded(TOPIC, image(noise[step], "rgb8", header(step)), step) for step in range(300)]
    path = only_file(write_bag(tmp_path / "bag", messages))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    frames = open_bag(path)
    assert 30 < len(frames) < 300
    assert ["is cut off" in problem for problem in problems(frames)] == [True]
    assert np.array_equal(frames[-2].load([]).rgb, noise[len(frames) - 2])


def test_a_missing_index_costs_nothing(tmp_path: Path) -> None:
    path = only_file(write_bag(tmp_path / "bag", clip()))
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\x89MCAP0")][:-30])
    frames = open_bag(path)
    assert_clip(frames[:5])
    assert ["is cut off" in problem for problem in problems(frames)] == [True]


def test_a_damaged_chunk_costs_its_own_frames(tmp_path: Path) -> None:
    noise = [np.random.default_rng(step).integers(0, 5, (*HW, 3), np.uint8) for step in range(300)]
    messages = [recorded(TOPIC, image(noise[step], "rgb8", header(step)), step) for step in range(300)]
    path = only_file(write_bag(tmp_path / "bag", messages, compression="storage"))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = bytes(50)
    path.write_bytes(content)
    frames = open_bag(path)
    assert ["a chunk is damaged" in problem for problem in problems(frames)] == [True]
    assert 150 < len(frames) < 300
    assert np.array_equal(frames[-1].load([]).rgb, noise[-1])


def test_a_damaged_database_gives_what_can_be_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*HW, 3), np.uint8)
    messages = [recorded(TOPIC, image(noise, "rgb8", header(step)), step) for step in range(60)]
    path = only_file(write_bag(tmp_path / "bag", messages, storage="sqlite3"))
    content = bytearray(path.read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 20000] = bytes([255]) * 20000
    path.write_bytes(content)
    frames = open_bag(path)
    assert 5 < len(frames) <= 60
    assert problems(frames)


def test_a_topic_with_two_types(tmp_path: Path) -> None:
    text = T["std_msgs/msg/String"](data="no image")
    odd = [recorded(TOPIC, compressed(scene(2), header(2)), 2), recorded(TOPIC, text, 3)]
    bag = write_bag(tmp_path / "bag", [*clip(2), *odd])
    frames = open_bag(bag)
    assert np.array_equal(frames[2].load([]).rgb, scene(2))
    (problem,) = problems(frames)
    assert TOPIC in problem
    assert len(frames) == 4


def test_stamps_that_go_back(tmp_path: Path) -> None:
    steps = [5, 6, 2, 3]
    bag = write_bag(
        tmp_path / "bag",
        [
            recorded(TOPIC, image(scene(step), "rgb8", header(step)), order)
            for order, step in enumerate(steps)
        ],
    )
    frames = open_bag(bag)
    assert [(frame.stamp_ns - START_NS) // STEP_NS for frame in frames] == steps
    notes: list[list[str]] = [[] for _ in frames]
    for frame, own in zip(frames, notes, strict=True):
        frame.load(own)
    assert [any("before that of the frame before it" in n for n in own) for own in notes] == [0, 0, 1, 0]


def test_images_without_stamps_have_those_of_the_recording(tmp_path: Path) -> None:
    bag = write_bag(
        tmp_path / "bag",
        [recorded(TOPIC, image(scene(step), "rgb8", header_at(0)), step) for step in range(3)],
    )
    frames = open_bag(bag)
    assert [frame.stamp_ns for frame in frames] == [
        START_NS + step * STEP_NS + 5_000_000 for step in range(3)
    ]


def test_damaged_messages_are_named(tmp_path: Path) -> None:
    short, unknown = image(scene(1), "rgb8", header(1)), image(scene(2), "rgb8", header(2))
    short.data = short.data[:100]
    unknown.encoding = "yuv911"
    bag = write_bag(
        tmp_path / "bag", [*clip(1), recorded(TOPIC, short, 1), recorded(TOPIC, unknown, 2), clip(4)[3]]
    )
    found = problems(open_bag(bag))
    assert ["bytes" in found[0], "unknown image encoding 'yuv911'" in found[1]] == [True, True]


def test_a_definition_that_is_hostile_is_data(tmp_path: Path) -> None:
    from mcap.writer import Writer as McapWriter

    path = tmp_path / "hostile.mcap"
    definition = b"std_msgs/Header header\nuint8[2000000000] x\nstring[1000000000] y\n"
    with path.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2", "test")
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", definition)
        channel = writer.register_channel(TOPIC, "cdr", schema)
        writer.add_message(channel, 1, bytes([0, 1, 0, 0]) + bytes(100), 1)
        writer.finish()
    (problem,) = problems(open_bag(path))
    assert "is no sensor_msgs/msg/Image" in problem


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mcap", b"", "no end|no MCAP|cut off"),
        ("a.mcap", b"not a bag" * 99, "no MCAP file"),
        ("a.db3", b"not a bag" * 99, "cannot be read as a bag"),
        ("a.bag", b"#ROSBAG V2.0\n", "a bag of ROS 1"),
        ("a.mcap.zstd", b"not compressed", "cannot be read|no MCAP"),
    ],
)
def test_files_that_are_no_bags(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        open_bag(path)


def test_a_database_that_is_no_bag(tmp_path: Path) -> None:
    path = tmp_path / "a.db3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    connection.close()
    with pytest.raises(SourceError, match="the database is no bag"):
        open_bag(path)


@pytest.mark.slow
def test_a_message_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    from zstandard import ZstdCompressor

    bomb = ZstdCompressor().compress(bytes(1 << 30))
    bag = write_bag(tmp_path / "bag", clip(2), storage="sqlite3")
    with sqlite3.connect(only_file(bag)) as connection:
        connection.execute("UPDATE messages SET data = ? WHERE id = 1", (bomb,))
    connection.close()
    frames = open_bag(bag)
    assert ["cannot be decompressed" in problem for problem in problems(frames)] == [True]


def test_a_bag_without_images(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", [recorded("/chatter", T["std_msgs/msg/String"](data="hello"), 0)])
    with pytest.raises(SourceError, match="the bag has no color images"):
        open_bag(bag)
