"""X2SAM: Qwen3-VL, a SAM 2 encoder, and a mask decoder that remembers earlier frames of a video.

The model classes of `transformers` are imported where they are built: that takes longer than importing
PyTorch, and who runs X-SAM needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xsam.config.x2sam import X2SamConfig
from xsam.model.blocks.mask2former import MaskDecoder, PixelDecoder
from xsam.model.hiera import encode_hiera
from xsam.model.mask_decoder import (
    ClassPredictor,
    DecoderMemory,
    PromptText,
    QueryPrediction,
    add_text_attention,
    decode_queries,
    decoder_memory,
    predict_queries,
)
from xsam.model.memory import MemoryAttention, MemoryBank, MemoryEncoder, MemoryEntry
from xsam.model.pixel_decoder import decode_pixels
from xsam.model.projectors import MlpProjector, shuffle_grid
from xsam.model.qwen_vl import QwenVlText, VisualTokens, visual_tokens
from xsam.model.region_sampler import sample_regions
from xsam.model.xsam import DecoderStage, classify, embed_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFeatures:
    """Output of the segmentation branch for frames, before any memory is read."""

    multi_scale: tuple[Tensor, ...]  # (B, C, h, w), coarse to fine
    mask_features: Tensor  # (B, C, H, W)
    states: Tensor  # (B, h, w, D) of the encoder, for the region sampler


class VideoSegmentor(nn.Module):
    """SAM 2 encoder, pixel decoder, masked-attention decoder with text, class head and memory."""

    def __init__(self, config: X2SamConfig) -> None:
        from transformers import Sam2VisionModel
        from transformers.models.sam2.modeling_sam2 import Sam2PositionalEmbedding

        super().__init__()
        masks, channels = config.mask2former, config.sam2.fpn_hidden_size
        # Never used in the forward pass, but a tensor of the published checkpoint.
        self.shared_image_embedding = Sam2PositionalEmbedding(_PromptSize(hidden_size=channels))
        self.encoder = Sam2VisionModel(config.sam2)
        self.pixel_decoder = PixelDecoder(masks, [channels] * 3)
        self.decoder = MaskDecoder(masks)
        add_text_attention(self.decoder)
        self.class_predictor = ClassPredictor(config.logit_clamp)
        self.memory_attention = MemoryAttention(config.memory)
        self.memory_encoder = MemoryEncoder(config.memory)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, channels))


@dataclass(frozen=True, slots=True, kw_only=True)
class _PromptSize:
    """The two settings that SAM 2's positional embedding reads."""

    hidden_size: int
    scale: float = 1.0


