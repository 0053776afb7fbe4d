"""Between the pixels and the decoder's masks, nothing reads a value back, and inputs are copied first.

On a GPU, reading a value (`int(tensor)`, `nonzero`, indexing by booleans) waits until all work queued before
it is done; so does copying from memory that is not pinned. The GPU then idles while Python queues the next
stage. A network on the meta device has no values, so reading one raises an error there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.unit.engine.asking import parts
from xsam.inference.forward import ForwardPass
from xsam.inference.frame_cache import EncodedFrame
from xsam.inference.prepare import Prompt
from xsam.inference.stages import StageClock
from xsam.types.deadline import Deadline
from xsam.types.requests import Frame, Query, Task, VisualPrompt
from xsam.weights.checkpoint import build_on_meta

FRAME = Frame(rgb=np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
QUERIES = (
    Query(text="the red mug"),
    Query(thing_classes=("mug", "bowl"), stuff_classes=("table",)),
    Query(task=Task.INTERACTIVE, prompts=(VisualPrompt.point(20, 12),)),
    Query(
        task=Task.VISUAL_GROUNDED,
        prompts=(VisualPrompt.point(20, 12), VisualPrompt.box(4, 4, 30, 30)),
    ),
)


class Calls(TorchFunctionMode):
    """Lists, in order, what copies numbers from the host and what computes with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_meta:
            name = func.__name__
            if name in ("tensor", "as_tensor", "new_tensor") or (name == "to" and not args[0].is_meta):
                self.names.append("copy from host")
            elif name in ("linear", "conv2d"):
                self.names.append("layer")
        return out

    @property
    def copies_late(self) -> bool:
        return "copy from host" in self.names[self.names.index("layer") :]


@pytest.fixture(scope="module", params=["a", "c"])
def forward(request: pytest.FixtureRequest) -> ForwardPass:
    model, tokenizer = parts(request.param)
    return ForwardPass(build_on_meta(model.config).eval(), tokenizer, model_id="meta")


@pytest.fixture(scope="module")
def encoded(forward: ForwardPass) -> EncodedFrame:
    with torch.inference_mode():
        return forward.family.encode(forward.family.pixels(FRAME.rgb), compiled=False)


@pytest.fixture(scope="module")
def prompts(forward: ForwardPass) -> list[Prompt]:
    return [forward.prepare(index, query, FRAME) for index, query in enumerate(QUERIES)]


def test_no_value_is_read_back(forward: ForwardPass, encoded: EncodedFrame, prompts: list[Prompt]) -> None:
    with torch.inference_mode():
        projected = forward.read(encoded, prompts, StageClock(Deadline(None)))
        decoded = forward.family.decode(encoded, projected)
    assert decoded.mask_logits.shape[:2] == (1, len(prompts))


def test_texts_are_copied_before_the_language_model_starts(
    forward: ForwardPass, encoded: EncodedFrame, prompts: list[Prompt]
) -> None:
    """The prefix of the frame is there already, as for another prompt on it."""
    clock, texts = StageClock(Deadline(None)), prompts[:2]
    with torch.inference_mode():
        forward.read(encoded, texts, clock)
        with Calls() as calls:
            forward.family.decode(encoded, forward.read(encoded, texts, clock))
    assert calls.names[0] == "copy from host"
    assert not calls.copies_late


def test_a_frame_is_copied_before_the_encoders_start(forward: ForwardPass) -> None:
    pixels = forward.family.pixels(FRAME.rgb)
    with torch.inference_mode(), Calls() as calls:
        forward.family.encode(pixels, compiled=False)
    assert calls.names[0] == "copy from host"
    assert not calls.copies_late
