"""The strings the weights were trained on, what users may insert, and the positions of the conditions."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.golden import GOLDEN
from xsam import InvalidQueryError, Query, Task, VisualPrompt
from xsam.config import IMAGE_ID, REGION_ID
from xsam.inference.chat_format import ChatFormat
from xsam.inference.prompts import (
    Conversation,
    TokenizedPrompt,
    category_name,
    clean_text,
    conversation_for,
    mark_positions,
    tokenize,
)
from xsam.train.tokenizer import build_tiny_tokenizer
from xsam.weights.tokenizer_files import load_tokenizer

POINT = VisualPrompt.point(1, 1)
AWAY = VisualPrompt.point(2, 2, positive=False)


@pytest.fixture(scope="module", params=["byte pairs", "words"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """Return the tokenizer of a golden model, which can split words into bytes, or of the tiny model."""
    return (
        load_tokenizer(GOLDEN / "a" / "tokenizer")
        if request.param == "byte pairs"
        else build_tiny_tokenizer()
    )


# ------------------------------------------------------------------------------ canonical strings


@pytest.mark.parametrize(
    ("query", "question", "answer"),
    [
        (
            Query(task=Task.GENERIC, thing_classes=("cat", "Dog"), stuff_classes=("wall-other-merged",)),
            "Can you segment the image based on the following categories: <p>cat</p>, <p>dog</p>, "
            "<p>wall</p>? Please output the segmentation masks.",
            "Sure, the segmentation result is <SEG>.<|end|>",
        ),
        (
            Query(thing_classes=("fire-hydrant",)),
            "Can you segment the image based on the following categories: <p>fire hydrant</p>? "
            "Please output the segmentation masks.",
            "Sure, the segmentation result is <SEG>.<|end|>",
        ),
        (
            Query(text=" The  Red MUG\n"),
            "Please segment <p>the red mug</p> in this image.",
            "Sure, it is <SEG>.<|end|>",
        ),
        (
            Query(text="What can I drink from?"),
            "<p>What can I drink from?</p> Please output the corresponding segmentation mask.",
            "Sure, it is <SEG>.<|end|>",
        ),
        (
            Query(text="What can I drink from?", explain=True),
            "<p>What can I drink from?</p> Please explain why and output the corresponding segmentation "
            "mask.",
            "",
        ),
        (
            Query(task=Task.GROUNDED_CONVERSATION),
            "Can you provide a brief description of the this image? Please output interleaved segmentation "
            "masks for the corresponding phrases.",
            "",
        ),
        (
            Query(prompts=(POINT,)),
            "Can you segment the image based on the following regions: <p><region></p>? "
            "Please output the corresponding segmentation mask.",
            "Sure, <SEG>.<|end|>",
        ),
        (  # several prompts of one object are one region
            Query(task=Task.INTERACTIVE, prompts=(POINT, POINT, AWAY)),
            "Can you segment the image based on the following regions: <p><region></p>? "
            "Please output the corresponding segmentation mask.",
            "Sure, <SEG>.<|end|>",
        ),
        (  # a negative prompt is not a region
            Query(prompts=(POINT, AWAY, POINT)),
            "Can you segment the image based on the following regions: <p><region></p>, <p><region></p>? "
            "Please output the corresponding segmentation mask.",
            "Sure, <SEG>.<|end|>",
        ),
        (Query(task=Task.CHAT, text="What is unusual?"), "What is unusual?", ""),
    ],
)
def test_canonical_strings(query: Query, question: str, answer: str) -> None:
    conversation = conversation_for(query)
    assert conversation.question == f"<|user|>\n<image>\n{question}<|end|>\n<|assistant|>\n"
    assert conversation.answer == answer


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("tree-merged", "tree"),
        ("water-other", "water"),
        ("door-stuff", "door"),
        ("food-other-merged", "food"),
        ("building-other-merged", "building"),
        ("window-blind", "window blind"),
        ("wall-brick", "wall brick"),
        ("Potted Plant ", "potted plant"),
        ("stuffed-toy", "stuffed toy"),
        ("other", "other"),
    ],
)
def test_category_names_of_coco(name: str, cleaned: str) -> None:
    """COCO's double suffixes once lost only their second half: the model read "food other"."""
    assert category_name(name) == cleaned


# ----------------------------------------------------------------------------------- injected tags

TAGS_OF_PHI3 = (
    "<unk>",
    "<s>",
    "</s>",
    "<|endoftext|>",
    "<|assistant|>",
    "<|placeholder1|>",
    "<|placeholder6|>",
    "<|system|>",
    "<|end|>",
    "<|user|>",
    "<SEG>",
    "<p>",
    "</p>",
    "<image>",
    "<region>",
)


