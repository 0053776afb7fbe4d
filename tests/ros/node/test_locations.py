"""Places and track ids through the real node, from simulated RGB-D cameras with known truth."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.ros.oracle_node import LEAST_PX, rendered_views
from xsam import CameraRef, DeadlineExceededError, Frame, Query, SegmentationResult
from xsam.sim.render import RenderedView
from xsam_ros.client import RosSegmenter
from xsam_ros.client.stream import ResultStream

Eventually = Callable[..., Any]
_SEEDS = (3, 12, 25)
_VIEWS = 8
_HW = (240, 320)
_ALL = Query(text="everything")


def _truth(view: RenderedView, number: int) -> tuple[np.ndarray, float]:
    """Middle of the visible surface of an object in the camera frame, m, and its distance."""
    rows, columns = np.nonzero(view.instance_ids == number)
    depth = view.depth_m[rows, columns].astype(np.float64)
    rays = np.linalg.inv(view.intrinsics) @ np.stack([columns, rows, np.ones_like(rows)])
    middle = np.median((rays * depth).T[depth > 0], axis=0)
    return middle, float(np.linalg.norm(middle))


@pytest.fixture(scope="module")
def views() -> dict[tuple[int, int], RenderedView]:
    return {
        (seed, index): view for seed in _SEEDS for index, view in enumerate(rendered_views(seed, _VIEWS, _HW))
    }


@pytest.fixture(scope="module")
def segmenter(module_spawn: Callable[..., Any], eventually: Eventually) -> Iterator[RosSegmenter]:
    """Three tables with a swinging camera each: depth in m, in mm, and compressed in mm."""
    height, width = _HW
    for seed in _SEEDS:
        module_spawn(
            "-m",
            "xsam_ros.camera_sim",
            params={
                **{"camera": f"table{seed}", "seed": seed, "height": height, "width": width},
                **{"rate_hz": 4.0, "orbit": "true", "orbit_views": _VIEWS, "frame_id": f"lens{seed}"},
                "depth_encoding": "32FC1" if seed == _SEEDS[0] else "16UC1",
            },
        )
    params: dict[str, Any] = {
        "cameras": "[" + ", ".join(f"table{seed}" for seed in _SEEDS) + "]",
        "model": f"'{','.join(map(str, _SEEDS))}:{_VIEWS}:{height}x{width}'",
        "max_frame_age_s": 5.0,
    }
    for seed in _SEEDS:
        params[f"table{seed}.depth_topic"] = f"/table{seed}/depth"
        params[f"table{seed}.max_depth_lag_s"] = 0.5
    params[f"table{_SEEDS[2]}.depth_topic"] = f"/table{_SEEDS[2]}/depth/compressedDepth"
    params[f"table{_SEEDS[2]}.depth_compressed"] = "true"
    module_spawn("tests/ros/oracle_node.py", params=params)
    with RosSegmenter("/xsam") as segmenter:

        def ready() -> bool:
            status = segmenter.status(deadline_s=60.0)
            return status.state == "active" and all(camera.frames for camera in status.cameras)

        eventually(ready, "frames of every camera", 60.0)
        yield segmenter


def _seen(stream: ResultStream, count: int) -> list[SegmentationResult]:
    """Answers until so many different pictures were among them."""
    answers: list[SegmentationResult] = []
    while len({answer.text for answer in answers}) < count:
        answers.append(stream.next(deadline_s=20.0))
    return answers


def test_positions_are_those_of_the_simulator(
    segmenter: RosSegmenter, views: dict[tuple[int, int], RenderedView]
) -> None:
    """Within 1 cm for most objects and 3 cm for all but a few, from every kind of depth image."""
    off_m, distance_off_m, frames = [], [], set()
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(segmenter.start_stream(f"table{seed}", [_ALL], deadline_s=10.0))
            for seed in _SEEDS
        ]
        seen = [_seen(stream, _VIEWS) for stream in streams]
    for answers in seen:
        for answer in {answer.text: answer for answer in answers}.values():
            view = views[int(answer.text.split()[0]), int(answer.text.split()[1])]
            located = zip(answer.segments.labels, answer.segments.locations, strict=True)
            for label, location in located:
                assert location is not None
                assert location.valid, location.reason
                middle, distance_m = _truth(view, int(label.removeprefix("object ")))
                off_m.append(float(np.linalg.norm(np.subtract(location.position_m, middle))))
                distance_off_m.append(abs(location.distance_m - distance_m))
                frames.add(location.frame_id)
                assert location.depth_valid_ratio > 0.9
                assert location.size_m[0] >= location.size_m[1] >= location.size_m[2] >= 0
                assert location.size_m[0] < 0.5
    print(
        f"{len(off_m)} positions: median {np.median(off_m) * 100:.2f} cm, "
        f"95th percentile {np.percentile(off_m, 95) * 100:.2f} cm"
    )
    assert len(off_m) > 50
    assert np.median(off_m) <= 0.01
    assert np.percentile(off_m, 95) <= 0.03
    assert np.percentile(distance_off_m, 95) <= 0.03
    assert frames == {f"lens{seed}" for seed in _SEEDS}


def test_x_is_right_y_is_down_z_is_forward(
    segmenter: RosSegmenter, views: dict[tuple[int, int], RenderedView]
) -> None:
    """Depth is indexed [y, x]; swapped axes give plausible numbers for objects near the diagonal only."""
    (answer,) = segmenter.segment(CameraRef(name=f"table{_SEEDS[0]}"), [_ALL], deadline_s=20.0)
    assert answer.segments.locations
    height, width = _HW
    for mask, location in zip(answer.segments.masks, answer.segments.locations, strict=True):
        assert location is not None
        rows, columns = np.nonzero(mask.decode())
        x_m, y_m, z_m = location.position_m
        assert z_m > 0
        if abs(columns.mean() - width / 2) > 10:
            assert (x_m > 0) == (columns.mean() > width / 2)
        if abs(rows.mean() - height / 2) > 10:
            assert (y_m > 0) == (rows.mean() > height / 2)


def test_requests_are_not_tracked_and_streams_are(segmenter: RosSegmenter) -> None:
    camera = f"table{_SEEDS[0]}"
    (answer,) = segmenter.segment(CameraRef(name=camera), [_ALL], deadline_s=20.0)
    assert set(answer.segments.track_ids.tolist()) == {0}
    with segmenter.start_stream(camera, [_ALL]) as stream:
        tracked = stream.next(deadline_s=20.0)
    assert 0 not in tracked.segments.track_ids


def test_ids_go_on_while_the_camera_swings(segmenter: RosSegmenter) -> None:
    """The views are 2.5 s apart: nearly every object is followed or gets a new id, seldom that of another."""
    owner: dict[int, str] = {}
    swapped: list[bool] = []
    largest_before = 0
    for _ in range(2):
        with segmenter.start_stream(f"table{_SEEDS[1]}", [_ALL, Query(text="again")]) as stream:
            answers = [stream.next(deadline_s=20.0) for _ in range(12)]
        ids = [int(track) for answer in answers for track in answer.segments.track_ids]
        assert min(ids) > largest_before, "a new stream does not use the ids of the one before"
        for answer in answers:
            for label, track in zip(answer.segments.labels, answer.segments.track_ids, strict=True):
                who = f"{answer.query.text} {label}"
                swapped.append(owner.setdefault(int(track), who) != who)
        largest_before = max(ids)
    assert np.mean(swapped) <= 0.1
    tracks = len(owner)
    objects = len(set(owner.values()))
    assert tracks >= objects > 4


def test_an_image_that_was_sent_has_no_place(
    segmenter: RosSegmenter, views: dict[tuple[int, int], RenderedView]
) -> None:
    view = views[_SEEDS[0], 0]
    (answer,) = segmenter.segment(Frame(rgb=view.rgb, frame_id="lens"), [_ALL], deadline_s=20.0)
    assert answer.found
    assert set(answer.segments.locations) == {None}


def test_a_stream_can_be_read_to_its_end(segmenter: RosSegmenter) -> None:
    camera = f"table{_SEEDS[2]}"
    seen = 0
    stream = segmenter.start_stream(camera, [_ALL], rate_hz=20.0)
    for answer in stream:
        seen += 1
        assert answer.query is _ALL
        if seen == 3:
            stream.close()
    assert seen == 3
    status = next(item for item in segmenter.status().cameras if item.name == camera)
    assert status.stream.running, "closing the reader does not stop the stream"
    assert status.stream.answers >= 3
    assert list(status.stream.queries) == ["everything"]
    segmenter.stop_stream(camera)
    status = next(item for item in segmenter.status().cameras if item.name == camera)
    assert not status.stream.running
    with (
        segmenter.start_stream(camera, [Query(text="other")], wait_s=10.0) as stream,
        pytest.raises(DeadlineExceededError),
    ):
        stream.next(deadline_s=0.0)


def test_smallest_objects_are_in_the_test(views: dict[tuple[int, int], RenderedView]) -> None:
    """The bounds would say little if only large objects were seen."""
    areas = [
        int(np.count_nonzero(view.instance_ids == number))
        for view in views.values()
        for number in np.unique(view.instance_ids)
        if number
    ]
    assert min(area for area in areas if area >= LEAST_PX) < 400
