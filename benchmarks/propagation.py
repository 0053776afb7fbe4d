"""Where propagation fails, what a frame costs, and whether memory stays constant.

    python -m benchmarks.propagation                # two minutes on one core
    python -m benchmarks.propagation --frames 1000  # fewer frames for the memory

An ellipse with known masks moves over a ground for nine frames after a keyframe, at 640×480. The last line is
JSON: for each kind of motion, the mean J of these frames, and the confidence that the last one reports.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import BoolMask, MaskRle, mask_iou
from xsam.types.requests import Frame, Query, SegmentationResult, Segments, Status
from xsam.video.motion import CameraMotion
from xsam.video.propagation import Propagation, PropagationOptions

HW = (480, 640)
STEPS = 9
Gray = NDArray[np.uint8]
Affine = NDArray[np.float64]


def noise(seed: int, low: int, high: int, cell_px: int) -> Gray:
    shape = (HW[0] // cell_px + 2, HW[1] // cell_px + 2)
    coarse = np.random.default_rng(seed).integers(low, high + 1, shape, np.uint8)
    return np.asarray(cv2.resize(coarse, (HW[1], HW[0]), interpolation=cv2.INTER_CUBIC), np.uint8)


def ellipse() -> BoolMask:
    mask = np.zeros(HW, np.uint8)
    cv2.ellipse(mask, (320, 240), (70, 45), 0, 0, 360, 255, -1)
    return mask > 0


def turned(degrees: float, shift_px: float = 0.0, scale: float = 1.0) -> Affine:
    matrix = np.asarray(cv2.getRotationMatrix2D((320.0, 240.0), degrees, scale), np.float64)
    matrix[0, 2] += shift_px
    return matrix


def scene(ground: Gray, skin: Gray, matrix: Affine, index: int, gain: float = 1.0) -> tuple[Frame, BoolMask]:
    size = (HW[1], HW[0])
    moved = cv2.warpAffine(skin, matrix, size, flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(ellipse().astype(np.uint8) * 255, matrix, size, flags=cv2.INTER_LINEAR) > 127
    gray = np.clip(np.where(mask, moved, ground) * gain, 0, 255).astype(np.uint8)
    return Frame(rgb=np.repeat(gray[..., None], 3, axis=2), stamp_ns=(index + 1) * 33_000_000), mask


def answer(masks: list[BoolMask], frame: Frame) -> SegmentationResult:
    codes = tuple(MaskRle.encode(mask) for mask in masks)
    return SegmentationResult(
        status=Status.FOUND,
        query=Query(text="it"),
        segments=Segments(
            image_hw=HW,
            masks=codes,
            labels=("it",) * len(codes),
            label_indices=np.zeros(len(codes), np.int32),
            scores=np.ones(len(codes), np.float32),
            boxes_xyxy=np.array([code.crop().box_xyxy for code in codes], np.float32),
        ),
    )


def follow(
    ground: Gray, skin: Gray, way: Callable[[int], Affine], gain: Callable[[int], float] = lambda _: 1.0
) -> tuple[float, float]:
    """Return mean J and the last confidence."""
    camera, propagation = CameraMotion(), Propagation(Query(text="it"), PropagationOptions(every=1000))
    overlaps, confidence = [], 1.0
    for index in range(STEPS + 1):
        frame, mask = scene(ground, skin, way(index), index, gain(index))
        motion = camera.advance(frame)
        propagation.advance(frame, camera.gray, motion)
        if index == 0:
            propagation.hold()
            propagation.correct(answer([mask], frame))
            continue
        result = propagation.result()
        assert result is not None
        assert result.carried is not None
        overlaps.append(mask_iou(result.segments.masks[0].decode(), mask) if len(result.segments) else 0.0)
        confidence = result.carried.confidence
    return round(statistics.fmean(overlaps), 3), round(confidence, 2)


def failures() -> dict[str, tuple[float, float]]:
    rich, ground = noise(1, 120, 255, 8), noise(2, 20, 140, 8)
    found = {}
    for pixels in (5, 10, 20, 40):
        found[f"moves {pixels} px a frame"] = follow(
            ground, rich, lambda i, p=pixels: turned(0, p * (i - 4.5))
        )
    for degrees in (2, 5, 10, 20, 45):
        found[f"turns {degrees} degrees a frame"] = follow(ground, rich, lambda i, d=degrees: turned(d * i))
    for percent in (2, 5, 10):
        found[f"grows {percent} % a frame"] = follow(
            ground, rich, lambda i, p=percent: turned(0, 0, (1 + p / 100) ** i)
        )
    plain, table = np.full(HW, 200, np.uint8), np.full(HW, 90, np.uint8)
    for pixels in (5, 20):
        moving = lambda i, p=pixels: turned(0, p * (i - 4.5))  # noqa: E731
        found[f"no texture, moves {pixels} px a frame"] = follow(table, plain, moving)
        found[f"no texture on a ground with texture, {pixels} px a frame"] = follow(ground, plain, moving)
    found["no texture, turns 10 degrees a frame"] = follow(table, plain, lambda i: turned(10 * i))
    found["the ground's color and texture, 5 px a frame"] = follow(
        ground, noise(3, 20, 140, 8), lambda i: turned(0, 5 * (i - 4.5))
    )
    found["the light halves"] = follow(ground, rich, lambda i: turned(0, 5 * (i - 4.5)), lambda i: 1 - i / 18)
    return found


def resident_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() / 1e6


def endurance(frames: int) -> dict[str, float]:
    """Go on for long, with a keyframe every ten frames; five objects."""
    ground, skin = noise(2, 20, 140, 8), noise(1, 120, 255, 8)
    pictures = []
    for index in range(40):
        frame, mask = scene(ground, skin, turned(3 * index, 40 * math.sin(index * math.tau / 40)), index)
        small = [np.roll(mask, shift, axis=1) & ~mask for shift in (-180, -150, 150, 180)]
        pictures.append((frame.rgb, [mask, *small]))
    camera, propagation = CameraMotion(), Propagation(Query(text="it"), PropagationOptions(eager=False))
    times_s: list[float] = []
    early_mb = 0.0
    for index in range(frames):
        rgb, masks = pictures[index % len(pictures)]
        frame = Frame(rgb=rgb, stamp_ns=(index + 1) * 33_000_000)
        started_s = time.thread_time()
        motion = camera.advance(frame)
        propagation.advance(frame, camera.gray, motion)
        if propagation.due:
            propagation.hold()
            propagation.correct(answer(masks, frame))
        else:
            propagation.result()
            times_s.append(time.thread_time() - started_s)
        times_s = times_s[-2000:]
        if index == min(frames // 10, 1000):
            early_mb = resident_mb()
    return {
        "frames": frames,
        "resident_mb_early": round(early_mb, 1),
        "resident_mb_late": round(resident_mb(), 1),
        "session_bytes": propagation.nbytes,
        "ms_p50": round(1000 * statistics.median(times_s), 2),
        "ms_p95": round(1000 * sorted(times_s)[int(0.95 * len(times_s))], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000, help="how long to go on for the memory")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    kinds = failures()
    for name, (overlap, confidence) in kinds.items():
        print(f"{name:55} J {overlap:.3f}  confidence {confidence:.2f}")
    print(json.dumps({"failures": kinds, "endurance": endurance(options.frames)}))


if __name__ == "__main__":
    main()
