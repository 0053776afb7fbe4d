"""Training sample sources as questions: each prompt becomes a query with its ground truth."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.eval.answers import rectangle, right_answer
from xsam.data.samples import PromptedImage, TrainPrompt
from xsam.errors import DatasetError, RecordError, XSamError
from xsam.eval import asking
from xsam.eval.questions import CaptionTruth, InstanceTruth, Question, RegionTruth
from xsam.eval.sources import evaluate_source, query_of, question_of
from xsam.inference.prompts import Conversation, conversation_for
from xsam.segmenter import FakeSegmenter
from xsam.types.requests import Query, SegmentationResult, Task, VisualPrompt

HW = (24, 32)
MASKS = np.stack([rectangle(0, 0, 8, 8, HW), rectangle(10, 0, 20, 8, HW), rectangle(22, 0, 30, 8, HW)])
CLASSES = ("mug", "book")
REGION = VisualPrompt.from_mask(MASKS[1])
ANSWERS = {
    "explained": "the mug , because it holds coffee . The segmentation mask is <SEG>.<|end|>",
    "caption": "<p>a mug</p> and <p>a cat</p> and <p>two books</p> . The segmentation mask is <SEG>.<|end|>",
}


def _prompt(kind: str, query: Query, labels: Sequence[int], *, answer: str = "") -> TrainPrompt:
    conversation = conversation_for(query)
    return TrainPrompt(
        kind=kind,
        conversation=Conversation(question=conversation.question, answer=answer or conversation.answer),
        labels=np.array(labels, np.int64),
        regions=tuple(prompt.mask for prompt in query.prompts if prompt.mask is not None),
    )


PROMPTS = {
    "referring": _prompt("referring", Query(text="The Mug"), [0, -1, -1]),
    "absent": _prompt("absent_referring", Query(text="the cat"), [-1, -1, -1]),
    "plural": _prompt("referring", Query(text="the books"), [-1, 0, 0]),
    "reasoning": _prompt("reasoning", Query(text="What holds coffee?"), [0, -1, -1]),
    "explained": _prompt(
        "explained_reasoning",
        Query(task=Task.REASONING, text="What holds coffee?", explain=True),
        [0, -1, -1],
        answer=ANSWERS["explained"],
    ),
    "interactive": _prompt("interactive_box", Query(task=Task.INTERACTIVE, prompts=(REGION,)), [-1, 0, -1]),
    "vgd": _prompt("visual_grounded", Query(task=Task.VISUAL_GROUNDED, prompts=(REGION,)), [-1, 0, 0]),
    "two regions": _prompt(
        "visual_grounded",
        Query(task=Task.VISUAL_GROUNDED, prompts=(REGION, VisualPrompt.from_mask(MASKS[0]))),
        [1, 0, 0],
    ),
    "generic": _prompt("generic", Query(task=Task.GENERIC, thing_classes=("book", "cat", "mug")), [2, 0, 0]),
    "one category": _prompt("generic", Query(task=Task.GENERIC, thing_classes=("book",)), [-1, 0, 0]),
    "caption": _prompt(
        "grounded_conversation",
        Query(task=Task.GROUNDED_CONVERSATION),
        [0, 2, 2],
        answer=ANSWERS["caption"],
    ),
    "chat": TrainPrompt(
        kind="chat",
        conversation=Conversation(
            question="<|user|>\nhow many mugs ?<|end|>\n<|assistant|>\n", answer="one ."
        ),
        labels=np.full(3, -1, np.int64),
    ),
}


def _image(*names: str, ignored: NDArray[np.bool_] | None = None) -> PromptedImage:
    return PromptedImage(
        rgb=np.zeros((*HW, 3), np.uint8),
        masks=MASKS,
        prompts=tuple(PROMPTS[name] for name in names),
        classes=np.array([0, 1, 1], np.int64),
        ignored=ignored,
    )


def _asked(name: str, ignored: NDArray[np.bool_] | None = None) -> Question:
    question = question_of(_image(name, ignored=ignored), PROMPTS[name], CLASSES)
    assert question is not None
    return question


@pytest.mark.parametrize(
    ("name", "task", "group", "kind"),
    [
        ("referring", Task.REFERRING, "referring", ""),
        ("absent", Task.REFERRING, "referring", "absent_referring"),
        ("reasoning", Task.REASONING, "reasoning", ""),
        ("explained", Task.REASONING, "reasoning", ""),
        ("interactive", Task.INTERACTIVE, "interactive", "box"),
        ("vgd", Task.VISUAL_GROUNDED, "vgd", ""),
        ("two regions", Task.VISUAL_GROUNDED, "vgd", ""),
        ("generic", Task.OPEN_VOCABULARY, "category", ""),
        ("one category", Task.OPEN_VOCABULARY, "category", ""),
        ("caption", Task.GROUNDED_CONVERSATION, "gcg", ""),
    ],
)
def test_what_was_asked_comes_back(name: str, task: Task, group: str, kind: str) -> None:
    question = _asked(name)
    assert (question.query.task, question.group, question.kind) == (task, group, kind)
    # The model reads exactly the text it was trained on.
    assert conversation_for(question.query).question == PROMPTS[name].conversation.question
    question.query.validate(HW)


def test_explanations_are_asked_for() -> None:
    assert _asked("explained").query.explain
    assert not _asked("reasoning").query.explain


def test_chat_asks_for_no_mask() -> None:
    assert question_of(_image("chat"), PROMPTS["chat"]) is None


def test_a_wording_that_no_query_has() -> None:
    prompt = TrainPrompt(
        kind="referring",
        conversation=Conversation(question="Where is <p>the mug</p>?", answer="Here: <SEG>."),
        labels=np.array([0, -1, -1], np.int64),
    )
    with pytest.raises(XSamError, match="no query corresponds to"):
        query_of(prompt)


@pytest.mark.parametrize(
    ("name", "rows"), [("referring", [0]), ("absent", []), ("plural", [1, 2]), ("interactive", [1])]
)
def test_the_truth_of_a_phrase_is_all_it_means(name: str, rows: list[int]) -> None:
    ignored = rectangle(0, 20, 32, 24, HW)
    truth = _asked(name, ignored).truth
    assert isinstance(truth, RegionTruth)
    assert np.array_equal(truth.mask, MASKS[rows].any(axis=0) if rows else np.zeros(HW, np.bool_))
    assert truth.ignored is ignored


def test_the_truth_of_categories_and_regions() -> None:
    generic, regions = _asked("generic").truth, _asked("two regions").truth
    assert isinstance(generic, InstanceTruth)
    assert generic.classes == ("book", "cat", "mug")
    assert [len(masks) for masks in generic.masks] == [2, 0, 1]
    assert np.array_equal(generic.masks[0][1], MASKS[2])
    assert isinstance(regions, InstanceTruth)
    assert regions.classes == ("book", "mug")  # by what they mean
    nameless = question_of(_image("two regions"), PROMPTS["two regions"])
    assert nameless is not None
    assert isinstance(nameless.truth, InstanceTruth)
    assert nameless.truth.classes == ("region", "region")
    crowded = _asked("generic", rectangle(0, 20, 32, 24, HW)).truth
    assert isinstance(crowded, InstanceTruth)
    assert [len(crowd) for crowd in crowded.crowd] == [1, 1, 1]


def test_the_truth_of_a_caption() -> None:
    truth = _asked("caption").truth
    assert isinstance(truth, CaptionTruth)
    assert truth.text == "a mug and a cat and two books."
    assert truth.phrases == ("a mug", "two books")  # the cat has no mask
    assert np.array_equal(truth.masks[1], MASKS[1] | MASKS[2])


class Pictures:
    """Sample source that records its requests."""

    name, class_names = "pictures", CLASSES

    def __init__(self, *names: str, size: int = 4) -> None:
        self.names, self.size = names, size
        self.drawn: list[tuple[int, float, int]] = []

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, rng: np.random.Generator, *, prompts: int = 1) -> PromptedImage:
        self.drawn.append((index, float(rng.random()), prompts))
        return _image(*self.names)


def _right_answers(
    model: object, rgb: NDArray[np.uint8], questions: Sequence[Question]
) -> list[SegmentationResult]:
    return [right_answer(question, HW) for question in questions]


def test_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ask", _right_answers)
    source = Pictures(*PROMPTS, size=2)
    scores = evaluate_source(FakeSegmenter({}), source, prompts=5)
    assert (scores["n"], scores["skipped"], scores["failed"]) == (2, {"prompts without masks": 2}, 0)
    assert scores["questions"] == 2 * (len(PROMPTS) - 1)
    for key in (
        "referring_ciou",
        "reasoning_giou",
        "interactive_box_iou",
        "vgd_ap",
        "category_ap",
        "gcg_miou",
    ):
        assert scores[key] == 1.0, key
    assert (scores["absent_rejected"], scores["present_rejected"]) == (1.0, 0.0)
    assert "panoptic_pq" not in scores
    assert {prompts for _, _, prompts in source.drawn} == {5}
    json.dumps(scores, allow_nan=False)


def test_wrong_answers() -> None:
    """The fake knows the mug by name and nothing else."""
    scores = evaluate_source(
        FakeSegmenter({"the mug": [MASKS[0]]}), Pictures("referring", "plural", "absent")
    )
    assert scores["referring_miou"] == 0.5
    assert (scores["absent_rejected"], scores["present_rejected"]) == (1.0, 0.5)


def test_limits_spread_over_the_source_and_draws_are_reproducible() -> None:
    first, second = Pictures("referring", size=10), Pictures("referring", size=10)
    assert evaluate_source(FakeSegmenter({}), first, limit=3, seed=1)["n"] == 3
    evaluate_source(FakeSegmenter({}), second, limit=3, seed=1)
    assert [index for index, _, _ in first.drawn] == [0, 3, 6]
    assert first.drawn == second.drawn
    protocol = evaluate_source(FakeSegmenter({}), Pictures("referring", size=10), prompts=5, limit=3)[
        "protocol"
    ]
    assert "sampled: at most 5 prompts per image" in protocol
    assert "3 of 10 images; not comparable with published scores" in protocol
    assert len({number for _, number, _ in first.drawn}) == 3
    assert evaluate_source(FakeSegmenter({}), Pictures("referring", size=2), limit=5)["n"] == 2


class DamagedPictures(Pictures):
    """Sample source of which some images cannot be read."""

    damaged: frozenset[int] = frozenset({1})

    def sample(self, index: int, rng: np.random.Generator, *, prompts: int = 1) -> PromptedImage:
        if index in self.damaged:
            raise RecordError(f"image {index} is damaged")
        return super().sample(index, rng, prompts=prompts)


def test_a_damaged_image_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ask", _right_answers)
    scores = evaluate_source(FakeSegmenter({}), DamagedPictures("referring", size=3))
    assert (scores["n"], scores["skipped"]) == (2, {"with a damaged file or annotation": 1})
    assert scores["referring_miou"] == 1.0
    nothing = DamagedPictures("referring", size=3)
    nothing.damaged = frozenset(range(3))
    with pytest.raises(DatasetError, match="none of 3 images could be evaluated"):
        evaluate_source(FakeSegmenter({}), nothing)
