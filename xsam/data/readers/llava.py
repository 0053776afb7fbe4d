"""LLaVA's instruction data: questions and answers about an image, without masks."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.annotations import MALFORMED, skip
from xsam.data.readers.files import Layout, iterate_json_list, require_file, take
from xsam.data.readers.source import FileSource, count_if, record_conversation
from xsam.data.samples import PromptedImage, TrainPrompt
from xsam.errors import InvalidOptionError, RecordError
from xsam.inference.chat_format import ASSISTANT_TURN, END_TAG, USER_TURN
from xsam.inference.prompts import Conversation, clean_text
from xsam.types.requests import Query, Task

LAYOUT = Layout(
    dataset="LLaVA",
    folders=(
        "llava_v1_5_mix665k.json and one folder with coco/train2017/, gqa/images/, ocr_vqa/images/, "
        "textvqa/train_images/ and vg/VG_100K(_2)/"
    ),
    published="https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
)


class LlavaChat(FileSource):
    """Chat about images: a list of `{id, image, conversations: [{from: human | gpt, value}, …]}`.

    LLaVA-Pretrain's captions have the same form. Records without an image or without an answered question
    are skipped and counted.

    Args:
        annotations: such as `llava_v1_5_mix665k.json`.
        images: folder that the field `image` is relative to.
        turn: "first" or "random"; the question of a later turn includes the preceding turns.
        max_chars: maximum length of a question including the preceding turns; longer turns are not used.
        name: name used in logs and in the mixture.

    Source: Liu et al. 2024 (LLaVA-1.5, arXiv 2310.03744).
    """

    def __init__(
        self,
        *,
        annotations: str | Path,
        images: str | Path,
        turn: str = "first",
        max_chars: int = 6000,
        name: str = "llava",
    ) -> None:
        if turn not in ("first", "random") or max_chars < 1:
            raise InvalidOptionError(
                f"turn must be 'first' or 'random' and max_chars positive, got {turn!r} and {max_chars}"
            )
        self._turn = turn
        self._max_chars = max_chars
        super().__init__(
            name=name, annotations=require_file(annotations, LAYOUT), images=images, layout=LAYOUT
        )

    def _read_records(self) -> Iterable[dict[str, Any]]:
        return _records(self._annotations, self._max_chars, self._skipped)

    def _make_sample(
        self,
        record: dict[str, Any],
        rgb: NDArray[np.uint8],
        rng: np.random.Generator,
        prompts: int,
        where: str,
    ) -> PromptedImage:
        turns = record["turns"][:1] if self._turn == "first" else record["turns"]
        conversations = _conversations(turns, self._max_chars, where)
        picks = rng.permutation(len(conversations))[:prompts]
        return PromptedImage(
            rgb=rgb,
            masks=np.zeros((0, *rgb.shape[:2]), np.bool_),
            prompts=tuple(
                TrainPrompt(kind="chat", conversation=conversations[pick], labels=np.zeros(0, np.int64))
                for pick in picks
            ),
        )


def _conversations(turns: list[tuple[str, str]], max_chars: int, where: str) -> list[Conversation]:
    """Build one conversation per turn, each including the preceding turns, up to `max_chars` characters."""
    found: list[Conversation] = []
    for question, answer in turns:
        prompt_text = record_conversation(Query(task=Task.CHAT, text=question), where).question
        if found:
            history = f"{found[-1].question}{found[-1].answer}"
            prompt_text = f"{history}\n{USER_TURN}{question}{END_TAG}\n{ASSISTANT_TURN}"
        if found and len(prompt_text) > max_chars:
            break
        found.append(Conversation(question=prompt_text, answer=f"{answer}{END_TAG}"))
    return found


def _records(path: Path, max_chars: int, skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    for number, item in enumerate(iterate_json_list(path)):
        try:
            record = _record(item, f"{path}, record number {number}")
        except RecordError as error:
            skip(skipped, MALFORMED, error)
            continue
        turns = record["turns"]
        too_long = bool(turns) and len(turns[0][0]) > max_chars
        if (
            count_if(skipped, "without an image", record["file_name"] is None)
            or count_if(skipped, "without an answered question", not turns)
            or count_if(skipped, "with too long a question", too_long)
        ):
            continue
        yield record


def _record(item: Any, where: str) -> dict[str, Any]:
    identity = str(take(item, "id", (str, int), where))
    where = f"{where} ({identity})"
    messages = take(item, "conversations", list, where)
    has_image = item.get("image") is not None
    return {
        "id": identity,
        "file_name": take(item, "image", str, where) if has_image else None,
        "turns": _turns(messages, where) if has_image else [],
    }


def _turns(messages: list[Any], where: str) -> list[tuple[str, str]]:
    """Pair questions with answers, without tags, up to the first incomplete pair."""
    turns: list[tuple[str, str]] = []
    pending: list[str] = []
    for message in messages:
        speaker, text = take(message, "from", str, where), take(message, "value", str, where)
        if speaker == "human":
            pending.append(clean_text(text))
        elif speaker == "gpt":
            answer = _clean_answer(text)
            question = " ".join(part for part in pending if part)
            if pending and not (question and answer):
                break
            if pending:  # otherwise the model spoke first
                turns.append((question, answer))
            pending = []
        else:
            raise RecordError(f"{where}: 'from' must be human or gpt, not {speaker!r}")
    return turns


def _clean_answer(text: str) -> str:
    """Remove tags line by line, and keep the layout of lists, tables, and code.

    Lines keep their indentation; spaces inside a line are collapsed, except in fenced code.
    """
    lines, fenced = [], False
    for line in text.expandtabs(4).splitlines():
        plain = clean_text(line)
        fenced ^= plain.startswith("```")
        indented = " " * (len(line) - len(line.lstrip())) + plain
        as_written = fenced and plain == " ".join(line.split())  # it has no tags
        lines.append(line.rstrip() if as_written else indented.rstrip())
    return textwrap.dedent("\n".join(lines)).strip()
