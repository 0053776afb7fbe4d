"""What the ROS path costs beyond the bare engine, and what its answers weigh.

A real node with the tiny model, a simulated camera and a client, each a process of its own, over real DDS.
Overhead of a request = time the client waits − time the engine reports for its own stages: discovery is
over, everything else (the request, the camera image's conversion, the queue, coding, the response) counts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
REQUESTS = 120
WARM_UP = 10
IDLE_CALLS = 50
INSTANCES = 20
ENGINE_STAGES = ("preprocess", "encode", "language", "decode", "postprocess")
_READY_S = 60.0
_PARAMETERS = """
/**/xsam:
  ros__parameters: {model: tiny, device: cpu, cameras: [table], table: {image_topic: /table/image_raw}}
/**/xsam_camera_sim:
  ros__parameters: {camera: table, seed: 7, width: 640, height: 480, rate_hz: 10.0, orbit: false}
"""


def measure_node(log: Callable[[str], None]) -> dict[str, Any]:
    """Overhead at 640×480 and bytes of twenty instances at 1920×1080."""
    overheads_ms, waits_ms = _overheads_ms(log)
    bytes_published, ratio = _published_bytes()
    return {
        "requests": len(overheads_ms),
        "overhead_p50_ms": round(float(np.percentile(overheads_ms, 50)), 2),
        "overhead_p99_ms": round(float(np.percentile(overheads_ms, 99)), 2),
        "request_p50_ms": round(float(np.percentile(waits_ms, 50)), 2),
        "published_bytes": bytes_published,
        "bytes_ratio": round(ratio, 6),
    }


def _overheads_ms(log: Callable[[str], None]) -> tuple[list[float], list[float]]:
    import domain_coordinator  # type: ignore[import-untyped, import-not-found, unused-ignore]

    from xsam.types.requests import CameraRef, Query
    from xsam_ros.client import RosSegmenter

    with domain_coordinator.domain_id() as domain, tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            ROS_DOMAIN_ID=str(domain),
            ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
            ROS_LOG_DIR=folder,
            FASTRTPS_DEFAULT_PROFILES_FILE=str(ROOT / "config" / "fastdds_large_images.xml"),
        )
        camera = CameraRef(name="table", max_age_s=5.0)
        with _nodes(Path(folder)), RosSegmenter("/xsam") as segmenter:
            until = time.monotonic() + _READY_S
            while True:
                status = segmenter.status(deadline_s=_READY_S)
                if status.state == "active" and status.cameras and status.cameras[0].frames:
                    break
                if time.monotonic() > until:
                    raise TimeoutError(
                        f"the node is {status.state!r} after {_READY_S:.0f} s: {status.last_error}"
                    )
                time.sleep(0.1)
            log("node: active")
            idle = [_seconds(lambda: segmenter.status(deadline_s=_READY_S)) for _ in range(IDLE_CALLS)]
            log(f"node: a call that does nothing takes {np.median(idle) * 1e3:.2f} ms")
            overheads, waits = [], []
            stages: dict[str, list[float]] = {}
            for number in range(WARM_UP + REQUESTS):
                began = time.perf_counter()
                result = segmenter.segment(camera, [Query(text="the red cup")], deadline_s=30.0)[0]
                waited = time.perf_counter() - began
                if number >= WARM_UP:
                    for stage, seconds in result.timing.stages_s.items():
                        stages.setdefault(stage, []).append(seconds * 1e3)
                    spent = sum(result.timing.stages_s.get(stage, 0.0) for stage in ENGINE_STAGES)
                    overheads.append((waited - spent) * 1e3)
                    waits.append(waited * 1e3)
            log("node: ms by stage " + str({k: round(float(np.median(v)), 2) for k, v in stages.items()}))
            return overheads, waits


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def _nodes(folder: Path) -> Iterator[None]:
    """A camera without depth and a segmenter; both end with the block."""
    parameters = folder / "parameters.yaml"
    parameters.write_text(_PARAMETERS)
    running = []
    for module in ("xsam_ros.camera_sim", "xsam_ros.segmenter_node"):
        with (folder / f"{module}.log").open("wb") as output:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, "--ros-args", "--params-file", str(parameters)],
                    cwd=ROOT,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    try:
        yield
    finally:
        for process in running:
            for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                    try:
                        process.wait(10.0)
                    except subprocess.TimeoutExpired:
                        continue


def _published_bytes() -> tuple[int, float]:
    """Size of a result with twenty instances of rendered objects, and its share of twenty raw masks."""
    from rclpy.serialization import serialize_message

    from xsam.sim import render, sample_scene
    from xsam.types.masks import MaskRle, box_of_mask
    from xsam.types.requests import Query, SegmentationResult, Segments, Status, Timing
    from xsam_ros.messages.results import result_to_message

    image_hw = (1080, 1920)
    masks: list[Any] = []
    seed = 0
    while len(masks) < INSTANCES:
        ids = render(sample_scene(seed), image_hw=image_hw).instance_ids
        masks += [ids == i for i in np.unique(ids) if i]
        seed += 1
    masks = masks[:INSTANCES]
    result = SegmentationResult(
        status=Status.FOUND,
        query=Query(thing_classes=("object",)),
        segments=Segments(
            image_hw=image_hw,
            masks=tuple(MaskRle.encode(mask) for mask in masks),
            labels=("object",) * INSTANCES,
            label_indices=np.zeros(INSTANCES, np.int32),
            scores=np.full(INSTANCES, 0.9, np.float32),
            boxes_xyxy=np.array([box_of_mask(mask) for mask in masks], np.float32),
        ),
        model_id="tiny",
        timing=Timing(stages_s=dict.fromkeys(ENGINE_STAGES, 0.1)),
    )
    size = len(serialize_message(result_to_message(result)))
    return size, size / (INSTANCES * image_hw[0] * image_hw[1])
