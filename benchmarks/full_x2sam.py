"""X2SAM at full size, bfloat16: from the layout of the download to answers, without a GPU."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import peak_mib, reset_peak, seconds_by_stage, watch_own_memory
from benchmarks.random_weights import write_released_x2sam
from xsam.config.presets import full_x2sam_config
from xsam.engine import XSam
from xsam.sim import render, sample_scene
from xsam.types.requests import Query
from xsam.weights.convert import convert
from xsam.weights.releases import X2SAM, X2SAM_STAGE

_IMAGE_HW = (480, 640)
_STEPS = 2  # the second one reads the memory


def measure_full_x2sam(
    folder: Path, clock: Callable[[], float], log: Callable[[str], None]
) -> dict[str, Any]:
    """Write, convert, load and ask; return seconds and the peak memory of each part.

    Args:
        folder: for the download with random weights (12 GB) and the checkpoint (10 GB), each written once.
        clock: returns seconds.
        log: takes a line of progress.
    """
    download, checkpoint = folder / "download", folder / "checkpoint"
    report: dict[str, Any] = {}
    if not (download / X2SAM.folder / X2SAM_STAGE / "pytorch_model.bin").is_file():
        began = time.perf_counter()
        write_released_x2sam(download, full_x2sam_config(), torch.bfloat16)
        log(f"x2sam-full: written in {time.perf_counter() - began:.0f} s")
    if not (checkpoint / "config.json").is_file():
        with _Part(report, "convert", clock, log):
            converted = convert(download, checkpoint)
        report["output_gb"] = round(converted.size_bytes / 1e9, 2)
        report["parameters_m"] = round(converted.parameter_count / 1e6, 1)
    with _Part(report, "load", clock, log):
        engine = XSam.load(checkpoint, device="cpu", dtype="bfloat16")
    rgb = render(sample_scene(0), image_hw=_IMAGE_HW).rgb
    for name, phrase in (("first", "the red mug"), ("next", "a red cup")):
        with _Part(report, name, clock, log) as part:
            engine.segment(rgb, phrase, on_stage=part.mark)
    session = engine.open_session(Query(text="the red mug"), refresh_every=0)
    for index in range(_STEPS):
        frame: NDArray[np.uint8] = np.roll(rgb, 4 * index, axis=1)
        with _Part(report, f"step_{index}", clock, log) as part:
            session.step(frame, on_stage=part.mark)
    report["session_mib"] = round(session.nbytes / 2**20, 1)
    return report


class _Part:
    """Time and peak memory of one part; written to the report at its end."""

    def __init__(
        self, report: dict[str, Any], name: str, clock: Callable[[], float], log: Callable[[str], None]
    ) -> None:
        self._report, self._name, self._clock, self._log = report, name, clock, log
        self._marks: list[tuple[str, float]] = []
        self._own: list[float] = []
        self._watch = watch_own_memory(self._own)

    def mark(self, stage: str) -> None:
        self._marks.append((stage, self._clock()))

    def __enter__(self) -> _Part:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        reset_peak()
        self._watch.__enter__()
        self._began, self._began_wall = self._clock(), time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        ended = self._clock()
        self._watch.__exit__(*error)
        stages = {k: round(v, 3) for k, v in seconds_by_stage([*self._marks, ("", ended)]).items()}
        self._report[self._name] = {
            "seconds": round(ended - self._began, 2),
            "wall_s": round(time.perf_counter() - self._began_wall, 2),
            "peak_gb": round(peak_mib() * 2**20 / 1e9, 2),
            "peak_own_gb": round(self._own[0] * 2**20 / 1e9, 2),
            **({"stages": stages} if stages else {}),
        }
        self._log(f"x2sam-full: {self._name} {self._report[self._name]}")
