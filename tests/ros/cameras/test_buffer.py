from __future__ import annotations

import math
import struct
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from tests.ros.camera_driver import FakeClock
from xsam_ros.cameras.buffer import TopicBuffer, peek_stamp_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock.installed(monkeypatch)


# -------------------------------------------------------------------------------- peeking stamps

_seconds = st.integers(-(2**31), 2**31 - 1)
_nanoseconds = st.integers(0, 2**32 - 1)


@given(
    seconds=_seconds,
    nanoseconds=_nanoseconds,
    frame_id=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    message_type=st.sampled_from([Image, CompressedImage, CameraInfo]),
)
def test_the_stamp_is_what_rclpy_serialized(
    seconds: int, nanoseconds: int, frame_id: str, message_type: Any
) -> None:
    message = message_type()
    message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
    message.header.frame_id = frame_id
    assert peek_stamp_ns(serialize_message(message)) == seconds * 1_000_000_000 + nanoseconds


def _big_endian_image(seconds: int, nanoseconds: int) -> bytes:
    """Serialize a 1×1 mono8 image by the rules of CDR: aligned numbers, strings with length and NUL."""
    body = struct.pack(">iI", seconds, nanoseconds)
    body += struct.pack(">I", 5) + b"lens\0" + bytes(3)  # frame_id
    body += struct.pack(">III", 1, 1, 6) + b"mono8\0"  # height, width, encoding
    body += b"\0" + bytes(1)  # is_bigendian
    body += struct.pack(">II", 1, 1) + b"\x2a"  # step, data
    return b"\0\0\0\0" + body


@given(seconds=_seconds, nanoseconds=_nanoseconds)
def test_big_endian_machines(seconds: int, nanoseconds: int) -> None:
    serialized = _big_endian_image(seconds, nanoseconds)
    message = deserialize_message(serialized, Image)
    assert (message.encoding, message.header.frame_id, list(message.data)) == ("mono8", "lens", [42])
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (seconds, nanoseconds)
    assert peek_stamp_ns(serialized) == seconds * 1_000_000_000 + nanoseconds


@pytest.mark.parametrize(
    "serialized",
    [
        b"",
        b"\0\1\0\0",
        b"\0\1\0\0" + bytes(7),
        b"this is no image",
        b"\0\x0b\0\0" + bytes(20),
        b"\1\0" + bytes(20),
    ],
)
def test_messages_without_a_stamp(serialized: bytes) -> None:
    assert peek_stamp_ns(serialized) is None


def test_version_2_of_cdr() -> None:
    plain = serialize_message(Image())
    for second, stamp in ((7, struct.pack("<iI", 3, 4)), (6, struct.pack(">iI", 3, 4))):
        assert peek_stamp_ns(bytes([0, second, 0, 0]) + stamp + bytes(plain[12:])) == 3_000_000_004


# ------------------------------------------------------------------------------------- the ring


def test_without_limits_only_the_newest_is_kept(clock: FakeClock) -> None:
    buffer = TopicBuffer("/t", clock_ns=clock.node_ns)
    assert (buffer.newest(), buffer.recent()) == (None, ())
    for content in (b"first", b"second"):
        buffer.store(content)
    assert [message.serialized for message in buffer.recent()] == [b"second"]
    assert buffer.newest() is buffer.recent()[0]


def test_old_messages_are_dropped(clock: FakeClock) -> None:
    buffer = TopicBuffer("/t", clock_ns=clock.node_ns, keep_s=1.0, max_bytes=1000)
    for content in (b"a", b"b", b"c"):
        buffer.store(content)
        clock.advance(0.5)
    assert [message.serialized for message in buffer.recent()] == [b"c", b"b", b"a"]
    buffer.store(b"d")
    assert [message.serialized for message in buffer.recent()] == [b"d", b"c", b"b"]
    clock.advance(60.0)
    buffer.store(b"e")
    assert [message.serialized for message in buffer.recent()] == [b"e"]