class X2SamModel(nn.Module):
    """The network on tensors."""

    def __init__(self, config: X2SamConfig) -> None:
        from transformers import Qwen3VLForConditionalGeneration

        super().__init__()
        self.config = config
        text, hidden = config.vlm.text_config, config.mask2former.hidden_dim
        for sub in (config.vlm, text, config.vlm.vision_config, config.sam2, config.sam2.backbone_config):
            sub._attn_implementation = "sdpa"
        self.vlm = Qwen3VLForConditionalGeneration(config.vlm)
        self.segmentor = VideoSegmentor(config)
        states = round(config.sam2.backbone_config.embed_dim_per_stage[-2] / config.downsample_ratio**2)
        self.extra_projector = MlpProjector(states, text.hidden_size)
        self.mlm_projector = MlpProjector(text.hidden_size, hidden)
        self.bg_embeds = nn.Embedding(1, hidden)

    @property
    def llm(self) -> QwenVlText:
        """The text model, for the functions of `xsam.model.language`."""
        return QwenVlText(self.vlm)

    @property
    def device(self) -> torch.device:
        return self.bg_embeds.weight.device

    @property
    def llm_device(self) -> torch.device:
        """Device of the text model; the rest may be elsewhere."""
        return self.vlm.model.language_model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the computation."""
        return self.bg_embeds.weight.dtype

    def visual_tokens(self, patches: Tensor, grid: tuple[int, int, int]) -> VisualTokens:
        """Run Qwen3-VL's vision tower; see `xsam.model.qwen_vl.visual_tokens`."""
        return visual_tokens(self.vlm, patches, grid)

    def encode_frames(self, pixels: Tensor, *, first: bool) -> FrameFeatures:
        """Run SAM 2's encoder and the pixel decoder.

        Args:
            pixels: (B, 3, S, S), ImageNet-normalized.
            first: the frames begin a video, or are images.
        """
        pyramid, states = encode_hiera(self.segmentor.encoder, pixels)
        return self.decode_pyramid(pyramid, states, first=first)

    def decode_pyramid(self, pyramid: Sequence[Tensor], states: Tensor, *, first: bool) -> FrameFeatures:
        """Run the pixel decoder on the encoder's pyramid, fine to coarse."""
        if first:
            mark = self.segmentor.no_memory_embedding[0, 0, :, None, None]
            pyramid = [features + mark for features in pyramid]
        multi_scale, mask_features = decode_pixels(self.segmentor.pixel_decoder, pyramid)
        return FrameFeatures(multi_scale=multi_scale, mask_features=mask_features, states=states)

    def region_map(self, states: Tensor) -> Tensor:
        """Project encoder states (B, h, w, D) to the (B, D, h / 2, w / 2) map of region tokens."""
        return self.extra_projector(shuffle_grid(states, self.config.downsample_ratio)).permute(0, 3, 1, 2)

    def region_tokens(self, region_map: Tensor, points: Tensor) -> Tensor:
        """Sample (R, D, h, w) maps at (R, N, 2) row/column points: (R, tokens per region, D)."""
        return sample_regions(region_map, points, self.config.sampler)

    def embed(
        self, expanded_ids: Tensor, image_tokens: Tensor | None, regions: Tensor | None = None
    ) -> Tensor:
        """Embed token ids, with visual and region tokens at their placeholders; see `XSamModel.embed`."""
        vocabulary = self.vlm.model.language_model.embed_tokens
        return embed_prompt(vocabulary, expanded_ids, image_tokens, regions)

    def recall(
        self,
        features: FrameFeatures,
        bank: MemoryBank,
        frame: int,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> tuple[Tensor, ...]:
        """Condition a frame's scales on the bank; as they are while it is empty.

        `check` is called before each layer, and may raise.
        """
        if not len(bank):
            return features.multi_scale
        return self.segmentor.memory_attention(features.multi_scale, bank, frame, check=check)

    def remember(
        self, features: FrameFeatures, class_logits: Tensor, mask_logits: Tensor, frame: int
    ) -> MemoryEntry:
        """Encode a decoded frame for the bank.

        Args:
            features: of the frame, not conditioned on the memory.
            class_logits: (B, Q, K + 1), background last.
            mask_logits: (B, Q, H, W) at the resolution of the mask features.
            frame: index of the frame in the video.
        """
        maps = self.segmentor.memory_encoder(features.multi_scale, class_logits, mask_logits)
        return self.segmentor.memory_attention.entry(frame, maps)

    def decoder_memory(self, multi_scale: Sequence[Tensor], mask_features: Tensor) -> DecoderMemory:
        """Compute the part of the mask decoder that depends on the frame and its memory alone."""
        return decoder_memory(self.segmentor.decoder, multi_scale, mask_features)

    def predict(
        self,
        memory: DecoderMemory,
        seg_embeds: Tensor,
        conditions: Tensor,
        condition_valid: Tensor,
        text: PromptText,
    ) -> DecoderStage:
        """Predict masks and classes for P prompts of each frame.

        Args:
            seg_embeds: (B, P, C) projected states at `<SEG>`.
            conditions: (B, P, K, C) mean projected state of each condition's span, padded.
            condition_valid: (B, P, K) bool, False at padding.
            text: projected states of all tokens of the conditions.
        """
        prediction = predict_queries(self.segmentor.decoder, memory, seg_embeds, text)
        return self._classify(prediction, conditions, condition_valid)

    def decode(
        self,
        memory: DecoderMemory,
        seg_embeds: Tensor,
        conditions: Tensor,
        condition_valid: Tensor,
        text: PromptText,
    ) -> list[DecoderStage]:
        """Predict as `predict` does, at every decoder depth (training)."""
        predictions = decode_queries(self.segmentor.decoder, memory, seg_embeds, text)
        return [self._classify(p, conditions, condition_valid) for p in predictions]

    def _classify(
        self, prediction: QueryPrediction, conditions: Tensor, condition_valid: Tensor
    ) -> DecoderStage:
        return classify(
            self.segmentor.class_predictor, self.bg_embeds.weight, prediction, conditions, condition_valid
        )
