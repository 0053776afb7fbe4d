"""Every golden case of X2SAM, block by block in network order: a failure names the first bad block."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from tests.golden.golden_case import RELATIVE, check_close, check_equal
from xsam.config import IMAGE_ID, REGION_ID
from xsam.config.x2sam import X2SamConfig
from xsam.inference.chat_format import clip_text
from xsam.inference.preprocess import segmentation_pixels
from xsam.inference.prompts import Conversation, TokenizedPrompt, mark_positions, tokenize
from xsam.inference.qwen_pixels import clip_patches, fitted_hw, image_patches
from xsam.model.language import cache_prefix, following_states, generate
from xsam.model.mask_decoder import PromptText
from xsam.model.memory import MemoryBank, sine_position
from xsam.model.qwen_vl import VisualTokens, place_deepstack
from xsam.model.x2sam import X2SamModel
from xsam.model.xsam import pad_conditions, span_means
from xsam.weights.tokenizer_files import load_tokenizer
from xsam.weights.weight_files import read_tensors
from xsam.weights.x2sam import MergedTensors, load_x2sam, x2sam_from

FREE_RUNNING = 3e-3  # a video accumulates rounding through thresholded masks
_ROW, _REGION = -1000, -400  # placeholders of the reference


@dataclass(frozen=True)
class X2SamVariant:
    """Folder with one tiny model and its cases."""

    folder: Path

    @functools.cached_property
    def model(self) -> X2SamModel:
        base = self.folder / "base_qwen3vl"
        if not base.is_dir():
            return load_x2sam(self.folder)[0]
        return x2sam_from(X2SamConfig.read(self.folder / "config.json"), self.merged)

    @property
    def merged(self) -> MergedTensors:
        """Merge a model in the released layout into its base model."""
        lora = json.loads((self.folder / "config.json").read_text())["x2sam"]["lora"]
        return MergedTensors(
            read_tensors(self.folder),
            read_tensors(self.folder / "base_qwen3vl"),
            scale=lora["lora_alpha"] / lora["r"],
        )

    @functools.cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.folder / "tokenizer")

    @functools.cache  # noqa: B019 (a few variants, for the whole run)
    def shared(self, kind: str) -> dict[str, Tensor]:
        path = self.folder / f"shared_{kind}.safetensors"
        return load_file(path) if path.exists() else {}

    def image(self, name: str) -> NDArray[np.uint8]:
        return np.asarray(Image.open(self.folder / f"{name}.png").convert("RGB"))


@dataclass(frozen=True)
class X2SamCase:
    """One prompt with its tensors and its entry in `cases.json`."""

    variant: X2SamVariant
    data: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.variant.folder.name}-{Path(self.data['file']).stem}"

    @property
    def is_video(self) -> bool:
        return bool(self.data["task"].startswith("vid_"))

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        shared = self.variant.shared("video" if self.is_video else "image")
        return {**shared, **load_file(self.variant.folder / self.data["file"])}

    @property
    def grid(self) -> tuple[int, int, int]:
        t, h, w = self.tensors[f"in.{'video' if self.is_video else 'image'}_grid_thw"][0].tolist()
        return t, h, w

    @property
    def tokens(self) -> TokenizedPrompt:
        """Tokenize the conversation, which has the tags of Qwen already."""
        turn = self.data["conversations"][0]
        clip = "<|vision_start|><video><|vision_end|>"
        question = turn["input"].replace(clip, clip_text(self.grid[0]))
        prompt = tokenize(
            self.variant.tokenizer,
            Conversation(question=question, answer=turn["output"]),
            separator=turn["sep"],
        )
        merge = self.variant.model.config.vlm.vision_config.spatial_merge_size
        rows = self.grid[1] * self.grid[2] // merge**2
        return prompt.expand(rows, self.variant.model.config.sampler.tokens_per_region)

    def numbered(self, prefix: str) -> list[Tensor]:
        names = [name for name in self.tensors if name.startswith(f"{prefix}.")]
        return [self.tensors[name] for name in sorted(names, key=lambda n: int(n.rsplit(".", 1)[1]))]


def x2sam_root() -> Path:
    here = Path(__file__).parent
    configured = os.environ.get("XSAM_GOLDEN_X2SAM_DIR")
    return Path(configured) if configured else here / "data_x2sam"


def x2sam_cases() -> list[X2SamCase]:
    """Find every case whose tensors are present; folders and files are picked up automatically."""
    cases = []
    for path in sorted(x2sam_root().glob("*/cases.json")):
        variant = X2SamVariant(path.parent)
        listed = json.loads(path.read_text())
        cases += [X2SamCase(variant, data) for data in listed if (path.parent / data["file"]).exists()]
    return cases


CASES = x2sam_cases()
LORA = [v for v in {case.variant for case in CASES} if (v.folder / "merged_linear.safetensors").exists()]


@pytest.mark.skipif(not LORA, reason="no model in the released layout; set XSAM_GOLDEN_X2SAM_DIR")
@pytest.mark.parametrize("variant", LORA or [None], ids=[v.folder.name for v in LORA] or ["none"])
def test_low_rank_updates_are_merged_exactly(variant: X2SamVariant) -> None:
    merged = variant.merged
    for name, expected in load_file(variant.folder / "merged_linear.safetensors").items():
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
@torch.no_grad()
def test_blocks(case: X2SamCase) -> None:
    model, tensors = case.variant.model, case.tensors
    visual = _check_pixels(case)
    ids = torch.from_numpy(case.tokens.input_ids)
    merged = tensors["in.input_ids"][0].clone()
    unexpanded = _expand_regions(merged, model.config.sampler.tokens_per_region)
    check_equal("input ids", _with_our_placeholders(unexpanded), ids)
    embeds = _check_embeds(case, ids, visual)
    split = int((ids == IMAGE_ID).nonzero().max()) + 1
    deepstack = place_deepstack(visual, ids[:split] == IMAGE_ID)
    prefix = cache_prefix(model.llm, embeds[None, :split], deepstack=deepstack)
    if case.data["mode"] == "template":
        (states,) = following_states(model.llm, prefix, [embeds[None, split:]])
        check_close("LLM states", states[0], tensors["mid.llm_hidden"][0, split:])
        cond_ids, seg_ids = (
            torch.from_numpy(array[split:]) for array in (case.tokens.cond_ids, case.tokens.seg_ids)
        )
        _check_decoder(case, model.mlm_projector(states[0]), cond_ids, seg_ids)
    else:
        _check_generation(case, prefix, embeds[split:], ids[split:])


def _expand_regions(ids: Tensor, tokens_per_region: int) -> Tensor:
    return torch.repeat_interleave(ids, torch.where(ids == _REGION, tokens_per_region, 1))


def _with_our_placeholders(ids: Tensor) -> Tensor:
    return torch.where(ids == _ROW, IMAGE_ID, torch.where(ids == _REGION, REGION_ID, ids))


def _check_pixels(case: X2SamCase) -> VisualTokens:
    model, tensors = case.variant.model, case.tensors
    config, vision = model.config, model.config.vlm.vision_config
    step = vision.patch_size * vision.spatial_merge_size
    cut = {"patch": vision.patch_size, "merge": vision.spatial_merge_size}
    if case.is_video:
        frames = [case.variant.image(f"frame{i}") for i in range(case.data["frames_for_llm"])]
        size = fitted_hw(frames[0].shape[:2], config.pixels.video_pixels, step, frames=len(frames))
        patches = clip_patches(frames, size, **cut)
        wanted = tensors.get("in.pixel_values_videos")
    else:
        rgb = case.variant.image("image")
        patches = image_patches(rgb, fitted_hw(rgb.shape[:2], config.pixels.image_pixels, step), **cut)
        wanted = tensors.get("in.pixel_values")
    if wanted is not None:
        check_close("patches", patches, wanted, relative=1e-6)
    visual = model.visual_tokens(patches, case.grid)
    check_close("vision tower", visual.embeds, tensors["mid.vision_embeds"])
    for index, features in enumerate(visual.deepstack):
        check_close(f"deepstack {index}", features, tensors[f"mid.deepstack.{index}"])
    return visual


def _frames(case: X2SamCase) -> Tensor:
    """Return the pixels of SAM 2's branch, (T, 3, S, S)."""
    names = [f"frame{i}" for i in range(case.data["n_frames"])] if case.is_video else ["image"]
    square = case.variant.model.config.square
    pixels = torch.stack([segmentation_pixels(case.variant.image(name), square) for name in names])
    if "in.extra_pixel_values" in case.tensors:
        check_close("pixels of SAM 2", pixels, case.tensors["in.extra_pixel_values"].reshape(pixels.shape))
    return pixels


