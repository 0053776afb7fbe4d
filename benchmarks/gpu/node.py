"""What the ROS node adds to the engine on this device, from a camera's topic to the answer."""

from __future__ import annotations

import importlib.util
import sys
import time

from benchmarks.gpu.runner import Record, Settings, SkippedPart


def run(settings: Settings, record: Record) -> None:
    for module in ("rclpy", "xsam_ros.msg", "domain_coordinator"):
        if _missing(module):
            raise SkippedPart(f"there is no {module}: ROS 2 and the built package are needed for the node")
    from benchmarks.node import measure_node

    began = time.monotonic()

    def log(message: str) -> None:
        print(f"[gpu node {time.monotonic() - began:5.1f} s] {message}", file=sys.stderr, flush=True)

    requests = 120 if settings.on_gpu else 40
    for name, value in measure_node(log, device=settings.device, requests=requests).items():
        record(name, value)


def _missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except (ImportError, ValueError):
        return True
