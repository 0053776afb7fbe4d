"""What the readers share: JSON files, packed records, checked fields, pictures."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xsam.data.readers.errors import DatasetError, Layout, RecordError, missing

_SPACE = " \t\n\r"


class PackedRecords:
    """Records of a large file in compact form.

    A record is unpacked when it is read. COCO's 860,000 objects take some 200 MB so, not the several GB of
    their Python objects, and processes forked from this one share the memory.

    Args:
        records: anything JSON can hold; consumed once.
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


def require_file(path: str | Path, layout: Layout) -> Path:
    """The path, if it is a file; else `MissingDataError`."""
    path = Path(path)
    if not path.is_file():
        raise missing(path, layout)
    return path


def require_folder(path: str | Path, layout: Layout) -> Path:
    """The path, if it is a folder; else `MissingDataError`."""
    path = Path(path)
    if not path.is_dir():
        raise missing(path, layout)
    return path


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        DatasetError: it is no JSON, or not UTF-8.
    """
    return parse_json(_text(path), path)


def parse_json(text: str, path: Path) -> Any:
    """Parse text that came from `path`; an error names the file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def holds_list(path: Path) -> bool:
    """Whether the outermost thing in a JSON file is a list."""
    with path.open("rb") as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \t\n\r").startswith(b"[")


def iterate_json_list(path: Path) -> Iterator[Any]:
    """Elements of a JSON file that holds a list, unpacked one at a time.

    Raises:
        DatasetError: it is no JSON, not UTF-8, or no list.
    """
    text = _text(path)
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
            raise DatasetError(f"{path} is no valid JSON: no ',' or ']' at character {position}")
        position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path} is no valid JSON: {error}", hint="it may be cut off; download it again")


def take(record: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field of a record.

    Args:
        record: where to look.
        key: name of the field.
        kind: what the value must be; `int` does not admit true and false.
        where: file and record, for the message.

    Raises:
        RecordError: the record is no mapping, or the field is missing or of another type.
    """
    if not isinstance(record, Mapping):
        raise RecordError(f"{where}: a mapping is expected, not {type(record).__name__}")
    if key not in record:
        raise RecordError(f"{where}: the field {key!r} is missing")
    value = record[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise RecordError(f"{where}: {key!r} must be {names}, not {type(value).__name__}")
    return value


def take_size(record: Any, where: str) -> tuple[int, int]:
    """The fields `height` and `width` of a record, in pixels."""
    height, width = (take(record, key, int, where) for key in ("height", "width"))
    if height < 1 or width < 1:
        raise RecordError(f"{where}: height and width must be positive, got {height}×{width}")
    return height, width


def find_image(folder: Path, file_name: str, layout: Layout) -> Path:
    """Where a picture is.

    Some files name pictures together with their folder ("train2017/000000000009.jpg"); users may give
    that folder, or one beside it, as well as the one above.

    Raises:
        MissingDataError: neither exists.
    """
    path = folder / file_name
    if not path.is_file():
        above = folder.parent / file_name
        if "/" not in file_name or not above.is_file():
            raise missing(path, layout)
        return above
    return path


def read_rgb(path: Path, where: str) -> NDArray[np.uint8]:
    """A picture as it is stored.

    An EXIF orientation is not applied: annotations count in stored pixels, as in COCO.

    Args:
        path: an existing file.
        where: file and record that name it, for the message.

    Returns:
        (H, W, 3) uint8.

    Raises:
        RecordError: it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordError(f"{where}: cannot read the picture {path}: {error}") from error
