"""Goodput: answers inside their deadline, at a share of the rate that the server can keep up."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from benchmarks.server.latency import plain_body
from benchmarks.server.processes import ServerProgram
from xsam import Frame, Query, XSamError
from xsam.remote import RemoteSegmenter

OK = "OK"
Ask = Callable[[Frame, float], Awaitable[str]]


def measure(
    server: ServerProgram, frames: Sequence[Frame], *, seconds: float, loads: Sequence[float]
) -> dict[str, Any]:
    """Measure the peak with two clients, then the goodput with random arrivals at each load.

    Args:
        server: the server.
        frames: asked about in turn.
        seconds: of each measurement.
        loads: shares of the peak that are offered.
    """
    if server.kind == "plain":
        return asyncio.run(_measure_plain(server, frames, seconds, loads))
    with RemoteSegmenter(server.url) as remote:

        async def ask(frame: Frame, deadline_s: float) -> str:
            try:
                await remote.segment_async(
                    frame, [Query(text="the red mug")], deadline_s=deadline_s, keep_frame=False
                )
            except XSamError as error:
                return error.code
            return OK

        return asyncio.run(_measure(ask, frames, seconds, loads))


async def _measure_plain(
    server: ServerProgram, frames: Sequence[Frame], seconds: float, loads: Sequence[float]
) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, limits=limits) as http:

        async def ask(frame: Frame, deadline_s: float) -> str:
            try:
                response = await http.post("/segment", json=plain_body(frame), timeout=deadline_s)
            except httpx.HTTPError as error:
                return type(error).__name__
            return OK if response.status_code == 200 else f"HTTP {response.status_code}"

        return await _measure(ask, frames, seconds, loads)


async def _measure(
    ask: Ask, frames: Sequence[Frame], seconds: float, loads: Sequence[float]
) -> dict[str, Any]:
    peak_per_s = await _peak(ask, frames, seconds)
    deadline_s = 8 / peak_per_s  # about the time of eight requests
    report: dict[str, Any] = {"peak_per_s": round(peak_per_s, 2), "deadline_s": round(deadline_s, 3)}
    for load in loads:
        codes, elapsed_s = await _offer(ask, frames, seconds, load * peak_per_s, deadline_s)
        offered = sum(codes.values())
        good = codes[OK] / (offered if load <= 1 else elapsed_s * peak_per_s)
        name = f"{load * 100:.0f}"
        report[f"goodput_{name}"] = round(good, 3)  # of the offered; of the peak when that is less
        report[f"codes_{name}"] = dict(codes)
    return report


async def _peak(ask: Ask, frames: Sequence[Frame], seconds: float) -> float:
    until_s = time.monotonic() + seconds
    counts = Counter[str]()

    async def client(number: int) -> None:
        index = number
        while time.monotonic() < until_s:
            counts[await ask(frames[index % len(frames)], 60.0)] += 1
            index += 2

    began_s = time.monotonic()
    await asyncio.gather(client(0), client(1))
    return counts[OK] / (time.monotonic() - began_s)


async def _offer(
    ask: Ask, frames: Sequence[Frame], seconds: float, rate_per_s: float, deadline_s: float
) -> tuple[Counter[str], float]:
    """Send requests at random times; return how each ended, and how long it took until the last one did."""
    arrivals = random.Random(1)
    codes: Counter[str] = Counter()
    tasks: list[asyncio.Task[None]] = []

    async def one(index: int) -> None:
        began_s = time.monotonic()
        code = await ask(frames[index % len(frames)], deadline_s)
        late = code == OK and time.monotonic() - began_s > deadline_s
        codes["late" if late else code] += 1

    began_s = time.monotonic()
    due_s = began_s
    while due_s < began_s + seconds:
        due_s += arrivals.expovariate(rate_per_s)
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        tasks.append(asyncio.create_task(one(len(tasks))))
    await asyncio.gather(*tasks)
    return codes, time.monotonic() - began_s
