"""Stage 3 of X2SAM: what is read, what is learned, what rests, and what a checkpoint contains."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from support.golden import GOLDEN_X2SAM
from tests.unit.train.short_runs import records, short_config
from tests.unit.train.small import HandMade, prompt, rectangle, referring
from xsam import Query, Task, XSam
from xsam.data.samples import PromptedImage, TrainPrompt
from xsam.data.scene_prompts import TASK_SHARES
from xsam.data.scene_source import DIALOGUE, SceneSource
from xsam.errors import TrainingConfigError
from xsam.inference.forward import ForwardPass
from xsam.inference.images import as_frame
from xsam.inference.prompts import conversation_for
from xsam.inference.stages import StageClock
from xsam.model.region_sampler import region_points
from xsam.model.x2sam import X2SamModel
from xsam.sim.shards import SceneShards
from xsam.train.collate import Collator, TrainBatch
from xsam.train.lora import LoraConfig, LoraLinear, add_lora, is_lora, merged_state
from xsam.train.losses import LossWeights, MaskSampling
from xsam.train.networks import network_of
from xsam.train.optimizer import freeze
from xsam.train.run import at_image_size, build_model
from xsam.train.stages import Stage, StageConfig, read_stage
from xsam.train.step import StageModule, forward_batch, language_loss
from xsam.train.trainer import Trainer
from xsam.types.deadline import Deadline
from xsam.weights.tokenizer_files import load_tokenizer
from xsam.weights.x2sam import load_x2sam

FOLDER = GOLDEN_X2SAM / "x2a"
LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.0)
RESTING = ("vlm.model.visual.patch_embed.", "vlm.model.visual.blocks.", "vlm.model.visual.pos_embed.")
NEVER = ("segmentor.shared_image_embedding.", "segmentor.memory_attention.", "segmentor.memory_encoder.")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(FOLDER / "tokenizer")


@pytest.fixture
def model() -> X2SamModel:
    torch.set_num_threads(1)
    return load_x2sam(FOLDER)[0]


def _pictures() -> list[PromptedImage]:
    """Return two images of different sizes, with different numbers of tokens and of prompts."""
    pictures = []
    for seed, hw, count in ((1, (48, 64), 3), (2, (96, 64), 1)):
        rgb = np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)
        masks = np.stack([rectangle(hw, (5, 25), (5, 30)), rectangle(hw, (30, 40), (40, 60))])
        categories = Query(task=Task.OPEN_VOCABULARY, thing_classes=("mug", "red book", "table"))
        prompts = (
            referring("the red mug on the table", [0, -1]),
            prompt(categories, [2, 0]),
            TrainPrompt(
                kind="point",
                conversation=conversation_for(Query(task=Task.INTERACTIVE)),
                labels=np.array([-1, 0], np.int64),
                regions=(rectangle(hw, (5, 25), (5, 30)),),
            ),
        )
        pictures.append(PromptedImage(rgb=rgb, masks=masks, prompts=prompts[:count]))
    return pictures


@pytest.fixture
def batch(model: X2SamModel, tokenizer: Any) -> TrainBatch:
    return Collator(model.config, tokenizer)(_pictures())


def _module(model: X2SamModel) -> StageModule:
    return StageModule(
        model, Stage.MIXED, weights=LossWeights(), sampling=MaskSampling(mode="mask", match_stride=2)
    )


def _learn(module: StageModule, batch: TrainBatch) -> dict[str, Tensor]:
    losses = module(batch, torch.Generator().manual_seed(1))
    torch.stack(list(losses.values())).sum().backward()
    return {name: value.detach() for name, value in losses.items()}


def _reached(model: X2SamModel) -> set[str]:
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


# ----------------------------------------------------------------------------------------- reading


@torch.no_grad()
def test_training_reads_as_the_engine_does(model: X2SamModel, tokenizer: Any, batch: TrainBatch) -> None:
    """Images of other sizes, other texts and padding in the batch change nothing."""
    assert batch.prefix_lengths[0] != batch.prefix_lengths[1]
    _, text, output = forward_batch(model, batch)
    forward = ForwardPass(model, tokenizer, model_id="test")
    clock = StageClock(Deadline(None), None)
    for b, picture in enumerate(_pictures()):
        encoded = forward.family.encode(forward.family.pixels(picture.rgb), compiled=False)
        frame = as_frame(picture.rgb, [])
        queries = [Query(task=Task.REFERRING, text="the red mug on the table")]
        if b == 0:
            queries.append(Query(task=Task.OPEN_VOCABULARY, thing_classes=("mug", "red book", "table")))
        for p, query in enumerate(queries):
            ready = forward.prepare(0, query, frame)
            (states,) = forward.read(encoded, [ready], clock)
            torch.testing.assert_close(text.seg_embeds[b, p], states.seg, atol=1e-4, rtol=1e-4)
            count = len(states.conditions)
            torch.testing.assert_close(text.conditions[b, p, :count], states.conditions, atol=1e-4, rtol=1e-4)
            decoded = forward.family.decode(encoded, [states])
            class_logits, mask_logits = (tensor[b, p] for tensor in output.stages[-1])
            kept = torch.cat([class_logits[:, :count], class_logits[:, -1:]], dim=-1)
            torch.testing.assert_close(kept, decoded.class_logits[0, 0], atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(mask_logits, decoded.mask_logits[0, 0], atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_the_language_loss_reads_the_normed_state(model: X2SamModel, tokenizer: Any) -> None:
    """The decoder reads the state before the final norm, the head the one after it, as the stock model's."""
    picture = dataclasses.replace(_pictures()[0], prompts=_pictures()[0].prompts[:1])
    batch = Collator(model.config, tokenizer)([picture])
    network = network_of(model)
    features, text, _ = forward_batch(model, batch)
    found = language_loss(network.token_logits, text.hidden, batch.text_labels)
    (image,) = features.image_tokens
    ids = torch.cat([batch.prefix_ids[0], batch.text_ids[0]])
    stock = model.vlm.model.language_model(
        inputs_embeds=model.embed(ids, image)[None],
        position_ids=torch.arange(len(ids))[None],
        visual_pos_masks=(ids < 0)[None],
        deepstack_visual_embeds=list(features.deepstack),
    ).last_hidden_state
    logits = model.vlm.lm_head(stock)[0, :-1]
    targets = torch.cat([torch.full_like(batch.prefix_ids[0], -100), batch.text_labels[0]])[1:]
    expected = F.cross_entropy(logits, targets, ignore_index=-100)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_region_is_sampled_from_the_first_frame_of_its_own_image(
    model: X2SamModel, batch: TrainBatch
) -> None:
    features = network_of(model).encode(batch)
    (mask,) = batch.region_masks[0]
    points = region_points(mask, model.config.sampler.num_sample_point)[None]
    found = network_of(model).region_tokens(features, [0], points)
    alone = model.encode_frames(batch.seg_pixels[:1], first=True)
    expected = model.region_tokens(model.region_map(alone.states), points)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------- learning


