"""Are the encoders faster with several frames at once? Seconds a frame, by the number of frames."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from xsam import Frame


def measure(frames: Sequence[Frame], sizes: Sequence[int] = (1, 2, 4), repeats: int = 5) -> dict[str, Any]:
    """Encode frames with the tiny model in batches of each size; one thread, best of some repetitions."""
    import torch

    from xsam.inference.family import XSamFamily
    from xsam.model.xsam import XSamModel
    from xsam.weights.checkpoint import load_checkpoint, resolve_model

    torch.set_num_threads(1)
    folder, _ = resolve_model("tiny")
    network, _ = load_checkpoint(folder, device="cpu", llm_device="cpu", dtype=torch.float32)
    family = XSamFamily(network)
    pixels = [family.pixels(frame.rgb) for frame in frames[: max(sizes)]]
    best: dict[int, float] = {}
    with torch.inference_mode():
        for _ in range(repeats):
            for size in sizes:
                inputs = [torch.stack(column) for column in zip(*pixels[:size], strict=True)]
                began_s = time.perf_counter()
                XSamModel.encode_image(network, *inputs)
                seconds = (time.perf_counter() - began_s) / size
                best[size] = min(best.get(size, seconds), seconds)
    return {f"encode_{size}_ms": round(1000 * seconds, 1) for size, seconds in best.items()} | {
        "encode_speedup": round(best[1] / min(best[size] for size in sizes if size > 1), 3)
    }
