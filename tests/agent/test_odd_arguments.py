"""Arguments as planners write them: read where they are clear, else refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agent.table import ToolCallResult
from xsam_agent_tools.phrases import read_phrases

MARK = {"type": "point", "x": 150, "y": 170}


def _phrases(sent: str, *, nouns_only: bool = False) -> tuple[str, ...]:
    reading = read_phrases([sent], own_name="queries", max_count=8, max_chars=200, nouns_only=nouns_only)
    value: tuple[str, ...] = reading.value
    return value


@pytest.mark.parametrize(
    ("sent", "phrases"),
    [
        ("Mug(s)", ("Mug",)),
        ("glass(es)", ("glass",)),
        ("mug 🙂", ("mug",)),
        ("mugs and the plates", ("mug", "plate")),
        ("a knife and a fork", ("knife", "fork")),
        ("mug with a handle and the plate", ("mug with a handle and the plate",)),  # whose plate?
        ("black and the white mug", ("black and the white mug",)),
        ("where is the mug", ("the mug",)),
        ("where's my mug on the tray?", ("the mug on the tray",)),
        ("Where are the mugs?", ("mug",)),
        ("is there a mug?", ("mug",)),
        ("do you see any mugs?", ("mug",)),
        ("how many mugs are there?", ("mug",)),
        ("the number of plates", ("plate",)),
        ("count the mugs", ("mug",)),
        ("count dracula", ("count dracula",)),
        ("is there something to drink from?", ("is there something to drink from?",)),
        ("How many mugs are on the table?", ("How many mugs are on the table?",)),
        ("the object on the book", ("the object on the book",)),
        ("the one on the left", ("the one on the left",)),
    ],
)
def test_phrases_that_are_clear_are_read(sent: str, phrases: tuple[str, ...]) -> None:
    """Each of them was searched for as it is, and reported as not in view."""
    assert _phrases(sent) == phrases


@pytest.mark.parametrize(
    "sent", ["everything", "all objects", "things", "nothing", "the object", "it", "the", "a", "all", "🙂"]
)
def test_what_names_nothing_is_refused_and_not_reported_as_absent(tools, call, sent: str) -> None:
    result = call(tools["segment_objects"], queries=[sent])
    assert result["code"] == "INVALID_ARGUMENTS"
    assert "name" in result["message"]


def test_an_id_is_no_phrase(tools, call) -> None:
    call(tools["segment_objects"], queries=["mug"])
    assert "id" in call(tools["segment_objects"], queries=["f1/m1"])["message"]


@pytest.mark.parametrize("classes", ["everything", ["all"], "all objects"])
def test_everything_means_the_usual_categories(make_tools, call, classes: Any) -> None:
    overview = call(make_tools(thing_classes=["mug", "plate"])["segment_everything"], classes=classes)
    assert overview["counts"] == {"mug": 2, "plate": 1}
    assert overview["left_out"]


@pytest.mark.parametrize(
    "sent", ["f1/m1 (mug)", "id: f1/m1", "the mug f1/m1", "`F1/M1`", {"id": "f1/m1", "mark": 1}]
)
def test_an_id_among_words_is_read(tools, call, sent: Any) -> None:
    call(tools["segment_objects"], queries=["mug"])
    assert call(tools["inspect_object"], object_id=sent)["objects"][0]["id"] == "f1/m1"


@pytest.mark.parametrize(
    "sent", ["f1/m1 and f1/m2", ["f1/m1 (left)", "f1/m2 (right)"], [{"id": "f1/m1"}, {"id": "f1/m2"}]]
)
def test_ids_among_words_are_read(tools, call, sent: Any) -> None:
    call(tools["segment_objects"], queries=["mug"])
    compared = call(tools["compare_objects"], object_ids=sent, relation="leftmost")
    assert compared["answer"] == "f1/m1"


@pytest.mark.parametrize("sent", ["f1/m1/m2", "f1/m1 f1/2", "m1", "f1/m1-f1/m2"])
def test_what_may_be_several_ids_is_not_guessed(tools, call, sent: str) -> None:
    call(tools["segment_objects"], queries=["mug"])
    assert call(tools["inspect_object"], object_id=sent)["status"] == "error"


@pytest.mark.parametrize(
    "camera", ["both", "front, wrist", ["wrist", "front"], "front and wrist", "*", "All cameras", "every"]
)
def test_all_cameras_have_many_names(tools, call, camera: Any) -> None:
    result = call(tools["segment_objects"], queries=["mug"], camera=camera)
    assert [entry["camera"] for entry in result["cameras"]] == ["front", "wrist"]


def test_some_of_the_cameras_are_refused_with_what_to_do(make_tools, call) -> None:
    tools = make_tools(cameras=["front", "wrist", "rear"])
    result = call(tools["segment_objects"], queries=["mug"], camera="front, rear")
    assert "give one camera, or 'all'" in result["message"]
    assert call(tools["segment_objects"], queries=["mug"], camera="both")["code"] == "UNKNOWN_CAMERA"


@pytest.mark.parametrize(
    ("sent", "relation"),
    [("left", "left_of"), ("To the left of", "left_of"), ("bigger", "larger"), ("biggest", "largest")],
)
def test_other_words_for_a_relation(tools, call, sent: str, relation: str) -> None:
    call(tools["segment_objects"], queries=["mug"])
    compared = call(tools["compare_objects"], object_ids=["f1/m1", "f1/m2"], relation=sent)
    assert (compared["relation"], compared["read_as"]) == (relation, {sent: relation})


@pytest.mark.parametrize("relation", ["behind", "under", "closest", "next to"])
def test_words_that_may_mean_two_relations_are_refused(tools, call, relation: str) -> None:
    call(tools["segment_objects"], queries=["mug"])
    compared = call(tools["compare_objects"], object_ids=["f1/m1", "f1/m2"], relation=relation)
    assert compared["code"] == "INVALID_ARGUMENTS"


def _marked(call: Any, tools: Any, prompts: Any) -> ToolCallResult:
    call(tools["segment_objects"], queries=["mug"])
    result: ToolCallResult = call(tools["segment_with_prompt"], prompts=prompts, image_id="f1")
    return result


@pytest.mark.parametrize(
    ("prompts", "echo"),
    [
        ([{"type": "point", "coordinates": [150, 170]}], {"point": [150, 170]}),
        ([{"type": "scribble", "points": [[140, 170], [160, 170]]}], {"scribble": [[140, 170], [160, 170]]}),
        (
            [{"points": [{"x": 140, "y": 170}, {"x": 160, "y": 170}]}],
            {"scribble": [[140, 170], [160, 170]]},
        ),
    ],
)
def test_marks_in_other_forms(tools, call, prompts: Any, echo: dict[str, Any]) -> None:
    (mark,) = _marked(call, tools, prompts)["marks_px"]
    assert echo.items() <= mark.items()
    assert mark["on"] == "mug"


@pytest.mark.parametrize("prompts", [[[150, 170]], [150, 170], "150,170"])
def test_numbers_alone_are_no_marks_and_the_message_shows_one(tools, call, prompts: Any) -> None:
    assert '{"type":"point","x":150,"y":170}' in _marked(call, tools, prompts)["message"]


def test_absence_of_what_nobody_looked_for_is_not_reported(tools, call) -> None:
    """After a search for anything at all, the absence of everything else was "reported"."""
    call(tools["segment_objects"], queries=["mug", "dragon"])
    never = call(tools["report_not_found"], query="unicorn", tried=["horse"], reason="not in view")
    assert (never["code"], never["status"]) == ("NOT_LOOKED", "error")
    assert "segment_objects(['unicorn'])" in never["hint"]
    instead = call(
        tools["report_not_found"], query="something to drink from", tried=["mug"], reason="not in view"
    )
    assert (instead["status"], instead["reported"]) == ("unsure", False)
    other = call(tools["report_not_found"], query="mythical beast", tried=["dragon"], reason="not in view")
    assert (other["status"], other["reported"]) == ("no_match", True)


def test_frames_of_old_have_a_slash(sim_tools, call) -> None:
    call(sim_tools["segment_objects"], queries=["mug"])
    located = call(sim_tools["locate_objects_3d"], object_ids=["f1/m1"], frame="/front_optical")
    assert located["frame"] == "front_optical"
