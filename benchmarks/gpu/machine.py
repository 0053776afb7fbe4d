"""The device, and the two speeds that bound everything on it: a large matrix product and a copy."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import transformers

from benchmarks.gpu.runner import Record, Settings
from benchmarks.gpu.subject import device_of, repeats


def run(settings: Settings, record: Record) -> None:
    device = device_of(settings)
    record("torch", torch.__version__)
    record("transformers", transformers.__version__)
    record("python", platform.python_version())
    record("name", _name(device))
    if device.type == "cuda":
        about: Any = torch.cuda.get_device_properties(device)
        record("memory_gb", round(about.total_memory / 1e9, 1))
        record("capability", f"{about.major}.{about.minor}")
        record("multiprocessors", about.multi_processor_count)
        record("cuda", torch.version.cuda)
    side = 8192 if device.type == "cuda" else 1024
    count = repeats(settings, 7)
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        best = _seconds(lambda a=a, b=b: a @ b, device, count)  # type: ignore[misc]
        record(f"{str(dtype).removeprefix('torch.')}_tflop_per_s", round(2 * side**3 / best / 1e12, 3))
    source = torch.empty(2**31 if device.type == "cuda" else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = _seconds(lambda: target.copy_(source), device, count)
    record("copy_gb_per_s", round(2 * source.numel() / best / 1e9, 1))  # read and written
    if device.type == "cuda":
        host = torch.empty(2**26, dtype=torch.uint8)
        best = _seconds(lambda: host.to(device), device, count)
        record("to_device_gb_per_s", round(host.numel() / best / 1e9, 2))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _seconds(work: Callable[[], object], device: torch.device, repeat: int) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for _ in range(repeat + 2):  # two to warm up
        wait()
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return median(times[2:])
