"""Files of LabelMe, one per image: their text encoding, and shapes → masks."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from xsam.data.readers.annotations import take_number
from xsam.data.readers.files import parse_json, take
from xsam.data.readers.segmentations import check_polygon
from xsam.errors import DatasetError, RecordError
from xsam.types.masks import BoolMask

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_CIRCLE_CORNERS = 180
_HIGH = re.compile(rb"[\x80-\xff]+")
_GB2312 = re.compile(rb"(?:[\xa1-\xa9\xb0-\xf7][\xa1-\xfe])+")
_MIN_CHINESE_BYTES = 4  # two characters: "é" twice in a row reads as one


def read_labelme(path: Path) -> Any:
    """Read a LabelMe file in UTF-8, GBK, or Windows-1252: some published ones are not in UTF-8.

    Raises:
        DatasetError: the file is in another encoding, or not valid JSON.
    """
    content = path.read_bytes()
    encodings = ["utf-8-sig", *(["gbk"] if _looks_chinese(content) else []), "cp1252"]
    for encoding in encodings:
        try:
            return parse_json(content.decode(encoding), path)
        except UnicodeDecodeError:
            continue
    raise DatasetError(f"{path} is in none of the encodings UTF-8, GBK, and Windows-1252")


def annotated_size(data: Any, where: str) -> dict[str, int]:
    """Return the `height` and `width` that the annotations are for; empty if the file does not say."""
    if data.get("imageHeight") is None or data.get("imageWidth") is None:
        return {}
    return {key: take_number(data, f"image{key.title()}", where) for key in ("height", "width")}


def read_outline(shape: Any, where: str) -> list[list[float]]:
    """Return the corners [[x, y], …] of a shape with an area.

    A rectangle has two opposite corners, a circle its center and a point on it; a shape without a type is a
    polygon.

    Raises:
        RecordError: the shape has another type or other points.
    """
    kind = shape.get("shape_type") or "polygon"
    points = take(shape, "points", list, where)
    good = all(
        isinstance(point, list) and len(point) == 2 and all(type(v) in (int, float) for v in point)
        for point in points
    )
    if not points or not good:
        raise RecordError(f"{where}: 'points' must be a list of [x, y]")
    if kind == "polygon" or (kind == "rectangle" and len(points) == 4):
        return points
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        return [[left, top], [right, top], [right, bottom], [left, bottom]]
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        if not math.isfinite(radius):
            raise RecordError(f"{where}: the radius of a circle is {radius}")
        angles = [2 * math.pi * k / _CIRCLE_CORNERS for k in range(_CIRCLE_CORNERS)]
        return [[round(x + radius * math.cos(a)), round(y + radius * math.sin(a))] for a in angles]
    raise RecordError(f"{where}: a {kind} of {len(points)} points has no area that could be a mask")


def fill_outline(corners: list[list[float]], image_hw: tuple[int, int], where: str) -> BoolMask:
    """Fill an outline, its border included, as the reader of the ReasonSeg benchmark does.

    Returns:
        (H, W) bool.

    Raises:
        RecordError: coordinates lie far outside the image.
    """
    check_polygon([value for corner in corners for value in corner], image_hw, where)
    canvas = np.zeros(image_hw, np.uint8)
    cv2.fillPoly(
        canvas, [np.array(corners, np.float64).astype(np.int32)], 1
    )  # includes the border, and clips
    return canvas.astype(np.bool_)


def _looks_chinese(content: bytes) -> bool:
    """Return True if everything beyond ASCII is characters of GB2312, several in a row at least once."""
    runs = _HIGH.findall(content)
    return max(map(len, runs), default=0) >= _MIN_CHINESE_BYTES and all(map(_GB2312.fullmatch, runs))
