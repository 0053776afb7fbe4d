"""Pictures for models: their size in bytes, what they say about themselves, and `show_camera`."""

from __future__ import annotations

import base64
import time
from typing import Any

import cv2
import numpy as np
import pytest

from tests.agent.table import MASKS, new_frame
from xsam import Frame
from xsam.draw.grid import draw_grid, grid_step
from xsam_agent_tools.text.pictures import PictureSettings, camera_picture, encode_picture


def _noise(height: int, width: int) -> np.ndarray:
    """Return the picture that compresses worst."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _decoded(picture: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _noisy_frame(camera: str = "front") -> Frame:
    return Frame(rgb=_noise(720, 1280), camera=camera, stamp_ns=time.time_ns())


@pytest.mark.parametrize("picture_format", ["jpeg", "png"])
@pytest.mark.parametrize("max_bytes", [4_000, 200_000, 1_000_000])
@pytest.mark.parametrize("hw", [(480, 640), (720, 1280), (2160, 3840), (1, 900)])
def test_no_picture_exceeds_its_bytes(hw: tuple[int, int], max_bytes: int, picture_format: Any) -> None:
    """A noisy image of 1280×720 px was a PNG of 1.06 MB, which some providers refuse."""
    settings = PictureSettings(format=picture_format, max_bytes=max_bytes)
    picture = encode_picture(_noise(*hw), settings)
    assert len(picture.base64) <= max_bytes
    height, width = _decoded(picture.base64).shape[:2]
    assert picture.size == (width, height)
    assert picture.shows_xyxy == (0, 0, hw[1], hw[0])
    assert max(width, height) <= 1024


def test_a_picture_that_fits_keeps_its_size_and_its_colors() -> None:
    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[:, :320] = (200, 30, 30)
    picture = encode_picture(rgb, PictureSettings())
    assert picture.base64.startswith("/9j/")  # JPEG
    assert picture.size == (640, 480)
    assert picture.is_pixel_for_pixel
    assert np.abs(_decoded(picture.base64).astype(int) - rgb).mean() < 1


def test_the_scale_halves_both_sides() -> None:
    picture = encode_picture(np.zeros((480, 640, 3), np.uint8), PictureSettings(scale=0.5))
    assert (picture.size, picture.shows_xyxy) == ((320, 240), (0, 0, 640, 480))
    assert not picture.is_pixel_for_pixel


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"format": "gif"}, "gif"),
        ({"max_bytes": 1_000_001}, "1000001"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"scale": 0.0}, "scale"),
        ({"scale": 1.5}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"max_side_px": 10}, "max_side_px"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PictureSettings(**settings)


@pytest.mark.slow
def test_every_tool_keeps_the_limit_on_a_noisy_image(make_tools, call) -> None:
    mask = np.zeros((720, 1280), np.bool_)
    mask[100:600, 200:1100] = True
    from tests.agent.table import RecordingSegmenter

    tools = make_tools(segmenter=RecordingSegmenter([mask]), frame_source=_noisy_frame, images="tool")
    found = call(tools["segment_objects"], queries=["mug"])
    for result in (
        found,
        call(tools["inspect_object"], object_id="f1/m1"),
        call(tools["show_camera"]),
        call(tools["show_camera"], grid=True),
    ):
        assert result.images
        assert all(len(image) <= 200_000 for image in result.images)
        assert result["picture"]["size"] != result["size"]


def test_a_smaller_picture_says_so_and_coordinates_stay_those_of_the_image(make_tools, call) -> None:
    tools = make_tools(images="user", pictures=PictureSettings(scale=0.25))
    result = call(tools["segment_objects"], queries=["plate"])
    assert _decoded(result.images[0]).shape == (120, 160, 3)
    assert result["size"] == [640, 480]
    assert result["picture"] == {"size": [160, 120], "shows_xyxy": [0, 0, 640, 480]}
    assert result["objects"][0]["box_xyxy"] == [240, 330, 460, 470]
    full = call(make_tools(images="user")["segment_objects"], queries=["plate"])
    assert "picture" not in full.json


# ------------------------------------------------------------------------------------- show_camera


def test_show_camera_gives_the_image_as_it_is_and_an_id_for_it(make_tools, call) -> None:
    tools = make_tools(images="user", pictures=PictureSettings(format="png", max_bytes=1_000_000, scale=0.5))
    shown = call(tools["show_camera"], camera="wrist")
    assert (shown["status"], shown["camera"], shown["image_id"]) == ("ok", "wrist", "f1")
    assert "age_s" in shown.json
    expected = cv2.resize(new_frame("wrist").rgb, (320, 240), interpolation=cv2.INTER_AREA)
    assert np.array_equal(_decoded(shown.images[0]), expected)
    found = call(tools["segment_objects"], queries=["mug"], image_id="f1")
    assert (found["image_id"], found["camera"]) == ("f1", "wrist")
    assert call(tools["show_camera"], image_id="f1")["image_id"] == "f1"


def test_show_camera_needs_no_model(make_tools, call) -> None:
    class BrokenSegmenter:
        def segment(self, source, queries, *, deadline_s):
            raise AssertionError("the model was asked")

    shown = call(make_tools(segmenter=BrokenSegmenter(), images="tool")["show_camera"])
    assert shown["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"camera": "roof"}, "UNKNOWN_CAMERA"),
        ({"image_id": "f7"}, "UNKNOWN_ID"),
        ({"grid": "perhaps"}, "INVALID_ARGUMENTS"),
        ({"scale": 2}, "INVALID_ARGUMENTS"),
    ],
)
def test_show_camera_refuses(make_tools, call, arguments: dict[str, Any], code: str) -> None:
    assert call(make_tools(images="user")["show_camera"], **arguments)["code"] == code


def test_show_camera_refuses_a_frozen_camera(make_tools, call) -> None:
    tools = make_tools(images="user", frame_source=lambda camera: new_frame(camera, age_s=60))
    assert call(tools["show_camera"])["status"] == "stale"


@pytest.mark.parametrize("mode", ["core", "full"])
def test_show_camera_is_offered_where_pictures_are_on(make_toolkit, mode: str) -> None:
    for images in ("none", "user", "tool"):
        names = [spec.name for spec in make_toolkit(mode=mode, images=images).specs]
        assert ("show_camera" in names) is (images != "none")


# ------------------------------------------------------------------------------------------- grid


@pytest.mark.parametrize(
    ("image_hw", "step"), [((480, 640), 100), ((720, 1280), 200), ((2160, 3840), 500), ((60, 80), 10)]
)
def test_the_grid_has_round_steps(image_hw: tuple[int, int], step: int) -> None:
    assert grid_step(image_hw) == step


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_grid_lines_are_at_the_pixels_of_the_image(scale: float) -> None:
    """On a uniform picture, what is neither line nor label stays; a line is where its label says."""
    height, width = round(480 * scale), round(640 * scale)
    gray = np.full((height, width, 3), 100, np.uint8)
    drawn = draw_grid(gray, (480, 640))
    row = drawn[round(150 * scale), :, 0]  # between two horizontal lines, right of the labels
    bright = np.flatnonzero(row > 120)
    assert bright.tolist() == [round(x * scale) for x in range(100, 640, 100)]
    column = drawn[:, round(150 * scale), 0]
    bright = [int(y) for y in np.flatnonzero(column > 120) if y > 40 * scale]
    assert bright == [round(y * scale) for y in range(100, 480, 100)]
    assert np.array_equal(gray, np.full((height, width, 3), 100, np.uint8))  # the input is not drawn on


def test_a_mark_read_from_the_grid_hits_its_object(make_tools, call) -> None:
    """The plate's center is at (350, 400): the label of a small picture leads to the same pixel."""
    tools = make_tools(images="user", pictures=PictureSettings(scale=0.5))
    shown = call(tools["show_camera"], grid=True)
    assert shown["picture"]["size"] == [320, 240]
    point = {"type": "point", "x": 350, "y": 400}
    found = call(tools["segment_with_prompt"], prompts=[point], image_id=shown["image_id"])
    assert (found["status"], found["marks_px"]) == ("ok", [{"point": [350, 400], "on": "plate"}])
    x_min, y_min, x_max, y_max = found["objects"][0]["box_xyxy"]
    assert MASKS["plate"][0][y_min:y_max, x_min:x_max].all()


def test_the_camera_picture_of_a_grid_keeps_the_limit() -> None:
    picture = camera_picture(_noisy_frame(), PictureSettings(), grid=True)
    assert len(picture.base64) <= 200_000
    assert picture.shows_xyxy == (0, 0, 1280, 720)
