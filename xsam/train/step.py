"""Forward pass of a training step for each stage: batch → losses. Shared by training and validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xsam.inference.family import Network
from xsam.model.region_sampler import region_points
from xsam.model.xsam import DecoderStage, ImageFeatures, XSamModel
from xsam.train.collate import IGNORE, TrainBatch
from xsam.train.heads import AttributeHeads, ClosedSetHead, GroundingHead, WordHead
from xsam.train.losses import LossWeights, MaskSampling, PromptTarget, segmentation_loss
from xsam.train.networks import TextStates, network_of
from xsam.train.stages import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardOutput:
    """Output of the mask decoder; see `XSamModel.decode`."""

    stages: list[tuple[Tensor, Tensor]]  # class and mask logits; empty if no text requests masks
    query_states: Tensor  # (B, P, Q, C) of the last stage


def read_texts(
    model: Network, features: Any, batch: TrainBatch, generator: torch.Generator | None = None
) -> TextStates:
    """Run the language model over all texts of every image in one packed forward pass."""
    network = network_of(model)
    hidden = network.read(features, batch, _region_tokens(model, features, batch, generator))
    projected = network.project(hidden)
    rows_index = torch.arange(len(projected), device=projected.device)[:, None]
    return TextStates(
        hidden=hidden,
        seg_embeds=projected[rows_index, batch.seg_positions],
        conditions=torch.einsum("bpkl,blc->bpkc", batch.span_weights.to(projected.dtype), projected),
        projected=projected,
    )


def _region_tokens(
    model: Network, features: Any, batch: TrainBatch, generator: torch.Generator | None
) -> Tensor | None:
    """Compute (R, tokens, D) tokens of all regions of the batch, in the order of their placeholders."""
    owners = [b for b, masks in enumerate(batch.region_masks) for _ in masks]
    if not owners:
        return None
    count = model.config.sampler.num_sample_point
    points = [region_points(m, count, generator=generator) for masks in batch.region_masks for m in masks]
    return network_of(model).region_tokens(features, owners, torch.stack(points))


def language_loss(head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor) -> Tensor:
    """Compute next-token cross-entropy, only at the positions that predict an answer token.

    Args:
        head: states (…, D) → logits (…, vocabulary).
        hidden: (B, L, D) states of the language model.
        labels: (B, L), IGNORE where nothing is to be predicted.
    """
    is_target = labels[:, 1:] != IGNORE
    if not is_target.any():
        return hidden.sum() * 0.0
    return F.cross_entropy(head(hidden[:, :-1][is_target]).float(), labels[:, 1:][is_target])


def forward_batch(
    model: Network, batch: TrainBatch, *, generator: torch.Generator | None = None
) -> tuple[Any, TextStates, ForwardOutput]:
    """Encode every image once and decode all of its prompts."""
    network = network_of(model)
    features = network.encode(batch)
    text = read_texts(model, features, batch, generator)
    if not batch.seg_positions.shape[1]:  # no prompt requests masks
        return features, text, ForwardOutput(stages=[], query_states=text.seg_embeds[:, :, None])
    return features, text, _forward_output(network.decode(features, text, batch))


def _forward_output(stages: Sequence[DecoderStage]) -> ForwardOutput:
    return ForwardOutput(
        stages=[(stage.class_logits, stage.mask_logits) for stage in stages], query_states=stages[-1].states
    )


def _token_size(model: Network) -> int:
    """Return the channels of the image tokens; 0 for X2SAM, where regions are sampled from other tokens."""
    return model.config.llm.hidden_size if isinstance(model, XSamModel) else 0


class StageModule(nn.Module):
    """Model and auxiliary heads of one stage; `forward` returns losses, as data-parallel wrappers require.

    Args:
        model: the model to train.
        stage: determines the forward pass and the heads.
        weights: weights of the losses.
        sampling: where mask losses are evaluated.
        classes: size of the closed set; required by stage 1 and the attribute heads.
        attributes: name → number of values; None disables the attribute heads.
        grounding: enable the grounding head.
        words: enable the word head.
    """

    def __init__(
        self,
        model: Network,
        stage: Stage,
        *,
        weights: LossWeights,
        sampling: MaskSampling,
        classes: int = 0,
        attributes: Mapping[str, int] | None = None,
        grounding: bool = False,
        words: bool = False,
    ) -> None:
        super().__init__()
        m2f = model.config.mask2former
        self.model = model
        self.stage = stage
        self.weights = weights
        self.sampling = sampling
        self.closed_set = ClosedSetHead(classes, m2f.hidden_dim) if stage is Stage.SEGMENTOR else None
        with_attributes = attributes is not None and stage is not Stage.ALIGNMENT
        self.attributes = (
            AttributeHeads(
                classes,
                attributes or {},
                feature_size=m2f.feature_size,
                hidden_dim=m2f.hidden_dim,
                token_size=_token_size(model) if stage is Stage.MIXED else 0,
            )
            if with_attributes
            else None
        )
        self.grounding = (
            GroundingHead(hidden_dim=m2f.hidden_dim, feature_size=m2f.feature_size)
            if grounding and stage is not Stage.SEGMENTOR
            else None
        )
        self.words = (
            WordHead(hidden_dim=m2f.hidden_dim, vocabulary=model.llm.lm_head.out_features)
            if words and stage is Stage.MIXED
            else None
        )

    def forward(self, batch: TrainBatch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute the weighted losses of a batch; training minimizes their sum."""
        if self.stage is Stage.SEGMENTOR:
            return self._segmentor(batch, generator)
        if self.stage is Stage.ALIGNMENT:
            return self._alignment(batch, generator)
        features, text, output = forward_batch(self.model, batch, generator=generator)
        head = network_of(self.model).token_logits
        losses = {"loss_llm": language_loss(head, text.hidden, batch.text_labels)}
        losses.update(self._mask_losses(output, batch, batch.targets, features.multi_scale[-1], generator))
        if self.grounding is not None and batch.seg_positions.shape[1]:
            losses["loss_grounding"] = self.grounding(text.seg_embeds, features.multi_scale[-1], batch)
        if self.attributes is not None and self.attributes.tokens is not None:
            losses["loss_aux_tokens"] = self.weights.auxiliary * self.attributes.token_loss(
                features.region_map, batch
            )
        if self.words is not None and batch.seg_positions.shape[1]:
            losses["loss_aux_words"] = self.weights.auxiliary * self.words(text.conditions, batch)
        return losses

    def _segmentor(self, batch: TrainBatch, generator: torch.Generator | None) -> dict[str, Tensor]:
        assert self.closed_set is not None
        assert isinstance(self.model, XSamModel)
        features = self.model.encode_segmentation(batch.seg_pixels)
        count = len(batch.seg_pixels)
        conditions = self.closed_set.conditions(count)
        stages = self.model.decode(
            features,
            conditions.new_zeros(count, 1, conditions.shape[-1]),
            conditions,
            torch.ones(conditions.shape[:3], dtype=torch.bool, device=conditions.device),
        )
        output = _forward_output(stages)
        targets: list[list[PromptTarget | None]] = [[PromptTarget(labels=c)] for c in batch.classes]
        return self._mask_losses(output, batch, targets, features.multi_scale[-1], generator)

    def _alignment(self, batch: TrainBatch, generator: torch.Generator | None) -> dict[str, Tensor]:
        model = self.model
        assert isinstance(model, XSamModel)
        with torch.no_grad():  # the segmentation branch is frozen in this stage
            seg = model.encode_segmentation(batch.seg_pixels)
        features = ImageFeatures(
            visual_tokens=model.visual_tokens(batch.vision_pixels),
            seg_tokens=model.seg_tokens(seg.top),
            pyramid=seg.pyramid,
            multi_scale=seg.multi_scale,
            mask_features=seg.mask_features,
        )
        text = read_texts(model, features, batch, generator)
        losses = {"loss_llm": language_loss(network_of(model).token_logits, text.hidden, batch.text_labels)}
        if self.grounding is not None and batch.seg_positions.shape[1]:
            losses["loss_grounding"] = self.grounding(text.seg_embeds, features.multi_scale[-1], batch)
        return losses

    def _mask_losses(
        self,
        output: ForwardOutput,
        batch: TrainBatch,
        targets: list[list[PromptTarget | None]],
        finest: Tensor,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        if output.stages:
            losses, matchings = segmentation_loss(
                output.stages,
                [mask.float() for mask in batch.masks],
                targets,
                weights=self.weights,
                sampling=self.sampling,
                generator=generator,
            )
            if self.attributes is not None:
                aux = self.attributes.query_loss(output.query_states, matchings[-1], batch)
                losses["loss_aux_queries"] = self.weights.auxiliary * aux
        if self.attributes is not None:
            losses["loss_aux_pixels"] = self.weights.auxiliary * self.attributes.pixel_loss(finest, batch)
        return losses
