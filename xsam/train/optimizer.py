"""Parameter groups, optimizers, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from xsam.errors import TrainingConfigError
from xsam.inference.family import Network
from xsam.train.lora import is_lora
from xsam.train.muon import Muon
from xsam.train.networks import network_of
from xsam.train.stages import StageConfig

_ENCODERS = ("vision_encoder.", "segmentor.encoder.")
_VOCABULARY = ("embed_tokens.", "lm_head.")
_NO_DECAY = ("embed", "queries_features", "logit_scale", "pos_embed", "rel_pos")


def freeze(model: Network, config: StageConfig) -> list[str]:
    """Disable the gradients of the parameters that the stage does not train; return the names of the others.

    With low-rank updates, everything in the language model rests but them and the vocabulary.

    Raises:
        TrainingConfigError: a prefix in `config.trainable` or `config.frozen` matches no parameter, or this
            kind of network has no such stage.
    """
    network = network_of(model)
    if config.stage not in network.trained_in:
        known = ", ".join(stage.value for stage in network.trained_in)
        raise TrainingConfigError(
            f"X2SAM has no stage {config.stage.value!r} here, only {known}",
            hint="start from a checkpoint that `xsam convert` wrote",
        )
    names = [name for name, _ in model.named_parameters()]
    prefixes = (*config.trainable, *config.frozen)
    unknown = [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]
    if unknown:
        raise TrainingConfigError(f"trainable, frozen: no parameter begins with {', '.join(unknown)}")
    trained = config.trainable or network.trained_in[config.stage]
    for name, parameter in model.named_parameters():
        resting = (
            config.lora is not None
            and name.startswith(network.language_model)
            and not (is_lora(name) or any(part in name for part in _VOCABULARY))
        )
        parameter.requires_grad_(
            name.startswith(trained) and not name.startswith(network.unused) and not resting
        )
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def build_optimizers(module: nn.Module, config: StageConfig) -> list[torch.optim.Optimizer]:
    """Create AdamW for all parameters, or Muon for the hidden weight matrices and AdamW for the rest.

    The learning rate of image encoders is scaled by `encoder_lr_factor`; biases, norms, and embeddings do not
    decay. Each group stores its peak rate as `peak_lr`.
    """
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for full_name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        name = full_name.removeprefix("model.")
        encoder = name.startswith(_ENCODERS)
        decays = parameter.ndim >= 2 and not any(part in name for part in _NO_DECAY)
        matrix = config.optimizer == "muon" and parameter.ndim == 2 and decays and "lm_head" not in name
        groups.setdefault((matrix, encoder, decays), []).append(parameter)

    def settings(encoder: bool, decays: bool, rate: float) -> dict[str, float]:
        rate *= config.encoder_lr_factor if encoder else 1.0
        return {"lr": rate, "peak_lr": rate, "weight_decay": config.weight_decay if decays else 0.0}

    adamw = [
        {"params": parameters, **settings(encoder, decays, config.learning_rate)}
        for (matrix, encoder, decays), parameters in groups.items()
        if not matrix
    ]
    muon = [
        {"params": parameters, **settings(encoder, decays, config.muon_learning_rate)}
        for (matrix, encoder, decays), parameters in groups.items()
        if matrix
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if adamw:
        optimizers.append(torch.optim.AdamW(adamw, betas=config.betas))
    if muon:
        optimizers.append(Muon(muon))
    return optimizers


def schedule(progress: float, config: StageConfig) -> float:
    """Return the factor of the peak learning rate at a fraction of the run: linear warm-up, then cosine."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup:
        return max(progress / config.warmup, 0.01)
    after = (progress - config.warmup) / (1 - config.warmup)
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * after))


def set_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set the learning rate of every group to a fraction of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