def _check_embeds(case: X2SamCase, ids: Tensor, visual: VisualTokens) -> Tensor:
    model, tensors = case.variant.model, case.tensors
    regions = None
    if points := case.numbered("rand.points"):
        states = model.encode_frames(_frames(case)[:1], first=True).states
        projected = model.region_map(states)
        expected = tensors["mid.extra_projector"][0, 0]
        check_close("extra projector", projected[0].flatten(1).T, expected)
        regions = model.region_tokens(projected.expand(len(points), -1, -1, -1), torch.stack(points))
        for index, tokens in enumerate(regions):
            check_close(f"region {index}", tokens, tensors[f"mid.region_feats.{index}"])
    embeds = model.embed(ids, visual.embeds, regions)
    if "mid.inputs_embeds" in tensors:
        check_close("merged LLM input", embeds, tensors["mid.inputs_embeds"][0])
    return embeds


def _check_decoder(case: X2SamCase, projected: Tensor, cond_ids: Tensor, seg_ids: Tensor) -> None:
    model, tensors = case.variant.model, case.tensors
    means = span_means(projected[None], [cond_ids])
    check_close("condition embeddings", means[0], tensors["mid.cond_embeds"][0, :-1])
    tokens = projected[cond_ids >= 0]
    check_close("token embeddings", tokens, tensors["mid.token_embeds"][0])
    conditions, valid = pad_conditions(means)
    text = PromptText(tokens=tokens[None, None], valid=torch.ones(1, 1, len(tokens), dtype=torch.bool))
    seg = projected[seg_ids == 0][None]
    check_close("<SEG> embedding", seg, tensors["mid.seg_embeds"])
    bank = MemoryBank(model.config.memory.capacity)
    for frame, pixels in enumerate(_frames(case)):
        name = f"mid.frame{frame}"
        features = model.encode_frames(pixels[None], first=frame == 0)
        for scale, expected in enumerate(case.numbered(f"{name}.pixel")):
            check_close(f"{name} pixel decoder scale {scale}", features.multi_scale[scale], expected)
        check_close(f"{name} mask features", features.mask_features, tensors[f"{name}.mask_features"])
        scales = model.recall(features, bank, frame)
        if frame:
            check_equal(
                f"{name} frames in the bank", torch.tensor(bank.frames), tensors[f"{name}.bank_frames"]
            )
        limit = FREE_RUNNING if frame else RELATIVE
        for scale, expected in enumerate(case.numbered(f"{name}.memory_attention")):
            tokens_of_scale = scales[scale].flatten(2).transpose(1, 2)[None]
            check_close(f"{name} memory attention {scale}", tokens_of_scale, expected, relative=limit)
        memory = model.decoder_memory(scales, features.mask_features)
        stage = model.predict(memory, seg, conditions[None], valid[None], text)
        check_close(
            f"{name} class logits",
            stage.class_logits[0, 0],
            tensors["out.class_logits"][frame],
            relative=limit,
        )
        check_close(
            f"{name} mask logits",
            stage.mask_logits[0, 0],
            tensors["out.mask_logits_low"][frame],
            relative=limit,
        )
        maps = model.segmentor.memory_encoder(
            features.multi_scale, stage.class_logits[:, 0], stage.mask_logits[:, 0]
        )
        for scale, expected in enumerate(case.numbered(f"{name}.memory_encoder")):
            check_close(f"{name} memory encoder {scale}", maps[scale], expected, relative=FREE_RUNNING)
        bank.push(model.segmentor.memory_attention.entry(frame, maps))
        if frame == 0:
            check_close("position of a memory", sine_position(maps[0]), tensors["mid.memory_position"])
    if "out.mask_logits" in tensors:
        expected = tensors["out.mask_logits"]
        masks = F.interpolate(
            stage.mask_logits[0], size=expected.shape[-2:], mode="bilinear", align_corners=False
        )
        check_close("upsampled mask logits", masks, expected, relative=limit)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
