"""X-SAM: two image encoders, an LLM, and a mask decoder conditioned on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from xsam.config import IMAGE_ID, REGION_ID, XSamConfig
from xsam.model.blocks.mask2former import MaskDecoder, PixelDecoder
from xsam.model.blocks.sam import PromptPositions, SamEncoder
from xsam.model.blocks.siglip import SiglipEncoder
from xsam.model.blocks.text import CausalText
from xsam.model.connector import SegConnector
from xsam.model.encoders import sam_hidden_states, siglip_hidden_state
from xsam.model.mask_decoder import (
    ClassPredictor,
    DecoderMemory,
    QueryPrediction,
    add_mask_places,
    decode_queries,
    decoder_memory,
    predict_queries,
)
from xsam.model.pixel_decoder import decode_pixels
from xsam.model.projectors import MlpProjector, shuffle_grid
from xsam.model.region_sampler import sample_regions


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentorFeatures:
    """Output of the segmentation branch for an image."""

    top: Tensor  # (B, h, w, C) SAM state that becomes the language model's tokens
    pyramid: tuple[Tensor, ...]  # connector outputs, fine to coarse
    multi_scale: tuple[Tensor, ...]  # (B, C, h, w), coarse to fine
    mask_features: Tensor  # (B, C, H, W)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """Everything computed from the image alone; shared by all prompts on the frame."""

    visual_tokens: Tensor  # (B, T₁, D) projected SigLIP tokens
    seg_tokens: Tensor  # (B, T₂, D) projected SAM tokens
    pyramid: tuple[Tensor, ...]  # connector outputs, fine to coarse
    multi_scale: tuple[Tensor, ...]  # (B, C, h, w), coarse to fine
    mask_features: Tensor  # (B, C, H, W)

    @property
    def image_tokens(self) -> Tensor:
        """(B, T, D) in prompt order: SigLIP, then SAM."""
        return torch.cat([self.visual_tokens, self.seg_tokens], dim=1)

    @property
    def region_map(self) -> Tensor:
        """(B, D, h, w): the SAM tokens on their grid, for the region sampler."""
        side = round(self.seg_tokens.shape[1] ** 0.5)
        return self.seg_tokens.transpose(1, 2).unflatten(-1, (side, side))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderStage:
    """Prediction of the mask decoder after one layer."""

    class_logits: Tensor  # (B, P, Q, K + 1), background last, −inf at padding
    mask_logits: Tensor  # (B, P, Q, H, W) at the resolution of the mask features
    states: Tensor  # (B, P, Q, C)


class Segmentor(nn.Module):
    """SAM encoder, pixel decoder, masked-attention decoder and class head."""

    def __init__(self, config: XSamConfig) -> None:
        super().__init__()
        channels = SegConnector.out_channels(config.sam.hidden_size, config.connector_scale_factor)
        # Never used in the forward pass, but a tensor of the published checkpoint.
        self.shared_image_embedding = PromptPositions(config.sam)
        self.encoder = SamEncoder(config.sam)
        self.pixel_decoder = PixelDecoder(config.mask2former, channels)
        self.decoder = MaskDecoder(config.mask2former)
        if config.mask_places:
            add_mask_places(self.decoder)
        self.class_predictor = ClassPredictor(config.logit_clamp)


class XSamModel(nn.Module):
    """The network on tensors; `xsam.engine.XSam` wraps it for images and queries."""

    def __init__(self, config: XSamConfig) -> None:
        super().__init__()
        self.config = config
        sam, llm, hidden = config.sam, config.llm, config.mask2former.hidden_dim
        self.llm = CausalText(llm)
        self.vision_encoder = SiglipEncoder(config.vision_encoder)
        self.segmentor = Segmentor(config)
        self.visual_projector = MlpProjector(config.vision_encoder.hidden_size, llm.hidden_size)
        shuffled = round(sam.hidden_size / config.downsample_ratio**2)
        self.seg_projector = MlpProjector(shuffled, llm.hidden_size)
        self.llm_projector = MlpProjector(llm.hidden_size, hidden)
        self.seg_connector = SegConnector(
            sam.hidden_size, config.connector_hidden_dim, config.connector_scale_factor
        )
        self.bg_embeds = nn.Embedding(1, hidden)

    @property
    def device(self) -> torch.device:
        return self.bg_embeds.weight.device

    @property
    def llm_device(self) -> torch.device:
        """Device of the language model; the rest may be elsewhere."""
        return self.llm.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the computation; matrices may be stored in a narrower one."""
        return self.bg_embeds.weight.dtype

    def encode_image(self, vision_pixels: Tensor, seg_pixels: Tensor) -> ImageFeatures:
        """Run both encoders, the projectors, the connector and the pixel decoder.

        Args:
            vision_pixels: (B, 3, s, s) for SigLIP.
            seg_pixels: (B, 3, S, S) for SAM.
        """
        seg = self.encode_segmentation(seg_pixels)
        return ImageFeatures(
            visual_tokens=self.visual_tokens(vision_pixels),
            seg_tokens=self.seg_tokens(seg.top),
            pyramid=seg.pyramid,
            multi_scale=seg.multi_scale,
            mask_features=seg.mask_features,
        )

    def encode_segmentation(self, seg_pixels: Tensor) -> SegmentorFeatures:
        """Run the SAM encoder, the connector and the pixel decoder on (B, 3, S, S)."""
        config = self.config
        layers = config.connector_layers
        top = config.sam.num_hidden_layers + 1 + config.visual_select_layer
        states = sam_hidden_states(self.segmentor.encoder, seg_pixels, (*layers, top))
        pyramid = self.seg_connector([states[index] for index in layers])
        multi_scale, mask_features = decode_pixels(self.segmentor.pixel_decoder, pyramid)
        return SegmentorFeatures(
            top=states[top], pyramid=tuple(pyramid), multi_scale=multi_scale, mask_features=mask_features
        )

    def visual_tokens(self, vision_pixels: Tensor) -> Tensor:
        """Run SigLIP and its projector: (B, 3, s, s) → (B, T, D)."""
        state = siglip_hidden_state(self.vision_encoder, vision_pixels, self.config.visual_select_layer)
        return self.visual_projector(state)

    def seg_tokens(self, top: Tensor) -> Tensor:
        """Shuffle and project SAM states: (B, h, w, C) → (B, T, D)."""
        return self.seg_projector(shuffle_grid(top, self.config.downsample_ratio).flatten(1, 2))

    def region_tokens(self, region_map: Tensor, points: Tensor) -> Tensor:
        """Sample (R, D, h, w) maps at (R, N, 2) row/column points: (R, tokens per region, D)."""
        return sample_regions(region_map, points, self.config.sampler)

    def embed(
        self, expanded_ids: Tensor, image_tokens: Tensor | None, regions: Tensor | None = None
    ) -> Tensor:
        """Embed token ids, with image and region tokens at the positions of their placeholders.

        Args:
            expanded_ids: (L,) with each placeholder repeated once per token.
            image_tokens: (T, D), or None when the ids hold no image.
            regions: (R, K, D) in prompt order.

        Returns:
            (L, D).
        """
        return embed_prompt(self.llm.model.embed_tokens, expanded_ids, image_tokens, regions)

    def decode(
        self,
        features: ImageFeatures | SegmentorFeatures,
        seg_embeds: Tensor,
        conditions: Tensor,
        condition_valid: Tensor,
    ) -> list[DecoderStage]:
        """Predict masks and classes for P prompts of each image, at every decoder depth.

        Args:
            seg_embeds: (B, P, C) projected states at `<SEG>`.
            conditions: (B, P, K, C) mean projected state of each condition's span, padded.
            condition_valid: (B, P, K) bool, False at padding.

        Returns:
            One stage before the first decoder layer and one after each; the last is the prediction.
        """
        memory = self.decoder_memory(features)
        predictions = decode_queries(self.segmentor.decoder, memory, seg_embeds)
        return [self._classify(p, conditions, condition_valid) for p in predictions]

    def decoder_memory(self, features: ImageFeatures | SegmentorFeatures) -> DecoderMemory:
        """Compute the part of the mask decoder that depends on the image alone."""
        return decoder_memory(self.segmentor.decoder, features.multi_scale, features.mask_features)

    def predict(
        self, memory: DecoderMemory, seg_embeds: Tensor, conditions: Tensor, condition_valid: Tensor
    ) -> DecoderStage:
        """Compute only the last stage of `decode`, from the image's decoder memory."""
        prediction = predict_queries(self.segmentor.decoder, memory, seg_embeds)
        return self._classify(prediction, conditions, condition_valid)

    def _classify(
        self, prediction: QueryPrediction, conditions: Tensor, condition_valid: Tensor
    ) -> DecoderStage:
        return classify(
            self.segmentor.class_predictor, self.bg_embeds.weight, prediction, conditions, condition_valid
        )


