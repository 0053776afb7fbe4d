"""Stream a query on a moving camera: objects keep their track ids."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import Image

from support.readiness import wait_until_active
from support.ros_peer import RosPeer
from xsam import Query
from xsam_ros.client import RosSegmenter
from xsam_ros.messages.image_messages import rgb_from_image

RESULTS = 24
RATE_HZ = 4.0
_TILES = 6
_TILE_COLUMNS = 2


def stream(segmenter: RosSegmenter, camera: str, categories: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Stream a query, save some of the overlays that the node publishes, and summarize each track.

    Returns:
        Part of the report: number of results, rate, and a row for each track.
    """
    wait_until_active(segmenter, cameras=(camera,))  # the camera renders its whole orbit before it sends
    seen: dict[int, list[tuple[str, float]]] = defaultdict(list)
    latency_ms: list[float] = []
    with RosPeer("demo_overlay_tap") as peer:
        overlays = peer.collect(Image, f"{segmenter.node_name}/{camera}/overlay")
        began_s = time.monotonic()
        query = Query(thing_classes=categories)
        with segmenter.start_stream(camera, [query], rate_hz=RATE_HZ, wait_s=30.0) as results:
            for count, result in enumerate(results, start=1):
                segments = result.segments
                latency_ms.append(1000 * sum(result.timing.stages_s.values()))
                for track, label, location in zip(
                    segments.track_ids.tolist(), segments.labels, segments.locations, strict=True
                ):
                    known = location is not None and location.valid
                    seen[track].append((label, location.distance_m if known else np.nan))
                if count >= RESULTS:
                    break
        elapsed_s = time.monotonic() - began_s
    if overlays:
        _save_sheet(out / "20_stream.png", [rgb_from_image(message) for message in overlays])
    return {
        "camera": camera,
        "asked": list(categories),
        "answers": len(latency_ms),
        "rate_hz": round(len(latency_ms) / elapsed_s, 1),
        "latency_ms_median": round(float(np.median(latency_ms)), 1) if latency_ms else None,
        "tracks": [_row(track, observations) for track, observations in sorted(seen.items())],
    }


def _row(track: int, observations: list[tuple[str, float]]) -> dict[str, Any]:
    labels = [label for label, _ in observations]
    distances = [distance for _, distance in observations if np.isfinite(distance)]
    return {
        "track": track,
        "label": max(set(labels), key=labels.count),
        "answers": len(observations),
        "distance_m": [round(min(distances), 2), round(max(distances), 2)] if distances else None,
    }


def _save_sheet(path: Path, images: list[np.ndarray]) -> None:
    """Save a contact sheet of images spread over the whole stream."""
    chosen = np.linspace(0, len(images) - 1, min(_TILES, len(images))).round().astype(int)
    tiles = [images[i] for i in chosen]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _TILE_COLUMNS)
    rows = [np.hstack(tiles[i : i + _TILE_COLUMNS]) for i in range(0, len(tiles), _TILE_COLUMNS)]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
