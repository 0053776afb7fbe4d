"""Scores during a run, on handmade outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.train.small import (
    SIDE,
    DamagedImages,
    HandMade,
    prompt,
    rectangle,
    referring,
    small_config,
    small_model,
)
from xsam.data.samples import PromptedImage, TrainPrompt
from xsam.errors import DatasetError
from xsam.inference.prompts import Conversation, frame_question
from xsam.model.xsam import DecoderStage, XSamModel
from xsam.train.collate import Collator, TrainBatch
from xsam.train.heads import ClosedSetHead
from xsam.train.networks import TextStates
from xsam.train.stages import Stage, StageConfig
from xsam.train.validation import Validation
from xsam.types.requests import Query, Task

HW = (SIDE, SIDE)
LEFT, RIGHT = rectangle(HW, (0, 10), (0, 20)), rectangle(HW, (0, 10), (50, 60))  # 200 and 100 pixels
SURE = 20.0


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> XSamModel:
    torch.set_num_threads(1)
    return small_model(len(tokenizer))


def _validation(
    tokenizer: Any, stage: Stage, prompts: Sequence[TrainPrompt], classes: Sequence[int] = ()
) -> Validation:
    """Return the validation of one black image with two objects."""
    picture = PromptedImage(
        rgb=np.zeros((*HW, 3), np.uint8),
        masks=np.stack([LEFT, RIGHT]),
        prompts=tuple(prompts),
        classes=np.array(classes, np.int64),
    )
    collate = Collator(small_config(len(tokenizer)), tokenizer)
    return Validation(HandMade([picture]), collate, StageConfig(stage=stage, steps=1))


def _answers(
    monkeypatch: pytest.MonkeyPatch,
    model: XSamModel,
    masks: Sequence[Sequence[np.ndarray]],
    chances: Sequence[Sequence[Sequence[float]]],
) -> None:
    """Make the decoder return these [P][Q] masks and [P][Q][K] condition probabilities."""
    mask_logits = (torch.from_numpy(np.stack([np.stack(row) for row in masks])).float() - 0.5) * SURE
    conditions = max(len(row[0]) for row in chances)
    class_logits = torch.full((len(chances), len(chances[0]), conditions + 1), float("-inf"))
    for p, row in enumerate(chances):
        for q, probabilities in enumerate(row):
            class_logits[p, q, : len(probabilities)] = torch.tensor(probabilities).log()
            class_logits[p, q, -1] = torch.tensor(1 - sum(probabilities)).log()
    answer = DecoderStage(
        class_logits=class_logits[None],
        mask_logits=mask_logits[None],
        states=torch.zeros(1, len(masks), 1, 1),
    )
    early = DecoderStage(
        class_logits=torch.zeros_like(class_logits)[None],
        mask_logits=-mask_logits[None],
        states=torch.zeros(1, len(masks), 1, 1),
    )
    monkeypatch.setattr(model, "decode", lambda *_: [early, answer])


NOTHING = np.zeros(HW, np.bool_)


def test_ious_of_an_answer_by_hand(
    model: XSamModel, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two phrases, a list of three categories, and a phrase that matches nothing."""
    categories = Query(task=Task.OPEN_VOCABULARY, thing_classes=("mug", "book", "table"))
    validation = _validation(
        tokenizer,
        Stage.MIXED,
        [
            referring("the mug", [0, -1], kind="category"),
            referring("leftmost mug", [0, -1], kind="extreme_x"),
            prompt(categories, [2, 0], kind="category_list"),
            referring("the bowl", [-1, -1], kind="absent_category"),
        ],
    )
    upper = rectangle(HW, (0, 5), (0, 20))  # half of the left object
    shifted = rectangle(HW, (0, 10), (45, 55))  # half of the right one, and as much beside it
    _answers(
        monkeypatch,
        model,
        masks=[[upper, RIGHT], [upper, LEFT], [LEFT, shifted], [LEFT, RIGHT]],
        chances=[
            [[0.4], [0.3]],  # none sure: only the best queries; "not found" by the threshold
            [[0.6], [0.7]],  # both sure: the union of both
            [[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]],  # "book" is absent, and nothing is sure of it
            [[0.6], [0.2]],  # absent, but found
        ],
    )
    scores = validation.run(model, picture=tmp_path / "answers.png")
    loss = scores.pop("loss_llm")
    assert 3 < loss < 8  # from an untrained model, near log(234)
    assert scores == pytest.approx(
        {
            "iou_category": 100 / 200,
            "iou_extreme_x": 1.0,
            "iou_category_list": (1.0 + 50 / 150) / 2,
            "present_rejected": 1 / 2,
            "absent_condition": 1.0,
            "absent_rejected": 0.0,
            "referring_miou": 0.75,
            "relation_miou": 1.0,
        }
    )
    grid = cv2.imread(str(tmp_path / "answers.png"))
    assert grid is not None
    assert grid.shape == (192, 3 * 384, 3)  # one pair of tiles in a row of three
    blue, green, red = grid[4, :384].astype(int).transpose()  # a row through the objects
    truth = np.flatnonzero(green[:192] > blue[:192] + 60)
    assert (truth.min(), truth.max()) == (pytest.approx(0, abs=2), pytest.approx(39, abs=2))
    answer = np.flatnonzero(red[192:] > blue[192:] + 60)
    assert (answer.min(), answer.max()) == (pytest.approx(0, abs=2), pytest.approx(39, abs=2))
    lower = grid[14, 192:384].astype(int)  # the prediction is half as high
    assert not (lower[:, 2] > lower[:, 0] + 60).any()


