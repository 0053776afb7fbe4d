"""Measure what the ROS path adds to the bare engine, and how large its results are.

A real node with the tiny model, a simulated camera and a client run in separate processes over real DDS.
Overhead of a request = time the client waits − time the engine reports for its own stages. It includes the
request, conversion of the camera image, the queue, serialization and the response, but not discovery.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from support.processes import NodeProcesses

ROOT = Path(__file__).resolve().parents[1]
REQUESTS = 120
WARM_UP = 10
IDLE_CALLS = 50
INSTANCES = 20
ENGINE_STAGES = ("preprocess", "encode", "language", "decode", "postprocess")
_READY_S = 60.0
_PARAMETERS = """
/**/xsam:
  ros__parameters: {model: tiny, device: "DEVICE", cameras: [table], table: {image_topic: /table/image_raw}}
/**/xsam_camera_sim:
  ros__parameters: {camera: table, seed: 7, width: 640, height: 480, rate_hz: 10.0, orbit: false}
"""


def measure_node(
    log: Callable[[str], None], *, device: str = "cpu", requests: int = REQUESTS
) -> dict[str, Any]:
    """Return the overhead at 640×480 and the message size of twenty instances at 1920×1080.

    Args:
        log: takes a line of progress.
        device: of the tiny model in the node.
        requests: to measure.
    """
    overheads_ms, waits_ms = _overheads_ms(log, device, requests)
    bytes_published, ratio = _published_bytes()
    return {
        "requests": len(overheads_ms),
        "overhead_p50_ms": round(float(np.percentile(overheads_ms, 50)), 2),
        "overhead_p99_ms": round(float(np.percentile(overheads_ms, 99)), 2),
        "request_p50_ms": round(float(np.percentile(waits_ms, 50)), 2),
        "published_bytes": bytes_published,
        "bytes_ratio": round(ratio, 6),
    }


def _overheads_ms(log: Callable[[str], None], device: str, requests: int) -> tuple[list[float], list[float]]:
    import domain_coordinator  # type: ignore[import-untyped, import-not-found, unused-ignore]

    from support.readiness import wait_until_active
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
        parameters = Path(folder) / "parameters.yaml"
        parameters.write_text(_PARAMETERS.replace("DEVICE", device), encoding="utf-8")
        with NodeProcesses(log_dir=Path(folder)) as processes, RosSegmenter("/xsam") as segmenter:
            processes.start("camera", "xsam_ros.camera_sim", "--params-file", parameters)
            processes.start("segmenter", "xsam_ros.segmenter_node", "--params-file", parameters)
            wait_until_active(segmenter, cameras=(camera.name,), processes=processes, timeout_s=_READY_S)
            log("node: active")
            idle = [_seconds(lambda: segmenter.status(deadline_s=_READY_S)) for _ in range(IDLE_CALLS)]
            log(f"node: an empty call takes {np.median(idle) * 1e3:.2f} ms")
            overheads, waits = [], []
            stages: dict[str, list[float]] = {}
            for index in range(WARM_UP + requests):
                began = time.perf_counter()
                result = segmenter.segment(camera, [Query(text="the red cup")], deadline_s=30.0)[0]
                waited = time.perf_counter() - began
                if index >= WARM_UP:
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


def _published_bytes() -> tuple[int, float]:
    """Return the bytes of a result with twenty rendered objects, and their ratio to twenty raw masks."""
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
