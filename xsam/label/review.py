"""The contact sheet: one HTML file with a picture of each item, most doubtful first, and keys to decide."""

from __future__ import annotations

import base64
import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.errors import InvalidImageError, SourceError
from xsam.inference.images import read_image
from xsam.label.decisions import FORMAT
from xsam.label.items import Line, itemized, mask_of
from xsam.media.journal import Journal
from xsam.weights.files import replace_file

TILE_PX = 224
_MARGIN = 0.6  # of the object's size, around it
_LEAST_PX = 64
_JPEG_QUALITY = 80
_PLACE = "/*ITEMS*/null"


@dataclass(slots=True, kw_only=True)
class Item:
    """A label in a keyframe, and where it was carried to."""

    identity: str
    frames: int
    name: str  # of the frame that says most against it
    segment: Mapping[str, Any]  # there
    order: int

    def rank(self, decisions: Mapping[str, str]) -> tuple[bool, bool, float, int]:
        """Return what sorts items: undecided ones first, then those in doubt, then the lowest scores."""
        doubtful = bool(self.segment.get("doubt"))
        return (self.identity in decisions, not doubtful, float(self.segment["score"]), self.order)


def items_of(entries: Iterator[Line]) -> Iterator[Item]:
    """Yield the items of a run, each when its keyframe is over."""
    current: dict[str, Item] = {}
    count = 0
    for entry, labels in itemized(entries):
        if "carried" not in entry["results"][0]:
            yield from current.values()
            current.clear()
        for identity, segment in labels:
            item = current.get(identity)
            if item is None:
                current[identity] = Item(
                    identity=identity, frames=1, name=entry["name"], segment=segment, order=count
                )
                count += 1
                continue
            item.frames += 1
            if bool(segment.get("doubt")) >= bool(item.segment.get("doubt")):
                item.name, item.segment = entry["name"], segment
    yield from current.values()


def write_review(
    path: Path, images: Path, journal: Journal, decisions: Mapping[str, str], *, run: str, most: int
) -> tuple[int, int, int]:
    """Write the contact sheet.

    Returns:
        How many items are on it, how many are not, and how many are in doubt and undecided.

    Raises:
        SourceError: an image is missing or damaged.
        OSError: it cannot be written.
    """
    total = doubtful = 0

    def counted() -> Iterator[Item]:
        nonlocal total, doubtful
        for item in items_of(journal.entries()):
            total += 1
            doubtful += bool(item.segment.get("doubt")) and item.identity not in decisions
            yield item

    # With 0, it would not look at anything, and nothing would be counted.
    chosen = heapq.nsmallest(max(1, most), counted(), key=lambda item: item.rank(decisions))[:most]
    content = {
        "format": FORMAT,
        "run": run,
        "left": total - len(chosen),
        "items": [
            {
                "id": item.identity,
                "frame": item.name,
                "label": item.segment["label"],
                "score": item.segment["score"],
                "doubt": item.segment.get("doubt", ""),
                "frames": item.frames,
                "decision": decisions.get(item.identity, ""),
                "picture": _picture(images / f"{item.name}.jpg", item.segment),
            }
            for item in chosen
        ],
    }
    # ASCII, and without "<": nothing in a name can end the script.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    template = (files("xsam") / "assets" / "label" / "review.html").read_text(encoding="utf-8")
    replace_file(path, template.replace(_PLACE, data, 1).encode())
    return len(chosen), total - len(chosen), doubtful


def _picture(path: Path, segment: Mapping[str, Any]) -> str:
    """Return the object with its outline and what is around it, as a data URI."""
    try:
        rgb = read_image(path)
    except (InvalidImageError, OSError) as error:
        raise SourceError(f"{path} cannot be shown for review: {error}", hint="label again") from error
    mask = mask_of(segment)
    if rgb.shape[:2] != (mask.height, mask.width):
        raise SourceError(f"{path} has not the size of its masks", hint="label again")
    top, left, bottom, right = _window(segment["box_xyxy"], (mask.height, mask.width))
    view = rgb[top:bottom, left:right]
    scale = TILE_PX / max(view.shape[:2])
    size = (max(1, round(view.shape[1] * scale)), max(1, round(view.shape[0] * scale)))
    shown = cv2.resize(view, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    inside = mask.decode()[top:bottom, left:right].astype(np.uint8)
    outline = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    canvas: NDArray[Any] = np.ascontiguousarray(shown[..., ::-1])
    cv2.drawContours(canvas, contours, -1, (0, 0, 0), 3)
    cv2.drawContours(canvas, contours, -1, (0, 255, 255), 1)
    _, jpeg = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"


def _window(box_xyxy: list[float], image_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of what is shown of an image."""
    x_min, y_min, x_max, y_max = box_xyxy
    margin = max(
        _MARGIN * max(x_max - x_min, y_max - y_min), (_LEAST_PX - max(x_max - x_min, y_max - y_min)) / 2
    )
    return (
        max(0, int(y_min - margin)),
        max(0, int(x_min - margin)),
        min(image_hw[0], int(y_max + margin) + 1),
        min(image_hw[1], int(x_max + margin) + 1),
    )
