"""Tiny data sets on disk: 16×12 images with their annotations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from xsam.data.readers import FileSource
from xsam.errors import DatasetError
from xsam.inference.prompts import Conversation

HEIGHT, WIDTH = 12, 16


def write_image(path: Path, seed: int, image_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[np.uint8]:
    """Write a random image: always PNG, whatever the suffix, so that pixels can be compared."""
    rgb = np.random.default_rng(seed).integers(0, 256, (*image_hw, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path, format="PNG")
    return rgb


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def box(x_min: int, y_min: int, x_max: int, y_max: int) -> NDArray[np.bool_]:
    """Return a mask of the pixels from min to max, max exclusive."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[y_min:y_max, x_min:x_max] = True
    return mask


def polygon(x_min: float, y_min: float, x_max: float, y_max: float) -> list[float]:
    """Return the outline of the same box; integer coordinates cover exactly its pixels."""
    return [x_min, y_min, x_max, y_min, x_max, y_max, x_min, y_max]


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a compressed RLE as it appears in JSON files."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}


def image_entry(identity: int, file_name: str) -> dict[str, Any]:
    return {"id": identity, "file_name": file_name, "height": HEIGHT, "width": WIDTH}


def phrases(conversation: Conversation) -> list[str]:
    """Return the texts of the conditions, in order."""
    return re.findall(r"<p>(.*?)</p>", conversation.question + conversation.answer)


def meant(labels: NDArray[np.int64], texts: Sequence[str]) -> list[str | None]:
    """Return the text of the condition of each mask."""
    return [None if label < 0 else texts[label] for label in labels]


def skipped_text(open_source: Callable[[], FileSource], caplog: pytest.LogCaptureFixture) -> str:
    """Open a source with a malformed record; return what is logged about it.

    The record must be counted: in `skipped`, or in the error if no other is left.
    """
    try:
        counted = ", ".join(reason for reason, count in open_source().skipped.items() if count)
    except DatasetError as error:
        assert "no usable images" in str(error) or "can be used" in str(error)  # noqa: PT017
        counted = error.hint
    assert re.search("malformed|annotations of unlisted|annotations without an image", counted), counted
    return caplog.text
