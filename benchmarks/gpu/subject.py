"""What the parts measure: a network on the device, its engine, frames, and how to take times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.runner import Settings
from benchmarks.random_weights import random_model
from benchmarks.sizes import mid_config
from xsam.config import full_config
from xsam.engine import XSam
from xsam.inference.options import check_options
from xsam.inference.stages import StageClock
from xsam.model.xsam import XSamModel
from xsam.sim import render, sample_scene
from xsam.train.tokenizer import build_tiny_tokenizer
from xsam.types.deadline import Deadline
from xsam.types.requests import Frame, Query
from xsam.weights.checkpoint import load_checkpoint, resolve_model

IMAGE_SIZES = {"480p": (480, 640), "1080p": (1080, 1920)}
PHRASES = (
    "the red mug",
    "a red cup",
    "a green ball",
    "the largest bowl",
    "a blue cube",
    "the yellow banana",
    "a pair of scissors",
    "the box",
)


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """A network and what is measured with it."""

    model: XSamModel
    tokenizer: Any
    device: torch.device
    name: str

    def engine(self) -> XSam:
        """Return an engine that has seen no frame."""
        return XSam(self.model, self.tokenizer, model_id=self.name)

    def sync(self) -> None:
        """Wait until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], *, repeat: int, warm_up: int = 1) -> float:
        """Return the median of the seconds that `work` takes, with the device idle before and after."""
        for _ in range(warm_up):
            work()
        times = []
        for _ in range(repeat):
            self.sync()
            began = time.perf_counter()
            work()
            self.sync()
            times.append(time.perf_counter() - began)
        return median(times)


class Frames:
    """Source of frames, no two of which are the same."""

    def __init__(self, image_hw: tuple[int, int] = IMAGE_SIZES["480p"]) -> None:
        self._scene = render(sample_scene(0), image_hw=image_hw).rgb
        self._count = 0

    def next(self) -> NDArray[np.uint8]:
        """Return another frame."""
        self._count += 1
        rgb = self._scene.copy()
        rgb[0, 0] = (self._count // 256, self._count % 256, 1)
        return rgb


def device_of(settings: Settings) -> torch.device:
    """Return the device.

    Raises:
        InvalidOptionError: this machine has no such device.
    """
    device: torch.device = check_options({"device": settings.device})["device"]
    return device


def subject_of(settings: Settings, *, dtype: torch.dtype | None = None) -> MeasuredModel:
    """Build the network in the type that the engine chooses for the device, or in another one."""
    device = device_of(settings)
    if dtype is None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if settings.size == "tiny":
        model, tokenizer = load_checkpoint(resolve_model("tiny")[0], device=device, dtype=dtype)
    else:
        config = full_config() if settings.size == "full" else mid_config()
        model, tokenizer = random_model(config, dtype, device), build_tiny_tokenizer()
    return MeasuredModel(
        model=model.requires_grad_(False), tokenizer=tokenizer, device=device, name=settings.size
    )


def repeats(settings: Settings, many: int) -> int:
    """Return how often to measure: `many` on a GPU, less where it takes longer."""
    return many if settings.on_gpu else 2


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a prompt on tensors, for batches of frames and for graphs; texts have a fixed length."""

    subject: MeasuredModel
    pixels: tuple[torch.Tensor, ...]  # (B, 3, s, s) each
    texts: list[torch.Tensor]  # of (B, L, D)
    image_ids: torch.Tensor  # (T,)
    spans: Sequence[Any]

    @classmethod
    def of(cls, subject: MeasuredModel, *, batch: int = 1, phrases: Sequence[str] = PHRASES[:1]) -> Steps:
        """Prepare a batch of frames with the same prompts."""
        from xsam.inference.family import TextSpans
        from xsam.inference.forward import ForwardPass

        forward = ForwardPass(subject.model, subject.tokenizer, model_id=subject.name)
        frames = Frames()
        frame = Frame(rgb=frames.next())
        prompts = [forward.prepare(i, Query(text=text), frame) for i, text in enumerate(phrases)]
        model, start = subject.model, prompts[0].text_start
        pixels = [forward.family.pixels(frames.next()) for _ in range(batch)]
        return cls(
            subject=subject,
            pixels=tuple(
                torch.stack(images).to(subject.device, model.dtype) for images in zip(*pixels, strict=True)
            ),
            texts=[
                model.embed(torch.from_numpy(p.tokens.input_ids[start:]).to(subject.device), None).expand(
                    batch, -1, -1
                )
                for p in prompts
            ],
            image_ids=torch.from_numpy(prompts[0].tokens.input_ids[:start]).to(subject.device),
            spans=[
                TextSpans.of(
                    p.tokens.cond_ids[start:],
                    p.tokens.seg_ids[start:],
                    text_device=subject.device,
                    device=subject.device,
                )
                for p in prompts
            ],
        )

    def encode(self) -> Any:
        """Run both encoders and the pixel decoder, and what the mask decoder needs of the image alone."""
        model = self.subject.model
        features = model.encode_image(*self.pixels)
        return features, model.decoder_memory(features)

    def prefix(self, features: Any) -> Any:
        """Run the language model up to the last image token."""
        from xsam.model.language import cache_prefix

        model = self.subject.model
        embeds = torch.stack([model.embed(self.image_ids, tokens) for tokens in features.image_tokens])
        return cache_prefix(model.llm, embeds, room=320)

    def read(self, prefix: Any) -> list[torch.Tensor]:
        """Run the language model on the texts: (B, L, D) each."""
        from xsam.model.language import following_states

        return following_states(self.subject.model.llm, prefix, self.texts)

    def decode(self, memory: Any, states: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the mask decoder: class logits (B, P, Q, K + 1) and mask logits (B, P, Q, h, w)."""
        from xsam.model.xsam import pad_conditions, span_means

        model = self.subject.model
        seg, means = [], []
        for of_text, span in zip(states, self.spans, strict=True):
            projected = model.llm_projector(of_text[:, span.used])
            seg.append(projected[:, span.seg])
            counts = [span.conditions] * len(projected)
            means.append(span_means(projected, [span.in_condition] * len(projected), counts=counts))
        conditions, valid = pad_conditions([mean for of_text in means for mean in of_text])
        shape = (len(states), -1)  # texts first, then frames
        stage = model.predict(
            memory,
            torch.stack(seg, dim=1),
            conditions.unflatten(0, shape).transpose(0, 1),
            valid.unflatten(0, shape).transpose(0, 1),
        )
        return stage.class_logits, stage.mask_logits


def no_deadline() -> StageClock:
    """Return a clock of stages without a deadline."""
    return StageClock(Deadline(None))


def moved(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return ‖actual − expected‖ / ‖expected‖; infinite numbers are left out."""
    a, b = actual.float(), expected.float()
    known = torch.isfinite(b)
    a, b = torch.where(known, a, 0.0), torch.where(known, b, 0.0)
    return round(float((a - b).norm() / b.norm().clamp_min(1e-12)), 6)