@pytest.mark.parametrize("tag", TAGS_OF_PHI3)
def test_no_tag_gets_through(tag: str) -> None:
    """`<|placeholder1|>` once did: digits were not expected in a tag."""
    assert clean_text(f"the {tag} mug") == "the mug"
    assert clean_text(tag * 3) == ""
    for place in range(1, len(tag)):  # removing the inner tag must not join the halves of the outer one
        nested = tag[:place] + tag + tag[place:]
        assert not any(known in clean_text(nested) for known in TAGS_OF_PHI3)


@pytest.mark.parametrize("text", ["a < b > c", "x <- y", "p>", "<SEG", "5 <p", "| a |", "<b>bold</b>"])
def test_what_is_no_tag_is_left_alone(text: str) -> None:
    assert clean_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("\ufeffthe crème mug", "\u200bthe crème\u200b mug", "\u202ethe crème mug\u202c", "the crème mug\0"),
        *("the\u00a0crème\u2009mug", "the cre\u0300me mug", "the crème\x07mug\r\n", "the cr\u00adème mug"),
    ],
)
def test_invisible_characters_do_not_change_the_question(text: str) -> None:
    """They come along with text that was copied; a zero-width space made "the red mug" something else."""
    assert conversation_for(Query(text=text)) == conversation_for(Query(text="the crème mug"))
    assert conversation_for(Query(thing_classes=(text,))) == conversation_for(
        Query(thing_classes=("the crème mug",))
    )


@pytest.mark.parametrize(
    "query",
    [
        Query(text="<SEG>"),
        Query(text="<SEG> </p> <p>", task=Task.REASONING),
        Query(text="<|end|>", task=Task.CHAT),
        Query(thing_classes=("mug", "<p></p>")),
        Query(stuff_classes=("-",)),
        Query(stuff_classes=("-stuff",)),
    ],
)
def test_a_text_of_tags_alone_is_refused(query: Query) -> None:
    """Such a query once prompted the model with `<p></p>` and returned a mask for that."""
    query.validate()
    with pytest.raises(InvalidQueryError, match="empty"):
        conversation_for(query)


PIECES = st.one_of(
    st.sampled_from(
        [
            *TAGS_OF_PHI3,
            *(
                "<",
                ">",
                "</",
                "SEG>",
                "<S",
                "EG>",
                "<p",
                "/p>",
                "<|",
                "|>",
                "<|en",
                "d|>",
                "<ima",
                "ge>",
                "-",
                " ",
            ),
            *(
                "\n",
                "\t",
                "\0",
                "ſEG>",
                "K",
                "İ",
                "＜SEG＞",
                "\u200b",
                "mug",
                "the red",
                "?",
                "-merged",
                "é",
                "🥤",
            ),
        ]
    ),
    st.text(max_size=6),
)
TEXTS = st.lists(PIECES, min_size=1, max_size=7).map("".join)


def _counts(tokenizer: Any, tokens: TokenizedPrompt) -> dict[str, int]:
    names = ["<SEG>", "<p>", "</p>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>", "<s>", "</s>"]
    ids = tokens.input_ids.tolist()
    return {name: ids.count(tokenizer.convert_tokens_to_ids(name)) for name in names}


@settings(max_examples=60)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@pytest.mark.slow
def test_no_user_text_can_forge_tags(tokenizer: Any, texts: list[str]) -> None:
    queries = [
        (Query(text=texts[0], task=Task.REFERRING), 1),
        (Query(text=texts[0], task=Task.REASONING), 1),
        (Query(thing_classes=tuple(texts)), len(texts)),
        (Query(text=texts[0], task=Task.CHAT), 0),
    ]
    for query, conditions in queries:
        try:
            conversation = conversation_for(query)
        except InvalidQueryError:
            continue
        tokens = tokenize(tokenizer, conversation)
        answered = int(bool(conversation.answer))
        assert _counts(tokenizer, tokens) == {
            "<SEG>": answered,
            "<p>": conditions,
            "</p>": conditions,
            "<|user|>": 1,
            "<|assistant|>": 1,
            "<|end|>": 1 + answered,
            "<|endoftext|>": 0,
            "<s>": 0,
            "</s>": 0,
        }
        assert (tokens.num_conditions, int(tokens.seg_ids.max(initial=-1)) + 1) == (conditions, answered)
        assert (tokens.input_ids == IMAGE_ID).sum() == 1
        assert (tokens.input_ids < 0).sum() == 1


# ---------------------------------------------------------------------------------------- positions


