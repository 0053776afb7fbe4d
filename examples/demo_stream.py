"""The streaming part of the demo: a question on a moving camera; objects keep their numbers."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from xsam import Query
from xsam_ros.client import RosSegmenter
from xsam_ros.messages.images import rgb_from_image

ANSWERS = 24
RATE_HZ = 4.0
_TILES = 6
_TILE_COLUMNS = 2


class OverlayTap:
    """Keeps what the node draws: the pictures of a topic, from a thread of its own."""

    def __init__(self, topic: str) -> None:
        self.pictures: list[np.ndarray] = []
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node("demo_overlay_tap", context=self._context)
        self._node.create_subscription(Image, topic, self._on_image, 10)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and leave ROS."""
        self._closing.set()
        self._thread.join(5.0)
        self._executor.shutdown(timeout_sec=1.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def _on_image(self, message: Image) -> None:
        self.pictures.append(rgb_from_image(message))

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.1)


def stream(segmenter: RosSegmenter, camera: str, categories: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Stream a question, save what the node draws, and say which object was where.

    Returns:
        For the report: answers, rate, and a row for each track.
    """
    wait_until_sent(segmenter, camera)
    tap = OverlayTap(f"{segmenter.node_name}/{camera}/overlay")
    seen: dict[int, list[tuple[str, float]]] = defaultdict(list)
    latency_ms: list[float] = []
    began_s = time.monotonic()
    try:
        query = Query(thing_classes=categories)
        with segmenter.start_stream(camera, [query], rate_hz=RATE_HZ, wait_s=30.0) as results:
            for number, result in enumerate(results, start=1):
                segments = result.segments
                latency_ms.append(1000 * sum(result.timing.stages_s.values()))
                for track, label, place in zip(
                    segments.track_ids.tolist(), segments.labels, segments.locations, strict=True
                ):
                    known = place is not None and place.valid
                    seen[track].append((label, place.distance_m if place is not None and known else np.nan))
                if number >= ANSWERS:
                    break
        took_s = time.monotonic() - began_s
    finally:
        tap.close()
    if tap.pictures:
        _save_sheet(out / "20_stream.png", tap.pictures)
    return {
        "camera": camera,
        "asked": list(categories),
        "answers": len(latency_ms),
        "rate_hz": round(len(latency_ms) / took_s, 1),
        "latency_ms_median": round(float(np.median(latency_ms)), 1) if latency_ms else None,
        "tracks": [_row(track, views) for track, views in sorted(seen.items())],
    }


def wait_until_sent(segmenter: RosSegmenter, camera: str, *, patience_s: float = 120.0) -> None:
    """Until the camera has sent a frame: it renders its swing first.

    Raises:
        TimeoutError: it has not.
    """
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        status = segmenter.status(deadline_s=5.0)
        if any(item.name == camera and item.frames for item in status.cameras):
            return
        time.sleep(0.2)
    raise TimeoutError(f"camera {camera!r} has sent nothing within {patience_s:.0f} s; see its log")


def _row(track: int, views: list[tuple[str, float]]) -> dict[str, Any]:
    labels = [label for label, _ in views]
    distances = [distance for _, distance in views if np.isfinite(distance)]
    return {
        "track": track,
        "label": max(set(labels), key=labels.count),
        "answers": len(views),
        "distance_m": [round(min(distances), 2), round(max(distances), 2)] if distances else None,
    }


def _save_sheet(path: Path, pictures: list[np.ndarray]) -> None:
    """Some of the pictures, from first to last, side by side."""
    chosen = np.linspace(0, len(pictures) - 1, min(_TILES, len(pictures))).round().astype(int)
    tiles = [pictures[i] for i in chosen]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _TILE_COLUMNS)
    rows = [np.hstack(tiles[i : i + _TILE_COLUMNS]) for i in range(0, len(tiles), _TILE_COLUMNS)]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
