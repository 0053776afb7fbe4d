"""What is in doubt is told as such by every tool, and `next` proposes a check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.agent.table import MASKS, new_frame
from xsam import FakeSegmenter, SegmentationResult, Status
from xsam.types.requests import Query

DOUBT = "looks more like a vase, 0.92"
HINT = "the model does not know the word(s): fork"


class DoubtingSegmenter:
    """A fake segmenter whose n-th objects of a phrase are doubted, as `doubts` says: phrase → doubts."""

    def __init__(self, doubts: dict[str, tuple[str, ...]], hint: str = "", masks=None) -> None:
        self.doubts, self.hint = doubts, hint
        self._fake = FakeSegmenter(
            masks or {**MASKS, "fork": MASKS["plate"]}, frames={"front": new_frame("front")}
        )

    def segment(self, source, queries: list[Query], *, deadline_s: float) -> list[SegmentationResult]:
        results = self._fake.segment(source, queries, deadline_s=deadline_s)
        return [self._doubted(result) for result in results]

    def _doubted(self, result: SegmentationResult) -> SegmentationResult:
        asked = (*result.query.thing_classes, result.query.text)
        doubts = next((self.doubts[name] for name in asked if name in self.doubts), ())
        doubts = (*doubts, *("",) * len(result))[: len(result)]
        status = Status.UNSURE if any(doubts) else result.status
        segments = replace(result.segments, doubts=doubts)
        return replace(result, status=status, segments=segments, hint=self.hint)


@pytest.fixture
def doubted(make_tools, call):
    """Return the tools, of which `segment_objects` has found a fork that may be something else."""
    tools = make_tools(segmenter=DoubtingSegmenter({"fork": (DOUBT,)}, HINT), thing_classes=("plate", "mug"))
    return tools, call(tools["segment_objects"], queries=["fork"])


def test_a_search_in_doubt_is_unsure_and_keeps_the_hint(doubted) -> None:
    """336 answers about unknown words were "ok", and the hint was shown for no_match only."""
    _, found = doubted
    assert (found["status"], found["unsure"]) == ("unsure", ["fork"])
    assert found["objects"][0]["unsure"] == DOUBT
    assert HINT in found["hint"]
    assert found["next"] == "inspect_object('f1/m1')"


def test_the_hint_of_a_found_object_is_told_too(make_tools, call) -> None:
    tools = make_tools(segmenter=DoubtingSegmenter({}, HINT))
    found = call(tools["segment_objects"], queries=["mug"])
    assert found["status"] == "ok"
    assert HINT in found["hint"]


def test_certain_objects_are_apart_from_possible_ones(make_tools, call) -> None:
    tools = make_tools(segmenter=DoubtingSegmenter({"mug": ("", DOUBT)}))
    found = call(tools["segment_objects"], queries=["mug"])
    assert found["status"] == "ok"
    assert [item["id"] for item in found["objects"]] == ["f1/m1"]
    assert [(item["id"], item["unsure"]) for item in found["also_possible"]] == [("f1/m2", DOUBT)]


def test_one_certain_among_several_is_not_ambiguous(make_tools, call) -> None:
    tools = make_tools(segmenter=DoubtingSegmenter({"the mug": (DOUBT, "")}))
    assert call(tools["segment_objects"], queries=["the mug"])["status"] == "ok"


def test_places_are_checked_with_all_of_the_kind(make_tools, call) -> None:
    phrase = "the leftmost mug"
    segmenter = DoubtingSegmenter({phrase: (DOUBT,)}, masks={phrase: MASKS["red mug"]})
    found = call(make_tools(segmenter=segmenter)["segment_objects"], queries=[phrase])
    assert found["next"] == "segment_objects(['mug'])"
    assert "compare_objects" in found["hint"]


def test_looking_closely_says_what_it_looks_like(doubted, call) -> None:
    tools, _ = doubted
    inspected = call(tools["inspect_object"], object_id="f1/m1")
    assert (inspected["status"], inspected["objects"][0]["unsure"]) == ("unsure", DOUBT)
    assert inspected["looks_like"] == {"plate": 0.9}


def test_a_long_hint_does_not_crowd_out_the_next_one(make_tools, call) -> None:
    """After 13 unknown words, "weak signs of one more mug" was cut off."""
    unknown = f"the model does not know the word(s): {', '.join(['keyboard'] * 20)}"
    signs = "weak signs of one more mug at pixel (412, 230), not shown: the number is not certain"
    tools = make_tools(segmenter=DoubtingSegmenter({}, f"{unknown}; {signs}"))
    hint = call(tools["segment_objects"], queries=["mug"])["hint"]
    assert hint.endswith(f"…; {signs}")


def test_another_camera_may_tell(doubted, call) -> None:
    """The advice was made for phrases that were not found, so that one in doubt never got it."""
    tools, found = doubted
    assert "another camera may tell (wrist)" in found["hint"]
    suggestion = "segment_objects(['fork'],camera='wrist')"
    assert call(tools["inspect_object"], object_id="f1/m1")["next"] == suggestion
    call(tools["segment_objects"], queries=["fork"], camera="wrist")
    assert "next" not in call(tools["inspect_object"], object_id="f1/m1").json


@pytest.mark.parametrize(
    ("phrase", "elsewhere"), [("plate", False), ("the red plate", False), ("platelet", True)]
)
def test_what_looks_like_what_was_asked_for_needs_no_other_camera(
    make_tools, call, phrase: str, elsewhere: bool
) -> None:
    weak = "weak: about 5 of 10 such answers are right"
    segmenter = DoubtingSegmenter({phrase: (weak,)}, masks={**MASKS, phrase: MASKS["plate"]})
    tools = make_tools(segmenter=segmenter, thing_classes=("plate", "mug"))
    call(tools["segment_objects"], queries=[phrase])
    inspected = call(tools["inspect_object"], object_id="f1/m1")
    assert "plate" in inspected["looks_like"]
    assert ("next" in inspected.json) == elsewhere


def test_tools_on_a_doubtful_object_stay_doubtful(doubted, call) -> None:
    tools, _ = doubted
    refined = call(tools["refine_object"], object_id="f1/m1", add=[{"type": "point", "x": 300, "y": 400}])
    assert (refined["status"], refined["objects"][0]["unsure"]) == ("unsure", DOUBT)
    tracked = call(tools["track_object"], object_id="f1/m1")
    assert (tracked["status"], tracked["objects"][0]["unsure"]) == ("unsure", DOUBT)
    kept = call(tools["filter_objects"], image_id="f1", keep=["m1"])
    assert kept["kept"][0]["unsure"] == DOUBT


def test_what_was_only_doubtful_may_be_reported_as_absent(doubted, call) -> None:
    tools, _ = doubted
    report = call(tools["report_not_found"], query="fork", tried=["fork"], reason="it is a plate")
    assert (report["status"], report["reported"]) == ("no_match", True)
    assert report["unsure_earlier"] == ["f1/m1"]


def test_what_was_found_for_certain_is_not_reported_as_absent(tools, call) -> None:
    call(tools["segment_objects"], queries=["mug"])
    report = call(tools["report_not_found"], query="mug", tried=["mug"], reason="I give up")
    assert (report["status"], report["reported"]) == ("unsure", False)
    assert report["next"] == "track_object('f1/m1')"


def test_the_overview_counts_what_is_certain(make_tools, call) -> None:
    tools = make_tools(segmenter=DoubtingSegmenter({"mug": ("", DOUBT)}), thing_classes=("mug",))
    overview = call(tools["segment_everything"])
    assert (overview["status"], overview["counts"]) == ("ok", {"mug": 1})
    assert [item["unsure"] for item in overview["also_possible"]] == [DOUBT]
