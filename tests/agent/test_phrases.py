"""Conversion of phrases to queries, and suggestions when nothing fits."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from xsam import Task
from xsam_agent_tools.phrases import expects_one_object, query_from_phrase, read_phrases, simpler_nouns
from xsam_agent_tools.reading import Reading


@pytest.mark.parametrize(
    ("phrase", "task", "text", "things"),
    [
        ("mug", Task.OPEN_VOCABULARY, "", ("mug",)),
        ("red mug", Task.OPEN_VOCABULARY, "", ("red mug",)),
        ("all the mugs", Task.OPEN_VOCABULARY, "", ("mugs",)),
        ("a mug", Task.OPEN_VOCABULARY, "", ("mug",)),
        ("thermos", Task.OPEN_VOCABULARY, "", ("thermos",)),  # starts with "the", is not "the"
        ("all", Task.OPEN_VOCABULARY, "", ("all",)),
        ("the mug left of the plate", Task.REFERRING, "the mug left of the plate", ()),
        ("The mug", Task.REFERRING, "The mug", ()),
        ("What can I drink from?", Task.REASONING, "What can I drink from?", ()),
        ("the thing to drink from?", Task.REASONING, "the thing to drink from?", ()),
    ],
)
def test_query_for(phrase: str, task: Task, text: str, things: tuple[str, ...]) -> None:
    query = query_from_phrase(phrase)
    assert (query.validate(), query.text, query.thing_classes) == (task, text, things)


@pytest.mark.parametrize(
    ("phrase", "one"),
    [
        ("the mug", True),
        ("the mug on the shelves", True),
        ("the glass", True),
        ("the cactus next to the books", True),
        ("the mugs", False),
        ("the red mugs on the tray", False),
        ("the two mugs", False),
        ("mug", False),
        ("the mug?", False),
    ],
)
def test_means_one(phrase: str, one: bool) -> None:
    assert expects_one_object(phrase) is one


@pytest.mark.parametrize(
    ("phrase", "nouns"),
    [
        ("the small red mug on the tray", ["red mug", "mug"]),
        ("red mug", ["mug"]),
        ("the left mug", ["mug"]),
        ("the old teddy bear", ["teddy bear", "bear"]),
        ("a mug", []),
        ("mug", []),
        ("the", []),
        ("What is that?", []),
    ],
)
def test_simpler_nouns(phrase: str, nouns: list[str]) -> None:
    assert simpler_nouns(phrase) == nouns


def test_advice_never_asks_more_than_one_call_can_take(make_tools, call) -> None:
    """Eight long phrases have sixteen shorter forms."""
    phrases = [f"small {color} thing{n}" for n, color in enumerate(["red", "blue", "green", "pink"] * 2)]
    tools = make_tools()
    result = call(tools["segment_objects"], queries=phrases)
    assert result["status"] == "no_match"
    nouns = ast.literal_eval(result["next"].removeprefix("segment_objects(").removesuffix(")"))
    assert call(tools["segment_objects"], queries=nouns)["status"] == "no_match"


def _read(value: Any, **options: Any) -> Reading:
    settings = {"own_name": "queries", "max_count": 8, "max_chars": 200, **options}
    return read_phrases(value, **settings)


@pytest.mark.parametrize(
    ("sent", "phrases"),
    [
        ("['bottle','block']", ["bottle", "block"]),
        ("mug, bottle", ["mug", "bottle"]),
        ("mug, bottle and plate", ["mug", "bottle", "plate"]),
        ("- mug\n- the red bottle\n", ["mug", "the red bottle"]),
        ("1. mug\n2) bottle", ["mug", "bottle"]),
        ("mug; bottle | plate", ["mug", "bottle", "plate"]),
        ("[mug, bottle]", ["mug", "bottle"]),
        ('"[\\"mug\\", \\"bottle\\"]"', ["mug", "bottle"]),
        ('{"queries": ["mug", "bottle"]}', ["mug", "bottle"]),
        (["mug, bottle", "plate"], ["mug", "bottle", "plate"]),
        (["the mug and the plate"], ["the mug", "the plate"]),
        (["mug/cup"], ["mug", "cup"]),
        ([["mug"], ["plate"]], ["mug", "plate"]),
        ([{"name": "mug"}, {"label": "plate"}], ["mug", "plate"]),
        # one thing each, whatever is between the words
        (["big, red mug"], ["big red mug"]),
        (["black and white mug"], ["black and white mug"]),
        (["salt and pepper shaker"], ["salt and pepper shaker"]),
        (["the mug between the plate and the bowl"], ["the mug between the plate and the bowl"]),
        (["the plate, left of the pan"], ["the plate, left of the pan"]),
        (["Which one can I drink from, or pour with?"], ["Which one can I drink from, or pour with?"]),
    ],
)
def test_lists_are_read_however_they_are_written(sent: Any, phrases: list[str]) -> None:
    reading = _read(sent)
    assert list(reading.value) == phrases
    flat = isinstance(sent, list) and all(isinstance(item, str) for item in sent)
    if not flat or sent != phrases:
        assert reading.read_as or isinstance(sent, list)


@pytest.mark.parametrize(
    ("sent", "phrase"),
    [
        ("mugs", "mug"),
        ("all the mugs", "mug"),
        ("two mugs", "mug"),
        ("the two mugs", "mug"),
        ("the mugs", "mug"),
        ("both of the mugs", "mug"),
        ("these mugs", "mug"),
        ("3 red mugs", "red mug"),
        ("each mug", "mug"),
        ("knives", "knife"),
        ("boxes", "box"),
        ("wine glasses", "wine glass"),
        ("cups of tea", "cup of tea"),
        ("a pair of scissors", "scissors"),
        ("Mugs.", "Mug"),
        ("coffee_mug", "coffee mug"),
        ("“mug”", "mug"),
        ("find all mugs", "mug"),
        ("please show me the mug", "the mug"),
        ("that mug", "the mug"),
        ("mu\u200bg\u202e", "mug"),
        ("ｍｕｇ", "mug"),
    ],
)
def test_a_phrase_is_read_as_what_it_means_and_the_answer_says_so(sent: str, phrase: str) -> None:
    reading = _read([sent])
    assert reading.value == (phrase,)
    assert list(reading.read_as.values()) == [phrase]


@pytest.mark.parametrize(
    "phrase",
    [
        *("mug", "scissors", "glass", "bus", "lens", "thermos", "cactus", "tennis racket", "7 up", "pants"),
        *("sunglasses", "safety glasses", "the scissors", "the red mugs on the tray", "two liter bottle"),
        *("no parking sign", "show poster", "1,000 piece puzzle", "two-handled mug", "segment of orange"),
        *("What can I drink from?", "the mug left of the plate", "chess board", "Coca-Cola can"),
    ],
)
def test_a_phrase_that_is_clear_stays_as_it_is(phrase: str) -> None:
    reading = _read([phrase])
    assert (reading.value, dict(reading.read_as), dict(reading.left_out)) == ((phrase,), {}, {})


def test_duplicates_are_one() -> None:
    assert _read(["mug", "Mug", "mug ", "mugs", "the plate", "The  plate"]).value == ("mug", "the plate")


def test_what_cannot_be_searched_for_is_left_out_by_name() -> None:
    reading = _read([*(f"thing {n}" for n in range(8)), "fork", "", "x" * 300, "no spoons"])
    assert reading.value == tuple(f"thing {n}" for n in range(8))
    fork, empty, long, absent = reading.left_out.items()
    assert (fork[0], "at most 8" in fork[1]) == ("fork", True)
    assert (empty[0], "empty" in empty[1]) == ("", True)
    assert (long[0][:3], "300 characters" in long[1]) == ("xxx", True)
    assert (absent[0], "absent" in absent[1]) == ("no spoons", True)


def test_categories_are_nouns() -> None:
    reading = _read(["the mug", "Plates", "What is this?"], nouns_only=True)
    assert reading.value == ("mug", "Plate")
    assert list(reading.left_out) == ["What is this?"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[" * 50_000, "50000 characters"),
        ('{"a":' * 3000, "characters, at most 200"),
        ("(" * 3000, "empty"),
        ([[[[[["mug"]]]]]], "nested too deeply"),
    ],
)
def test_a_hostile_list_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _read(value)


def test_the_answer_says_how_it_read_the_arguments(make_tools, call) -> None:
    tools = make_tools()
    many = [f"gadget {n}" for n in range(1, 8)]
    result = call(tools["segment_objects"], queries=["Mugs", *many, "plate"], camera="Front")
    assert result["camera"] == "front"
    assert [item["label"] for item in result["objects"]] == ["Mug", "Mug"]
    assert result["read_as"] == {"Mugs": "Mug", "Front": "front"}
    assert list(result["left_out"]) == ["plate"]
    assert result.artifact["result"] == result.json


def test_a_plural_that_was_not_found_is_the_same_search_as_its_singular(make_tools, call) -> None:
    tools = make_tools()
    assert call(tools["segment_objects"], queries=["forks"])["status"] == "no_match"
    again = call(tools["segment_objects"], queries=["fork"])
    assert again["code"] == "REPEATED_QUERY"
    report = call(tools["report_not_found"], query="two forks", tried=["forks"], reason="not in view")
    assert (report["query"], report["tried"]) == ("fork", ["fork"])
    assert "never_asked" not in report.json


@pytest.mark.parametrize(
    ("name", "arguments", "read_as"),
    [
        ("inspect_object", {"object_id": " F1/M1 "}, {" F1/M1 ": "f1/m1"}),
        ("inspect_object", {"object_id": ["[f1/m1]"]}, {"[f1/m1]": "f1/m1"}),
        ("compare_objects", {"object_ids": "f1/m1, f1/m2", "relation": "Left of"}, {"Left of": "left_of"}),
        (
            "compare_objects",
            {"object_ids": '["f1/m1", "f1/m2"]', "relation": "left-of"},
            {"left-of": "left_of"},
        ),
        ("segment_objects", {"queries": ["plate"], "image_id": "[f1/m2]"}, {"[f1/m2]": "f1"}),
        ("filter_objects", {"image_id": "f1/m1", "drop": "m1"}, {"f1/m1": "f1"}),
        ("filter_objects", {"image_id": " f1 ", "keep": [1, "M2"]}, {"M2": "m2", " f1 ": "f1"}),
        ("segment_everything", {"classes": "mugs, plates"}, {"mugs, plates": ["mug", "plate"]}),
        ("ask_scene", {"question": {"question": "What can I drink from?"}}, {}),
        ("perception_status", {"camera": "ALL"}, {"ALL": "all"}),
        ("perception_status", {"camera": "the wrist camera".removeprefix("the ")}, {"wrist camera": "wrist"}),
    ],
)
def test_names_and_ids_are_read_whatever_their_case_and_spaces(
    make_tools, call, name: str, arguments: dict[str, Any], read_as: dict[str, Any]
) -> None:
    tools = make_tools()
    call(tools["segment_objects"], queries=["mug"])
    result = call(tools[name], **arguments)
    assert result["status"] in ("ok", "no_match")
    assert read_as.items() <= result["read_as"].items()


def test_two_cameras_that_differ_by_case_only_are_not_mixed_up(make_tools, call) -> None:
    tools = make_tools(cameras=["front", "Front"])
    assert call(tools["segment_objects"], queries=["mug"], camera="Front")["camera"] == "Front"
    assert call(tools["segment_objects"], queries=["mug"], camera="FRONT")["code"] == "UNKNOWN_CAMERA"


def test_more_objects_than_one_call_takes_are_named(sim_tools, call) -> None:
    call(sim_tools["segment_everything"])
    ids = [f"f1/m{n}" for n in range(1, 14)]
    known = [i for i in ids if call(sim_tools["inspect_object"], object_id=i).json["status"] == "ok"]
    sent = [*known, *known, *(f"f1/m{n}" for n in range(1, 3))]
    located = call(sim_tools["locate_objects_3d"], object_ids=sent)
    assert [item["id"] for item in located["objects"]] == known[:10]
    assert list(located.json.get("left_out", {})) == known[10:]


def test_default_categories_are_counted_once_however_often_they_are_given(make_tools, call) -> None:
    tools = make_tools(thing_classes=["mug", "Mug", "mug ", "fork"])
    result = call(tools["segment_everything"])
    assert result["counts"] == {"mug": 2}
    again = call(tools["segment_objects"], queries=["Mug"])  # it was found, so nothing refuses to look again
    assert len(again["objects"]) == 2


def test_the_first_spelling_of_a_default_category_and_their_order_stay(make_tools, call) -> None:
    tools = make_tools(thing_classes=["plate", "mug", "Plate"])
    result = call(tools["segment_everything"])
    assert [item["label"] for item in result["objects"]] == ["plate", "mug", "mug"]
