"""The ground-truth segmenter: it fulfills the contract and is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.test_segmenter_contract import CHECKS, Subject
from xsam import CameraRef, InvalidImageError, Query, Status, Task, UnknownCameraError, VisualPrompt
from xsam.sim.oracle import PATCH_LEVEL, SimulatedTable

SEED = 2_000_012
HW = (240, 320)


@pytest.fixture
def table() -> SimulatedTable:
    return SimulatedTable(SEED, cameras={"front": 0.0, "side": 4.0}, image_hw=HW)


@pytest.mark.parametrize("source", ["frame", "camera"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Subject], None], table: SimulatedTable, source: str) -> None:
    frame = table.frame("front")
    known = {"camera": "front", "frame_id": "front_optical"}
    if source == "frame":
        check(
            Subject(segmenter=table, source=frame, image_hw=HW, stamp_ns=frame.stamp_ns, **known)  # type: ignore[arg-type]
        )
    else:
        check(Subject(segmenter=table, source=CameraRef(name="front"), image_hw=HW, **known))  # type: ignore[arg-type]


def ask(table: SimulatedTable, query: Query, camera: str = "front"):
    (result,) = table.segment(table.frame(camera), [query], deadline_s=1.0)
    return result


def test_a_category_gives_the_pixels_of_each_object(table: SimulatedTable) -> None:
    mugs = [item for item in table.visible("front") if item.category == "mug"]
    result = ask(table, Query(thing_classes=("book", "mugs")))
    got = [m for m, label in zip(result.masks, result.segments.labels, strict=True) if label == "mugs"]
    assert len(got) == len(mugs) >= 2
    for mask, item in zip(got, mugs, strict=True):
        assert np.array_equal(mask, table.mask(item.instance_id, "front"))
        assert np.count_nonzero(mask) == item.area_px


def test_the_cameras_see_different_pictures(table: SimulatedTable) -> None:
    front, side = (ask(table, Query(text="the blue mug"), camera) for camera in ("front", "side"))
    assert (front.camera, side.camera) == ("front", "side")
    assert not np.array_equal(front.masks[0], side.masks[0])


def test_a_phrase_that_fits_several_gives_all_of_them(table: SimulatedTable) -> None:
    mugs = [item for item in table.visible("front") if item.category == "mug"]
    assert len(ask(table, Query(text="the mug")).masks) == len(mugs)
    assert len(ask(table, Query(text="the blue mug")).masks) == 1


@pytest.mark.parametrize("words", ["the fork", "the crimson mug", "what is the meaning of life?"])
def test_other_words_fit_nothing(table: SimulatedTable, words: str) -> None:
    assert ask(table, Query(text=words)).status is Status.NOT_FOUND


def test_a_point_means_the_object_under_it(table: SimulatedTable) -> None:
    item = table.visible("front")[0]
    rows, columns = np.nonzero(table.mask(item.instance_id, "front"))
    middle = len(rows) // 2
    point = VisualPrompt.point(float(columns[middle]), float(rows[middle]))
    assert np.array_equal(ask(table, Query(prompts=(point,))).masks[0], table.mask(item.instance_id, "front"))
    not_it = replace(point, positive=False)
    whole = VisualPrompt.box(0, 0, HW[1], HW[0])
    without = ask(table, Query(task=Task.INTERACTIVE, prompts=(whole, not_it)))
    assert not without.masks[0][rows[middle], columns[middle]]


def test_what_was_taken_away_is_gone_from_answers_and_pixels(table: SimulatedTable) -> None:
    (item,) = [i for i in table.visible("front") if (i.color, i.category) == ("blue", "mug")]
    mask = table.mask(item.instance_id, "front")
    table.hidden.add(item.instance_id)
    assert ask(table, Query(text="the blue mug")).status is Status.NOT_FOUND
    assert (table.frame("front").rgb[mask] == PATCH_LEVEL).all()


def test_it_knows_its_own_cameras_and_frames_only(table: SimulatedTable) -> None:
    with pytest.raises(UnknownCameraError):
        table.frame("wrist")
    foreign = replace(table.frame("front"), stamp_ns=1)
    with pytest.raises(InvalidImageError):
        table.segment(foreign, [Query(text="the mug")], deadline_s=1.0)
