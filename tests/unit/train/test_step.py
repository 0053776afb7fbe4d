"""A training step: what each stage computes, and what it leaves unchanged."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Phi3Config

from support.stock import stock_language
from tests.unit.train.small import prompt, rectangle, referring, small_model
from xsam.data.samples import PromptedImage
from xsam.data.scene_prompts import TASK_SHARES
from xsam.data.scene_source import CLASS_NAMES, DIALOGUE, SceneSource
from xsam.model.blocks.text import CausalText
from xsam.model.language import packed_row_states
from xsam.model.xsam import XSamModel
from xsam.sim.shards import SceneShards
from xsam.train.collate import IGNORE, Collator, TrainBatch
from xsam.train.losses import LossWeights, MaskSampling
from xsam.train.stages import Stage
from xsam.train.step import StageModule, forward_batch, language_loss
from xsam.types.requests import Query, Task

SURE = 30.0
MASK = MaskSampling(mode="mask", match_stride=2)
SEGMENTATION = {f"loss_{name}{k}" for name in ("cls", "mask", "dice") for k in ("", "_0", "_1", "_2")}


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> XSamModel:
    torch.set_num_threads(1)
    return small_model(len(tokenizer))


@pytest.fixture(scope="module")
def batch(model: XSamModel, tokenizer: Any, shards: SceneShards) -> TrainBatch:
    """Return two scenes with prompts of several kinds, one of them without masks."""
    source = SceneSource(shards, shares={**TASK_SHARES, DIALOGUE: 0.5})
    samples = [source.sample(i, np.random.default_rng([2, i]), prompts=4) for i in range(2)]
    return Collator(model.config, tokenizer)(samples)


def _module(model: XSamModel, stage: Stage, **options: Any) -> StageModule:
    """Return the stage with a copy of the model, with all parameters trainable."""
    torch.manual_seed(3)
    options = {"weights": LossWeights(), "sampling": MASK, "classes": len(CLASS_NAMES), **options}
    return StageModule(copy.deepcopy(model).requires_grad_(True), stage, **options)


def _run(module: StageModule, batch: TrainBatch) -> dict[str, float]:
    """Return the losses of a batch after computing their gradients."""
    losses = module(batch, torch.Generator().manual_seed(1))
    torch.stack(list(losses.values())).sum().backward()
    return {name: float(value.detach()) for name, value in losses.items()}


def _taught(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}


# --------------------------------------------------------------------------------------- packing


@pytest.mark.parametrize("window", [None, 12])
@torch.no_grad()
def test_rows_of_different_texts_equal_separate_passes(window: int | None) -> None:
    """Every row has its own texts and padding, and some texts reach back beyond the window."""
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        sliding_window=window,
        pad_token_id=0,
    )
    llm = CausalText(config).eval()
    stock = stock_language(llm)
    lengths = [[3, 20, 4], [9, 1]]
    prefix = torch.randn(2, 10, 32)
    texts = [[torch.randn(length, 32) for length in row] for row in lengths]
    longest = max(map(sum, lengths))
    rows, owner, offset = (
        torch.randn(2, longest, 32),
        torch.full((2, longest), -1),
        torch.zeros(2, longest).long(),
    )
    for b, row in enumerate(texts):
        rows[b, : sum(lengths[b])] = torch.cat(row)
        owner[b, : sum(lengths[b])] = torch.cat([torch.full((len(t),), i + 1) for i, t in enumerate(row)])
        offset[b, : sum(lengths[b])] = torch.cat([torch.arange(len(t)) for t in row])
    first, states = packed_row_states(llm, prefix, rows, owner, offset)
    assert torch.isfinite(states).all()
    for b, row in enumerate(texts):
        at = 0
        for text in row:
            alone = stock.model(
                inputs_embeds=torch.cat([prefix[b], text])[None], use_cache=False
            ).last_hidden_state[0]
            torch.testing.assert_close(first[b], alone[:10], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(states[b, at : at + len(text)], alone[10:], atol=1e-5, rtol=1e-4)
            at += len(text)


@torch.no_grad()
def test_the_branches_of_the_encoder_make_the_whole(model: XSamModel, batch: TrainBatch) -> None:
    whole = model.encode_image(batch.vision_pixels, batch.seg_pixels)
    seg = model.encode_segmentation(batch.seg_pixels)
    tokens = torch.cat([model.visual_tokens(batch.vision_pixels), model.seg_tokens(seg.top)], dim=1)
    assert torch.equal(whole.image_tokens, tokens)
    assert tokens.shape == (2, model.config.num_image_tokens, model.config.llm.hidden_size)
    for name in ("pyramid", "multi_scale"):
        for one, other in zip(getattr(whole, name), getattr(seg, name), strict=True):
            assert torch.equal(one, other)
    embeds, conditions = torch.randn(2, 1, 64), torch.randn(2, 1, 3, 64)
    answers = [
        model.decode(f, embeds, conditions, torch.ones(2, 1, 3, dtype=torch.bool)) for f in (whole, seg)
    ]
    assert torch.equal(answers[0][-1].mask_logits, answers[1][-1].mask_logits)


@torch.no_grad()
def test_the_segmentation_branch_sees_sams_picture_alone(model: XSamModel, batch: TrainBatch) -> None:
    other = torch.randn_like(batch.vision_pixels)
    first, second = (model.encode_image(pixels, batch.seg_pixels) for pixels in (batch.vision_pixels, other))
    assert torch.equal(first.mask_features, second.mask_features)
    assert torch.equal(first.seg_tokens, second.seg_tokens)
    assert not torch.equal(first.visual_tokens, second.visual_tokens)


# ------------------------------------------------------------------------------------- language


def test_only_answer_tokens_are_learned_and_each_from_the_one_before() -> None:
    """Hidden states are one-hot and the head counts, so state i predicts "i + 1" with certainty."""
    head = nn.Linear(6, 6, bias=False).requires_grad_(False)
    head.weight.copy_(torch.roll(torch.eye(6), 1, dims=0) * SURE)
    hidden = torch.eye(6)[None]
    right, wrong = (
        torch.tensor([[IGNORE, IGNORE, 2, 3, IGNORE, 5]]),
        torch.tensor([[IGNORE, IGNORE, 2, 3, 3, 5]]),
    )
    assert float(language_loss(head, hidden, right)) < 1e-6
    assert float(language_loss(head, hidden, wrong)) == pytest.approx(SURE / 4, rel=1e-4)


def test_a_batch_without_answers_teaches_no_language() -> None:
    hidden = torch.ones(2, 3, 4, requires_grad=True)
    loss = language_loss(nn.Linear(4, 5), hidden, torch.full((2, 3), IGNORE))
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert hidden.grad is not None
    assert not hidden.grad.any()


# ---------------------------------------------------------------------------------------- stages


def test_the_segmentor_stage_teaches_its_branch_and_the_classes(model: XSamModel, batch: TrainBatch) -> None:
    module = _module(model, Stage.SEGMENTOR)
    losses = _run(module, batch)
    assert set(losses) == SEGMENTATION
    assert all(np.isfinite(value) for value in losses.values())
    taught = _taught(module)
    assert "closed_set.classes.weight" in taught
    reached = ("model.segmentor.", "model.seg_connector.", "model.bg_embeds.", "closed_set.")
    assert all(name.startswith(reached) for name in taught)


def test_the_alignment_stage_leaves_the_segmentor_alone(model: XSamModel, batch: TrainBatch) -> None:
    module = _module(model, Stage.ALIGNMENT, grounding=True)
    losses = _run(module, batch)
    assert set(losses) == {"loss_llm", "loss_grounding"}
    taught = _taught(module)
    for part in (
        "visual_projector",
        "seg_projector",
        "llm.model",
        "llm.lm_head",
        "vision_encoder",
        "llm_projector",
    ):
        assert any(name.startswith(f"model.{part}.") for name in taught), part
    assert "grounding.query.weight" in taught
    assert not any(name.startswith(("model.segmentor.", "model.seg_connector.")) for name in taught)


def test_the_mixed_stage_teaches_words_and_masks(model: XSamModel, batch: TrainBatch) -> None:
    module = _module(model, Stage.MIXED, attributes={"color": 11}, words=True)
    losses = _run(module, batch)
    auxiliary = {f"loss_aux_{name}" for name in ("queries", "pixels", "tokens", "words")}
    assert set(losses) == SEGMENTATION | {"loss_llm"} | auxiliary
    assert all(np.isfinite(value) for value in losses.values())
    taught = _taught(module)
    for part in ("llm.", "llm_projector.", "segmentor.decoder.", "segmentor.encoder.", "vision_encoder."):
        assert any(name.startswith(f"model.{part}") for name in taught), part


def test_auxiliary_losses_have_their_weight(model: XSamModel, batch: TrainBatch) -> None:
    with torch.no_grad():
        half, whole = (
            _module(
                model,
                Stage.MIXED,
                attributes={"color": 11},
                words=True,
                weights=LossWeights(auxiliary=weight),
            )(batch, torch.Generator().manual_seed(1))
            for weight in (0.35, 0.7)
        )
    for name, value in whole.items():
        factor = 2.0 if name.startswith("loss_aux") else 1.0
        assert float(value) == pytest.approx(factor * float(half[name]), rel=1e-5), name
    assert float(whole["loss_aux_queries"]) > 0.5


def test_texts_alone_teach_no_masks(model: XSamModel, tokenizer: Any, shards: SceneShards) -> None:
    source = SceneSource(shards, shares={DIALOGUE: 1.0})
    samples = [source.sample(i, np.random.default_rng(i), prompts=2) for i in range(2)]
    talk = Collator(model.config, tokenizer)(samples)
    module = _module(model, Stage.MIXED)
    assert set(_run(module, talk)) == {"loss_llm"}
    assert not any(name.startswith("model.segmentor.decoder.") for name in _taught(module))
    aligned = _module(model, Stage.ALIGNMENT, grounding=True)
    assert set(_run(aligned, talk)) == {"loss_llm"}


def _two_and_one(model: XSamModel, tokenizer: Any) -> TrainBatch:
    """Return two prompts on one image, one on the other."""
    pictures = []
    for seed, count in ((1, 2), (2, 1)):
        rgb = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        masks = np.stack([rectangle((48, 64), (5, 25), (5, 30)), rectangle((48, 64), (30, 40), (40, 60))])
        prompts = (
            referring("the red mug", [0, -1]),
            prompt(Query(task=Task.REASONING, text="what is it ?"), [-1, 0]),
        )
        pictures.append(PromptedImage(rgb=rgb, masks=masks, prompts=prompts[:count]))
    return Collator(model.config, tokenizer)(pictures)


def test_what_stands_where_a_prompt_is_missing_teaches_nothing(model: XSamModel, tokenizer: Any) -> None:
    """Whichever position is read for it, losses and gradients are the same."""
    batch = _two_and_one(model, tokenizer)
    assert batch.targets[1][1] is None
    moved = batch.seg_positions.clone()
    moved[1, 1] = 7
    found: list[tuple[Mapping[str, float], Tensor]] = []
    for read in (batch, dataclasses.replace(batch, seg_positions=moved)):
        module = _module(model, Stage.MIXED)
        losses = _run(module, read)
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        found.append((losses, torch.cat(gradients)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.isfinite(found[0][1]).all()
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_answers_come_for_every_prompt_and_stage(model: XSamModel, tokenizer: Any) -> None:
    batch = _two_and_one(model, tokenizer)
    _, text, answer = forward_batch(model, batch)
    queries, layers = model.config.mask2former.num_queries, model.config.mask2former.decoder_layers
    assert len(answer.stages) == layers  # one before the first of layers − 1
    for class_logits, mask_logits in answer.stages:
        assert class_logits.shape == (2, 2, queries, 2)
        assert mask_logits.shape[:3] == (2, 2, queries)
        assert torch.isneginf(class_logits[1, 1, :, 0]).all()
        assert torch.isfinite(class_logits[0]).all()
    assert text.seg_embeds.shape == answer.query_states[:, :, 0].shape


def test_stages_make_the_heads_that_they_use(model: XSamModel) -> None:
    segmentor = _module(model, Stage.SEGMENTOR, attributes={"color": 11}, grounding=True)
    assert segmentor.closed_set is not None
    assert segmentor.attributes is not None
    assert segmentor.grounding is None
    alignment = _module(model, Stage.ALIGNMENT, attributes={"color": 11})
    assert alignment.closed_set is alignment.attributes is alignment.grounding is None