def test_a_beginning_answer_and_separator(tokenizer: Any) -> None:
    conversation = conversation_for(Query(text="the red mug"))
    plain = tokenize(tokenizer, conversation)
    marked = tokenize(tokenizer, conversation, ChatFormat(bos=True))
    assert marked.input_ids.tolist() == [tokenizer.bos_token_id, *plain.input_ids.tolist()]
    assert (marked.answer_start, marked.answer_end) == (plain.answer_start + 1, plain.answer_end + 1)

    answer = tokenizer.decode(plain.input_ids[plain.answer_start : plain.answer_end])
    letters = re.sub(r"\s", "", answer).lower()
    assert letters == "sure,itis<seg>.<|end|>"
    separator = tokenizer.encode("\n", add_special_tokens=False)
    assert plain.input_ids[plain.answer_end :].tolist() == separator
    bare = tokenize(tokenizer, conversation, separator="")
    assert len(bare.input_ids) == bare.answer_end

    unanswered = tokenize(tokenizer, Conversation(question=conversation.question))
    assert unanswered.answer_start == unanswered.answer_end == len(unanswered.input_ids)
    assert unanswered.input_ids.tolist() == plain.input_ids[: plain.answer_start].tolist()


def test_conditions_are_where_their_words_are(tokenizer: Any) -> None:
    query = Query(thing_classes=("mug", "red block"), stuff_classes=("table",))
    tokens = tokenize(tokenizer, conversation_for(query))
    open_id, close_id = tokenizer.convert_tokens_to_ids(["<p>", "</p>"])
    for index, name in enumerate(("mug", "red block", "table")):
        span = tokens.input_ids[tokens.cond_ids == index]
        assert (span[0], span[-1]) == (open_id, close_id)
        assert tokenizer.decode(span[1:-1]).strip() == name
    assert (
        np.flatnonzero(tokens.seg_ids == 0).tolist()
        == np.flatnonzero(tokens.input_ids == tokenizer.convert_tokens_to_ids("<SEG>")).tolist()
    )


O, C, S, X = "<p>", "</p>", "<SEG>", "<|user|>"  # noqa: E741


@pytest.mark.parametrize(
    ("tokens", "conditions", "segs"),
    [
        ([X, O, X, C, X, O, C, S], [-1, 0, 0, 0, -1, 1, 1, -1], [-1, -1, -1, -1, -1, -1, -1, 0]),
        ([O, X, X], [-1, -1, -1], [-1, -1, -1]),  # cut off
        ([O, X, O, X, C], [-1, -1, 0, 0, 0], [-1] * 5),  # the first was never closed
        ([X, C, O, X, C], [-1, -1, 0, 0, 0], [-1] * 5),  # closed, but never opened
        ([O, C, C, S, S], [0, 0, -1, -1, -1], [-1, -1, -1, 0, 1]),
        ([], [], []),
    ],
)
def test_spans_of_generated_text(
    tokenizer: Any, tokens: list[str], conditions: list[int], segs: list[int]
) -> None:
    ids = np.array([tokenizer.convert_tokens_to_ids(token) for token in tokens], np.int64)
    cond_ids, seg_ids = mark_positions(tokenizer, ids)
    assert cond_ids.tolist() == conditions
    assert seg_ids.tolist() == segs


def test_placeholders_are_repeated_with_their_marks() -> None:
    tokens = TokenizedPrompt(
        input_ids=np.array([7, IMAGE_ID, 1, REGION_ID, 2, 9, 3, 8], np.int64),
        cond_ids=np.array([-1, -1, 0, 0, 0, -1, -1, -1], np.int64),
        seg_ids=np.array([-1, -1, -1, -1, -1, -1, 0, -1], np.int64),
        answer_start=5,
        answer_end=7,
    )
    expanded = tokens.expand(3, 2)
    image, region = IMAGE_ID, REGION_ID
    assert expanded.input_ids.tolist() == [7, image, image, image, 1, region, region, 2, 9, 3, 8]
    assert expanded.cond_ids.tolist() == [-1, -1, -1, -1, 0, 0, 0, 0, -1, -1, -1]
    assert expanded.seg_ids.tolist() == [-1, -1, -1, -1, -1, -1, -1, -1, -1, 0, -1]
    assert (expanded.answer_start, expanded.answer_end) == (8, 10)
    assert (expanded.num_conditions, int(expanded.seg_ids.max()) + 1) == (1, 1)


def test_every_region_has_its_own_condition(tokenizer: Any) -> None:
    tokens = tokenize(tokenizer, conversation_for(Query(prompts=(POINT, AWAY, POINT, POINT))))
    places = np.flatnonzero(tokens.input_ids == REGION_ID)
    assert tokens.cond_ids[places].tolist() == [0, 1, 2]
    expanded = tokens.expand(4, 5)
    assert [int((expanded.cond_ids == i).sum()) for i in range(3)] == [7, 7, 7]  # five tokens and two tags