@given(sizes=st.lists(st.integers(0, 100), min_size=1, max_size=30))
def test_memory_is_bounded(sizes: list[int]) -> None:
    """Never exceeds the limit, although the newest message is always kept."""
    buffer = TopicBuffer("/t", clock_ns=lambda: 0, keep_s=1e9, max_bytes=150)
    for size in sizes:
        buffer.store(bytes(size))
        held = [len(message.serialized) for message in buffer.recent()]
        statistics = buffer.statistics()
        assert held[0] == size
        assert sum(held) <= 150
        assert (statistics.held, statistics.held_bytes) == (len(held), sum(held))
    assert statistics.received_bytes == sum(sizes)


def test_a_single_message_over_the_limit_is_kept() -> None:
    buffer = TopicBuffer("/t", clock_ns=lambda: 0, keep_s=1e9, max_bytes=10)
    for size in (5, 50, 6):
        buffer.store(bytes(size))
    assert [len(message.serialized) for message in buffer.recent()] == [6]
    buffer.store(bytes(50))
    assert [len(message.serialized) for message in buffer.recent()] == [50]


def test_sequence_numbers_continue_after_clear(clock: FakeClock) -> None:
    """A caller who waits for a frame newer than 2 must not get frame 1 of a restarted camera."""
    buffer = TopicBuffer("/t", clock_ns=clock.node_ns)
    buffer.store(b"a")
    buffer.store(b"b")
    buffer.clear()
    assert (buffer.newest(), buffer.statistics().received) == (None, 0)
    buffer.store(b"c")
    newest = buffer.newest()
    assert newest is not None
    assert newest.sequence == 3


def test_waiting_for_a_newer_message() -> None:
    buffer = TopicBuffer("/t", clock_ns=lambda: 0)
    assert not buffer.wait_newer(0, timeout_s=0.0)
    buffer.store(b"a")
    assert buffer.wait_newer(0, timeout_s=0.0)
    assert not buffer.wait_newer(1, timeout_s=0.0)
    outcomes: list[bool] = []
    waiter = threading.Thread(target=lambda: outcomes.append(buffer.wait_newer(1, timeout_s=20.0)))
    waiter.start()
    buffer.store(b"b")
    waiter.join(10.0)
    assert outcomes == [True]


# ------------------------------------------------------------------------------------------ age


def _stamped(stamp_ns: int) -> bytes:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return b"\0\1\0\0" + struct.pack("<iI", seconds, nanoseconds)


@pytest.mark.parametrize(
    ("stamp_offset_s", "expected_s"),
    [
        (0.0, 0.25),  # arrived at once
        (-2.0, 2.25),  # 2 s on the way
        (0.5, 0.25),  # a stamp in the future, by a clock that is a little ahead
        (-61.0, 61.25),  # an hour and 30 years were taken for another clock, so for fresh
        (-3600.0, 3600.25),
        (-946_080_000.0, 946_080_000.25),
        (3600.0, 0.25),
    ],
)
def test_age_counts_the_delay(clock: FakeClock, stamp_offset_s: float, expected_s: float) -> None:
    buffer = TopicBuffer("/t", clock_ns=clock.node_ns)
    buffer.store(_stamped(clock.node_ns() + round(stamp_offset_s * 1e9)))
    clock.advance(0.25)
    newest = buffer.newest()
    assert newest is not None
    assert newest.age_s(buffer.now()) == pytest.approx(expected_s, abs=1e-6)
    assert newest.age_s(buffer.now(), by_stamp=False) == pytest.approx(0.25)
    assert newest.delay_s == pytest.approx(-stamp_offset_s)


def test_a_node_clock_that_jumps_later_does_not_age_the_message(clock: FakeClock) -> None:
    """The system clock is set while a frame is waiting."""
    buffer = TopicBuffer("/t", clock_ns=clock.node_ns)
    buffer.store(_stamped(clock.node_ns()))
    clock.offset_ns += 20_000_000_000
    newest = buffer.newest()
    assert newest is not None
    assert newest.age_s(buffer.now()) == pytest.approx(0.0)


@pytest.mark.parametrize("rate", [0.05, 0.0, 10.0])
def test_simulated_time_ages_messages(clock: FakeClock, rate: float) -> None:
    """With a simulation at a twentieth of real time, frames of half a simulated second ago were stale."""
    clock.simulated, clock.rate = True, rate
    buffer = _simulated_buffer(clock)
    buffer.store(_stamped(clock.node_ns()))
    clock.advance(10.0)
    newest = buffer.newest()
    assert newest is not None
    assert newest.age_s(buffer.now()) == pytest.approx(10.0 * rate, abs=1e-6)
    assert buffer.statistics().age_s == pytest.approx(10.0 * rate, abs=1e-6)


