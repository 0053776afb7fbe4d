"""Small clips with objects of known colors, and a segmenter that finds them by their color."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from xsam import MaskRle, Query, SegmentationResult, Segments, Status
from xsam.types.requests import Frame

COLORS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
GROUND = (90, 110, 90)


def scene(step: int, *, hw: tuple[int, int] = (48, 64), blue: bool = True) -> NDArray[np.uint8]:
    """A red square that moves right, and a blue one that stays."""
    pixels = np.full((*hw, 3), GROUND, np.uint8)
    left = 2 + 2 * step
    pixels[6:16, left : left + 10] = COLORS["red"]
    if blue:
        pixels[30:42, 40:56] = COLORS["blue"]
    return pixels


def color_mask(rgb: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    """Where a name that begins with a color is; nowhere for other names."""
    color = next((color for color in COLORS if name.startswith(color)), None)
    if color is None:
        return np.zeros(rgb.shape[:2], np.bool_)
    distance = np.abs(rgb.astype(int) - COLORS[color]).max(axis=2)
    mask: NDArray[np.bool_] = distance < 60
    return mask


def ask_colors(frame: Frame, queries: Sequence[Query]) -> list[SegmentationResult]:
    """One segment for each color that is asked for and there."""
    results = []
    for query in queries:
        names = query.thing_classes or (query.text,)
        found = [
            (i, name, mask) for i, name in enumerate(names) if (mask := color_mask(frame.rgb, name)).any()
        ]
        boxes = []
        for _, _, mask in found:
            rows, columns = np.nonzero(mask)
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        results.append(
            SegmentationResult(
                status=Status.FOUND if found else Status.NOT_FOUND,
                query=query,
                segments=Segments(
                    image_hw=frame.image_hw,
                    masks=tuple(MaskRle.encode(mask) for _, _, mask in found),
                    labels=tuple(name for _, name, _ in found),
                    label_indices=np.array([i for i, _, _ in found], np.int32),
                    scores=np.full(len(found), 0.9, np.float32),
                    boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
                ),
                message="" if found else "nothing matches",
                model_id="colors",
            )
        )
    return results


def write_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    stamps_ms: Sequence[int] | None = None,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames without loss where the codec can, with any stamps."""
    stamps = stamps_ms or [40 * number for number in range(len(frames))]
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "1"} if codec == "libx264" else {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, stamp in zip(frames, stamps, strict=True):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path
