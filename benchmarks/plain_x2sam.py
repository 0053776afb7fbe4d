"""X2SAM's weights run the way the reference runs them; see `benchmarks.plain` for X-SAM's.

Each prompt encodes the image, or every frame of the clip, again. The template is generated token by token
with the hidden states of all layers kept, and every token goes through the projector, the prompt's twice. The
region projector runs on every frame, the pixel decoder samples with `grid_sample`, every depth of the mask
decoder is predicted and classified, and every frame is encoded for the memory, with its mask map computed
for each scale. Keys and values of all remembered frames are projected for every frame. All masks are
upsampled to the encoder's square and again to the camera image before one is picked. As in the reference's
settings, no attention map is written to memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from support.stock import stock_pixel_decoder
from xsam.config import IMAGE_ID
from xsam.inference.chat_format import X2SAM_CHAT, clip_text
from xsam.inference.postprocess import probabilities
from xsam.inference.preprocess import segmentation_pixels
from xsam.inference.prompts import Conversation, conversation_for, tokenize
from xsam.inference.qwen_pixels import clip_patches, fitted_hw, image_patches
from xsam.inference.upsample import MaskGeometry
from xsam.model.hiera import encode_hiera
from xsam.model.mask_decoder import PromptText
from xsam.model.memory import axial_rotation, gap_code, rotate, sine_position
from xsam.model.x2sam import X2SamModel
from xsam.model.xsam import DecoderStage, span_means
from xsam.types.masks import MaskRle
from xsam.types.requests import Query

_Rgb = NDArray[np.uint8]


class PlainX2Sam:
    """Segmenter for one referring prompt at a time, without any of the engine's shortcuts."""

    def __init__(self, model: X2SamModel, tokenizer: Any, clock: Callable[[], float]) -> None:
        self._model = model
        self._clock = clock
        self._tokenizer = tokenizer
        self._pixel_decoder = stock_pixel_decoder(model).float()
        self.stages_s: dict[str, float] = {}

    def segment(self, rgb: _Rgb, phrase: str) -> tuple[MaskRle, float]:
        """Return the mask and score of the query that fits the phrase best."""
        vision = self._model.config.vlm.vision_config
        step = vision.patch_size * vision.spatial_merge_size
        size = fitted_hw((rgb.shape[0], rgb.shape[1]), self._model.config.pixels.image_pixels, step)
        patches = image_patches(rgb, size, patch=vision.patch_size, merge=vision.spatial_merge_size)
        return self._run(
            [rgb], phrase, patches, (1, size[0] // vision.patch_size, size[1] // vision.patch_size)
        )[0]

    def segment_clip(self, frames: Sequence[_Rgb], phrase: str) -> list[tuple[MaskRle, float]]:
        """Return the best mask and its score for every frame of a clip, which is read whole."""
        vision = self._model.config.vlm.vision_config
        step = vision.patch_size * vision.spatial_merge_size
        image_hw = (frames[0].shape[0], frames[0].shape[1])
        size = fitted_hw(image_hw, self._model.config.pixels.video_pixels, step, frames=len(frames))
        patches = clip_patches(frames, size, patch=vision.patch_size, merge=vision.spatial_merge_size)
        height, width = size[0] // vision.patch_size, size[1] // vision.patch_size
        return self._run(frames, phrase, patches, (len(patches) // (height * width), height, width))

    @torch.inference_mode()
    def _run(
        self, frames: Sequence[_Rgb], phrase: str, patches: Tensor, grid: tuple[int, int, int]
    ) -> list[tuple[MaskRle, float]]:
        model, self.stages_s = self._model, {}
        with self._stage("preprocess"):
            pixels = [segmentation_pixels(rgb, model.config.square)[None].to(model.dtype) for rgb in frames]
            tokens = self._tokens(phrase, grid, is_clip=len(frames) > 1)
        with self._stage("encode"):
            encoded = [self._encode(square) for square in pixels]
            visual = model.visual_tokens(patches.to(model.dtype), grid)
        with self._stage("language"):
            states = self._read_and_generate(visual, tokens.input_ids, tokens.answer_start)
            model.mlm_projector(states[:, : tokens.answer_start])
            projected = model.mlm_projector(states)
        with self._stage("decode"):
            decoded = self._decode(encoded, projected, tokens)
        with self._stage("postprocess"):
            geometry = MaskGeometry.for_image((frames[0].shape[0], frames[0].shape[1]), model.config.square)
            logits = torch.cat([stage.mask_logits[:, 0] for stage in decoded])
            side = (model.config.square.side, model.config.square.side)
            kept = F.interpolate(logits, size=side, mode="bilinear", align_corners=False)
            results = []
            for stage, masks in zip(decoded, kept, strict=True):
                upsampled = geometry.upsample(masks).sigmoid()
                scores, queries = probabilities(stage.class_logits[0, 0]).max(dim=0)
                best = upsampled[int(queries[0])] > 0.5
                results.append((MaskRle.encode(best.numpy()), float(scores[0])))
            return results

    @torch.inference_mode()
    def seconds_per_token(self, rgb: _Rgb, count: int) -> float:
        """Return the seconds per generated token after the prompt has been read."""
        text = self._model.vlm.model.language_model
        step = torch.randn(1, 300, text.config.hidden_size, dtype=self._model.dtype)
        cache, kept, start = DynamicCache(config=text.config), [], 0.0
        for index in range(count + 1):
            hidden, all_states = self._language(step, cache)
            kept.append(all_states)
            token = self._model.vlm.lm_head(text.norm(hidden[:, -1])).argmax(dim=-1)
            step = text.embed_tokens(token[None])
            if index == 0:
                start = self._clock()
        return (self._clock() - start) / count

    def _tokens(self, phrase: str, grid: tuple[int, int, int], *, is_clip: bool) -> Any:
        conversation = conversation_for(Query(text=phrase))
        if is_clip:
            question = X2SAM_CHAT.translate(conversation.question).replace(
                X2SAM_CHAT.image, clip_text(grid[0]), 1
            )
            conversation = Conversation(
                question=question.replace(" image", " video"), answer=conversation.answer
            )
        config = self._model.config
        rows = grid[1] * grid[2] // config.vlm.vision_config.spatial_merge_size**2
        return tokenize(self._tokenizer, conversation, X2SAM_CHAT).expand(
            rows, config.sampler.tokens_per_region
        )

    def _encode(self, square: Tensor) -> list[Tensor]:
        pyramid, states = encode_hiera(self._model.segmentor.encoder, square)
        self._model.region_map(states)  # read by no prompt without regions
        return list(pyramid)

    def _read_and_generate(self, visual: Any, input_ids: NDArray[np.int64], answer_start: int) -> Tensor:
        """Return the states of prompt and template before the final norm."""
        ids = torch.from_numpy(input_ids)
        text = self._model.vlm.model.language_model
        step = self._model.embed(ids[:answer_start], visual.embeds)[None]
        cache, kept, states = DynamicCache(config=text.config), [], []
        where = (ids[:answer_start] == IMAGE_ID)[None]
        for position in range(answer_start, len(ids) + 1):
            first = position == answer_start
            hidden, all_states = self._language(
                step, cache, where if first else None, visual.deepstack if first else ()
            )
            states.append(hidden)
            kept.append(all_states)
            self._model.vlm.lm_head(text.norm(hidden[:, -1])).argmax(dim=-1)
            if position < len(ids):  # weights may be random, so use the template's token, not the likeliest
                step = text.embed_tokens(ids[position : position + 1])[None]
        return torch.cat(states, dim=1)

    def _language(
        self, step: Tensor, cache: DynamicCache, where: Tensor | None = None, deepstack: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the stock text model; return the state before the final norm, and the outputs of all layers."""
        text, outputs, seen = self._model.vlm.model.language_model, [], cache.get_seq_length()

        def keep(_: Any, __: Any, output: Tensor) -> None:
            outputs.append(output)

        hooks = [layer.register_forward_hook(keep) for layer in text.layers]
        before_norm = text.norm.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
        try:
            text(
                inputs_embeds=step,
                past_key_values=cache,
                use_cache=True,
                position_ids=torch.arange(seen, seen + step.shape[1])[None],
                visual_pos_masks=where,
                deepstack_visual_embeds=list(deepstack) or None,
            )
        finally:
            for hook in (*hooks, before_norm):
                hook.remove()
        return outputs[-1], outputs

    def _decode(self, encoded: Sequence[list[Tensor]], projected: Tensor, tokens: Any) -> list[DecoderStage]:
        model = self._model
        cond_ids = torch.from_numpy(tokens.cond_ids[: projected.shape[1]])
        conditions = span_means(projected, [cond_ids])[0][None, None]
        text = PromptText(
            tokens=projected[:, cond_ids >= 0][:, None],
            valid=torch.ones(1, 1, int((cond_ids >= 0).sum()), dtype=torch.bool),
        )
        seg = projected[:, [int(np.flatnonzero(tokens.seg_ids == 0)[0])]]
        valid = torch.ones(1, 1, 1, dtype=torch.bool)
        mark = model.segmentor.no_memory_embedding[0, 0, :, None, None]
        bank: list[tuple[int, list[Tensor]]] = []
        answers = []
        for frame, pyramid in enumerate(encoded):
            marked = [level + mark for level in pyramid] if frame == 0 else pyramid
            pixel = self._pixel_decoder([level.float() for level in marked])
            scales = [level.to(model.dtype) for level in pixel.multi_scale_features]
            conditioned = (
                [self._remembered(s, i, bank, frame) for i, s in enumerate(scales)] if bank else scales
            )
            memory = model.decoder_memory(conditioned, pixel.mask_features.to(model.dtype))
            answer = model.decode(memory, seg, conditions, valid, text)[-1]
            answers.append(answer)
            maps = [self._encode_scale(scale, index, answer) for index, scale in enumerate(scales)]
            bank = [*bank, (frame, maps)][-model.config.memory.capacity :]
        return answers

    def _encode_scale(self, scale: Tensor, index: int, answer: DecoderStage) -> Tensor:
        """Encode one scale for the memory, with a mask map of its own."""
        encoder: Any = self._model.segmentor.memory_encoder
        logits = answer.mask_logits[:, 0]
        chance = answer.class_logits[:, 0].softmax(dim=-1)[..., :-1].amax(dim=-1)
        weights = (logits + chance.clamp_min(1e-6).log()[..., None, None]).softmax(dim=1)
        union = (weights * logits.sigmoid()).sum(dim=1, keepdim=True)
        mask = encoder.mask_downsampler(encoder.scale * union + encoder.bias)
        seen = encoder.vision_downsampler[index](scale)
        encoded: Tensor = encoder.projection(encoder.memory_fuser(seen + mask))
        return encoded

    def _remembered(
        self, scale: Tensor, index: int, bank: Sequence[tuple[int, list[Tensor]]], frame: int
    ) -> Tensor:
        """Condition one scale on the bank; every layer projects all of the memory."""
        module: Any = self._model.segmentor.memory_attention
        height, width = scale.shape[-2:]
        x = (scale + 0.1 * sine_position(scale)).flatten(2).transpose(1, 2)
        rotation = axial_rotation(height, width, scale.shape[1], like=scale)
        values = torch.cat([maps[index].flatten(2).transpose(1, 2) for _, maps in bank], dim=1)
        positions = [
            sine_position(maps[index]).flatten(2).transpose(1, 2)
            + gap_code(frame - of, scale.shape[1], like=scale)
            for of, maps in bank
        ]
        keys = values + torch.cat(positions, dim=1)
        for layer in module.layers:
            own, cross = layer.self_attn, layer.cross_attn
            normed = layer.layer_norm1(x)
            x = x + own.attend(
                rotate(own.q_proj(normed), rotation), rotate(own.k_proj(normed), rotation), own.v_proj(normed)
            )
            query = rotate(cross.q_proj(layer.layer_norm2(x)), rotation)
            x = x + cross.attend(query, cross.k_proj(keys), cross.v_proj(values))
            x = x + layer.linear2(F.relu(layer.linear1(layer.layer_norm3(x))))
        conditioned: Tensor = module.layer_norm(x).transpose(1, 2).unflatten(2, (height, width))
        return conditioned

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = self._clock()
        yield
        self.stages_s[name] = self._clock() - start
