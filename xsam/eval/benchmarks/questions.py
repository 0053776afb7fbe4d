"""Annotation files of benchmarks → questions: all that they hold, in their order, nothing drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from xsam.data.readers.gcg_benchmark import GcgBenchmark
from xsam.data.readers.source import FileSource
from xsam.data.samples import TrainPrompt
from xsam.eval.loop import QuestionedImage, Round
from xsam.eval.questions import CaptionTruth, Question, RegionTruth
from xsam.eval.sources import question_of
from xsam.types.requests import PromptKind, Query, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the questions of a benchmark are asked and scored.

    Attributes:
        group: first part of the names of the scores; that of questions about several categories is followed
            by the kind of their regions.
        always_answered: the best mask counts, whatever its score.
        least_px: a result with fewer pixels counts as "not found".
    """

    group: str
    always_answered: bool = True
    least_px: int = 0


class WholeImages:
    """The questions of a reader of `xsam.data.readers`."""

    def __init__(self, source: FileSource, rules: Rules) -> None:
        self._source = source
        self._rules = rules

    @property
    def skipped(self) -> Mapping[str, int]:
        return self._source.skipped

    def __len__(self) -> int:
        return len(self._source)

    def image(self, index: int) -> QuestionedImage:
        image = self._source.whole(index)
        questions = []
        for prompt in image.prompts:
            question = question_of(image, prompt, self._source.class_names)
            if question is not None:
                questions.append(self._by_the_rules(question, prompt))
        rounds = (Round(key=str(index), questions=questions, timed_as=len(questions)),)
        return QuestionedImage(name=str(index), rgb=image.rgb, rounds=rounds)

    def _by_the_rules(self, question: Question, prompt: TrainPrompt) -> Question:
        query, truth, kind = question.query, question.truth, question.kind
        group = self._rules.group
        if query.task is Task.VISUAL_GROUNDED:
            kind = next(known.value for known in PromptKind if prompt.kind.endswith(known.value))
            group = f"{group}_{kind}"
        elif query.task is not Task.INTERACTIVE:
            kind = ""
            if self._rules.always_answered:
                query = replace(query, score_threshold=0.0)
        if isinstance(truth, RegionTruth):
            truth = replace(truth, least_px=self._rules.least_px)
        return replace(question, group=group, kind=kind, query=query, truth=truth)


class DescribedImages:
    """Requests for a description of each image of GranD-f's validation or test split."""

    def __init__(self, source: GcgBenchmark) -> None:
        self._source = source

    @property
    def skipped(self) -> Mapping[str, int]:
        return self._source.skipped

    def __len__(self) -> int:
        return len(self._source)

    def image(self, index: int) -> QuestionedImage:
        image = self._source.read(index)
        question = Question(
            group="gcg",
            query=Query(task=Task.GROUNDED_CONVERSATION, score_threshold=0.0),
            truth=CaptionTruth(text=image.caption, phrases=image.phrases, masks=image.masks, ranked=False),
        )
        return QuestionedImage(
            name=image.name,
            rgb=image.rgb,
            rounds=(Round(key=image.name, questions=(question,), timed_as=1),),
        )
