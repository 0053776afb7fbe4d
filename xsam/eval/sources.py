"""Score a model on any dataset that training can read, or on a custom source.

A `xsam.data.samples.SampleSource` yields images with prompts and target masks. The prompts contain the text
used in training; here they are converted back to queries, so that evaluation uses the same API as every other
user of the engine. Panoptic and semantic scores need ground truth for every pixel: see `xsam.eval.coco`.
"""

from __future__ import annotations

import re

import numpy as np
from tqdm import tqdm

from xsam.data.samples import PromptedImage, SampleSource, TrainPrompt
from xsam.errors import InvalidQueryError, XSamError
from xsam.eval.asking import ask_and_score
from xsam.eval.pictures import PictureSample
from xsam.eval.questions import (
    MAX_DETECTIONS,
    CaptionTruth,
    InstanceTruth,
    Question,
    RegionTruth,
    Truth,
)
from xsam.eval.scoreboard import INTERACTIVE, Scoreboard, Scores
from xsam.inference.prompts import PHRASE_CLOSE, PHRASE_OPEN, conversation_for
from xsam.segmenter import Segmenter
from xsam.types.masks import BoolMask
from xsam.types.requests import PromptKind, Query, Task, VisualPrompt

_PHRASE = re.compile(f"{PHRASE_OPEN}(.*?){PHRASE_CLOSE}", re.DOTALL)
_GROUPS = {
    Task.REFERRING: "referring",
    Task.REASONING: "reasoning",
    Task.INTERACTIVE: INTERACTIVE,
    Task.OPEN_VOCABULARY: "category",
    Task.VISUAL_GROUNDED: "vgd",
    Task.GROUNDED_CONVERSATION: "gcg",
}
_NAMELESS = "region"


def evaluate_source(
    model: Segmenter,
    source: SampleSource,
    *,
    prompts: int = 8,
    limit: int | None = None,
    seed: int = 0,
    show_progress: bool = False,
    pictures: PictureSample | None = None,
) -> Scores:
    """Scores of a model on the pictures of a source; the same for the same answers.

    Args:
        prompts: at most so many a picture; which ones is the source's choice, drawn with `seed`.
        limit: take this many pictures, evenly spread over the source; None = all.
        show_progress: on stderr.
        pictures: takes answers to be drawn.

    Returns:
        The scores of `Scoreboard` for what the source asks; `skipped` prompts that ask for no mask; `n`
        pictures.

    Raises:
        XSamError: a prompt asks something that no query can.
    """
    board, skipped = Scoreboard(), 0
    total = len(source) if limit is None else min(limit, len(source))
    chosen = [k * len(source) // total for k in range(total)]
    for index in tqdm(chosen, unit="picture", disable=not show_progress, mininterval=5.0):
        image = source.sample(index, np.random.default_rng([seed, index]), prompts=prompts)
        asked = [question_of(image, prompt, source.class_names) for prompt in image.prompts]
        questions = [question for question in asked if question is not None]
        skipped += len(asked) - len(questions)
        ask_and_score(model, image.rgb, questions, board, pictures, name=str(index))
    return {**board.scores(), "skipped": skipped, "n": total}


def question_of(
    image: PromptedImage, prompt: TrainPrompt, class_names: tuple[str, ...] = ()
) -> Question | None:
    """A prompt as a query with its truth; None when it asks for no mask.

    Regions are given to the model as masks. AP of regions counts by the class of the objects they mean
    if the source knows it, else all regions are one class.

    Raises:
        XSamError: it asks something that no query can.
    """
    query = query_of(prompt)
    if query is None:
        return None
    kind = ""
    if query.task is Task.INTERACTIVE:
        kind = next((known.value for known in PromptKind if prompt.kind.endswith(known.value)), "")
    elif query.task is Task.REFERRING and prompt.kind != "referring":
        kind = prompt.kind
    return Question(
        group=_GROUPS[query.task], kind=kind, query=query, truth=_truth(image, prompt, query, class_names)
    )


def query_of(prompt: TrainPrompt) -> Query | None:
    """The query that gives the model the question of a prompt; None when it asks for no mask.

    Raises:
        XSamError: there is none.
    """
    if not prompt.has_mask:
        return None
    question = prompt.conversation.question
    for query in _candidates(prompt, tuple(_PHRASE.findall(question))):
        try:
            if conversation_for(query).question == question:
                return query
        except InvalidQueryError:
            continue
    raise XSamError(
        f"the {prompt.kind} prompt {question!r} asks something that no query can",
        hint="questions for evaluation are worded by xsam.inference.prompts.conversation_for",
    )


def _candidates(prompt: TrainPrompt, conditions: tuple[str, ...]) -> list[Query]:
    if prompt.regions:
        one = len(prompt.regions) == 1 and not re.search("vgd|visual", prompt.kind)
        regions = tuple(VisualPrompt.from_mask(region) for region in prompt.regions)
        if one:
            return [Query(task=Task.INTERACTIVE, prompts=regions)]
        return [
            Query(
                task=Task.VISUAL_GROUNDED, prompts=regions, score_threshold=0.0, max_instances=MAX_DETECTIONS
            )
        ]
    if not conditions:
        return [Query(task=Task.GROUNDED_CONVERSATION)]
    listed = Query(
        task=Task.OPEN_VOCABULARY,
        thing_classes=conditions,
        score_threshold=0.0,
        max_instances=MAX_DETECTIONS,
    )
    if len(conditions) > 1:
        return [listed]
    (text,) = conditions
    return [
        Query(task=Task.REFERRING, text=text),
        Query(task=Task.REASONING, text=text),
        Query(task=Task.REASONING, text=text, explain=True),
        listed,
    ]


def _truth(image: PromptedImage, prompt: TrainPrompt, query: Query, class_names: tuple[str, ...]) -> Truth:
    if query.task is Task.GROUNDED_CONVERSATION:
        return _caption(image, prompt)
    if query.task in (Task.OPEN_VOCABULARY, Task.VISUAL_GROUNDED):
        count = len(query.thing_classes) or len(query.prompts)
        means = [np.flatnonzero(prompt.labels == label) for label in range(count)]
        names = query.thing_classes or tuple(_class_name(image, rows, class_names) for rows in means)
        crowd = () if image.ignored is None else tuple((image.ignored,) for _ in names)
        return InstanceTruth(
            classes=names, masks=tuple(tuple(image.masks[row] for row in rows) for rows in means), crowd=crowd
        )
    return RegionTruth(mask=_union(image, prompt, 0), ignored=image.ignored)


def _class_name(image: PromptedImage, rows: np.ndarray, class_names: tuple[str, ...]) -> str:
    known = {int(image.classes[row]) for row in rows} if len(image.classes) else set()
    if len(known) == 1 and class_names and (index := known.pop()) >= 0:
        return class_names[index]
    return _NAMELESS


def _caption(image: PromptedImage, prompt: TrainPrompt) -> CaptionTruth:
    from xsam.inference.results import plain_text  # brings PyTorch along

    phrases = [" ".join(phrase.split()) for phrase in _PHRASE.findall(prompt.conversation.answer)]
    shown = [label for label in range(len(phrases)) if (prompt.labels == label).any()]
    return CaptionTruth(
        text=plain_text(prompt.conversation.answer),
        phrases=tuple(phrases[label] for label in shown),
        masks=tuple(_union(image, prompt, label) for label in shown),
    )


def _union(image: PromptedImage, prompt: TrainPrompt, label: int) -> BoolMask:
    mask: BoolMask = image.masks[prompt.labels == label].any(axis=0)
    return mask
