"""Health of the segmenter: durations of recent calls, and its own status report."""

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
    """Durations of the last segmenter calls, waiting included. Thread-safe."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_KEPT_CALLS)
        self._model_id = ""
        self._lock = threading.Lock()

    def add(self, seconds: float, results: Sequence[SegmentationResult]) -> None:
        """Record the duration of one call, and the model that produced the results."""
        with self._lock:
            self._seconds.append(seconds)
            self._model_id = next((r.model_id for r in results if r.model_id), self._model_id)

    @property
    def model_id(self) -> str:
        """Id of the model that produced the last results; empty before the first call."""
        with self._lock:
            return self._model_id

    def summary(self) -> dict[str, float]:
        """Return median, maximum and number of the last calls; empty before the first one."""
        with self._lock:
            seconds = list(self._seconds)
        if not seconds:
            return {}
        return {
            "median_s": round(statistics.median(seconds), 2),
            "max_s": round(max(seconds), 2),
            "calls": len(seconds),
        }


def segmenter_status(segmenter: Segmenter, *, deadline_s: float) -> dict[str, Any]:
    """Call the segmenter's `status(deadline_s=…)`, if it has one, such as the client of the ROS node.

    Returns:
        Plain values: state, model, last_error, waiting, busy, and per camera age_s, rate_hz and problem,
        as far as they are known; `unavailable` with the error when the call fails; {} without `status`.
    """
    get_status = getattr(segmenter, "status", None)
    if not callable(get_status):
        return {}
    try:
        report = get_status(deadline_s=deadline_s)
    except XSamError as error:
        return {"unavailable": error}
    status: dict[str, Any] = {}
    for name, key in (("state", "state"), ("model_id", "model"), ("last_error", "last_error")):
        if text := str(getattr(report, name, "") or ""):
            status[key] = text
    for name in ("waiting", "busy"):
        value = getattr(report, name, None)
        if value is not None:
            status[name] = bool(value) if name == "busy" else int(value)
    cameras = getattr(report, "cameras", None)
    if cameras is not None:
        status["cameras"] = {str(camera.name): _camera_status(camera) for camera in cameras}
    return status


def _camera_status(camera: Any) -> dict[str, Any]:
    numbers = {name: getattr(camera, name, None) for name in ("age_s", "rate_hz")}
    status: dict[str, Any] = {
        name: round(float(value), 2)
        for name, value in numbers.items()
        if value is not None and math.isfinite(float(value))
    }
    problems = [getattr(camera, "last_error", ""), *getattr(camera, "incompatible_qos", ())]
    if problem := next((str(text) for text in problems if text), ""):
        status["problem"] = problem
    return status
