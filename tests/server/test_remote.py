"""The client: frames are sent once, links that break are mended, and everything ends typed and in time."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from support.model_server import PATIENCE_S, FakeEngine, RunningServer, running_server
from support.polling import poll_until
from tests.server.conftest import RED, RED_QUERY, frame_of, new_engine, picture, png
from xsam import (
    DeadlineExceededError,
    Frame,
    InvalidImageError,
    InvalidOptionError,
    ModelError,
    Query,
    QueueFullError,
    RequestCancelledError,
    RequestTooLargeError,
    Status,
    UnauthorizedError,
)
from xsam.remote import RemoteSegmenter
from xsam_server.settings import Client, ServerSettings


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_pixels_arrive_as_they_are(server: RunningServer, engine: FakeEngine, encoding: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (31, 47, 3), np.uint8)
    with RemoteSegmenter(server.url, encoding=encoding) as remote:  # type: ignore[arg-type]
        (result,) = remote.segment(Frame(rgb=rgb), RED_QUERY, deadline_s=PATIENCE_S)
    np.testing.assert_array_equal(engine.asked[-1][0].rgb, rgb)
    assert result.notes == ()


def test_what_jpeg_loses_is_said(server: RunningServer) -> None:
    with RemoteSegmenter(server.url, encoding="jpeg", jpeg_quality=80) as remote:
        (result,) = remote.segment(frame_of(10), RED_QUERY, deadline_s=PATIENCE_S)
    assert "JPEG of quality 80" in result.notes[0]


def test_the_file_of_a_camera_is_sent_untouched(remote: RemoteSegmenter, engine: FakeEngine) -> None:
    file = bytes(cv2.imencode(".jpg", picture(20), [cv2.IMWRITE_JPEG_QUALITY, 60])[1])
    decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    sent = remote.link.bytes_sent
    (result,) = remote.segment(Frame(rgb=decoded, encoded=file), RED_QUERY, deadline_s=PATIENCE_S)
    np.testing.assert_array_equal(engine.asked[-1][0].rgb, decoded)
    assert remote.link.bytes_sent - sent < len(file) + 700
    assert result.notes == ()


def test_a_file_that_the_server_would_turn_is_not_sent(remote: RemoteSegmenter, engine: FakeEngine) -> None:
    """Cameras' drivers leave images as they are stored; masks of a turned one would be beside the objects."""
    from io import BytesIO

    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 3  # half a turn: the size stays the same
    stream = BytesIO()
    Image.fromarray(picture(30)).save(stream, "JPEG", exif=exif)
    frame = Frame(rgb=picture(30), encoded=stream.getvalue())
    remote.segment(frame, RED_QUERY, deadline_s=PATIENCE_S)
    np.testing.assert_array_equal(engine.asked[-1][0].rgb, picture(30))


def test_a_file_of_another_picture_is_not_sent(remote: RemoteSegmenter, engine: FakeEngine) -> None:
    for encoded in (png(np.zeros((4, 4, 3), np.uint8)), b"no image"):
        remote.segment(Frame(rgb=picture(31), encoded=encoded), RED_QUERY, deadline_s=PATIENCE_S)
        np.testing.assert_array_equal(engine.asked[-1][0].rgb, picture(31))


def test_a_second_query_sends_the_id_only(remote: RemoteSegmenter) -> None:
    frame = Frame(rgb=np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8))
    sizes = []
    for text in ("red", "floor", "red"):
        before = remote.link.bytes_sent
        remote.segment(frame, [Query(text=text)], deadline_s=PATIENCE_S)
        sizes.append(remote.link.bytes_sent - before)
    assert sizes[0] > 240 * 320 * 3
    assert max(sizes[1:]) < 2000


def test_a_frame_that_was_dropped_is_sent_again() -> None:
    frames = [frame_of(shade) for shade in (40, 41, 42)]
    room_for_two = ServerSettings(frames_bytes=2 * frames[0].rgb.nbytes)
    with running_server(new_engine, room_for_two) as server, RemoteSegmenter(server.url) as remote:
        for frame in (*frames, frames[0]):
            (result,) = remote.segment(frame, RED_QUERY, deadline_s=PATIENCE_S)
            assert result.found
        assert remote.link.bytes_sent > 4 * frames[0].rgb.nbytes, "the first was sent twice"


