"""Words → queries, and what is suggested when nothing fits."""

from __future__ import annotations

import pytest

from xsam import Task
from xsam_agent_tools.phrases import means_one, query_for, simpler_noun


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
    query = query_for(phrase)
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
    assert means_one(phrase) is one


@pytest.mark.parametrize(
    ("phrase", "noun"),
    [
        ("the small red mug on the tray", "mug"),
        ("red mug", "mug"),
        ("the left mug", "mug"),
        ("a mug", ""),
        ("mug", ""),
        ("the", ""),
        ("What is that?", ""),
    ],
)
def test_simpler_noun(phrase: str, noun: str) -> None:
    assert simpler_noun(phrase) == noun
