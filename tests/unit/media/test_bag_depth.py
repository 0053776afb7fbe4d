"""Depth and camera info of bags: locations as those of the node, or the reason why there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.media.clips import ask_colors, color_mask, scene
from tests.unit.media.recordings import (
    DEPTH,
    HW,
    camera_info,
    compressed_depth,
    header,
    image,
    open_bag,
    recorded,
    static_transform,
    with_depth,
    write_bag,
)
from xsam import Query
from xsam.media.journal import Journal
from xsam.media.options import BagTopics, SourceOptions
from xsam.media.run import segment_frames
from xsam.media.sources import open_sources


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


def test_depth_in_the_wrong_unit_is_noticed(tmp_path: Path) -> None:
    depth = image(DEPTH.astype(np.float32), "32FC1", None)  # millimeters
    notes: list[str] = []
    bag = write_bag(tmp_path / "bag", with_depth(depth))
    open_bag(bag, depth="/camera/depth/image_raw")[0].load(notes)
    assert any("is implausible: check its unit" in note for note in notes)