def _simulated_buffer(clock: FakeClock) -> TopicBuffer:
    return TopicBuffer(
        "/t", clock_ns=clock.node_ns, is_simulated=lambda: clock.simulated, keep_s=1.0, max_bytes=1000
    )


def test_messages_are_kept_for_simulated_seconds(clock: FakeClock) -> None:
    clock.simulated, clock.rate = True, 0.05
    buffer = _simulated_buffer(clock)
    for _ in range(30):  # an image each second, which is 20 a simulated second
        buffer.store(_stamped(clock.node_ns()))
        clock.advance(1.0)
    assert len(buffer.recent()) == 21


def test_a_jump_back_of_simulated_time_drops_what_was_before(clock: FakeClock) -> None:
    """A bag that is played in a loop with --clock."""
    clock.simulated = True
    buffer = _simulated_buffer(clock)
    for _ in range(3):
        buffer.store(_stamped(clock.node_ns()))
        clock.advance(0.1)
    clock.offset_ns -= 3_600_000_000_000
    newest = buffer.newest()
    assert newest is not None
    assert newest.age_s(buffer.now()) == pytest.approx(0.1), "in real seconds, until the next message"
    clock.advance(0.1)
    buffer.store(_stamped(clock.node_ns()))
    assert [message.age_s(buffer.now()) for message in buffer.recent()] == [0.0]


def test_a_message_before_the_first_clock_message(clock: FakeClock) -> None:
    clock.simulated = True
    clock.offset_ns = -clock.node_ns()
    buffer = _simulated_buffer(clock)
    buffer.store(_stamped(0))
    clock.offset_ns += 1_000_000_000_000
    newest = buffer.newest()
    assert newest is not None
    assert newest.age_s(buffer.now()) == pytest.approx(0.0)


# ----------------------------------------------------------------------------------- statistics


def test_rate_and_age(clock: FakeClock) -> None:
    buffer = TopicBuffer("/t", clock_ns=clock.node_ns)
    assert math.isnan(buffer.statistics().rate_hz)
    assert math.isnan(buffer.statistics().age_s)
    buffer.store(b"a")
    assert math.isnan(buffer.statistics().rate_hz)
    for _ in range(10):
        clock.advance(0.05)
        buffer.store(b"a")
    assert buffer.statistics().rate_hz == pytest.approx(20.0)
    clock.advance(0.06)
    assert buffer.statistics().rate_hz == pytest.approx(20.0)
    assert buffer.statistics().age_s == pytest.approx(0.06)


def test_the_rate_of_a_camera_that_stopped_falls(clock: FakeClock) -> None:
    """Diagnostics must not show "30 Hz" for a camera that was unplugged ten minutes ago."""
    buffer = TopicBuffer("/t", clock_ns=clock.node_ns)
    for _ in range(11):
        buffer.store(b"a")
        clock.advance(0.1)
    clock.advance(98.9)
    assert buffer.statistics().rate_hz == pytest.approx(0.1)


def test_only_the_last_arrivals_make_the_rate(clock: FakeClock) -> None:
    buffer = TopicBuffer("/t", clock_ns=clock.node_ns)
    for interval_s in [1.0] * 10 + [0.01] * 40:
        clock.advance(interval_s)
        buffer.store(b"a")
    assert buffer.statistics().rate_hz == pytest.approx(100.0)


def test_reports_of_the_middleware(clock: FakeClock) -> None:
    buffer = TopicBuffer("/t", clock_ns=clock.node_ns)
    assert buffer.statistics().incompatible_qos == ""
    buffer.report_lost(2)
    buffer.report_lost(3)
    buffer.report_incompatible("RELIABILITY", 1)
    buffer.report_incompatible("DURABILITY", 1)
    buffer.report_incompatible("RELIABILITY", 2)
    statistics = buffer.statistics()
    assert (statistics.topic, statistics.lost) == ("/t", 5)
    assert (statistics.incompatible_qos, statistics.incompatible_publishers) == ("RELIABILITY, DURABILITY", 4)
    buffer.clear()
    assert (buffer.statistics().lost, buffer.statistics().incompatible_qos) == (0, "")