def test_invalid_queries_are_answered_here(remote: RemoteSegmenter, engine: FakeEngine) -> None:
    results = remote.segment(
        frame_of(50), [Query(text=" "), Query(text="red"), Query(text="\ud800")], deadline_s=PATIENCE_S
    )
    assert [result.status for result in results] == [Status.REFUSED, Status.FOUND, Status.REFUSED]
    assert [query.text for query in engine.asked[-1][1]] == ["red"]
    assert [result.camera for result in results] == ["wrist"] * 3


# --------------------------------------------------------------------------------------- hooks, async


def test_hooks_are_called_in_the_callers_thread(remote: RemoteSegmenter, engine: FakeEngine) -> None:
    stages: list[str] = []
    texts: list[tuple[int, str]] = []
    threads = set()

    def on_stage(stage: str) -> None:
        stages.append(stage)
        threads.add(threading.current_thread())

    queries = [Query(text=" "), Query(text="red")]
    remote.segment(
        frame_of(60),
        queries,
        deadline_s=PATIENCE_S,
        on_stage=on_stage,
        on_text=lambda index, text: texts.append((index, text)),
    )
    assert stages == ["request", "inference"]
    assert texts == [(1, "some"), (1, "some text")], "indices are those of the caller's queries"
    assert threads == {threading.current_thread()}


def test_a_hook_that_raises_ends_the_request_on_the_server(
    remote: RemoteSegmenter, engine: FakeEngine
) -> None:
    engine.free.clear()

    def stop(stage: str) -> None:
        if stage == "held":
            raise RequestCancelledError("enough")

    with pytest.raises(RequestCancelledError, match="enough"):
        remote.segment(frame_of(61), RED_QUERY, deadline_s=PATIENCE_S, on_stage=stop)
    poll_until(lambda: engine.ended_early, "the model to stop", timeout_s=PATIENCE_S)
    assert isinstance(engine.ended_early[0], RequestCancelledError)


def test_the_place_in_the_queue_is_a_stage(
    remote: RemoteSegmenter, server: RunningServer, engine: FakeEngine
) -> None:
    engine.free.clear()
    stages: list[str] = []
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(remote.segment, frame_of(62), RED_QUERY, deadline_s=PATIENCE_S)
        assert engine.entered.wait(PATIENCE_S)
        second = callers.submit(
            remote.segment, frame_of(63), RED_QUERY, deadline_s=PATIENCE_S, on_stage=stages.append
        )
        poll_until(lambda: stages == ["request", "waiting"], "the queue", timeout_s=PATIENCE_S)
        engine.free.set()
        assert first.result()[0].found
        assert second.result()[0].found


@pytest.mark.asyncio
async def test_asyncio_programs(remote: RemoteSegmenter, engine: FakeEngine) -> None:
    stages: list[str] = []
    results = await asyncio.gather(
        *(remote.segment_async(frame_of(shade), RED_QUERY, deadline_s=PATIENCE_S) for shade in (70, 71, 72)),
        remote.segment_async(frame_of(73), RED_QUERY, deadline_s=PATIENCE_S, on_stage=stages.append),
    )
    assert all(result[0].found for result in results)
    assert stages[0] == "request"
    assert "inference" in stages


@pytest.mark.asyncio
async def test_a_cancelled_coroutine_ends_the_request_on_the_server(
    remote: RemoteSegmenter, engine: FakeEngine
) -> None:
    engine.free.clear()
    task = asyncio.ensure_future(remote.segment_async(frame_of(74), RED_QUERY, deadline_s=PATIENCE_S))
    await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(poll_until, lambda: engine.ended_early, "the model to stop", timeout_s=PATIENCE_S)


# ---------------------------------------------------------------------------------------- errors, link


