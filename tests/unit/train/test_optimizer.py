"""What a stage trains, how fast, and which tensors never take part."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.train.small import small_model
from xsam.data.scene_prompts import TASK_SHARES
from xsam.data.scene_source import CLASS_NAMES, DIALOGUE, SceneSource
from xsam.errors import TrainingConfigError
from xsam.model.xsam import XSamModel
from xsam.sim.shards import SceneShards
from xsam.train.collate import Collator
from xsam.train.losses import LossWeights, MaskSampling
from xsam.train.muon import Muon
from xsam.train.optimizer import build_optimizers, freeze, schedule, set_rates
from xsam.train.stages import Stage, StageConfig
from xsam.train.step import StageModule

LAST = 3  # layers of the small model's SigLIP, counted from 0


@pytest.fixture
def model(tokenizer: Any) -> XSamModel:
    return small_model(len(tokenizer))


def _config(stage: Stage = Stage.MIXED, **fields: Any) -> StageConfig:
    return StageConfig(stage=stage, steps=10, **fields)


# ------------------------------------------------------------------------------- what is trained


def _never_run(name: str) -> bool:
    """Return True for an unused tensor: SigLIP after its second-to-last state, or SAM's neck."""
    return name.startswith(
        (
            "vision_encoder.encoder.layers.3.",
            "vision_encoder.post_layernorm.",
            "vision_encoder.head.",
            "segmentor.encoder.neck.",
            "segmentor.shared_image_embedding.",
        )
    )


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        (Stage.SEGMENTOR, {"segmentor", "seg_connector", "bg_embeds"}),
        (Stage.ALIGNMENT, {"visual_projector", "seg_projector"}),
        (
            Stage.MIXED,
            {
                *("llm", "vision_encoder", "segmentor", "visual_projector", "seg_projector"),
                *("llm_projector", "seg_connector", "bg_embeds"),
            },
        ),
    ],
)
def test_stages_train_their_parts(model: XSamModel, stage: Stage, parts: set[str]) -> None:
    names = freeze(model, _config(stage))
    assert set(names) == {
        name for name, _ in model.named_parameters() if name.split(".")[0] in parts and not _never_run(name)
    }
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(names)


def test_a_recipe_may_choose_other_parts(model: XSamModel) -> None:
    config = _config(Stage.ALIGNMENT, trainable=("llm.lm_head.", "vision_encoder."))
    names = freeze(model, config)
    assert {name.split(".")[0] for name in names} == {"llm", "vision_encoder"}
    assert not any(_never_run(name) for name in names)
    freeze(model, _config())
    assert model.bg_embeds.weight.requires_grad


@pytest.mark.parametrize(
    "fields",
    [{"trainable": ("llm.", "projectors.")}, {"frozen": ("lmm.",), "frozen_until": 0.5}],
)
def test_prefixes_that_fit_nothing_are_refused(model: XSamModel, fields: dict[str, Any]) -> None:
    """A misspelled part would silently stay untrained."""
    with pytest.raises(TrainingConfigError, match=r"no parameter begins with (projectors|lmm)\."):
        freeze(model, _config(**fields))


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_frozen_are_exactly_those_that_never_run(
    model: XSamModel, tokenizer: Any, shards: SceneShards
) -> None:
    """A batch of all tasks gives every other tensor a nonzero gradient."""
    with torch.no_grad():  # fresh offsets of the deformable attention have no weights to pass gradients on
        for parameter in model.segmentor.pixel_decoder.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    source = SceneSource(shards, shares={**TASK_SHARES, DIALOGUE: 0.1})
    samples = [source.sample(i, np.random.default_rng([4, i]), prompts=8) for i in range(3)]
    batch = Collator(model.config, tokenizer)(samples)
    assert {"interactive", "category_list", "grounded_conversation"} <= {
        k for row in batch.kinds for k in row
    }
    module = StageModule(
        model,
        Stage.MIXED,
        weights=LossWeights(),
        sampling=MaskSampling(mode="mask"),
        classes=len(CLASS_NAMES),
        attributes={"color": 11},
    )
    module.requires_grad_(True)
    losses = module(batch, torch.Generator().manual_seed(0))
    torch.stack(list(losses.values())).sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert all(p.grad is not None for name, p in module.named_parameters() if not name.startswith("model."))
    names = {name for name, _ in model.named_parameters()}
    assert {name for name in names if _never_run(name)} == names - reached
    assert set(freeze(model, _config())) == reached


# ---------------------------------------------------------------------------------- how it learns


class _Toy(nn.Module):
    """Module with every kind of parameter, under the names of the network."""

    def __init__(self) -> None:
        super().__init__()
        vision = {"fc": nn.Linear(3, 4), "patch_embedding": nn.Conv2d(3, 4, 2)}
        encoder = {"mlp": nn.Linear(4, 4, bias=False), "neck": nn.Conv2d(4, 2, 1)}
        decoder = {"queries_features": nn.Embedding(5, 4), "norm": nn.LayerNorm(4)}
        segmentor = {"encoder": nn.ModuleDict(encoder), "decoder": nn.ModuleDict(decoder)}
        words, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        parts = {
            "vision_encoder": vision,
            "segmentor": segmentor,
            "llm": {"embed_tokens": words, "fc": nn.Linear(4, 6), "lm_head": head},
        }
        self.model = nn.ModuleDict({name: nn.ModuleDict(part) for name, part in parts.items()})
        self.head = nn.Linear(4, 2)
        self.resting = nn.Linear(2, 2).requires_grad_(False)


