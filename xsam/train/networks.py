"""What training needs of the two families of networks; the stages, losses and the loop know neither."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from xsam.config import IMAGE_ID
from xsam.inference.family import Network
from xsam.model.language import packed_row_states, token_logits
from xsam.model.mask_decoder import PromptText
from xsam.model.x2sam import X2SamModel
from xsam.model.xsam import DecoderStage, XSamModel
from xsam.train.collate import TrainBatch
from xsam.train.stages import Stage


class Features(Protocol):
    """Output of the encoders for a batch of images."""

    @property
    def image_tokens(self) -> Iterable[Tensor]:
        """Tokens of each image, (T, D)."""
        ...

    @property
    def multi_scale(self) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStates:
    """Output of the language model for a batch of texts."""

    hidden: Tensor  # (B, L, D) states as the decoder reads them
    seg_embeds: Tensor  # (B, P, C) projected states at `<SEG>`
    conditions: Tensor  # (B, P, K, C) mean projected state of each condition
    projected: Tensor  # (B, L, C)


class TrainedNetwork(Protocol):
    """One kind of network, as the stages train it."""

    trained_in: ClassVar[dict[Stage, tuple[str, ...]]]  # prefixes of the parameters that a stage trains
    language_model: tuple[str, ...]  # prefixes of the language model

    @property
    def text_layers(self) -> nn.Module:
        """Layers of the language model, for low-rank updates."""
        ...

    @property
    def unused(self) -> tuple[str, ...]:
        """Prefixes of the parameters that no output depends on."""
        ...

    @property
    def checkpointed(self) -> tuple[Any, ...]:
        """Parts that can recompute their activations in the backward pass."""
        ...

    def encode(self, batch: TrainBatch) -> Any:
        """Encode all images of a batch."""
        ...

    def read(self, features: Any, batch: TrainBatch, regions: Tensor | None) -> Tensor:
        """Return the states (B, L, D) of the texts, given the (R, tokens, D) tokens of all regions."""
        ...

    def region_tokens(self, features: Any, owners: list[int], points: Tensor) -> Tensor:
        """Sample the images `owners` at (R, N, 2) points."""
        ...

    def project(self, states: Tensor) -> Tensor:
        """Project states of the language model for the decoder."""
        ...

    def token_logits(self, states: Tensor) -> Tensor:
        """Return the logits of the next token."""
        ...

    def decode(self, features: Any, text: TextStates, batch: TrainBatch) -> list[DecoderStage]:
        """Predict masks and classes at every depth of the mask decoder."""
        ...


class TrainedXSam:
    """X-SAM: all three stages."""

    trained_in: ClassVar[dict[Stage, tuple[str, ...]]] = {
        Stage.SEGMENTOR: ("segmentor.", "seg_connector.", "bg_embeds."),
        Stage.ALIGNMENT: ("visual_projector.", "seg_projector."),
        Stage.MIXED: ("",),
    }
    language_model = ("llm.",)

    def __init__(self, model: XSamModel) -> None:
        self.model = model

    @property
    def text_layers(self) -> nn.Module:
        layers: nn.Module = self.model.llm.model.layers
        return layers

    @property
    def unused(self) -> tuple[str, ...]:
        """SigLIP after its second-to-last state, and what is in the published checkpoint only."""
        last = self.model.config.vision_encoder.num_hidden_layers - 1
        return (
            "vision_encoder.head.",
            "vision_encoder.post_layernorm.",
            f"vision_encoder.encoder.layers.{last}.",
            "segmentor.encoder.neck.",
            "segmentor.shared_image_embedding.",
        )

    @property
    def checkpointed(self) -> tuple[Any, ...]:
        return self.model.llm, self.model.vision_encoder, self.model.segmentor.encoder

    def encode(self, batch: TrainBatch) -> Any:
        return self.model.encode_image(batch.vision_pixels, batch.seg_pixels)

    def read(self, features: Any, batch: TrainBatch, regions: Tensor | None) -> Tensor:
        model = self.model
        prefix = torch.stack(
            [
                model.embed(ids, image)
                for ids, image in zip(batch.prefix_ids, features.image_tokens, strict=True)
            ]
        )
        rows = model.embed(batch.text_ids.flatten(), None, regions).unflatten(0, batch.text_ids.shape)
        return packed_row_states(model.llm, prefix, rows, batch.owner, batch.offset)[1]

    def region_tokens(self, features: Any, owners: list[int], points: Tensor) -> Tensor:
        return self.model.region_tokens(features.region_map[owners], points)

    def project(self, states: Tensor) -> Tensor:
        projected: Tensor = self.model.llm_projector(states)
        return projected

    def token_logits(self, states: Tensor) -> Tensor:
        return token_logits(self.model.llm, states)

    def decode(self, features: Any, text: TextStates, batch: TrainBatch) -> list[DecoderStage]:
        return self.model.decode(features, text.seg_embeds, text.conditions, batch.condition_valid)


@dataclass(frozen=True, slots=True, kw_only=True)
class X2SamFeatures:
    """Output of the encoders of X2SAM for a batch of images."""

    image_tokens: tuple[Tensor, ...]  # (T, D) of each image
    deepstack: tuple[Tensor, ...]  # (N, D) of all visual tokens, image after image
    states: Tensor  # (B, h, w, C) of SAM 2's encoder, for regions
    multi_scale: tuple[Tensor, ...]
    mask_features: Tensor


class TrainedX2Sam:
    """X2SAM on images: stage 3. Every image is the first frame of a video, so the memory is not trained."""

    trained_in: ClassVar[dict[Stage, tuple[str, ...]]] = {
        Stage.MIXED: (
            "segmentor.",
            "mlm_projector.",
            "extra_projector.",
            "bg_embeds.",
            "vlm.lm_head.",
            "vlm.model.language_model.",
            "vlm.model.visual.merger.",
            "vlm.model.visual.deepstack_merger_list.",
        )
    }
    language_model = ("vlm.model.language_model.", "vlm.lm_head.")
    unused = (
        "segmentor.shared_image_embedding.",
        "segmentor.memory_attention.",
        "segmentor.memory_encoder.",
    )

    def __init__(self, model: X2SamModel) -> None:
        self.model = model

    @property
    def text_layers(self) -> nn.Module:
        layers: nn.Module = self.model.vlm.model.language_model.layers
        return layers

    @property
    def checkpointed(self) -> tuple[Any, ...]:
        return self.model.vlm, self.model.segmentor.encoder

    def encode(self, batch: TrainBatch) -> X2SamFeatures:
        model = self.model
        grids = torch.tensor(batch.grids, device=batch.vision_pixels.device)
        out = model.vlm.model.visual(batch.vision_pixels.to(model.dtype), grids)
        merge = model.config.vlm.vision_config.spatial_merge_size
        counts = [t * h * w // merge**2 for t, h, w in batch.grids]
        frames = model.encode_frames(batch.seg_pixels, first=True)
        return X2SamFeatures(
            image_tokens=out.pooler_output.split(counts),
            deepstack=tuple(out.deepstack_features),
            states=frames.states,
            multi_scale=frames.multi_scale,
            mask_features=frames.mask_features,
        )

    def read(self, features: X2SamFeatures, batch: TrainBatch, regions: Tensor | None) -> Tensor:
        model = self.model
        images = zip(batch.prefix_ids, batch.prefix_lengths.tolist(), features.image_tokens, strict=True)
        prefix = pad_sequence([model.embed(ids[:n], image) for ids, n, image in images], batch_first=True)
        rows = model.embed(batch.text_ids.flatten(), None, regions).unflatten(0, batch.text_ids.shape)
        return packed_row_states(
            model.llm,
            prefix,
            rows,
            batch.owner,
            batch.offset,
            lengths=batch.prefix_lengths,
            visual=batch.prefix_ids == IMAGE_ID,
            deepstack=features.deepstack,
        )[1]

    def region_tokens(self, features: X2SamFeatures, owners: list[int], points: Tensor) -> Tensor:
        return self.model.region_tokens(self.model.region_map(features.states)[owners], points)

    def project(self, states: Tensor) -> Tensor:
        projected: Tensor = self.model.mlm_projector(states)
        return projected

    def token_logits(self, states: Tensor) -> Tensor:
        return token_logits(self.model.llm, states)

    def decode(self, features: X2SamFeatures, text: TextStates, batch: TrainBatch) -> list[DecoderStage]:
        memory = self.model.decoder_memory(features.multi_scale, features.mask_features)
        return self.model.decode(
            memory,
            text.seg_embeds,
            text.conditions,
            batch.condition_valid,
            prompt_text(text.projected, batch),
        )


def prompt_text(projected: Tensor, batch: TrainBatch) -> PromptText:
    """Gather the states of all tokens of each prompt's conditions, in order.

    Args:
        projected: (B, L, C).
        batch: with the spans of the conditions.
    """
    inside = (batch.span_weights > 0).any(dim=2)  # (B, P, L)
    count = max(1, int(inside.sum(dim=-1).max()))
    order = inside.int().argsort(dim=-1, descending=True, stable=True)[..., :count]
    valid = inside.gather(-1, order)
    # A prompt that an image lacks attends to something, or its states were NaN; nothing is learned from it.
    valid[..., 0] = True
    image = torch.arange(len(projected), device=projected.device)[:, None, None]
    return PromptText(tokens=projected[image, order], valid=valid)


def network_of(model: Network | nn.Module) -> TrainedXSam | TrainedX2Sam:
    """Return how a network is trained."""
    if isinstance(model, X2SamModel):
        return TrainedX2Sam(model)
    assert isinstance(model, XSamModel)
    return TrainedXSam(model)
