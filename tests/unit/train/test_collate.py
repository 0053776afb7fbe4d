"""Batches: packed texts equal separate forward passes, answers are labels, masks align with the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from support.stock import stock_language
from tests.unit.train.small import SIDE, prompt, rectangle, referring, small_config, small_model
from xsam.config import IMAGE_ID, REGION_ID
from xsam.data.samples import PromptedImage, TrainPrompt
from xsam.inference.chat_format import chat_format
from xsam.inference.preprocess import region_mask, square_mask
from xsam.inference.prompts import Conversation, TokenizedPrompt, frame_question, tokenize
from xsam.model.region_sampler import region_points
from xsam.model.xsam import ImageFeatures, XSamModel
from xsam.train.collate import IGNORE, Collator, TrainBatch
from xsam.train.step import read_texts
from xsam.types.requests import Query, Task, VisualPrompt

WIDE, SQUARE = (30, 40), (40, 40)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> XSamModel:
    torch.set_num_threads(1)
    return small_model(len(tokenizer)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def collate(tokenizer: Any) -> Collator:
    return Collator(small_config(len(tokenizer)), tokenizer)


def _chat(question: str, answer: str, count: int) -> TrainPrompt:
    return TrainPrompt(
        kind="chat",
        conversation=Conversation(question=frame_question(question), answer=f"{answer}<|end|>"),
        labels=np.full(count, -1),
    )


def _pointing(task: Task, regions: Sequence[np.ndarray], labels: Sequence[int]) -> TrainPrompt:
    query = Query(task=task, prompts=tuple(VisualPrompt.from_mask(region) for region in regions))
    return prompt(query, labels, kind=task.value, regions=regions)


def _picture(image_hw: tuple[int, int], *prompts: TrainPrompt, **more: Any) -> PromptedImage:
    """Return a noise image with two objects."""
    first = rectangle(image_hw, (10, 20), (5, 15))
    second = rectangle(image_hw, (0, 30), (30, 40))
    return PromptedImage(
        rgb=np.random.default_rng(image_hw).integers(0, 256, (*image_hw, 3), dtype=np.uint8),
        masks=np.stack([first, second]),
        prompts=prompts,
        **more,
    )


def _samples() -> list[PromptedImage]:
    """Return four texts for the first image, three of them with masks; two and one for the second."""
    categories = Query(task=Task.OPEN_VOCABULARY, thing_classes=("mug", "red book", "table"))
    regions = (rectangle(SQUARE, (12, 18), (6, 14)), rectangle(SQUARE, (3, 4), (33, 34)))
    return [
        _picture(
            WIDE,
            referring("the red mug on the table", [0, -1], kind="phrase"),
            _pointing(Task.INTERACTIVE, [rectangle(WIDE, (2, 25), (31, 39))], [-1, 0]),
            _chat("what do you see ?", "a mug .", 2),
            prompt(categories, [2, 0], kind="list"),
        ),
        _picture(
            SQUARE,
            _chat("how many objects are there ?", "there is nothing on the table .", 2),
            _pointing(Task.VISUAL_GROUNDED, regions, [1, 0]),
        ),
    ]


# ------------------------------------------------------------------------- packed = one by one


def _alone(
    model: XSamModel, features: ImageFeatures, index: int, text: TrainPrompt, tokenizer: Any
) -> tuple[TokenizedPrompt, Tensor]:
    """Run one text on one image alone; return its ids and its last hidden states."""
    config = model.config
    ids = tokenize(tokenizer, text.conversation, chat_format(config)).expand(
        config.num_image_tokens, config.sampler.tokens_per_region
    )
    regions = [
        model.region_tokens(
            features.region_map[index : index + 1],
            region_points(region_mask(region, config.square), config.sampler.num_sample_point)[None],
        )
        for region in text.regions
    ]
    embeds = model.embed(
        torch.from_numpy(ids.input_ids), features.image_tokens[index], torch.cat(regions) if regions else None
    )
    stock = stock_language(model.llm)
    return ids, stock.model(inputs_embeds=embeds[None], use_cache=False).last_hidden_state[0]


@torch.no_grad()
def test_packed_rows_equal_separate_passes(model: XSamModel, collate: Collator, tokenizer: Any) -> None:
    """States, `<SEG>` embeddings and conditions, region tokens and padding included."""
    samples = _samples()
    batch = collate(samples)
    features = model.encode_image(batch.vision_pixels, batch.seg_pixels)
    packed = read_texts(model, features, batch)
    open_id, close_id, seg_id = tokenizer.convert_tokens_to_ids(["<p>", "</p>", "<SEG>"])
    assert batch.seg_positions.shape == (2, 3)
    assert batch.condition_valid.sum(dim=-1).tolist() == [[1, 1, 3], [2, 0, 0]]
    for b, sample in enumerate(samples):
        at, p = 0, 0
        for text in sample.prompts:
            ids, states = _alone(model, features, b, text, tokenizer)
            start = int(np.flatnonzero(ids.input_ids == IMAGE_ID).max()) + 1
            length = len(states) - start
            torch.testing.assert_close(
                packed.hidden[b, at : at + length], states[start:], atol=1e-4, rtol=1e-4
            )
            if text.has_mask:
                (seg,) = np.flatnonzero(ids.input_ids == seg_id)
                projected = model.llm_projector(states)
                torch.testing.assert_close(packed.seg_embeds[b, p], projected[seg], atol=1e-4, rtol=1e-4)
                opened = np.flatnonzero(ids.input_ids == open_id)
                closed = np.flatnonzero(ids.input_ids == close_id)
                for k, (first, last) in enumerate(zip(opened, closed, strict=True)):
                    mean = projected[first : last + 1].mean(dim=0)  # both tags included
                    torch.testing.assert_close(packed.conditions[b, p, k], mean, atol=1e-4, rtol=1e-4)
                p += 1
            at += length
        assert (batch.owner[b, at:] == -1).all()
        assert not packed.conditions[b, p:].any()


@torch.no_grad()
def test_a_picture_does_not_see_its_neighbor(model: XSamModel, collate: Collator) -> None:
    """The same image in another batch, next to a camera's image and longer texts, gives the same output."""
    samples = _samples()
    camera = _picture((480, 640), referring("the mug", [0, -1]))
    states = []
    for chosen in (samples[1:], [camera, *samples]):
        batch = collate(chosen)
        features = model.encode_image(batch.vision_pixels, batch.seg_pixels)
        states.append(read_texts(model, features, batch).hidden[-1])
    length = len(states[0])
    assert len(states[1]) > length
    torch.testing.assert_close(states[1][:length], states[0], atol=1e-4, rtol=1e-4)