def _settings(module: nn.Module, config: StageConfig) -> dict[str, tuple[str, float, float]]:
    """Map each parameter to its optimizer, peak learning rate and weight decay."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    found: dict[str, tuple[str, float, float]] = {}
    for optimizer in build_optimizers(module, config):
        for group in optimizer.param_groups:
            assert group["lr"] == group["peak_lr"]
            for parameter in group["params"]:
                assert names[parameter] not in found
                found[names[parameter]] = (type(optimizer).__name__, group["lr"], group["weight_decay"])
    return found


def test_adamw_has_every_parameter_in_its_group() -> None:
    config = _config(learning_rate=1e-3, encoder_lr_factor=0.1, weight_decay=0.05)
    full, tenth, decay, none = 1e-3, pytest.approx(1e-4), 0.05, 0.0
    assert _settings(_Toy(), config) == {
        "model.vision_encoder.fc.weight": ("AdamW", tenth, decay),
        "model.vision_encoder.fc.bias": ("AdamW", tenth, none),
        "model.vision_encoder.patch_embedding.weight": ("AdamW", tenth, none),
        "model.vision_encoder.patch_embedding.bias": ("AdamW", tenth, none),
        "model.segmentor.encoder.mlp.weight": ("AdamW", tenth, decay),
        "model.segmentor.encoder.neck.weight": ("AdamW", tenth, decay),
        "model.segmentor.encoder.neck.bias": ("AdamW", tenth, none),
        "model.segmentor.decoder.queries_features.weight": ("AdamW", full, none),
        "model.segmentor.decoder.norm.weight": ("AdamW", full, none),
        "model.segmentor.decoder.norm.bias": ("AdamW", full, none),
        "model.llm.embed_tokens.weight": ("AdamW", full, none),
        "model.llm.fc.weight": ("AdamW", full, decay),
        "model.llm.fc.bias": ("AdamW", full, none),
        "model.llm.lm_head.weight": ("AdamW", full, decay),
        "head.weight": ("AdamW", full, decay),
        "head.bias": ("AdamW", full, none),
    }


def test_muon_takes_the_hidden_matrices() -> None:
    config = _config(optimizer="muon", learning_rate=1e-3, muon_learning_rate=2e-2, encoder_lr_factor=0.5)
    found = _settings(_Toy(), config)
    assert {name for name, (kind, *_) in found.items() if kind == "Muon"} == {
        "model.vision_encoder.fc.weight",
        "model.segmentor.encoder.mlp.weight",
        "model.llm.fc.weight",
        "head.weight",
    }
    assert found["model.segmentor.encoder.mlp.weight"] == ("Muon", 0.01, 0.05)
    assert found["model.llm.fc.weight"] == ("Muon", 0.02, 0.05)
    assert found["model.llm.lm_head.weight"] == ("AdamW", 1e-3, 0.05)
    assert found["model.vision_encoder.fc.bias"] == ("AdamW", 5e-4, 0.0)


def test_betas_arrive() -> None:
    (optimizer,) = build_optimizers(_Toy(), _config(betas=(0.8, 0.95)))
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_no_group_is_lost_on_the_real_network(model: XSamModel, name: Any) -> None:
    names = freeze(model, _config())
    optimizers = build_optimizers(model, _config(optimizer=name))
    owned = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(owned) == len(set(owned)) == len(names)
    if name == "muon":
        assert sum(isinstance(optimizer, Muon) for optimizer in optimizers) == 1


# -------------------------------------------------------------------------------------- schedule


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.0, 0.01),  # never quite nothing
        (0.025, 0.25),
        (0.05, 0.5),
        (0.1, 1.0),
        (0.325, 0.2 + 0.8 * 0.5 * (1 + math.sqrt(0.5))),  # a quarter of the cosine
        (0.55, 0.6),
        (1.0, 0.2),
        (1.7, 0.2),
        (-0.1, 0.01),
    ],
)
def test_warm_up_then_cosine(progress: float, expected: float) -> None:
    config = _config(warmup=0.1, final_lr=0.2)
    assert schedule(progress, config) == pytest.approx(expected)


def test_without_warm_up_it_starts_at_the_peak() -> None:
    assert schedule(0.0, _config(warmup=0.0)) == 1.0
    assert schedule(1.0, _config(warmup=0.0)) == pytest.approx(0.0)


def test_rates_are_shares_of_the_peak() -> None:
    config = _config(optimizer="muon", learning_rate=1e-3, muon_learning_rate=2e-2)
    optimizers = build_optimizers(_Toy(), config)
    for _ in range(2):  # from the peak, not from the last value
        set_rates(optimizers, 0.5)
    rates = {group["lr"] for optimizer in optimizers for group in optimizer.param_groups}
    assert sorted(rates) == pytest.approx([5e-5, 5e-4, 1e-3, 1e-2])
