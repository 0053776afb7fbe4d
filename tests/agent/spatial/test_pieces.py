"""Boxes, centers, relations and positions with specks and holes: what a box is of, and what is told."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.agent.table import rectangle
from xsam import FakeSegmenter, Frame, MaskRle

PLATE = (100, 150, 470, 350)  # 370 px wide


def _tools(make_tools, **masks):
    """Make tools over a flat wall at 1 m that see the given masks, by phrase."""
    depth = np.full((480, 640), 1.0, np.float32)
    matrix = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])

    def frame(camera: str) -> Frame:
        rgb = np.zeros((480, 640, 3), np.uint8)
        return Frame(rgb=rgb, camera=camera, stamp_ns=time.time_ns(), depth_m=depth, intrinsics=matrix)

    segmenter = FakeSegmenter({phrase: [mask] for phrase, mask in masks.items()})
    return make_tools(segmenter=segmenter, frame_source=frame)


@pytest.mark.parametrize("speck", [(586, 250, 588, 253), (20, 20, 50, 60), (476, 340, 477, 341)])
def test_a_speck_does_not_move_the_box_and_is_told(make_tools, call, speck) -> None:
    """A plate of 370 px had a box of 488 px, because of a few pixels at its side."""
    tools = _tools(make_tools, plate=rectangle(*PLATE) | rectangle(*speck), bowl=rectangle(*PLATE))
    plate, bowl = call(tools["segment_objects"], queries=["plate", "bowl"])["objects"]
    assert plate["box_xyxy"] == bowl["box_xyxy"] == list(PLATE)
    assert plate["center_xy"] == bowl["center_xy"]
    assert plate["pieces"] == 2
    assert "pieces" not in bowl
    inspected = call(tools["inspect_object"], object_id="f1/m1")
    assert (inspected["size_px"], inspected["pieces"]) == ([370, 200], 2)


def test_the_mask_keeps_its_specks(make_tools, call) -> None:
    mask = rectangle(*PLATE) | rectangle(586, 250, 588, 253)
    found = call(_tools(make_tools, plate=mask)["segment_objects"], queries=["plate"])
    (entry,) = found.artifact["masks"]
    counts = entry["rle"]["counts"].encode()
    assert np.array_equal(MaskRle(height=480, width=640, counts=counts).decode(), mask)


def test_relations_and_positions_are_about_the_largest_piece(make_tools, call) -> None:
    """A hull around plate and speck contained what lay between them; a speck at the border cut it off."""
    speck = rectangle(620, 230, 640, 260)
    block, cup = rectangle(500, 200, 560, 300), rectangle(20, 20, 60, 60)
    tools = _tools(make_tools, plate=rectangle(*PLATE) | speck, block=block, cup=cup)
    call(tools["segment_objects"], queries=["plate", "block", "cup"])

    def ask(relation: str, *marks: int) -> str:
        ids = [f"f1/m{mark}" for mark in marks]
        return call(tools["compare_objects"], object_ids=ids, relation=relation)["answer"]

    assert ask("inside", 2, 1) == "no"
    assert ask("smaller", 3, 1) == "yes"
    (located,) = call(tools["locate_objects_3d"], object_ids=["f1/m1"])["objects"]
    assert located["position_m"]["x"] == pytest.approx((284.5 - 319.5) / 500, abs=0.002)
    assert located["size_cm"][0] in (73, 74)


def test_an_object_in_large_pieces_is_not_called_smaller(make_tools, call) -> None:
    """Something stands in front of a tray: how large the tray is cannot be seen."""
    tray = rectangle(100, 150, 240, 250) | rectangle(300, 150, 420, 250)
    tools = _tools(make_tools, tray=tray, book=rectangle(100, 300, 300, 420))
    call(tools["segment_objects"], queries=["tray", "book"])
    result = call(tools["compare_objects"], object_ids=["f1/m1", "f1/m2"], relation="smaller")
    assert (result["status"], result["answer"]) == ("ambiguous", "unclear")
    assert "f1/m1 is seen in several pieces" in result["why"]


def test_two_outlines_in_pieces_are_recognized_as_one_object(make_tools, call) -> None:
    """Their largest pieces differ, by two columns of pixels."""
    left, right = rectangle(100, 100, 200, 200), rectangle(300, 100, 400, 200)
    wide = {"scarf": left | rectangle(300, 100, 402, 200), "shawl": rectangle(98, 100, 200, 200) | right}
    result = call(_tools(make_tools, **wide)["segment_objects"], queries=["scarf", "shawl"])
    assert result["objects"][1]["same_as"] == "f1/m1"
