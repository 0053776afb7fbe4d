"""Helpers shared by the readers: paths, JSON files, packed records, checked fields, and images."""

from __future__ import annotations

import contextlib
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from xsam.errors import DatasetError, MissingDataError, RecordError
from xsam.types.pixels import as_u8, decode_deep, is_deep, used_bits

_ORIENTATION = 0x0112  # tag of EXIF
_SPACE = " \t\n\r"
_MAX_LOOKED_FOR = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Files that a user must have on disk for a dataset, and where to get them."""

    dataset: str
    folders: str
    published: str


class PackedRecords:
    """Records of a large file in compact form.

    A record is unpacked when it is read. COCO's 860,000 objects take about 200 MB this way instead of the
    several GB of their Python objects, and forked processes share the memory.

    Args:
        records: JSON-serializable values; consumed once.
    """

    def __init__(self, records: Iterable[Any]) -> None:
        self._data = bytearray()
        ends = [0]
        for record in records:
            self._data += zlib.compress(json.dumps(record, separators=(",", ":")).encode(), 1)
            ends.append(len(self._data))
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        start, end = self._ends[index : index + 2].tolist()
        return json.loads(zlib.decompress(memoryview(self._data)[start:end]))


def missing_path(path: Path, layout: Layout) -> MissingDataError:
    """Build the error for a file or folder that does not exist."""
    return MissingDataError(
        f"{layout.dataset}: {path} does not exist",
        hint=f"expected: {layout.folders}; published at {layout.published}",
    )


def require_file(path: str | Path, layout: Layout) -> Path:
    """Return the path if it is a file; raise `MissingDataError` otherwise."""
    path = Path(path)
    if not path.is_file():
        raise missing_path(path, layout)
    return path


def require_folder(path: str | Path, layout: Layout) -> Path:
    """Return the path if it is a folder; raise `MissingDataError` otherwise."""
    path = Path(path)
    if not path.is_dir():
        raise missing_path(path, layout)
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: the file is not valid JSON, or not UTF-8.
    """
    return parse_json(_read_text(path), path)


def parse_json(text: str, path: Path) -> Any:
    """Parse text that was read from `path`, which is named in errors."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def holds_list(path: Path) -> bool:
    """Return True if the top-level value of a JSON file is a list."""
    with path.open("rb") as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \t\n\r").startswith(b"[")


def iterate_json_list(path: Path) -> Iterator[Any]:
    """Parse the elements of a JSON file that holds a list, one at a time.

    Raises:
        DatasetError: the file is not valid JSON, not UTF-8, or not a list.
    """
    text = _read_text(path)
    if not holds_list(path):
        raise DatasetError(f"{path} must hold a list of records")
    decode = json.JSONDecoder().raw_decode
    position = _skip(text, text.index("[") + 1)
    if text[position : position + 1] == "]":
        return
    while True:
        try:
            element, position = decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _damaged(path, error) from error
        yield element
        position = _skip(text, position)
        separator = text[position : position + 1]
        if separator == "]":
            return
        if separator != ",":
            raise DatasetError(f"{path} is not valid JSON: expected ',' or ']' at character {position}")
        position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path} is not valid JSON: {error}", hint="it may be truncated; download it again")


def take(record: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Return a field of a record.

    Args:
        record: parsed JSON; should be a mapping.
        key: name of the field.
        kind: required type of the value; `int` does not admit true and false.
        where: file and record, for error messages.

    Raises:
        RecordError: the record is not a mapping, or the field is missing or has another type.
    """
    if not isinstance(record, Mapping):
        raise RecordError(f"{where}: expected a mapping, got {type(record).__name__}")
    if key not in record:
        raise RecordError(f"{where}: the field {key!r} is missing")
    value = record[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise RecordError(f"{where}: {key!r} must be {names}, not {type(value).__name__}")
    return value


def take_size(record: Any, where: str) -> tuple[int, int]:
    """Return the fields `height` and `width` of a record, in pixels."""
    height, width = (take(record, key, int, where) for key in ("height", "width"))
    if height < 1 or width < 1:
        raise RecordError(f"{where}: height and width must be positive, got {height}×{width}")
    return height, width


def find_image(folder: Path, file_name: str, layout: Layout) -> Path:
    """Locate an image.

    Some files name images together with their folder ("train2017/000000000009.jpg"), possibly with the
    separator of Windows. Users may pass that folder, a sibling of it, or its parent.

    Raises:
        MissingDataError: there is no such file.
    """
    file_name = file_name.replace("\\", "/")
    candidates = [folder / file_name, *([folder.parent / file_name] if "/" in file_name else [])]
    for path in candidates:
        with contextlib.suppress(OSError, ValueError):  # too long a name, or one that no file can have
            if path.is_file():
                return path
    raise missing_path(candidates[0], layout)


def require_some_image(folder: Path, file_names: Iterable[str], layout: Layout) -> None:
    """Check that one of these images exists, to notice a wrong folder before anything is read.

    Args:
        folder: folder of the images.
        file_names: at least one; the first hundred are looked for.
        layout: what to tell the user otherwise.

    Raises:
        MissingDataError: none of them exists; the first one is named.
    """
    first: MissingDataError | None = None
    for file_name in itertools.islice(file_names, _MAX_LOOKED_FOR):
        try:
            find_image(folder, file_name, layout)
        except MissingDataError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def read_rgb(path: Path, where: str, *, upright: bool = False) -> NDArray[np.uint8]:
    """Read an image.

    Values of more than 8 bits are scaled by the number of bits in use: 12-bit images are often stored in 16.

    Args:
        path: an existing file.
        where: file and record that name it, for error messages.
        upright: apply the EXIF orientation. By default it is not applied: annotations refer to stored pixels,
            as in COCO.

    Returns:
        (H, W, 3) uint8.

    Raises:
        RecordError: the image cannot be decoded, or its pixels have no known range.
    """
    try:
        with Image.open(path) as image:
            if is_deep(image):
                shown = Image.fromarray(decode_deep(path.read_bytes()))
                shown.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
                return np.array(ImageOps.exif_transpose(shown) if upright else shown)
            turned = ImageOps.exif_transpose(image) if upright else image
            if turned.mode == "I":
                return _scale_gray(np.array(turned))
            if turned.mode == "F":
                raise ValueError("its pixels are floating-point numbers, of which the range is not known")
            if turned.mode == "P":  # Pillow warns if a palette with transparency becomes RGB at once
                turned = turned.convert("RGBA")
            return np.array(turned.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordError(f"{where}: cannot read the image {path}: {error}") from error


def read_labels(path: Path, where: str) -> NDArray[np.uint8]:
    """Read an image whose pixels are numbers, such as the class of each pixel.

    Args:
        path: an existing file, gray or with a palette, of 8 bits.
        where: file and record that name it, for error messages.

    Returns:
        (H, W) uint8, the numbers as they are stored: without the colors of a palette.

    Raises:
        RecordError: the image cannot be decoded, or has another form.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise ValueError(f"it must be gray or have a palette, of 8 bits; its mode is {image.mode}")
            return np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordError(f"{where}: cannot read the image {path}: {error}") from error


def _scale_gray(pixels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Scale (H, W) gray values of up to 16 bits to (H, W, 3) uint8."""
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise ValueError(f"its pixels range from {low} to {high}, which is more than 16 bits")
    gray = pixels.astype(np.uint16)
    return np.repeat(as_u8(gray, used_bits(gray))[..., None], 3, axis=2)
