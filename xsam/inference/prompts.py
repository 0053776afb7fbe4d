"""Task → chat text → token ids, with the positions of conditions and `<SEG>`.

The strings are the ones the published weights were trained on (arXiv 2508.04655, appendix). Where
the reference draws one of several wordings at random, one canonical wording is used here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.config import IMAGE_ID, REGION_ID
from xsam.errors import InvalidQueryError
from xsam.inference.chat_format import ASSISTANT_TURN, END_TAG, IMAGE_TAG, USER_TURN, ChatFormat
from xsam.types.requests import Query, Task, plain_name

REGION_TAG = "<region>"
SEG_TAG = "<SEG>"
PHRASE_OPEN = "<p>"
PHRASE_CLOSE = "</p>"
PHI3_CHAT = ChatFormat()
_PLACEHOLDERS = re.compile(f"({re.escape(IMAGE_TAG)}|{re.escape(REGION_TAG)})")
_ALL_TAGS = re.compile(r"<\|[^|<>]*\|>|<(?:SEG|image|region|/?p|/?s|unk|/?think|/?tool_\w+)>", re.IGNORECASE)
_JOINERS = "\u200c\u200d"  # invisible, but part of words in Persian and Hindi, and of emoji
_COCO_SUFFIX = re.compile(r"(-(merged|other|stuff))+$")  # "food-other-merged" has two


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One turn as text. `answer` is empty when the model is to generate it."""

    question: str
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedPrompt:
    """Token ids of a turn and what each position stands for; all three arrays (L,) int64."""

    input_ids: NDArray[np.int64]  # IMAGE_ID and REGION_ID are placeholders
    cond_ids: NDArray[np.int64]  # condition index inside `<p> … </p>`, tags included, else −1
    seg_ids: NDArray[np.int64]  # 0, 1, … at each `<SEG>`, else −1
    answer_start: int  # index of the first token of the answer
    answer_end: int  # index after the last token of the answer, separator excluded

    @property
    def num_conditions(self) -> int:
        return int(self.cond_ids.max(initial=-1)) + 1

    def expand(self, image_tokens: int, region_tokens: int) -> TokenizedPrompt:
        """Repeat each placeholder as often as it has tokens."""
        repeats = np.where(
            self.input_ids == IMAGE_ID, image_tokens, np.where(self.input_ids == REGION_ID, region_tokens, 1)
        )
        ends = np.concatenate([[0], np.cumsum(repeats)])
        return TokenizedPrompt(
            input_ids=np.repeat(self.input_ids, repeats),
            cond_ids=np.repeat(self.cond_ids, repeats),
            seg_ids=np.repeat(self.seg_ids, repeats),
            answer_start=int(ends[self.answer_start]),
            answer_end=int(ends[self.answer_end]),
        )


def tokenize(
    tokenizer: Any, conversation: Conversation, chat: ChatFormat = PHI3_CHAT, *, separator: str = "\n"
) -> TokenizedPrompt:
    """Turn a conversation into ids.

    Question, answer and separator are encoded one by one, and the text around `<image>` and
    `<region>` piece by piece, as in training.
    """
    start = [tokenizer.bos_token_id] if chat.bos else []
    question = start + _encode(tokenizer, chat.translate(conversation.question))
    answer = _encode(tokenizer, chat.translate(conversation.answer))
    tail = _encode(tokenizer, separator) if answer and separator else []
    input_ids = np.array(question + answer + tail, np.int64)
    cond_ids, seg_ids = mark_positions(tokenizer, input_ids)
    return TokenizedPrompt(
        input_ids=input_ids,
        cond_ids=cond_ids,
        seg_ids=seg_ids,
        answer_start=len(question),
        answer_end=len(question) + len(answer),
    )


