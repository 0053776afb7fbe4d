"""LLaVA's instruction data: questions and answers about a picture, without masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.data.readers.errors import DatasetError, Layout, RecordError
from xsam.data.readers.files import iterate_json_list, require_file, require_folder, take
from xsam.data.readers.source import FileSource, ask, count_if
from xsam.data.samples import PromptedImage, TrainPrompt
from xsam.inference.prompts import END_TAG, Conversation, clean_text
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
    """Chat about pictures: a list of `{id, image, conversations: [{from: human | gpt, value}, …]}`.

    LLaVA-Pretrain's captions are of the same form. Records without a picture, and without a question
    that has an answer, are left out and counted.

    Args:
        annotations: such as `llava_v1_5_mix665k.json`.
        images: the folder that the field `image` starts from.
        turn: "first", or "random": any turn, behind the ones before it, which the question then holds.
        max_chars: of a question with what was said before it; longer turns are not asked.
        name: for logs and the mixture.

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
            raise DatasetError(
                f"turn must be 'first' or 'random' and max_chars positive, got {turn!r} and {max_chars}"
            )
        self._turn = turn
        self._max_chars = max_chars
        path = require_file(annotations, LAYOUT)
        images = require_folder(images, LAYOUT)
        skipped: Counter[str] = Counter()
        super().__init__(
            name=name,
            annotations=path,
            images=images,
            layout=LAYOUT,
            records=_records(path, max_chars, skipped),
            skipped=skipped,
        )

    def _prompted(
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
    """Each turn with what was said before it, as long as that is not too long."""
    found: list[Conversation] = []
    for question, answer in turns:
        asked = ask(Query(task=Task.CHAT, text=question), where).question
        if found:
            before = f"{found[-1].question}{found[-1].answer}"
            asked = f"{before}\n<|user|>\n{question}{END_TAG}\n<|assistant|>\n"
        if found and len(asked) > max_chars:
            break
        found.append(Conversation(question=asked, answer=f"{answer}{END_TAG}"))
    return found


def _records(path: Path, max_chars: int, skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    for number, item in enumerate(iterate_json_list(path)):
        where = f"{path}, record number {number}"
        identity = str(take(item, "id", (str, int), where))
        where = f"{where} ({identity})"
        messages = take(item, "conversations", list, where)
        if count_if(skipped, "without a picture", item.get("image") is None):
            continue
        turns = _turns(messages, where)
        too_long = bool(turns) and len(turns[0][0]) > max_chars
        if count_if(skipped, "without an answered question", not turns) or count_if(
            skipped, "with too long a question", too_long
        ):
            continue
        yield {"id": identity, "file_name": take(item, "image", str, where), "turns": turns}


def _turns(messages: list[Any], where: str) -> list[tuple[str, str]]:
    """Pairs of question and answer up to the first that is incomplete, without tags."""
    turns: list[tuple[str, str]] = []
    asked: list[str] = []
    for message in messages:
        speaker, text = take(message, "from", str, where), take(message, "value", str, where)
        if speaker == "human":
            asked.append(clean_text(text))
        elif speaker == "gpt":
            # Line by line, for an answer may be a list or a table.
            answer = "\n".join(clean_text(line) for line in text.splitlines()).strip()
            question = " ".join(part for part in asked if part)
            if asked and not (question and answer):
                break
            if asked:  # else the model spoke first
                turns.append((question, answer))
            asked = []
        else:
            raise RecordError(f"{where}: 'from' must be human or gpt, not {speaker!r}")
    return turns
