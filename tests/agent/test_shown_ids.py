"""An object gets an id when it is listed: no text names an id that no text has shown before."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.agent.table import new_frame, rectangle
from xsam import FakeSegmenter, MaskRle, SegmentationResult, Segments, Status

_ID = re.compile(r"f\d+/m\d+")
_KINDS = ("mug", "plate", "fork", "book", "ball", "can")


def _grid_mask(index: int) -> np.ndarray:
    """Return one of 60 squares; neighbors overlap a little."""
    row, column = divmod(index, 10)
    return rectangle(60 * column, 75 * row, 60 * column + 66, 75 * row + 70)


class CrowdedTable:
    """A segmenter that finds ten of each kind; every third one is in doubt, and is the surest of them."""

    def segment(self, source, queries, *, deadline_s) -> list[SegmentationResult]:
        return [self._result(source, query) for query in queries]

    def _result(self, frame, query) -> SegmentationResult:
        labels = query.thing_classes or tuple(kind for kind in _KINDS if kind in query.text)
        found = [
            (label, 10 * _KINDS.index(label) + n) for label in labels if label in _KINDS for n in range(10)
        ]
        doubts = tuple("it looks more like a vase" if n % 3 == 0 else "" for _, n in found)
        return SegmentationResult(
            status=Status.FOUND if found else Status.NOT_FOUND,
            query=query,
            segments=Segments(
                image_hw=frame.image_hw,
                masks=tuple(MaskRle.encode(_grid_mask(n)) for _, n in found),
                labels=tuple(label for label, _ in found),
                label_indices=np.zeros(len(found), np.int32),
                scores=np.array([0.9 if n % 3 == 0 else 0.6 for _, n in found], np.float32),
                boxes_xyxy=np.zeros((len(found), 4), np.float32),
                doubts=doubts,
            ),
            stamp_ns=frame.stamp_ns,
        )


@pytest.fixture
def crowded(make_tools) -> dict[str, Any]:
    return make_tools(segmenter=CrowdedTable(), thing_classes=_KINDS)


def _listed(value: Any) -> Iterator[str]:
    """Yield the ids that a payload introduces: those of entries with an `id`."""
    if isinstance(value, dict):
        if isinstance(value.get("id"), str):
            yield value["id"]
        for item in value.values():
            yield from _listed(item)
    elif isinstance(value, list):
        for item in value:
            yield from _listed(item)


def _ask(tools: dict[str, Any], call: Callable[..., Any], shown: set[str]) -> None:
    """Call every tool that names ids, and check that each of them has been shown."""

    def run(name: str, **arguments: Any) -> Any:
        result = call(tools[name], **arguments)
        shown.update(_listed(result.json))
        sent = set(_ID.findall(json.dumps(arguments)))
        named = set(_ID.findall(result.message.content)) - sent
        assert named <= shown, (name, sorted(named - shown))
        return result

    image = run("segment_objects", queries=["mug", "the plate", "book"], max_objects=4)["image_id"]
    run("segment_objects", queries=["mug", "fork"], image_id=image, max_objects=3)
    for object_id in sorted(shown):
        run("inspect_object", object_id=object_id)
    run("inspect_object", object_id=f"{image}/m99")
    run("segment_objects", queries=["mug"], image_id=image, max_objects=50)
    run("segment_objects", queries=["mug"], image_id=image, max_objects=50)  # refused, with what it found
    run("segment_with_prompt", image_id=image, prompts=[{"type": "point", "x": 64, "y": 10}])
    run("filter_objects", image_id=image, keep=[sorted(shown)[0]])
    run("ask_scene", question="Which mug or fork can I use?")
    overview = run("segment_everything")
    assert len(overview["objects"]) == 20
    assert overview["not_listed"] == sum(overview["counts"].values()) - 20
    run("inspect_object", object_id=f"{overview['image_id']}/m60")
    run("track_object", object_id=sorted(shown)[0])
    run("report_not_found", query="ball", tried=["ball", "can"], reason="not seen")
    run("segment_objects", queries=["mug", "ball"], camera="all", max_objects=5)
    run("segment_everything", camera="all")


def test_no_answer_names_an_id_that_was_never_shown(crowded, call) -> None:
    """`overlaps`, `same_as` and the ids of an unknown-id error came from a store that knew more."""
    _ask(crowded, call, set())


def test_what_was_found_and_not_listed_is_not_reported_as_absent(crowded, call) -> None:
    """Eight phrases and one object: seven things were found, and seven could be reported as absent."""
    found = call(crowded["segment_objects"], queries=list(_KINDS), max_objects=1)
    assert (len(found["objects"]), found["truncated"]) == (1, 59)
    for kind in _KINDS[1:]:
        report = call(crowded["report_not_found"], query=kind, tried=[kind], reason="not listed")
        assert (report["status"], report["reported"]) == ("unsure", False)
        assert report["next"] == f"segment_objects(['{kind}'])"


def test_a_small_list_shows_what_is_certain_first_and_stays_ambiguous(crowded, call) -> None:
    one = call(crowded["segment_objects"], queries=["mug"], max_objects=1)
    assert (one["status"], len(one["objects"])) == ("ok", 1)
    assert "unsure" not in one["objects"][0]
    several = call(crowded["segment_objects"], queries=["the mug"], max_objects=1)
    assert (several["status"], several["ambiguous"]) == ("ambiguous", ["the mug"])


@pytest.mark.parametrize("camera", ["front", "wrist"])
@pytest.mark.parametrize("pixels", [True, False])
def test_list_all_is_about_the_same_camera(make_tools, call, camera: str, pixels: bool) -> None:
    """Without pixels, the call for the rest looked through the first camera."""
    masks = {"mug": [_grid_mask(n) for n in range(0, 12, 2)]}
    frames = {name: new_frame(name) for name in ("front", "wrist")}
    tools = make_tools(
        segmenter=FakeSegmenter(masks, frames=frames), **({} if pixels else {"frame_source": None})
    )
    few = call(tools["segment_objects"], queries=["mug"], camera=camera, max_objects=2)
    rest = eval(few["list_all"], {"segment_objects": lambda queries, **kw: {"queries": queries, **kw}})
    everything = call(tools["segment_objects"], **rest)
    assert (everything["camera"], everything["truncated"]) == (camera, 0)
    assert len(everything["objects"]) == 6


def test_an_id_is_given_when_it_is_listed(crowded, call) -> None:
    """The overview counts sixty things, and gives out no id beyond those it lists."""
    overview = call(crowded["segment_everything"])
    ids = list(_listed(overview.json))
    assert ids == [f"f1/m{n}" for n, _ in enumerate(ids, start=1)]
    beyond = call(crowded["inspect_object"], object_id=f"f1/m{len(ids) + 1}")
    assert beyond["code"] == "UNKNOWN_ID"
    assert overview["more_possible"] == 20 - 5
    assert sum(1 for _ in itertools.chain(overview["objects"], overview["also_possible"])) == len(ids)
