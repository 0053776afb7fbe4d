"""Generated text: captions, explanations, chat, and the masks they refer to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest

import xsam.inference.forward
from tests.unit.engine.asking import parts, picture
from xsam import (
    Query,
    Status,
    Task,
    XSam,
)


@pytest.fixture
def say(one_engine: XSam, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the model generate this text: random weights never generate `<SEG>`."""
    generate = xsam.inference.forward.generate
    _, tokenizer = parts("a")

    def force(text: str) -> None:
        forced: Sequence[int] = tokenizer.encode(text, add_special_tokens=False)
        monkeypatch.setattr(
            xsam.inference.forward, "generate", functools.partial(generate, forced_ids=forced)
        )

    return force


def test_phrases_of_a_caption_become_segments(one_engine: XSam, say: Callable[[str], None]) -> None:
    say("I see <p>a red cube</p> and <p>a mug</p>. The segmentation mask is <SEG>.<|end|>")
    result = one_engine.segment(picture(), Query(task=Task.GROUNDED_CONVERSATION))
    assert result.status is Status.FOUND
    assert result.phrases == ("a red cube", "a mug")
    assert sorted(result.segments.labels) == ["a mug", "a red cube"]
    assert [result.phrases[i] for i in result.segments.label_indices] == list(result.segments.labels)
    assert result.text == "I see a red cube and a mug."


def test_an_explanation_with_phrases_still_answers_the_question(
    one_engine: XSam, say: Callable[[str], None]
) -> None:
    """A phrase in the explanation once added a second condition without a label: `IndexError`."""
    say("Because <p>a mug</p> is hot. The segmentation mask is <SEG>.<|end|>")
    query = Query(text="What is hot?", explain=True)
    result = one_engine.segment(picture(), query)
    assert result.segments.labels == ("What is hot?",)
    assert result.text == "Because a mug is hot."
    say("Because a mug is hot. The segmentation mask is <SEG>.<|end|>")
    assert one_engine.segment(picture(), query).segments.labels == ("What is hot?",)


def test_chat_may_point_at_things(one_engine: XSam, say: Callable[[str], None]) -> None:
    """This once raised `IndexError` too; a single phrase was labeled with the user's own text."""
    say("<p>a mug</p> and <p>a cube</p> <SEG>.<|end|>")
    result = one_engine.segment(picture(), Query(task=Task.CHAT, text="What is there?"))
    assert sorted(result.segments.labels) == ["a cube", "a mug"]
    assert result.text == "a mug and a cube."


@pytest.mark.parametrize(
    "answer",
    [
        "I see <p>a mug</p>.<|end|>",
        "I see <p>a mug</p> <SEG> <SEG>.<|end|>",
        "I see <p>a mug <SEG>.<|end|>",
        "It is <SEG>.<|end|>",
    ],
)
def test_without_exactly_one_seg_and_a_phrase_there_is_no_mask(
    one_engine: XSam, say: Callable[[str], None], answer: str
) -> None:
    say(answer)
    result = one_engine.segment(picture(), Query(task=Task.GROUNDED_CONVERSATION))
    assert result.status is Status.NOT_FOUND
    assert len(result) == 0
    assert "no mask" in result.message
    assert "<" not in result.text


def test_a_phrase_that_was_opened_twice(one_engine: XSam, say: Callable[[str], None]) -> None:
    """The label once held a tag: "a <p>mug"."""
    say("<p>a <p>mug</p> and <p>a cube</p> <SEG>.")
    result = one_engine.segment(picture(), Query(task=Task.GROUNDED_CONVERSATION))
    assert result.phrases == ("mug", "a cube")
    assert sorted(result.segments.labels) == ["a cube", "mug"]


def test_text_is_heard_while_it_is_generated(one_engine: XSam, say: Callable[[str], None]) -> None:
    say("I see <p>a mug</p> here. The segmentation mask is <SEG>.<|end|>")
    heard: list[tuple[int, str]] = []
    mug, caption = one_engine.segment(
        picture(),
        [Query(text="mug"), Query(task=Task.GROUNDED_CONVERSATION)],
        on_text=lambda index, text: heard.append((index, text)),
    )
    assert {index for index, _ in heard} == {1}  # a template is not generated
    texts = [text for _, text in heard]
    assert texts[-1] == caption.text == "I see a mug here."
    assert any(text.endswith("a mug") for text in texts)
    assert not any("<" in text for text in texts)
    assert mug.text == ""


def test_an_explanation_ends_with_its_mask(one_engine: XSam, say: Callable[[str], None]) -> None:
    """Nothing is generated after `<SEG>`, so a second `<SEG>` cannot replace the mask."""
    heard: list[str] = []
    say("Because it is hot. The segmentation mask is <SEG>. And so on <SEG>.<|end|>")
    result = one_engine.segment(
        picture(), Query(text="What is hot?", explain=True), on_text=lambda _, text: heard.append(text)
    )
    assert result.segments.labels == ("What is hot?",)
    assert result.text == heard[-1] == "Because it is hot."