def test_rows_are_the_texts_in_order(collate: Collator, tokenizer: Any) -> None:
    samples = _samples()
    batch, config = collate(samples), collate.config
    prefix = batch.prefix_ids[0].tolist()
    assert prefix[-config.num_image_tokens :] == [IMAGE_ID] * config.num_image_tokens
    assert IMAGE_ID not in batch.text_ids
    assert tokenizer.decode([i for i in prefix if i >= 0]).split() == ["<s>", "<|user|>"]
    for b, sample in enumerate(samples):
        regions = sum(len(text.regions) for text in sample.prompts)
        assert len(batch.region_masks[b]) == regions
        assert int((batch.text_ids[b] == REGION_ID).sum()) == regions * config.sampler.tokens_per_region
        assert batch.text_kinds[b] == [text.kind for text in sample.prompts]
        assert batch.kinds[b] == [text.kind for text in sample.prompts if text.has_mask]
        for number, text in enumerate(sample.prompts, start=1):
            of_text = batch.owner[b] == number
            assert batch.offset[b, of_text].tolist() == list(range(int(of_text.sum())))
            ids = batch.text_ids[b, of_text]
            decoded = tokenizer.decode(ids[ids >= 0])
            for word in text.conversation.answer.split():
                assert word.strip(",.").removesuffix(".<|end|>").lower() in decoded.lower()


# --------------------------------------------------------------------------------------- labels


def test_answers_alone_are_labeled_up_to_the_end_tag(collate: Collator, tokenizer: Any) -> None:
    samples = _samples()
    batch = collate(samples)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    for b, sample in enumerate(samples):
        for number, text in enumerate(sample.prompts, start=1):
            of_text = batch.owner[b] == number
            labels, ids = batch.text_labels[b, of_text], batch.text_ids[b, of_text]
            answer = tokenizer.encode(text.conversation.answer, add_special_tokens=False)
            positions = (labels != IGNORE).nonzero().flatten()
            assert labels[positions].tolist() == ids[positions].tolist() == answer
            assert answer[-1] == end
            assert positions.tolist() == list(range(int(positions[0]), int(positions[0]) + len(answer)))
            assert tokenizer.decode(ids[: positions[0]][-2:]).split()[-1] == "<|assistant|>"
    assert (batch.text_labels[batch.owner == -1] == IGNORE).all()


def test_texts_without_masks_make_a_batch(collate: Collator) -> None:
    batch = collate([_picture(SQUARE, _chat("what is it ?", "a mug .", 2))] * 2)
    assert batch.seg_positions.shape == (2, 0)
    assert batch.span_weights.shape[:3] == (2, 0, 0)
    assert batch.targets == batch.kinds == batch.region_masks == [[], []]
    assert batch.text_kinds == [["chat"], ["chat"]]
    assert (batch.text_labels != IGNORE).any()


def test_pictures_with_fewer_prompts_have_no_target_there(collate: Collator) -> None:
    batch = collate(_samples())
    labels = [[None if target is None else target.labels.tolist() for target in row] for row in batch.targets]
    assert labels == [[[0, -1], [-1, 0], [2, 0]], [[1, 0], None, None]]
    assert not batch.condition_valid[1, 1:].any()


# ------------------------------------------------------------------------------- masks, pictures


