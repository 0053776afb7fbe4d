"""The one decoder of annotation files in COCO's format: training and `xsam eval --coco` read a file alike.

What is wrong with a file is handled by one rule each:

* **Read**: whole numbers written as text or floats ("12", 12.0), flags written as text ("0"), images without
  a size (that of the picture counts), annotation ids that several objects share.
* **Skipped and counted**: annotations without an image or of an image that is not listed, copies of an
  annotation, and images whose truth is incomplete because an entry or annotation of them is malformed.
* **Refused by name**: a file without images, annotations, or categories; two categories of one id; two
  different images of one id; a name for things and for stuff; a file of which nothing remains.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xsam.data.readers.files import take
from xsam.errors import DatasetError, RecordError

_log = logging.getLogger(__name__)

MALFORMED = "malformed records"
_MAX_NAMED = 3  # log messages per reason
_MAX_DIGITS = 18  # of an id; more do not fit 64 bits
_FLAGS = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True}

Identity = int | str
Record = dict[str, Any]


def skip(skipped: Counter[str], reason: str, problem: object) -> None:
    """Count a skipped record; the first few of each reason are logged."""
    skipped[reason] += 1
    if skipped[reason] <= _MAX_NAMED:
        _log.warning("skipped, %s: %s", reason, problem)


def describe_skips(skipped: Mapping[str, int]) -> str:
    """Return the reasons and their counts as text."""
    return ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count) or "none"


def take_number(record: Any, key: str, where: str) -> int:
    """Return a field that is a whole number, possibly written as text or as a float.

    Raises:
        RecordError: the field is missing or is no whole number.
    """
    value = _whole(take(record, key, object, where))
    if not isinstance(value, int):
        raise RecordError(f"{where}: {key!r} must be a whole number, not {_short(record[key])}")
    return value


def take_id(record: Any, key: str, where: str) -> Identity:
    """Return an id: a whole number, also if written as "12" or 12.0, or other text.

    Raises:
        RecordError: the field is missing or is neither.
    """
    value = _whole(take(record, key, object, where))
    if not isinstance(value, (int, str)):
        raise RecordError(f"{where}: {key!r} must be a whole number or text, not {_short(record[key])}")
    return value


def take_flag(record: Any, key: str, where: str) -> bool:
    """Return a field that is 0 or 1, also if written as text or bool; False if it is missing or null.

    Raises:
        RecordError: the field has another value.
    """
    value = take({key: 0, **record}, key, object, where)
    value = value.strip().lower() if isinstance(value, str) else value
    if value is None:
        return False
    if not isinstance(value, (int, float, str)) or value not in _FLAGS:
        raise RecordError(f"{where}: {key!r} must be 0 or 1, not {_short(value)}")
    return _FLAGS[value]


def id_order(identity: Identity) -> tuple[bool, int, str]:
    """Sort ids of both kinds: numbers first."""
    if isinstance(identity, int):
        return (False, identity, "")
    return (True, 0, identity)


def image_records(
    data: Any, path: Path, skipped: Counter[str], *, texts: Sequence[str] = ()
) -> Iterator[Record]:
    """Parse the field `images` of a COCO file.

    Args:
        data: content of the file.
        path: the file, for error messages.
        skipped: counts the skipped records.
        texts: more fields with text that every image must have.

    Yields:
        `id` (int or str), `file_name`, `height` and `width` unless both are missing, and `texts`.

    Raises:
        RecordError: the field is missing, or two different images have one id.
    """
    known: dict[Identity, Record] = {}
    for number, image in enumerate(take(data, "images", list, str(path))):
        where = f"{path}, image number {number}"
        try:
            identity = take_id(image, "id", where)
            where = f"{path}, image {identity}"
            file_name = take(image, "file_name", str, where)
            if not file_name.strip():
                raise RecordError(f"{where}: 'file_name' is empty")
            record = {"id": identity, "file_name": file_name, **_size(image, where)}
            record |= {key: take(image, key, str, where) for key in texts}
        except RecordError as error:
            skip(skipped, "with a malformed image entry", error)
            continue
        if identity not in known:
            known[identity] = record
            yield record
        elif known[identity] == record:
            skip(skipped, "listed twice", where)
        else:
            raise RecordError(f"{where}: two images have this id: {known[identity]} and {record}")


def instance_records(
    data: Any,
    class_of: Mapping[Identity, int],
    path: Path,
    skipped: Counter[str],
    *,
    keep_empty: bool = False,
) -> Iterator[Record]:
    """Parse the images of a COCO instance file with their objects, in file order.

    Args:
        data: content of the file.
        class_of: category id → index.
        path: the file, for error messages.
        skipped: counts the skipped records.
        keep_empty: yield images without objects, too.

    Yields:
        What `image_records` yields, and `objects`: each `id`, `class`, `crowd`, `segmentation`.

    Raises:
        RecordError: see the module's docstring.
    """
    images = list(image_records(data, path, skipped))
    objects, malformed = annotations_by_image(
        data, images, path, skipped, lambda a, w: _object(a, class_of, w)
    )
    for image in images:
        if image["id"] in malformed:
            continue
        found = objects.get(image["id"], [])
        if not keep_empty and all(item["crowd"] for item in found):
            skipped["without an object"] += 1
            continue
        yield {**image, "objects": found}


def panoptic_records(
    data: Any,
    class_of: Mapping[Identity, int],
    path: Path,
    skipped: Counter[str],
    *,
    keep_empty: bool = False,
) -> Iterator[Record]:
    """Parse the images of a COCO panoptic file with their segments, in file order.

    The arguments are those of `instance_records`. Images without an annotation are skipped.

    Yields:
        What `image_records` yields, `mask` (file name), and `segments`: each (id, class index, crowd).
    """
    images = list(image_records(data, path, skipped))
    annotations, malformed = annotations_by_image(
        data, images, path, skipped, lambda a, w: _layout(a, class_of, w)
    )
    for image in images:
        if image["id"] in malformed:
            continue
        found = annotations.get(image["id"], [])
        if not found:
            skipped["without an annotation"] += 1
        elif len(found) > 1:
            skip(skipped, "with two annotations", f"{path}, image {image['id']}")
        elif not keep_empty and all(crowd for _, _, crowd in found[0]["segments"]):
            skipped["without a segment"] += 1
        else:
            yield {**found[0], **image}


def annotations_by_image(
    data: Any,
    images: Sequence[Record],
    path: Path,
    skipped: Counter[str],
    parse: Callable[[Any, str], Record],
) -> tuple[dict[Identity, list[Record]], set[Identity]]:
    """Parse the field `annotations` of a COCO file.

    Args:
        data: content of the file.
        images: its images, from `image_records`.
        path: the file, for error messages.
        skipped: counts the skipped records.
        parse: parses an annotation, given its name for error messages; the result has an `id`.

    Returns:
        image id → parsed annotations; ids of the images that have a malformed one.

    Raises:
        RecordError: the field is missing.
        DatasetError: no annotation can be used.
    """
    known = {image["id"] for image in images}
    found: dict[Identity, list[Record]] = defaultdict(list)
    seen: dict[tuple[Identity, Identity], Record] = {}
    malformed: set[Identity] = set()
    annotations = take(data, "annotations", list, str(path))
    for number, annotation in enumerate(annotations):
        where = f"{path}, annotation number {number}"
        try:
            image_id = take_id(annotation, "image_id", where)
        except RecordError as error:
            skip(skipped, "annotations without an image", error)
            continue
        if image_id not in known:
            skip(skipped, "annotations of unlisted images", f"{where}, image {image_id!r}")
            continue
        try:
            record = parse(annotation, where)
        except RecordError as error:
            if image_id not in malformed:
                malformed.add(image_id)
                skip(skipped, "with a malformed annotation", f"image {image_id}: {error}")
            continue
        key = (image_id, record["id"])
        if "id" in annotation and seen.setdefault(key, record) is not record and seen[key] == record:
            skip(skipped, "repeated annotations", f"{where}, id {record['id']}")
            continue
        found[image_id].append(record)
    if annotations and not found:
        raise DatasetError(
            f"{path}: none of its {len(annotations)} annotations can be used with its {len(known)} images",
            hint=f"skipped: {describe_skips(skipped)}",
        )
    return found, malformed


def _object(annotation: Any, class_of: Mapping[Identity, int], where: str) -> Record:
    identity = take_id(annotation, "id", where) if "id" in annotation else where.rpartition(" ")[2]
    where = f"{where} (id {identity})"
    return {
        "id": identity,
        "class": _class(annotation, class_of, where),
        "crowd": take_flag(annotation, "iscrowd", where),
        "segmentation": take(annotation, "segmentation", (list, dict), where),
    }


def _layout(annotation: Any, class_of: Mapping[Identity, int], where: str) -> Record:
    segments: dict[int, tuple[int, int, bool]] = {}
    for segment in take(annotation, "segments_info", list, where):
        identity = take_number(segment, "id", f"{where}, segment")
        at = f"{where}, segment {identity}"
        if identity < 1 or identity in segments:
            raise RecordError(f"{at}: segment ids must be positive and differ")
        segments[identity] = (identity, _class(segment, class_of, at), take_flag(segment, "iscrowd", at))
    return {"id": "", "mask": take(annotation, "file_name", str, where), "segments": list(segments.values())}


def _class(record: Any, class_of: Mapping[Identity, int], where: str) -> int:
    identity = take_id(record, "category_id", where)
    if identity not in class_of:
        raise RecordError(f"{where}: category {identity} is not in 'categories'")
    return class_of[identity]


def _size(image: Any, where: str) -> dict[str, int]:
    if image.get("height") is None and image.get("width") is None:
        return {}
    size = {key: take_number(image, key, where) for key in ("height", "width")}
    if min(size.values()) < 1:
        raise RecordError(f"{where}: height and width must be positive, got {size}")
    return size


def _whole(value: Any) -> Any:
    """Convert a whole number that is written as a float or as decimal text; return anything else as it is.

    A number that does not fit 64 bits becomes None, like true and false. Text with leading zeros stays text:
    "007" and "7" may be two names.
    """
    if isinstance(value, bool) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str):
        digits = value.strip().removesuffix(".0")
        if (
            digits.isascii()
            and digits.isdecimal()
            and len(digits) <= _MAX_DIGITS
            and str(int(digits)) == digits
        ):
            return int(digits)
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
