"""`inspect_object` and `filter_objects`."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest

from tests.agent.table import new_frame, rectangle
from xsam import FakeSegmenter, Frame
from xsam_agent_tools.text.pictures import PictureSettings


def _decode(png: str) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR)
    return image[..., ::-1]


def test_details_of_one_mask(make_tools, call) -> None:
    two_pieces = rectangle(0, 100, 60, 200) | rectangle(100, 100, 180, 200) | rectangle(300, 300, 302, 302)
    rgb = np.full((480, 640, 3), 128, np.uint8)
    rgb[two_pieces] = (200, 20, 20)
    frame = Frame(rgb=rgb, camera="front")
    other = rectangle(100, 100, 180, 200)
    segmenter = FakeSegmenter({"scarf": [two_pieces], "sleeve": [other]})
    tools = make_tools(segmenter=segmenter, frame_source=lambda _: frame)
    call(tools["segment_objects"], queries=["scarf", "sleeve"])
    result = call(tools["inspect_object"], object_id="f1/m1")
    assert result["objects"][0]["label"] == "scarf"
    assert result["size_px"] == [80, 100]  # of the largest piece
    assert result["pieces"] == 3
    assert result["cut_off_at"] == ["left"]
    assert result["colour"] == "red"
    area, shared = 60 * 100 + 80 * 100 + 4, 80 * 100
    assert result["overlaps"] == {"f1/m2": pytest.approx(shared / area, abs=0.01)}
    assert "distance_m" not in result.json
    assert "age_s" in result.json


def test_depth_is_given_where_there_is_some(sim_tools, table, call) -> None:
    mug = next(a for a in table.items if a.category == "mug")
    call(sim_tools["segment_objects"], queries=[f"{mug.color} mug"])
    result = call(sim_tools["inspect_object"], object_id="f1/m1")
    assert result["distance_m"] == pytest.approx(np.linalg.norm(mug.position_camera_m), abs=0.03)
    assert result["colour"] == mug.color
    assert result["depth_valid_pct"] == 100
    longest, width, thickness = result["size_cm"]
    assert 20 > longest >= width >= thickness > 2


def test_images_show_the_object_with_and_without_its_outline(make_tools, call) -> None:
    exact = PictureSettings(format="png", max_bytes=1_000_000)
    tools = make_tools(images="user", pictures=exact)
    call(tools["segment_objects"], queries=["plate"])  # box 240,330 to 460,470; margin 8 + 55 px
    result = call(tools["inspect_object"], object_id="f1/m1")
    raw, outlined = map(_decode, result.images)
    assert result["picture"] == {"size": [480, raw.shape[0]], "shows_xyxy": [177, 267, 523, 480]}
    frame = new_frame("front").rgb
    crop = frame[267:480, 177:523]
    scale = 480 / crop.shape[1]
    assert raw.shape == outlined.shape == (round(scale * crop.shape[0]), 480, 3)
    expected = cv2.resize(crop, raw.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert np.abs(raw.astype(int) - expected).mean() < 1  # the camera's own colors, nothing drawn
    assert np.abs(outlined.astype(int) - raw).mean() > 1
    assert "images" not in call(make_tools(images="none")["segment_objects"], queries=["mug"]).artifact


def test_tiny_objects_are_enlarged_at_most_four_times(make_tools, call) -> None:
    tools = make_tools(segmenter=FakeSegmenter({"bead": [rectangle(300, 200, 304, 205)]}), images="user")
    call(tools["segment_objects"], queries=["bead"])
    raw = _decode(call(tools["inspect_object"], object_id="f1/m1").images[0])
    assert max(raw.shape) == 4 * (5 + 2 * (8 + 1))


@pytest.mark.parametrize(("object_id", "code"), [("f1/m9", "UNKNOWN_ID"), ("f9/m1", "UNKNOWN_ID")])
def test_unknown_objects(tools, call, object_id: str, code: str) -> None:
    call(tools["segment_objects"], queries=["mug"])
    result = call(tools["inspect_object"], object_id=object_id)
    assert result["code"] == code


def test_old_images_are_refused(make_tools, call) -> None:
    now_ns = [10**18]
    frame = new_frame("front")
    tools = make_tools(
        frame_source=lambda _: Frame(rgb=frame.rgb, stamp_ns=now_ns[0]),
        clock_ns=lambda: now_ns[0],
        max_image_age_s=30,
    )
    call(tools["segment_objects"], queries=["mug"])
    now_ns[0] += 31 * 10**9
    for name, arguments in (
        ("inspect_object", {"object_id": "f1/m1"}),
        ("filter_objects", {"image_id": "f1", "keep": ["1"]}),
        ("compare_objects", {"object_ids": ["f1/m1", "f1/m2"], "relation": "left_of"}),
        ("refine_object", {"object_id": "f1/m1", "add": [{"type": "point", "x": 5, "y": 5}]}),
        ("ask_scene", {"question": "What?", "image_id": "f1"}),
    ):
        result = call(tools[name], **arguments)
        assert (result["status"], result["code"]) == ("stale", "STALE_FRAME"), name
        assert "31" in result["message"]
    assert call(tools["track_object"], object_id="f1/m1")["status"] == "ok"  # it takes a new image


# ---------------------------------------------------------------------------------- filter_objects


def _found(tools, call) -> None:
    call(tools["segment_objects"], queries=["mug", "plate"])  # f1/m1, f1/m2 and f1/m3


def test_keep_and_drop(tools, call) -> None:
    _found(tools, call)
    result = call(tools["filter_objects"], image_id="f1", drop=["f1/m2"])
    assert [item["id"] for item in result["kept"]] == ["f1/m1", "f1/m3"]
    assert result["dropped"] == ["f1/m2"]
    assert [mask["id"] for mask in result.artifact["masks"]] == ["f1/m1", "f1/m3"]
    more = call(tools["filter_objects"], image_id="f1", drop=["m3"])
    assert [item["id"] for item in more["kept"]] == ["f1/m1"]
    back = call(tools["filter_objects"], image_id="f1", keep=["2", "3"])
    assert [item["label"] for item in back["kept"]] == ["mug", "plate"]
    assert back["dropped"] == ["f1/m1"]


def test_dropped_ids_stay_valid(tools, call) -> None:
    _found(tools, call)
    call(tools["filter_objects"], image_id="f1", keep=["1"])
    result = call(tools["inspect_object"], object_id="f1/m3")
    assert result["objects"][0]["label"] == "plate"


def test_overlay_shows_what_was_kept(make_tools, call, monkeypatch) -> None:
    from xsam.draw import overlay as draw

    tools = make_tools(images="user")
    _found(tools, call)
    seen = []
    whole = draw.draw_overlay
    monkeypatch.setattr(draw, "draw_overlay", lambda *a, **k: (seen.append(k["numbers"]), whole(*a, **k))[1])
    call(tools["filter_objects"], image_id="f1", drop=["2"])
    assert seen == [[1, 3]]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({}, "INVALID_ARGUMENTS"),
        ({"keep": ["1"], "drop": ["2"]}, "INVALID_ARGUMENTS"),
        ({"keep": ["9"]}, "UNKNOWN_ID"),
        ({"drop": ["f2/m1"]}, "UNKNOWN_ID"),
        ({"image_id": "f7", "keep": ["1"]}, "UNKNOWN_ID"),
    ],
)
def test_wrong_filters_are_refused(tools, call, arguments, code: str) -> None:
    _found(tools, call)
    assert call(tools["filter_objects"], **{"image_id": "f1", **arguments})["code"] == code


def test_dropping_everything_says_so(tools, call) -> None:
    _found(tools, call)
    result = call(tools["filter_objects"], image_id="f1", drop=["1", "2", "3"])
    assert (result["kept"], len(result["dropped"])) == ([], 3)
    assert "keep" in result["hint"]
