"""What the two families of networks do differently between an image and its masks.

`ForwardPass` knows neither: it prepares prompts, encodes the frame, reads prompts after a cached prefix, and
decodes. A family provides these steps for one kind of network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from xsam.config import IMAGE_ID
from xsam.inference.frame_cache import EncodedFrame
from xsam.inference.inputs import Grid, ImageInputs, PromptInputs, X2SamInputs, XSamInputs
from xsam.model.language import LanguageModel, PrefixCache, cache_prefix
from xsam.model.mask_decoder import DecoderMemory, PromptText
from xsam.model.memory import MemoryBank, MemoryEntry
from xsam.model.qwen_vl import VisualTokens, place_deepstack
from xsam.model.x2sam import FrameFeatures, X2SamModel
from xsam.model.xsam import DecoderStage, XSamModel, pad_conditions, span_means

Network: TypeAlias = "XSamModel | X2SamModel"

PREFIX_ROOM = 320  # positions allocated behind the image's: enough for eight short prompts


def copied_to(device: torch.device, numbers: NDArray[Any]) -> Tensor:
    """Copy an array to a device, without waiting for what a GPU has yet to do."""
    return torch.from_numpy(numbers).to(device, non_blocking=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpans:
    """Where in a text the states are that the decoder reads, on the devices where that is needed."""

    used: Tensor  # (U,) positions in the text
    in_condition: Tensor  # (U,) index of the condition of each, or −1
    of_conditions: Tensor  # (N,) which of them are in conditions
    conditions: int
    seg: int  # which of them is `<SEG>`

    @classmethod
    def of(
        cls,
        cond_ids: NDArray[np.int64],
        seg_ids: NDArray[np.int64],
        *,
        text_device: torch.device,
        device: torch.device,
    ) -> TextSpans:
        """Build the spans of a text from the condition and the `<SEG>` of each position, or −1 (L,)."""
        used = np.flatnonzero((cond_ids >= 0) | (seg_ids == 0))
        in_condition = cond_ids[used]
        return cls(
            used=copied_to(text_device, used),
            in_condition=copied_to(device, in_condition),
            of_conditions=copied_to(device, np.flatnonzero(in_condition >= 0)),
            conditions=int(in_condition.max()) + 1,
            seg=int(np.flatnonzero(seg_ids[used] == 0)[0]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStates:
    """Projected states of one prompt that the decoder reads."""

    seg: Tensor  # (C,) at `<SEG>`
    conditions: Tensor  # (K, C) mean over each condition's span
    tokens: Tensor  # (N, C) at every token of the spans, in order

    @classmethod
    def of(cls, family: Family, states: Tensor, spans: TextSpans) -> PromptStates:
        """Project states of a text (L, D) at its spans; no others are used."""
        projected = family.project(states[spans.used].to(family.network.device))
        return cls(
            seg=projected[spans.seg],
            conditions=span_means(projected[None], [spans.in_condition], counts=[spans.conditions])[0],
            tokens=projected[spans.of_conditions],
        )


class Family(ImageInputs, Protocol):
    """Steps of one kind of network; all tensors have a batch of one frame."""

    @property
    def video(self) -> VideoFamily | None:
        """The family, if its networks remember the frames of a video."""
        ...

    @property
    def network(self) -> Network: ...

    @property
    def llm(self) -> LanguageModel: ...

    def encode(self, pixels: tuple[Any, ...], *, compiled: bool) -> EncodedFrame:
        """Compute what depends on the frame alone, except the prefix."""
        ...

    def prefix(self, encoded: EncodedFrame, ids: Tensor) -> PrefixCache:
        """Run the language model on ids (T,) up to the last image token."""
        ...

    def embed(self, encoded: EncodedFrame, ids: Tensor, points: Tensor | None) -> Tensor:
        """Embed ids (L,) of what follows the image; regions are sampled at (R, N, 2) points."""
        ...

    def project(self, states: Tensor) -> Tensor:
        """Project states (L, D) of the language model for the decoder: (L, C)."""
        ...

    def decode(self, encoded: EncodedFrame, prompts: Sequence[PromptStates]) -> DecoderStage:
        """Predict masks and classes for several prompts."""
        ...


class VideoFamily(Family, Protocol):
    """Further steps of networks with a memory of earlier frames."""

    def session_nbytes(self, text_tokens: int) -> int:
        """Return the most bytes that a session takes, from the configuration.

        Args:
            text_tokens: upper bound of the tokens of its conditions.
        """
        ...

    def new_bank(self) -> MemoryBank:
        """Return the memory of a new video."""
        ...

    def encode_step(self, pixels: tuple[Any, ...], *, first: bool) -> FrameFeatures:
        """Encode a frame of a video for the decoder, before any memory is read."""
        ...

    def look(self, pixels: tuple[Any, ...], features: FrameFeatures) -> EncodedFrame:
        """Compute what a language model that is to read the frame needs; it has no memory to decode with."""
        ...

    def of_clip(self, count: int) -> PromptInputs:
        """Return how a clip of `count` frames is shown to the language model."""
        ...

    def look_at_clip(self, frames: Sequence[NDArray[np.uint8]], first: FrameFeatures) -> EncodedFrame:
        """Compute what a language model that is to read a whole clip needs.

        Args:
            frames: images (H, W, 3) of one size.
            first: features of the first one, which regions belong to.
        """
        ...

    def recall(
        self, features: FrameFeatures, bank: MemoryBank, index: int, *, check: Callable[[], None]
    ) -> EncodedFrame:
        """Condition a frame on the frames in a bank, for the decoder.

        Args:
            features: of the frame.
            bank: memory of the video; empty for its first frame.
            index: of the frame in the video.
            check: called between layers; may raise.
        """
        ...

    def remember(self, features: FrameFeatures, decoded: DecoderStage, index: int) -> MemoryEntry:
        """Encode a frame that was decoded for one prompt, for the bank."""
        ...


class XSamFamily(XSamInputs):
    """X-SAM: SigLIP and SAM, with Phi-3 or Qwen3."""

    video: VideoFamily | None = None

    def __init__(self, model: XSamModel) -> None:
        super().__init__(model.config)
        self.model = model

    @property
    def network(self) -> XSamModel:
        return self.model

    @property
    def llm(self) -> LanguageModel:
        return self.model.llm

    def encode(self, pixels: tuple[Any, ...], *, compiled: bool) -> EncodedFrame:
        model = self.model
        inputs = [tensor[None].to(model.device, model.dtype, non_blocking=True) for tensor in pixels]
        features = model.encode_image(*inputs) if compiled else XSamModel.encode_image(model, *inputs)
        return EncodedFrame(
            image_tokens=features.image_tokens,
            region_map=features.region_map,
            memory=model.decoder_memory(features),
        )

    def prefix(self, encoded: EncodedFrame, ids: Tensor) -> PrefixCache:
        assert encoded.image_tokens is not None
        embeds = self.model.embed(ids, encoded.image_tokens[0])
        return cache_prefix(self.model.llm, embeds[None], room=PREFIX_ROOM)

    def embed(self, encoded: EncodedFrame, ids: Tensor, points: Tensor | None) -> Tensor:
        regions = None
        if points is not None:
            regions = self.model.region_tokens(encoded.region_map.expand(len(points), -1, -1, -1), points)
        return self.model.embed(ids, None, regions)

    def project(self, states: Tensor) -> Tensor:
        projected: Tensor = self.model.llm_projector(states)
        return projected

    def decode(self, encoded: EncodedFrame, prompts: Sequence[PromptStates]) -> DecoderStage:
        conditions, valid = pad_conditions([prompt.conditions for prompt in prompts])
        seg = torch.stack([prompt.seg for prompt in prompts])
        return self.model.predict(encoded.memory, seg[None], conditions[None], valid[None])


class X2SamFamily(X2SamInputs):
    """X2SAM: Qwen3-VL and SAM 2; a frame is an image, without memory of earlier ones."""

    def __init__(self, model: X2SamModel) -> None:
        super().__init__(model.config)
        self.model = model

    @property
    def video(self) -> VideoFamily | None:
        return self

    @property
    def network(self) -> X2SamModel:
        return self.model

    @property
    def llm(self) -> LanguageModel:
        return self.model.llm

    def encode(self, pixels: tuple[Any, ...], *, compiled: bool) -> EncodedFrame:
        model = self.model
        patches, grid, square = pixels
        visual = model.visual_tokens(patches.to(model.device, model.dtype), grid)
        inputs = square[None].to(model.device, model.dtype)
        features = (
            model.encode_frames(inputs, first=True)
            if compiled
            else X2SamModel.encode_frames(model, inputs, first=True)
        )
        return EncodedFrame(
            image_tokens=visual.embeds[None],
            deepstack=visual.deepstack,
            region_map=features.states,
            memory=model.decoder_memory(features.multi_scale, features.mask_features),
        )

    def session_nbytes(self, text_tokens: int) -> int:
        config, size = self.model.config, self.model.dtype.itemsize
        memory = config.memory
        coarsest = config.square.side // (config.sam2.backbone_config.patch_stride[0] * 4)
        entry = memory.attention_layers * len(memory.feature_strides) * 2 * coarsest**2 * memory.channels
        # One entry more while a frame is segmented; states at tokens, their means, and two of `<SEG>`.
        return int(((memory.capacity + 1) * entry + 2 * (text_tokens + 1) * memory.channels) * size)

    def new_bank(self) -> MemoryBank:
        return MemoryBank(self.model.config.memory.capacity)

    def encode_step(self, pixels: tuple[Any, ...], *, first: bool) -> FrameFeatures:
        model = self.model
        return model.encode_frames(pixels[2][None].to(model.device, model.dtype), first=first)

    def look(self, pixels: tuple[Any, ...], features: FrameFeatures) -> EncodedFrame:
        return self._look(pixels[0], pixels[1], features)

    def look_at_clip(self, frames: Sequence[NDArray[np.uint8]], first: FrameFeatures) -> EncodedFrame:
        return self._look(*self.clip_patches(frames), first)

    def _look(self, patches: Tensor, grid: Grid, features: FrameFeatures) -> EncodedFrame:
        model = self.model
        visual = model.visual_tokens(patches.to(model.device, model.dtype), grid)
        nothing = DecoderMemory(
            keys=(), values=(), mask_features=features.mask_features, level_mask_features=()
        )
        return EncodedFrame(
            image_tokens=visual.embeds[None],
            deepstack=visual.deepstack,
            region_map=features.states,
            memory=nothing,
        )

    def recall(
        self, features: FrameFeatures, bank: MemoryBank, index: int, *, check: Callable[[], None]
    ) -> EncodedFrame:
        scales = self.model.recall(features, bank, index, check=check)
        memory = self.model.decoder_memory(scales, features.mask_features)
        return EncodedFrame(image_tokens=None, region_map=features.states, memory=memory)

    def remember(self, features: FrameFeatures, decoded: DecoderStage, index: int) -> MemoryEntry:
        return self.model.remember(features, decoded.class_logits[:, 0], decoded.mask_logits[:, 0], index)

    def prefix(self, encoded: EncodedFrame, ids: Tensor) -> PrefixCache:
        assert encoded.image_tokens is not None
        embeds = self.model.embed(ids, encoded.image_tokens[0])
        visual = VisualTokens(embeds=encoded.image_tokens[0], deepstack=encoded.deepstack)
        deepstack = [layer.to(embeds) for layer in place_deepstack(visual, ids == IMAGE_ID)]
        return cache_prefix(self.model.llm, embeds[None], room=PREFIX_ROOM, deepstack=deepstack)

    def embed(self, encoded: EncodedFrame, ids: Tensor, points: Tensor | None) -> Tensor:
        regions = None
        if points is not None:
            region_map = self.model.region_map(encoded.region_map)
            regions = self.model.region_tokens(region_map.expand(len(points), -1, -1, -1), points)
        return self.model.embed(ids, None, regions)

    def project(self, states: Tensor) -> Tensor:
        projected: Tensor = self.model.mlm_projector(states)
        return projected

    def decode(self, encoded: EncodedFrame, prompts: Sequence[PromptStates]) -> DecoderStage:
        conditions, valid = pad_conditions([prompt.conditions for prompt in prompts])
        tokens = pad_sequence([prompt.tokens for prompt in prompts], batch_first=True)
        present = [torch.ones(len(p.tokens), dtype=torch.bool, device=tokens.device) for p in prompts]
        text = PromptText(tokens=tokens[None], valid=pad_sequence(present, batch_first=True)[None])
        seg = torch.stack([prompt.seg for prompt in prompts])
        return self.model.predict(encoded.memory, seg[None], conditions[None], valid[None], text)


def family_of(model: nn.Module) -> XSamFamily | X2SamFamily:
    """Return the family that a network belongs to."""
    if isinstance(model, X2SamModel):
        return X2SamFamily(model)
    assert isinstance(model, XSamModel)
    return XSamFamily(model)
