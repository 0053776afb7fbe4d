"""The default number of threads beside a busy program, and alone, against one thread."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np

from xsam.engine import XSam
from xsam.sim import render, sample_scene

ROUNDS = 15
_SETTLE_S = 0.5


def measure_contention(log: Callable[[str], None]) -> dict[str, Any]:
    """Return seconds of the tiny model and their ratios, default to one thread, pair by pair.

    `contended_*_ratio` is beside one busy program, `alone_*_ratio` without it; what else runs on the machine
    disturbs both.
    """
    scene = render(sample_scene(0), image_hw=(480, 640)).rgb
    engines = {"one": XSam.load("tiny", threads=1), "default": XSam.load("tiny")}
    figures: dict[str, Any] = {"rounds": ROUNDS}
    count = 0
    for name, busy in (("alone", 0), ("contended", 1)):
        seconds: dict[tuple[str, str], list[float]] = {}
        with _busy_programs(busy):
            for turn in range(ROUNDS + 1):
                for threads, engine in engines.items():
                    count += 1
                    rgb = scene.copy()
                    rgb[0, 0] = (count // 256, count % 256, 0)
                    took = _first_and_next(engine, rgb)
                    if turn:  # the first notices how many cores are free
                        for kind, value in zip(("first", "next"), took, strict=True):
                            seconds.setdefault((threads, kind), []).append(value)
        for kind in ("first", "next"):
            one, default = seconds["one", kind], seconds["default", kind]
            ratio = median(b / a for a, b in zip(one, default, strict=True))
            figures[f"{name}_{kind}_s"] = {"one": round(median(one), 4), "default": round(median(default), 4)}
            figures[f"{name}_{kind}_ratio"] = round(ratio, 2)
            log(f"{name}: {kind} {median(default):.3f} s, {ratio:.2f} of one thread")
    return figures


def _first_and_next(engine: XSam, rgb: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[float, float]:
    began = time.perf_counter()
    engine.segment(rgb, "the red mug")
    between = time.perf_counter()
    engine.segment(rgb, "a red cup")
    return between - began, time.perf_counter() - between


@contextmanager
def _busy_programs(count: int) -> Iterator[None]:
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(_SETTLE_S)
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()
