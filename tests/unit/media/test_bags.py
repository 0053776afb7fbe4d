"""Bags of ROS 2 without ROS: every storage and compression, depth, and what a crash leaves of a bag."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tests.unit.media.clips import ask_colors, color_mask, scene
from tests.unit.media.recordings import (
    START_NS,
    STEP_NS,
    Recorded,
    T,
    camera_info,
    compressed,
    compressed_depth,
    header,
    header_at,
    image,
    only_file,
    static_transform,
    write_bag,
)
from xsam import InvalidImageError, Query
from xsam.errors import SourceError
from xsam.media.frames import SourceFrame
from xsam.media.journal import Journal
from xsam.media.options import BagTopics, SourceOptions
from xsam.media.run import segment_frames
from xsam.media.sources import open_sources

TOPIC = "/camera/image_raw"
HW = (48, 64)


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


DEPTH = np.full(HW, 2000, np.uint16)
DEPTH[6:16, 2:12] = 800  # the red square of step 0
DEPTH[:3] = 0


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


def places(bag: Path, tmp_path: Path, depth_topic: str) -> list[dict[str, Any]]:
    source = open_sources([str(bag)], SourceOptions(bag=BagTopics(depth=depth_topic)))
    journal = Journal(tmp_path / "out", {})
    summary = segment_frames(source, [Query(text="red")], ask_colors, journal=journal)
    (entry,) = journal.entries()
    journal.close()
    assert summary.damaged == 0
    return [segment.get("location", {}) for segment in entry["results"][0]["segments"]]


@pytest.mark.parametrize("coding", ["raw", "meters", "big", "png", "rvl"])
@pytest.mark.parametrize("info_first", [True, False])
def test_depth_gives_locations(tmp_path: Path, coding: str, info_first: bool) -> None:
    topic = "/camera/depth/image_raw"
    if coding in ("png", "rvl"):
        depth, topic = compressed_depth(DEPTH, None, coding), f"{topic}/compressedDepth"  # type: ignore[arg-type]
    elif coding == "meters":
        depth = image(DEPTH.astype(np.float32) / 1000, "32FC1", None, padding=4)
    else:
        depth = image(DEPTH, "16UC1", None, padding=6, big=coding == "big")
    bag = write_bag(tmp_path / "bag", with_depth(depth, info_first=info_first))
    (place,) = places(bag, tmp_path, topic)
    rows, columns = np.nonzero(color_mask(scene(0), "red"))
    x_m = 0.8 * (columns.mean() - (HW[1] - 1) / 2) / 60
    y_m = 0.8 * (rows.mean() - (HW[0] - 1) / 2) / 60
    assert place["position_m"] == pytest.approx([x_m, y_m, 0.8], abs=0.01)
    assert place["frame_id"] == "camera_optical"


def test_the_second_camera_of_a_stereo_pair_is_noted(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", with_depth(image(DEPTH, "16UC1", None), tx=-6.0))
    notes: list[str] = []
    open_bag(bag, depth="/camera/depth/image_raw")[0].load(notes)
    assert any("the second of a stereo pair, 0.1 m to the right of the first" in note for note in notes)


def test_depth_of_another_camera_is_registered_by_static_transforms(tmp_path: Path) -> None:
    """The depth camera is 5 cm to the left of the color camera, and sees the square further right."""
    depth = image(np.roll(DEPTH, 4, axis=1), "16UC1", None)  # 0.05 m · 60 px / 0.8 m = 3.75 px
    messages = with_depth(depth, frame_id="depth_optical")
    chain = [
        recorded("/tf_static", static_transform("base", "camera_optical", (1.0, 0.0, 0.0)), 0, 0),
        recorded("/tf_static", static_transform("base", "depth_optical", (0.95, 0.0, 0.0)), 0, 0),
    ]
    bag = write_bag(tmp_path / "bag", [*chain, *messages])
    (place,) = places(bag, tmp_path, "/camera/depth/image_raw")
    assert place["position_m"][2] == pytest.approx(0.8, abs=0.02)


def test_depth_that_cannot_be_registered_says_why(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", with_depth(image(DEPTH, "16UC1", None), frame_id="depth_optical"))
    (place,) = places(bag, tmp_path, "/camera/depth/image_raw")
    assert place["reason"] == "/tf_static does not connect 'depth_optical' and 'camera_optical'"
    assert "position_m" not in place


def test_depth_that_is_not_asked_for_is_hinted_at(tmp_path: Path) -> None:
    notes: list[str] = []
    open_bag(write_bag(tmp_path / "bag", with_depth(image(DEPTH, "16UC1", None))))[0].load(notes)
    assert notes == ["the bag has depth: --depth-topic /camera/depth/image_raw gives locations"]


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


def test_a_bag_says_how_many_frames_it_has(tmp_path: Path) -> None:
    for storage in ("mcap", "sqlite3"):
        bag = write_bag(tmp_path / storage, clip(4), storage=storage)  # type: ignore[arg-type]
        assert open_sources([str(bag)], SourceOptions()).count == 4


def test_rectified_images_have_matrix_p(tmp_path: Path) -> None:
    """Their lens was corrected twice."""
    info = camera_info(HW, header(0))
    info.d = np.array([0.4, 0.1, 0.0, 0.0, 0.0])
    info.p = info.p.copy()
    info.p[0] = info.p[5] = 50.0
    for name, focal_px, has_lens in (("image_rect_color", 50.0, False), ("image_raw", 60.0, True)):
        bag = write_bag(
            tmp_path / name,
            [
                recorded("/camera/camera_info", info, 0, 0),
                recorded(f"/camera/{name}", image(scene(0), "rgb8", header(0)), 0),
            ],
        )
        loaded = open_bag(bag)[0].load([])
        assert loaded.intrinsics is not None
        assert loaded.intrinsics[0, 0] == focal_px
        assert (loaded.lens is not None) == has_lens


def test_the_second_camera_of_a_stereo_pair_says_so(tmp_path: Path) -> None:
    messages = with_depth(image(DEPTH, "16UC1", None))
    for item in messages:
        if item.topic == "/camera/camera_info":
            item.message.p = item.message.p.copy()
            item.message.p[3] = -6.0
    bag = write_bag(tmp_path / "bag", messages)
    notes: list[str] = []
    open_bag(bag, depth="/camera/depth/image_raw")[0].load(notes)
    assert any("the second of a stereo pair" in note for note in notes)


def test_depth_in_the_wrong_unit_is_noticed(tmp_path: Path) -> None:
    depth = image(DEPTH.astype(np.float32), "32FC1", None)  # millimeters
    notes: list[str] = []
    bag = write_bag(tmp_path / "bag", with_depth(depth))
    open_bag(bag, depth="/camera/depth/image_raw")[0].load(notes)
    assert any("is implausible: check its unit" in note for note in notes)