@torch.no_grad()
def test_memory_blocks_given_the_inputs_of_the_reference(case: X2SamCase) -> None:
    model, tensors = case.variant.model, case.tensors
    bank = MemoryBank(model.config.memory.capacity)
    for frame in range(case.data["n_frames"]):
        name = f"mid.frame{frame}"
        stored = tuple(case.numbered(f"{name}.memory_encoder"))
        if not stored:
            continue
        pixel = tuple(case.numbered(f"{name}.pixel"))
        logits = (
            tensors["out.class_logits"][frame : frame + 1],
            tensors["out.mask_logits_low"][frame : frame + 1],
        )
        for scale, actual in enumerate(model.segmentor.memory_encoder(pixel, *logits)):
            check_close(f"{name} memory encoder {scale}", actual, stored[scale])
        expected = case.numbered(f"{name}.memory_attention")
        if expected:
            conditioned = model.segmentor.memory_attention(pixel, bank, frame)
            for scale, actual in enumerate(conditioned):
                tokens = actual.flatten(2).transpose(1, 2)[None]
                check_close(f"{name} memory attention {scale}", tokens, expected[scale])
        bank.push(model.segmentor.memory_attention.entry(frame, stored))


def _check_generation(case: X2SamCase, prefix: Any, embeds: Tensor, ids: Tensor) -> None:
    model, tokenizer, tensors = case.variant.model, case.variant.tokenizer, case.tensors
    expected = tensors["out.sequences"][0].tolist()
    generated = generate(
        model.llm,
        embeds,
        max_new_tokens=len(expected),
        stop_ids=(),
        forced_ids=None if case.data["mode"] == "generate" else expected,
        prefix=prefix,
    )
    assert generated.token_ids == expected
    states = generated.hidden_states
    wanted = tensors["mid.llm_hidden"][0, prefix.length :]
    check_close("LLM states of the generated tokens", states[: len(wanted)], wanted[: len(states)])
    if "out.class_logits" not in tensors:
        return
    everything = torch.cat([ids, torch.tensor(generated.token_ids)])[: len(states)]
    # Phrases of the answer, if there are any, replace those of the question.
    question, answer = everything.clone(), everything.clone()
    opened = tokenizer.convert_tokens_to_ids("<p>")
    if bool((everything[len(ids) :] == opened).any()):
        answer[: len(ids)] = -1
    cond_ids, seg_ids = mark_positions(tokenizer, answer.numpy())
    assert question.shape == answer.shape
    _check_decoder(case, model.mlm_projector(states), torch.from_numpy(cond_ids), torch.from_numpy(seg_ids))