def test_deadlines_are_said_by_the_server(remote: RemoteSegmenter, engine: FakeEngine) -> None:
    engine.free.clear()
    with pytest.raises(DeadlineExceededError, match="held"):
        remote.segment(frame_of(80), RED_QUERY, deadline_s=4.0)
    assert remote.link.is_up


def test_errors_of_the_model_are_typed(remote: RemoteSegmenter, engine: FakeEngine) -> None:
    engine.error = ModelError("the network gave NaN")
    for hook in (None, lambda stage: None):
        with pytest.raises(ModelError, match="NaN"):
            remote.segment(frame_of(81), RED_QUERY, deadline_s=PATIENCE_S, on_stage=hook)


def test_refusals_keep_their_type() -> None:
    engine = new_engine()
    client = Client(name="spot", token="secret-of-spot")
    settings = ServerSettings(queue_size=1, clients=(client,), max_pixels=100_000)
    with running_server(lambda: engine, settings) as server, ThreadPoolExecutor(2) as callers:
        with RemoteSegmenter(server.url, token="wrong-token") as stranger, pytest.raises(UnauthorizedError):
            stranger.segment(frame_of(1), RED_QUERY, deadline_s=PATIENCE_S)
        with RemoteSegmenter(server.url, token=client.token) as spot:
            large = Frame(rgb=np.zeros((400, 400, 3), np.uint8))
            with pytest.raises(RequestTooLargeError):
                spot.segment(large, RED_QUERY, deadline_s=PATIENCE_S)
            engine.free.clear()
            asked = [callers.submit(spot.segment, frame_of(1), RED_QUERY, deadline_s=PATIENCE_S)]
            assert engine.entered.wait(PATIENCE_S)
            asked.append(callers.submit(spot.segment, frame_of(2), RED_QUERY, deadline_s=PATIENCE_S))
            worker = server.model.worker
            poll_until(lambda: worker.waiting == 1, "the queue", timeout_s=PATIENCE_S)
            with pytest.raises(QueueFullError):
                spot.segment(frame_of(3), RED_QUERY, deadline_s=PATIENCE_S)
            engine.free.set()
            assert all(answer.result()[0].found for answer in asked)


@pytest.mark.parametrize(
    ("url", "options", "named"),
    [
        ("robot:8080", {}, "robot:8080"),
        ("ftp://robot", {}, "ftp://robot"),
        ("http://", {}, "http://"),
        ("http://name:word@robot", {}, "address"),
        ("http://robot", {"encoding": "webp"}, "encoding"),
        ("http://robot", {"jpeg_quality": 0}, "jpeg_quality"),
        ("http://robot", {"token": "a" * 9, "token_file": "f"}, "give one"),
        ("http://robot", {"token": "two words!"}, "token"),
    ],
)
def test_wrong_options(url: str, options: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidOptionError, match=named):
        RemoteSegmenter(url, **options)  # type: ignore[arg-type]


def test_a_token_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret-of-spot\n")
    engine = new_engine()
    settings = ServerSettings(clients=(Client(name="spot", token="secret-of-spot"),))
    with (
        running_server(lambda: engine, settings) as server,
        RemoteSegmenter(server.url, token_file=path) as remote,
    ):
        status = remote.status()
        assert (status.model, status.state, status.limits.queue) == ("fake", "ready", 16)
        assert "secret" not in repr(remote)
    with pytest.raises(FileNotFoundError):
        RemoteSegmenter("http://robot", token_file=tmp_path / "nothing")


def test_an_image_that_the_server_cannot_use_is_the_senders_fault(remote: RemoteSegmenter) -> None:
    file = bytes(cv2.imencode(".jpg", picture(34))[1])
    with pytest.raises(InvalidImageError):
        remote.segment(Frame(rgb=picture(34), encoded=file[:-60]), RED_QUERY, deadline_s=PATIENCE_S)


def test_masks_are_found(remote: RemoteSegmenter) -> None:
    (result,) = remote.segment(frame_of(90), RED_QUERY, deadline_s=PATIENCE_S)
    np.testing.assert_array_equal(result.masks, RED[None])
