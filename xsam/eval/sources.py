"""Score a model on any dataset that training can read, or on a custom source.

A `xsam.data.samples.SampleSource` yields images with prompts and target masks. The prompts contain the text
used in training; here they are converted back to queries, so that evaluation uses the same API as every other
user of the engine. Panoptic and semantic scores need ground truth for every pixel: see `xsam.eval.coco`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from xsam.data.samples import PromptedImage, SampleSource, TrainPrompt
from xsam.errors import InvalidQueryError, XSamError
from xsam.eval.loop import QuestionedImage, Round, evaluate_questions
from xsam.eval.pictures import PictureSample
from xsam.eval.predictions import PredictionFile
from xsam.eval.processes import Processes
from xsam.eval.questions import (
    MAX_DETECTIONS,
    CaptionTruth,
    InstanceTruth,
    Question,
    RegionTruth,
    Truth,
)
from xsam.eval.scoreboard import INTERACTIVE, Scores
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
_NO_CLASS = "region"


def evaluate_source(
    model: Segmenter,
    source: SampleSource,
    *,
    prompts: int = 8,
    limit: int | None = None,
    seed: int = 0,
    show_progress: bool = False,
    pictures: PictureSample | None = None,
    predictions: PredictionFile | None = None,
    processes: Processes | None = None,
) -> Scores:
    """Score a model on the images of a source; equal results give equal scores.

    Args:
        model: the segmenter to evaluate.
        source: the dataset.
        prompts: maximum number per image; the source draws them with `seed`.
        limit: number of images, evenly spread over the source; None means all.
        seed: seed of the prompts.
        show_progress: show a progress bar on stderr.
        pictures: collects results to be drawn.
        predictions: saves the results, and holds those of an earlier run.
        processes: the processes that share the work; those other than the first get no scores.

    Returns:
        The scores of `Scoreboard` for the tasks of the source, the number `n` of images that were evaluated,
        what was `skipped`, by reason (images that cannot be used, prompts that request no masks),
        `complete`: False if Ctrl-C ended the evaluation early, and `protocol`: how the questions were chosen.

    Raises:
        DatasetError: no image could be used.
        XSamError: no query corresponds to a prompt.
    """
    board, rest = evaluate_questions(
        model,
        _Drawn(source, prompts, seed),
        limit=limit,
        show_progress=show_progress,
        pictures=pictures,
        predictions=predictions,
        processes=processes,
    )
    if not rest:
        return {}
    del rest["ms_median"]
    total = len(source) if limit is None else min(limit, len(source))
    protocol = (
        f"sampled: at most {prompts} prompts per image, drawn as in training with seed {seed}, of "
        f"{total} of {len(source)} images; not comparable with published scores"
    )
    return {**board.scores(), "protocol": protocol, **rest}


class _Drawn:
    """Questions drawn from a source as in training."""

    def __init__(self, source: SampleSource, prompts: int, seed: int) -> None:
        self._source = source
        self._prompts = prompts
        self._seed = seed

    @property
    def skipped(self) -> Mapping[str, int]:
        return getattr(self._source, "skipped", {})

    def __len__(self) -> int:
        return len(self._source)

    def image(self, index: int) -> QuestionedImage:
        rng = np.random.default_rng([self._seed, index])
        image = self._source.sample(index, rng, prompts=self._prompts)
        converted = [question_of(image, prompt, self._source.class_names) for prompt in image.prompts]
        questions = [question for question in converted if question is not None]
        return QuestionedImage(
            name=str(index),
            rgb=image.rgb,
            rounds=(Round(key=str(index), questions=questions),),
            skipped={"prompts without masks": len(converted) - len(questions)},
        )


def question_of(
    image: PromptedImage, prompt: TrainPrompt, class_names: tuple[str, ...] = ()
) -> Question | None:
    """Convert a prompt to a question; return None if it requests no masks.

    Regions are passed to the model as masks. AP of regions is computed by the class of their objects if the
    source knows it; otherwise, all regions form one class.

    Raises:
        XSamError: no query corresponds to the prompt.
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
    """Find the query that produces the question of a prompt; return None if it requests no masks.

    Raises:
        XSamError: there is no such query.
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
        f"no query corresponds to the {prompt.kind} prompt {question!r}",
        hint="evaluation supports the questions that xsam.inference.prompts.conversation_for generates",
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
        targets = [np.flatnonzero(prompt.labels == label) for label in range(count)]
        names = query.thing_classes or tuple(_class_name(image, rows, class_names) for rows in targets)
        crowd = () if image.ignored is None else tuple((image.ignored,) for _ in names)
        return InstanceTruth(
            classes=names,
            masks=tuple(tuple(image.masks[row] for row in rows) for rows in targets),
            crowd=crowd,
        )
    return RegionTruth(mask=_union(image, prompt, 0), ignored=image.ignored)


def _class_name(image: PromptedImage, rows: np.ndarray, class_names: tuple[str, ...]) -> str:
    known = {int(image.classes[row]) for row in rows} if len(image.classes) else set()
    if len(known) == 1 and class_names and (index := known.pop()) >= 0:
        return class_names[index]
    return _NO_CLASS


def _caption(image: PromptedImage, prompt: TrainPrompt) -> CaptionTruth:
    from xsam.inference.results import plain_text  # imports PyTorch

    phrases = [" ".join(phrase.split()) for phrase in _PHRASE.findall(prompt.conversation.answer)]
    with_mask = [label for label in range(len(phrases)) if (prompt.labels == label).any()]
    return CaptionTruth(
        text=plain_text(prompt.conversation.answer),
        phrases=tuple(phrases[label] for label in with_mask),
        masks=tuple(_union(image, prompt, label) for label in with_mask),
    )


def _union(image: PromptedImage, prompt: TrainPrompt, label: int) -> BoolMask:
    mask: BoolMask = image.masks[prompt.labels == label].any(axis=0)
    return mask
