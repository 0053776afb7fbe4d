"""How the segmenter is doing: times of recent calls, and what it says about itself."""

from __future__ import annotations

import math
import statistics
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from xsam.errors import XSamError
from xsam.segmenter import Segmenter
from xsam.types.requests import SegmentationResult

_KEPT_CALLS = 50


class Latencies:
    """Durations of the last calls of the segmenter, waiting included. Thread-safe."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_KEPT_CALLS)
        self._model_id = ""
        self._lock = threading.Lock()

    def add(self, seconds: float, results: Sequence[SegmentationResult]) -> None:
        """Remember one call, and which model answered."""
        with self._lock:
            self._seconds.append(seconds)
            self._model_id = next((r.model_id for r in results if r.model_id), self._model_id)

    @property
    def model_id(self) -> str:
        """The model that answered last; empty before the first answer."""
        with self._lock:
            return self._model_id

    def summary(self) -> dict[str, float]:
        """Median, longest and number of the last calls; empty before the first one."""
        with self._lock:
            seconds = list(self._seconds)
        if not seconds:
            return {}
        return {
            "median_s": round(statistics.median(seconds), 2),
            "max_s": round(max(seconds), 2),
            "calls": len(seconds),
        }


def own_status(segmenter: Segmenter, *, deadline_s: float) -> dict[str, Any]:
    """What a segmenter with a method `status(deadline_s=…)` says, such as the client of the ROS node.

    Returns:
        Plain values: state, model, last_error, waiting, busy, and per camera age_s, rate_hz and problem,
        as far as they are there; `unavailable` with the reason when it does not answer; {} without `status`.
    """
    ask = getattr(segmenter, "status", None)
    if not callable(ask):
        return {}
    try:
        said = ask(deadline_s=deadline_s)
    except XSamError as error:
        return {"unavailable": error}
    status: dict[str, Any] = {}
    for name, key in (("state", "state"), ("model_id", "model"), ("last_error", "last_error")):
        if text := str(getattr(said, name, "") or ""):
            status[key] = text
    for name in ("waiting", "busy"):
        value = getattr(said, name, None)
        if value is not None:
            status[name] = bool(value) if name == "busy" else int(value)
    cameras = getattr(said, "cameras", None)
    if cameras is not None:
        status["cameras"] = {str(camera.name): _camera(camera) for camera in cameras}
    return status


def _camera(camera: Any) -> dict[str, Any]:
    numbers = {name: getattr(camera, name, None) for name in ("age_s", "rate_hz")}
    said: dict[str, Any] = {
        name: round(float(value), 2)
        for name, value in numbers.items()
        if value is not None and math.isfinite(float(value))
    }
    problems = [getattr(camera, "last_error", ""), *getattr(camera, "incompatible_qos", ())]
    if problem := next((str(text) for text in problems if text), ""):
        said["problem"] = problem
    return said