@pytest.mark.parametrize(
    ("image_hw", "rows", "columns", "expected_rows", "expected_columns", "height"),
    [
        ((30, 40), (10, 20), (5, 15), (24, 48), (12, 36), 72),  # × 2.4
        ((40, 30), (10, 20), (5, 15), (24, 48), (12, 36), 96),
        ((480, 640), (100, 300), (200, 400), (15, 45), (30, 60), 72),  # × 0.15
        ((72, 96), (7, 9), (90, 96), (7, 9), (90, 96), 72),  # as scenes are rendered for it
        ((96, 96), (0, 96), (3, 4), (0, 96), (3, 4), 96),
    ],
)
def test_masks_are_where_the_picture_is(
    collate: Collator,
    image_hw: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
    expected_rows: tuple[int, int],
    expected_columns: tuple[int, int],
    height: int,
) -> None:
    """A bright rectangle on black: its mask, a region and the ignored pixels are resized alike."""
    mask = rectangle(image_hw, rows, columns)
    sample = PromptedImage(
        rgb=(mask[..., None] * np.full(3, 255)).astype(np.uint8),
        masks=mask[None],
        prompts=(_pointing(Task.INTERACTIVE, [mask], [0]),),
        ignored=~mask,
    )
    batch = collate([sample])
    expected = torch.from_numpy(rectangle((SIDE, SIDE), expected_rows, expected_columns))
    assert batch.masks[0].dtype == batch.ignored.dtype == torch.bool
    assert torch.equal(batch.masks[0][0], expected)
    assert torch.equal(batch.region_masks[0][0] > 0, expected)
    width = SIDE * image_hw[1] // max(image_hw)
    picture = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    picture[:height, :width] = True
    assert torch.equal(batch.ignored[0], picture & ~expected)
    bright = batch.seg_pixels[0].mean(dim=0) > 0.2  # half of it, resampled
    assert (bright & expected).sum() >= 0.7 * expected.sum()
    assert (bright & ~expected).sum() <= 4 * (sum(expected_rows) + sum(expected_columns))
    assert not batch.seg_pixels[0][:, ~picture].any()


def test_a_mask_may_vanish_but_a_region_may_not(collate: Collator) -> None:
    """One pixel of 480×640 is a seventh of a pixel at this size: too small to learn, but still a region."""
    pixel = rectangle((480, 640), (200, 201), (301, 302))
    assert not square_mask(pixel, collate.config.square).any()
    region = region_mask(pixel, collate.config.square)
    assert region.nonzero().tolist() == [[30, 45]]


def test_a_picture_without_masks_has_none(collate: Collator) -> None:
    sample = PromptedImage(
        rgb=np.zeros((20, 30, 3), np.uint8),
        masks=np.zeros((0, 20, 30), bool),
        prompts=(referring("the mug", []),),
    )
    batch = collate([sample])
    assert batch.masks[0].shape == (0, SIDE, SIDE)
    assert len(batch.classes[0]) == 0
    assert not batch.ignored.any()
    assert batch.targets[0][0] is not None
    assert len(batch.targets[0][0].labels) == 0


def test_classes_and_attributes_are_unknown_where_nobody_said(collate: Collator) -> None:
    text = referring("the mug", [0, -1])
    batch = collate(
        [
            _picture(
                WIDE,
                text,
                classes=np.array([7, 3]),
                attributes={"color": np.array([2, -1]), "size": np.ones(2, np.int64)},
            ),
            _picture(SQUARE, text),
        ]
    )
    assert [classes.tolist() for classes in batch.classes] == [[7, 3], [-1, -1]]
    assert {name: [v.tolist() for v in values] for name, values in batch.attributes.items()} == {
        "color": [[2, -1], [-1, -1]],
        "size": [[1, 1], [-1, -1]],
    }


def test_all_tensors_go_to_the_device(collate: Collator) -> None:
    moved = collate(_samples()).to(torch.device("meta"))
    count = 0

    def check(value: Any) -> None:
        nonlocal count
        if isinstance(value, Tensor):
            assert value.is_meta
            count += 1
        elif isinstance(value, (list, tuple)):
            for item in value:
                check(item)
        elif isinstance(value, dict):
            check(list(value.values()))
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                check(getattr(value, field.name))
        else:
            assert value is None or isinstance(value, str)

    assert isinstance(moved, TrainBatch)
    check(moved)
    assert count > 20


# -------------------------------------------------------------------------------------- samples


def test_samples_are_checked_when_they_are_made() -> None:
    fine = {"rgb": np.zeros((4, 6, 3), np.uint8), "masks": np.zeros((2, 4, 6), bool)}
    text = referring("the mug", [0, -1])
    PromptedImage(**fine, prompts=(text,))
    for change, message in (
        ({"rgb": np.zeros((4, 6, 3), np.float32)}, "uint8"),
        ({"rgb": np.zeros((4, 6, 4), np.uint8)}, "uint8"),
        ({"masks": np.zeros((2, 6, 4), bool)}, "bool"),
        ({"masks": np.zeros((2, 4, 6), np.uint8)}, "bool"),
        ({"masks": np.zeros((3, 4, 6), bool)}, "2 labels for 3 masks"),
    ):
        with pytest.raises(ValueError, match=message):
            PromptedImage(**{**fine, **change}, prompts=(text,))
    with pytest.raises(ValueError, match="at least one prompt"):
        PromptedImage(**fine, prompts=())
