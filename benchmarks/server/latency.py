"""What the way over HTTP adds to the model's own time, and whether the server answers while it works."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np

from benchmarks.server.processes import ServerProgram
from xsam import Frame, Query
from xsam.remote import RemoteSegmenter

DEADLINE_S = 60.0
_PING_EVERY_S = 0.01


def measure_xsam(server: ServerProgram, frames: Sequence[Frame]) -> dict[str, Any]:
    """Ask twice about each frame, one request after the other; then while somebody asks for the health."""
    half = len(frames) // 2
    with RemoteSegmenter(server.url) as remote:

        def ask(frame: Frame, text: str) -> dict[str, float]:
            (result,) = remote.segment(frame, [Query(text=text)], deadline_s=DEADLINE_S)
            return dict(result.timing.stages_s)

        ask(frames[0], "object")
        first = _Spent(server, lambda frame: ask(frame, "the red mug"), frames[1:half])
        sent = remote.link.bytes_sent
        second = _Spent(server, lambda frame: ask(frame, "the book"), frames[1:half])
        second_bytes = (remote.link.bytes_sent - sent) / (half - 1)
        with _Pings(server.url) as pings:
            for frame in frames[half:]:
                ask(frame, "the red mug")
    return {
        **first.report(),
        "added_second_p50_ms": second.report()["added_p50_ms"],
        "added_second_cpu_ms": second.report()["added_cpu_ms"],
        "second_prompt_bytes": round(second_bytes),
        **pings.report(),
    }


def measure_plain(server: ServerProgram, frames: Sequence[Frame]) -> dict[str, Any]:
    """Ask the plain handler about each frame; then about others while somebody asks for the health."""
    half = len(frames) // 2
    with httpx.Client(base_url=server.url, timeout=DEADLINE_S, trust_env=False) as http:
        sizes = []

        def ask(frame: Frame) -> dict[str, float]:
            answer, size = ask_plain(http.post, frame)
            sizes.append(size)
            return dict(answer["timing_s"])

        ask(frames[0])
        first = _Spent(server, ask, frames[1:half])
        with _Pings(server.url) as pings:
            for frame in frames[half:]:
                ask(frame)
    return {**first.report(), "second_prompt_bytes": round(sum(sizes) / len(sizes)), **pings.report()}


class _Spent:
    """What requests took beyond the time of the engine: on the clock, and of the processors."""

    def __init__(
        self, server: ServerProgram, ask: Callable[[Frame], dict[str, float]], frames: Sequence[Frame]
    ) -> None:
        self._added_s, self._engine_s, engine_cpu_s = [], [], 0.0
        began_cpu_s = server.cpu_s + time.process_time()
        for frame in frames:
            began_s = time.perf_counter()
            stages_s = ask(frame)
            self._added_s.append(time.perf_counter() - began_s - stages_s["engine"])
            self._engine_s.append(stages_s["engine"])
            engine_cpu_s += stages_s["engine_cpu"]
        cpu_s = server.cpu_s + time.process_time() - began_cpu_s - engine_cpu_s
        self._added_cpu_s = cpu_s / len(frames)

    def report(self) -> dict[str, float]:
        return {
            "added_p50_ms": _ms(self._added_s, 50),
            "added_p99_ms": _ms(self._added_s, 99),
            "added_cpu_ms": round(1000 * self._added_cpu_s, 2),  # client and server; counts in steps of 10 ms
            "engine_p50_ms": _ms(self._engine_s, 50),
        }


def plain_body(frame: Frame) -> dict[str, str]:
    """Return what the plain handler is sent."""
    assert frame.encoded is not None
    return {"image": base64.b64encode(frame.encoded).decode(), "text": "the red mug"}


def ask_plain(post: Callable[..., httpx.Response], frame: Frame) -> tuple[dict[str, Any], int]:
    """Ask the plain handler; return its result and the bytes that were sent."""
    response = post("/segment", json=plain_body(frame))
    response.raise_for_status()
    return response.json()["result"], len(response.request.content)


def _ms(seconds: Sequence[float], percentile: float) -> float:
    return round(1000 * float(np.percentile(seconds, percentile)), 2)


class _Pings:
    """Asks for the health again and again, from a thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._seconds: list[float] = []

    def __enter__(self) -> _Pings:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=DEADLINE_S, trust_env=False) as http:
            http.get("/healthz")
            while not self._stop.wait(_PING_EVERY_S):
                began_s = time.perf_counter()
                http.get("/healthz")
                self._seconds.append(time.perf_counter() - began_s)

    def report(self) -> dict[str, Any]:
        return {
            "health_p50_ms": _ms(self._seconds, 50),
            "health_p99_ms": _ms(self._seconds, 99),
            "health_max_ms": _ms(self._seconds, 100),
            "health_calls": len(self._seconds),
        }