def mark_positions(
    tokenizer: Any, input_ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the condition index and the `<SEG>` index of each position, both (L,) int64, −1 elsewhere.

    An unclosed `<p>` is no condition: a generated answer may be cut off.
    """
    open_id, close_id, seg_id = tokenizer.convert_tokens_to_ids([PHRASE_OPEN, PHRASE_CLOSE, SEG_TAG])
    cond_ids = np.full(len(input_ids), -1, np.int64)
    start, count = -1, 0
    for position, token in enumerate(input_ids):
        if token == open_id:
            start = position
        elif token == close_id and start >= 0:
            cond_ids[start : position + 1] = count
            start, count = -1, count + 1
    seg_ids = np.full(len(input_ids), -1, np.int64)
    positions = np.flatnonzero(input_ids == seg_id)
    seg_ids[positions] = np.arange(len(positions))
    return cond_ids, seg_ids


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = []
    for piece in _PLACEHOLDERS.split(text):
        if piece == IMAGE_TAG:
            ids.append(IMAGE_ID)
        elif piece == REGION_TAG:
            ids.append(REGION_ID)
        elif piece:
            ids.extend(tokenizer.encode(piece, add_special_tokens=False))
    return ids


def frame_question(question: str) -> str:
    """Wrap a question as the model reads it: after the image, before the answer."""
    return f"{USER_TURN}{IMAGE_TAG}\n{question}{END_TAG}\n{ASSISTANT_TURN}"


def _conditions(names: Sequence[str]) -> str:
    if not all(names):
        raise InvalidQueryError("a phrase or category is empty without its tags")
    return ", ".join(f"{PHRASE_OPEN}{name}{PHRASE_CLOSE}" for name in names)


def clean_text(text: str) -> str:
    """Remove what the tokenizer would read as a tag, and what is invisible; collapse white space.

    Invisible characters (byte order marks, zero-width spaces, directions of writing, control characters) come
    along with text that was copied, and would change the answer.
    """
    kinds = [(c, unicodedata.category(c)) for c in unicodedata.normalize("NFC", text)]
    text = "".join(" " if kind == "Cc" else c for c, kind in kinds if kind != "Cf" or c in _JOINERS)
    previous = None
    while previous != text:  # removing one tag can join the halves of another
        previous, text = text, _ALL_TAGS.sub(" ", text)
    return " ".join(text.split())


def unknown_words(tokenizer: Any, query: Query) -> dict[str, tuple[str, ...]]:
    """Return the words that a word-level tokenizer does not know; empty for other tokenizers.

    Returns:
        Category or text of the query → its unknown words, without those that have none.
    """
    names = {name: category_name(name) for name in query.thing_classes + query.stuff_classes}
    texts = {query.text.strip(): clean_text(query.text), **names}
    unknown_id = tokenizer.unk_token_id
    found = {}
    for label, text in texts.items():
        words = dict.fromkeys(text.replace("?", " ").split())
        unknown = [w for w in words if unknown_id in tokenizer.encode(w, add_special_tokens=False)]
        if unknown:
            found[label] = tuple(unknown)
    return found


def category_name(name: str) -> str:
    """Normalize a category name as in training: lower case, `-` → space, COCO's suffixes dropped."""
    return _COCO_SUFFIX.sub("", clean_text(name).lower()).replace("-", " ").strip()


def without_repeats(query: Query) -> Query:
    """Return the query with each category once, the first time that it is given; itself if none repeats.

    The probabilities of all categories add up to 1, so a category that is given twice would get half.
    """
    things, stuff = (
        {plain_name(name): name for name in reversed(names)}
        for names in (query.thing_classes, query.stuff_classes)
    )
    if len(things) + len(stuff) == len(query.thing_classes) + len(query.stuff_classes):
        return query
    return replace(
        query,
        thing_classes=tuple(name for name in query.thing_classes if things.pop(plain_name(name), None)),
        stuff_classes=tuple(name for name in query.stuff_classes if stuff.pop(plain_name(name), None)),
    )


def conversation_for(query: Query, task: Task | None = None, *, medium: str = "image") -> Conversation:
    """Build the canonical question for a query, and the answer to force where the task has a fixed one.

    Args:
        query: a valid query.
        task: its resolved task, if the caller knows it.
        medium: what the question is about, "image" or "video".

    Raises:
        InvalidQueryError: a text is empty once its tags are removed.
    """
    task = query.resolved_task() if task is None else task
    text = clean_text(query.text)
    if task in (Task.GENERIC, Task.OPEN_VOCABULARY):
        names = [category_name(name) for name in query.thing_classes + query.stuff_classes]
        question = (
            f"Can you segment the {medium} based on the following categories: {_conditions(names)}? "
            "Please output the segmentation masks."
        )
        answer = f"Sure, the segmentation result is {SEG_TAG}."
    elif task is Task.REFERRING:
        question = f"Please segment {_conditions([text.lower()])} in this {medium}."
        answer = f"Sure, it is {SEG_TAG}."
    elif task is Task.REASONING:
        explain = "explain why and " if query.explain else ""
        question = f"{_conditions([text])} Please {explain}output the corresponding segmentation mask."
        answer = "" if query.explain else f"Sure, it is {SEG_TAG}."
    elif task is Task.GROUNDED_CONVERSATION:
        question = (
            "Can you provide a brief description of the this image? "  # sic: the training string
            "Please output interleaved segmentation masks for the corresponding phrases."
        )
        answer = ""
    elif task in (Task.INTERACTIVE, Task.VISUAL_GROUNDED):
        count = 1 if task is Task.INTERACTIVE else sum(prompt.positive for prompt in query.prompts)
        question = (
            f"Can you segment the {medium} based on the following regions: "
            f"{_conditions([REGION_TAG] * count)}? Please output the corresponding segmentation mask."
        )
        answer = f"Sure, {SEG_TAG}."
    elif text:
        question, answer = text, ""
    else:
        raise InvalidQueryError("the text is empty without its tags")
    return Conversation(question=frame_question(question), answer=f"{answer}{END_TAG}" if answer else "")
