"""Count the floating-point operations of each stage while it runs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from xsam.engine import XSam


def stage_flops(engine: XSam, rgb: NDArray[np.uint8], phrase: str) -> dict[str, dict[str, float]]:
    """Return GFLOP of the fast path by stage; a multiply-add counts as two operations.

    The engine must not have seen the frame `rgb` before.
    """
    return {kind: _count(engine, rgb, phrase) for kind in ("first", "next")}


def _count(engine: XSam, rgb: NDArray[np.uint8], phrase: str) -> dict[str, float]:
    marks: list[tuple[str, int]] = []
    with _counter() as counter:
        engine.segment(rgb, phrase, on_stage=lambda stage: marks.append((stage, counter.get_total_flops())))
        marks.append(("", counter.get_total_flops()))
    stages = {
        stage: (following - count) / 1e9 for (stage, count), (_, following) in itertools.pairwise(marks)
    }
    return {name: round(n, 3) for name, n in {**stages, "total": marks[-1][1] / 1e9}.items()}


def _counter() -> FlopCounterMode:
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    return FlopCounterMode(display=False, custom_mapping={flash: _flash_flops})


def _flash_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Count two products over all keys, even with a causal mask, for which the kernel skips half."""
    query_shape, key_shape = (t.shape if isinstance(t, Tensor) else t for t in (query, key))
    *outer, queries, width = query_shape
    return int(4 * math.prod(outer) * queries * key_shape[-2] * width)