def classify(
    predictor: ClassPredictor,
    background: Tensor,
    prediction: QueryPrediction,
    conditions: Tensor,
    condition_valid: Tensor,
) -> DecoderStage:
    """Add class logits to masks; background is the last class, padded conditions are −inf.

    Args:
        predictor: the class head.
        background: (1, C) embedding of "none of the conditions".
        prediction: of P prompts of each image.
        conditions: (B, P, K, C), padded.
        condition_valid: (B, P, K) bool, False at padding.
    """
    last = background.expand(*conditions.shape[:2], 1, -1).to(conditions.dtype)
    classes = torch.cat([conditions, last], dim=2)
    padding = F.pad(~condition_valid, (0, 1), value=False)[:, :, None]
    return DecoderStage(
        class_logits=predictor(prediction.states, classes).masked_fill(padding, float("-inf")),
        mask_logits=prediction.mask_logits,
        states=prediction.states,
    )


def embed_prompt(
    vocabulary: nn.Embedding, expanded_ids: Tensor, image_tokens: Tensor | None, regions: Tensor | None
) -> Tensor:
    """Embed token ids; see `XSamModel.embed`."""
    embeds = vocabulary(expanded_ids.clamp(min=0))
    for marker, tokens in ((IMAGE_ID, image_tokens), (REGION_ID, regions)):
        if tokens is not None:
            positions = (expanded_ids == marker)[:, None].expand_as(embeds)
            embeds = embeds.masked_scatter(positions, tokens.to(embeds))
    return embeds


def span_means(
    states: Tensor, cond_ids: Sequence[Tensor], *, counts: Sequence[int] | None = None
) -> list[Tensor]:
    """Average the states over each condition's span, tags included.

    Args:
        states: (N, L, C).
        cond_ids: N tensors with the condition index of each position or −1, at most L long.
        counts: N numbers of conditions; None = read from `cond_ids`, which waits for a GPU.

    Returns:
        N tensors (K, C).
    """
    means = []
    if counts is None:
        counts = [int(ids.max()) + 1 if len(ids) else 0 for ids in cond_ids]
    for state, ids, count in zip(states, cond_ids, counts, strict=True):
        member = (ids[None] == torch.arange(count, device=ids.device)[:, None]).to(state.dtype)  # (K, L)
        means.append(member @ state[: len(ids)] / member.sum(dim=1, keepdim=True))
    return means


def pad_conditions(means: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack N tensors (K, C) to (N, K, C), with (N, K) bool, False at padding."""
    valid = [torch.ones(len(m), dtype=torch.bool, device=m.device) for m in means]
    return pad_sequence(list(means), batch_first=True), pad_sequence(valid, batch_first=True)