def test_small_answers_are_enlarged_before_they_are_cut(
    model: XSamModel, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = _validation(tokenizer, Stage.MIXED, [referring("the mug", [0, -1], kind="category")])
    half = rectangle((SIDE // 2, SIDE // 2), (0, 5), (0, 10))  # LEFT at half the size
    _answers(monkeypatch, model, masks=[[half]], chances=[[[0.9]]])
    assert validation.run(model)["iou_category"] == pytest.approx(1.0, abs=0.01)


def test_texts_without_masks_are_scored_by_their_words(model: XSamModel, tokenizer: Any) -> None:
    """A chat source has no masks to decode."""
    talk = Conversation(question=frame_question("what is it ?"), answer="a mug .<|end|>")
    text = TrainPrompt(kind="chat", conversation=talk, labels=np.full(2, -1))
    assert set(_validation(tokenizer, Stage.MIXED, [text]).run(model)) == {"loss_llm"}


def test_the_closed_set_is_scored_by_best_query_and_by_class(
    model: XSamModel, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Query 0 is half the left object with its class; query 1 is all of it with the other object's class."""
    validation = _validation(tokenizer, Stage.SEGMENTOR, [referring("the mug", [0, -1])], classes=[1, -1])
    upper = rectangle(HW, (0, 5), (0, 20))
    _answers(
        monkeypatch,
        model,
        masks=[[upper, LEFT, NOTHING]],
        chances=[[[0.1, 0.6, 0.2], [0.7, 0.2, 0.05], [0.0, 0.0, 0.9]]],
    )
    scores = validation.run(model, closed_set=ClosedSetHead(3, 64), picture=tmp_path / "answers.png")
    assert scores == pytest.approx({"iou_oracle": 1.0, "class_of_best_query": 0.0, "iou_class": 0.5})
    assert (tmp_path / "answers.png").stat().st_size > 0


def test_an_answer_is_right_when_every_word_is(
    model: XSamModel, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three texts, one token of the second is wrong. The others are right, whatever their position."""

    def chat(kind: str, answer: str) -> TrainPrompt:
        talk = Conversation(question=frame_question("what is it ?"), answer=f"{answer}<|end|>")
        return TrainPrompt(kind=kind, conversation=talk, labels=np.full(2, -1))

    texts = [chat("first", "a mug ."), chat("second", "nothing ."), chat("third", "a red mug .")]
    validation = _validation(tokenizer, Stage.ALIGNMENT, texts)
    wrong = tokenizer.convert_tokens_to_ids("book")

    def read(_model: XSamModel, _features: Any, batch: TrainBatch) -> TextStates:
        following = torch.roll(batch.text_ids, -1, dims=1).clamp(min=0)
        position = int(((batch.owner[0] == 2) & (batch.text_labels[0] != -100)).nonzero()[0]) - 1
        following[0, position] = wrong
        hidden = torch.full((*following.shape, len(tokenizer)), 0.0).scatter(2, following[..., None], SURE)
        return TextStates(hidden=hidden, seg_embeds=Tensor(), conditions=Tensor(), projected=Tensor())

    monkeypatch.setattr("xsam.train.validation.read_texts", read)
    monkeypatch.setattr(model.llm.lm_head, "forward", lambda hidden: hidden)
    scores = validation.run(model)
    answer_tokens = 4 + 3 + 5  # of the answers, the end tags included; one of them costs 20
    assert scores.pop("loss_llm") == pytest.approx(SURE / answer_tokens, rel=1e-3)
    assert scores == {"text_first": 1.0, "text_second": 0.0, "text_third": 1.0}


def test_validation_leaves_the_model_as_it_was(model: XSamModel, tokenizer: Any) -> None:
    validation = _validation(tokenizer, Stage.MIXED, [referring("the mug", [0, -1], kind="category")])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for training in (True, False):
        model.train(training)
        first, second = validation.run(model), validation.run(model)
        assert model.training is training
        assert first == second
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def _damaged(count: int, broken: set[int]) -> DamagedImages:
    picture = PromptedImage(
        rgb=np.zeros((*HW, 3), np.uint8), masks=LEFT[None], prompts=(referring("the mug", [0]),)
    )
    return DamagedImages([picture] * count, broken)


def _of(tokenizer: Any, source: HandMade, **options: Any) -> Validation:
    collate = Collator(small_config(len(tokenizer)), tokenizer)
    return Validation(source, collate, StageConfig(stage=Stage.MIXED, steps=1, **options))


def test_images_that_cannot_be_read_are_skipped_and_counted(
    model: XSamModel, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A whole batch of them, too: the first batch holds eight images."""
    validation = _of(tokenizer, _damaged(12, {*range(8), 9}))
    assert [len(batch.masks) for batch in validation.batches] == [3]
    assert validation.unreadable == 9
    assert caplog.text.count("validation skips an image") == 9
    assert "picture 9: cannot read" in caplog.text
    assert validation.run(model)["unreadable_images"] == 9
    assert "unreadable_images" not in _of(tokenizer, _damaged(2, set())).run(model)


@pytest.mark.parametrize(
    ("count", "allowed", "text"), [(3, 20, "none of the 3"), (9, 4, "cannot read the picture")]
)
def test_validation_on_nothing_is_refused(tokenizer: Any, count: int, allowed: int, text: str) -> None:
    with pytest.raises(DatasetError, match=text):
        _of(tokenizer, _damaged(count, set(range(count))), max_unreadable=allowed)
