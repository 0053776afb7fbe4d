"""The same weights run the way the reference runs them: the baseline of every ratio.

Each prompt encodes both images again, with the last SigLIP layer, its pooling head, the SAM neck and eager
SAM attention; the pixel decoder samples with `grid_sample`; the template is generated token by token with
the hidden states of all layers kept; every token goes through the projector; all masks are upsampled to
the encoder's square and again to the camera image before one is picked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from support.stock import stock_language, stock_pixel_decoder, stock_sam, stock_siglip
from xsam.inference.chat_format import chat_format
from xsam.inference.postprocess import probabilities
from xsam.inference.preprocess import segmentation_pixels, vision_pixels
from xsam.inference.prompts import conversation_for, tokenize
from xsam.inference.upsample import MaskGeometry
from xsam.model.projectors import shuffle_grid
from xsam.model.xsam import ImageFeatures, XSamModel, pad_conditions, span_means
from xsam.types.masks import MaskRle
from xsam.types.requests import Query


class PlainXSam:
    """Segmenter for one referring prompt at a time, without any of the engine's shortcuts."""

    def __init__(self, model: XSamModel, tokenizer: Any, clock: Callable[[], float]) -> None:
        self._model = model
        self._clock = clock
        self._tokenizer = tokenizer
        # In float32, as in the reference: the stock class gives NaN in bfloat16.
        self._pixel_decoder = stock_pixel_decoder(model).float()
        self._vision_encoder, self._sam = stock_siglip(model), stock_sam(model)
        self._llm = stock_language(model.llm)
        self.stages_s: dict[str, float] = {}

    @torch.inference_mode()
    def segment(self, rgb: NDArray[np.uint8], phrase: str) -> tuple[MaskRle, float]:
        """Return the mask and score of the query that fits the phrase best."""
        model, self.stages_s = self._model, {}
        with self._stage("preprocess"):
            tokens = tokenize(
                self._tokenizer, conversation_for(Query(text=phrase)), chat_format(model.config)
            ).expand(model.config.num_image_tokens, model.config.sampler.tokens_per_region)
            pixels = self._pixels(rgb)
        with self._stage("encode"):
            features = self._encode(*pixels)
        with self._stage("language"):
            states = self._read_and_generate(features, tokens.input_ids, tokens.answer_start)
            projected = model.llm_projector(states)
        with self._stage("decode"):
            conditions, valid = pad_conditions(
                span_means(
                    projected, [torch.from_numpy(tokens.cond_ids[: projected.shape[1]]).to(model.device)]
                )
            )
            seg_embed = projected[:, int(np.flatnonzero(tokens.seg_ids == 0)[0])]
            decoded = model.decode(features, seg_embed[:, None], conditions[None], valid[None])[-1]
        with self._stage("postprocess"):
            geometry = MaskGeometry.for_image((rgb.shape[0], rgb.shape[1]), model.config.square)
            masks = geometry.upsample(decoded.mask_logits[0, 0])
            scores, queries = probabilities(decoded.class_logits[0, 0]).max(dim=0)
            best = masks[int(queries[0])].sigmoid() > 0.5
            return MaskRle.encode(best.cpu().numpy()), float(scores[0])

    @torch.inference_mode()
    def seconds_per_token(self, rgb: NDArray[np.uint8], count: int) -> float:
        """Return the seconds per generated token after the prompt has been read."""
        model = self._model
        features = self._encode(*self._pixels(rgb))
        cache, step = DynamicCache(config=model.config.llm), features.image_tokens
        kept = []
        start = 0.0
        for index in range(count + 1):
            out = self._llm.model(
                inputs_embeds=step, past_key_values=cache, use_cache=True, output_hidden_states=True
            )
            kept.append(out.hidden_states)
            token = self._llm.lm_head(out.last_hidden_state[:, -1]).argmax(dim=-1)
            step = self._llm.model.embed_tokens(token[None])
            if index == 0:
                start = self._clock()
        return (self._clock() - start) / count

    def _pixels(self, rgb: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        model = self._model
        vision, seg = vision_pixels(rgb, model.config), segmentation_pixels(rgb, model.config.square)
        return vision[None].to(model.device, model.dtype), seg[None].to(model.device, model.dtype)

    def _encode(self, vision: Tensor, seg: Tensor) -> ImageFeatures:
        model, config = self._model, self._model.config
        state = self._vision_encoder(vision, output_hidden_states=True).hidden_states[
            config.visual_select_layer
        ]
        states = self._sam(seg, output_hidden_states=True).hidden_states
        pyramid = model.seg_connector([states[index] for index in config.connector_layers])
        pixel = self._pixel_decoder([level.float() for level in pyramid])
        top = shuffle_grid(states[config.visual_select_layer], config.downsample_ratio)
        return ImageFeatures(
            visual_tokens=model.visual_projector(state),
            seg_tokens=model.seg_projector(top.flatten(1, 2)),
            pyramid=tuple(pyramid),
            multi_scale=tuple(level.to(model.dtype) for level in pixel.multi_scale_features),
            mask_features=pixel.mask_features.to(model.dtype),
        )

    def _read_and_generate(
        self, features: ImageFeatures, input_ids: NDArray[np.int64], answer_start: int
    ) -> Tensor:
        """Return the last hidden states of prompt and template; the template is read token by token."""
        llm = self._llm
        ids = torch.from_numpy(input_ids).to(self._model.device)
        embeds = self._model.embed(ids[:answer_start], features.image_tokens[0])[None]
        cache, kept = DynamicCache(config=llm.config), []
        for position in range(answer_start, len(ids) + 1):
            out = llm.model(
                inputs_embeds=embeds, past_key_values=cache, use_cache=True, output_hidden_states=True
            )
            kept.append(out.hidden_states)
            llm.lm_head(out.last_hidden_state[:, -1]).argmax(dim=-1)
            if position < len(ids):  # weights may be random, so use the template's token, not the likeliest
                embeds = llm.model.embed_tokens(ids[position : position + 1])[None]
        return torch.cat([states[-1] for states in kept], dim=1)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = self._clock()
        yield
        self.stages_s[name] = self._clock() - start
