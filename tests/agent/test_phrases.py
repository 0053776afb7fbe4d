"""Conversion of phrases to queries, and suggestions when nothing fits."""

from __future__ import annotations

import ast

import pytest

from xsam import Task
from xsam_agent_tools.phrases import expects_one_object, query_from_phrase, simpler_nouns


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