def test_what_the_paper_trains_is_trained_and_nothing_else(
    model: X2SamModel, tokenizer: Any, shards: SceneShards
) -> None:
    add_lora(network_of(model).text_layers, LORA)
    names = set(freeze(model, StageConfig(stage=Stage.MIXED, steps=1, lora=LORA)))
    assert not [name for name in names if name.startswith((*RESTING, *NEVER))]
    text = {name for name in names if name.startswith("vlm.model.language_model.")}
    assert all(is_lora(name) or "embed_tokens" in name for name in text)
    for part in (
        *("vlm.model.visual.merger.", "vlm.model.visual.deepstack_merger_list.0.", "segmentor.encoder."),
        *("mlm_projector.", "extra_projector.", "bg_embeds.", "vlm.model.language_model.embed_tokens."),
        *("segmentor.no_memory_embedding", "segmentor.decoder.", "segmentor.pixel_decoder."),
    ):
        assert any(name.startswith(part) for name in names), part
    with torch.no_grad():  # an update that is zero passes nothing on to its first factor
        for name, parameter in model.named_parameters():
            if name.endswith(".lora_B") or "pixel_decoder" in name:
                parameter.add_(
                    0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                )
    source = SceneSource(shards, shares={**TASK_SHARES, DIALOGUE: 0.1})
    samples = [source.sample(i, np.random.default_rng([4, i]), prompts=8) for i in range(3)]
    batch = Collator(model.config, tokenizer)(samples)
    assert any(batch.region_masks)
    losses = _learn(_module(model), batch)
    assert all(torch.isfinite(value) for value in losses.values())
    assert _reached(model) == names


def test_without_updates_the_text_model_itself_is_trained(model: X2SamModel, batch: TrainBatch) -> None:
    names = set(freeze(model, StageConfig(stage=Stage.MIXED, steps=1)))
    assert "vlm.model.language_model.layers.0.self_attn.q_proj.weight" in names
    _learn(_module(model), batch)
    assert "vlm.model.language_model.layers.0.self_attn.q_proj.weight" in _reached(model)
    assert not _reached(model) - names


def test_an_image_that_lacks_a_prompt_learns_nothing_from_it(model: X2SamModel, batch: TrainBatch) -> None:
    """Its text attention has nothing to read, which must not become NaN."""
    assert batch.targets[1][1] is None
    freeze(model, StageConfig(stage=Stage.MIXED, steps=1))
    moved = batch.seg_positions.clone()
    moved[1, 1:] = 3
    found = []
    for read in (batch, dataclasses.replace(batch, seg_positions=moved)):
        module = _module(copy.deepcopy(model))
        losses = _learn(module, read)
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        found.append((losses, torch.cat(gradients)))
    assert torch.isfinite(found[0][1]).all()
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("stage", [Stage.SEGMENTOR, Stage.ALIGNMENT])
def test_stages_that_are_not_here_are_refused(model: X2SamModel, stage: Stage) -> None:
    with pytest.raises(TrainingConfigError, match=f"no stage '{stage.value}'"):
        freeze(model, StageConfig(stage=stage, steps=1))


def test_the_encoder_keeps_the_size_of_its_checkpoint(model: X2SamModel) -> None:
    with pytest.raises(TrainingConfigError, match="that of its checkpoint"):
        at_image_size(model, 128)


def test_the_recipe_is_the_papers() -> None:
    recipe = read_stage("full/x2sam_stage3")
    assert recipe.stage is Stage.MIXED
    assert recipe.lora == LoraConfig(rank=128, alpha=256.0, dropout=0.05)
    assert (recipe.learning_rate, recipe.encoder_lr_factor, recipe.weight_decay) == (1e-4, 0.1, 0.05)
    assert (recipe.epochs, recipe.clip_norm, recipe.warmup, recipe.balance) == (1, 1.0, 0.03, 0.1)


# ------------------------------------------------------------------------------ low-rank updates


@torch.no_grad()
def test_an_update_begins_at_zero_and_is_merged_exactly(model: X2SamModel, batch: TrainBatch) -> None:
    before = forward_batch(model, batch)[1].hidden
    plain_names = set(model.state_dict())
    names = add_lora(network_of(model).text_layers, LORA)
    assert len(names) == 7 * model.config.vlm.text_config.num_hidden_layers
    torch.testing.assert_close(forward_batch(model, batch)[1].hidden, before, atol=0, rtol=0)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.lora_B.normal_(std=0.05, generator=generator)
    trained = forward_batch(model, batch)[1].hidden
    assert not torch.allclose(trained, before, atol=1e-3)
    merged = merged_state(model)
    assert set(merged) == plain_names
    again = X2SamModel(model.config).eval()
    again.load_state_dict(merged)
    torch.testing.assert_close(forward_batch(again, batch)[1].hidden, trained, atol=1e-4, rtol=1e-4)


# -------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
@pytest.mark.usefixtures("single_process")
def test_the_loss_falls_on_scenes_and_the_checkpoint_answers(
    model: X2SamModel, tokenizer: Any, shards: SceneShards, tmp_path: Path
) -> None:
    source = SceneSource(shards, shares={"referring": 1.0}, augment=False)
    samples = [source.sample(i, np.random.default_rng(i), prompts=2) for i in range(2)]
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = short_config(
        steps=12, optimizer="adamw", learning_rate=3e-3, log_every=1, validate_every=12, lora=LORA
    )
    trainer = Trainer(
        model, tokenizer, config, [HandMade(samples)], tmp_path, validation=HandMade(samples), cpu=True
    )
    trainer.fit()
    losses = [r["train"]["loss"] for r in records(tmp_path) if "train" in r]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:2])
    written = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert set(written) == set(start)
    changed = {name for name, tensor in written.items() if not torch.equal(tensor, start[name].float())}
    assert not [name for name in changed if name.startswith((*RESTING, *NEVER))]
    assert "vlm.model.language_model.layers.0.self_attn.q_proj.weight" in changed
    engine = XSam.load(tmp_path / "checkpoint")
    assert engine.has_memory
    assert engine.segment(samples[0].rgb, "the mug").code == ""
    again, _ = build_model(config, tmp_path / "checkpoint")
    assert isinstance(again, X2SamModel)
