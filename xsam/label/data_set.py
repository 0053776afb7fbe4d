"""The data set of a run and of the decisions about it: COCO, YOLO, regions to ignore, and the contact sheet.

It is made of the journal from the beginning, whenever labeling ends or decisions are applied: the same
journal and the same decisions give the same files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from xsam.errors import SourceError
from xsam.inference.images import read_image
from xsam.label.decisions import run_id
from xsam.label.items import Line, answered, decided, mask_of
from xsam.label.options import LabelOptions
from xsam.label.review import write_review
from xsam.label.splits import TRAIN, VAL, Split, plan_split
from xsam.media.image_files import write_image
from xsam.media.journal import Journal
from xsam.media.sinks.coco import write_coco
from xsam.media.sinks.labels import LabelNumbers
from xsam.media.sinks.yolo import YoloSink
from xsam.types.masks import MaskRle
from xsam.weights.files import remove_drafts, replace_file

MANIFEST = "label.json"
REVIEW = "review.html"
GRAY = 114
"""What ignored regions are painted with: the gray that YOLO trainers pad images with."""

_GRAY_MARGIN_PX = 3


@dataclass(slots=True, kw_only=True)
class DataSetCounts:
    """What a data set has."""

    frames: int = 0
    negatives: int = 0  # frames without a label and without a region to ignore
    labels: int = 0
    trusted: int = 0  # labels in doubt that are used
    ignored: int = 0
    train: int = 0
    val: int = 0
    gap: int = 0  # frames for neither
    decisions: int = 0
    review: int = 0  # items on the contact sheet
    review_left: int = 0  # items that it has no room for
    doubtful: int = 0  # items in doubt without a decision
    notes: list[str] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        names = [entry.name for entry in fields(self) if entry.type == "int"]
        return {name: getattr(self, name) for name in names}


def write_data_set(
    folder: Path,
    journal: Journal,
    decisions: Mapping[str, str],
    *,
    threshold: float | None,
    complete: bool,
    duplicates: int,
) -> DataSetCounts:
    """Write the data set into the folder of the run.

    Args:
        folder: of the journal; it has the frames in `images`.
        journal: of the run.
        decisions: by item.
        threshold: lowest score of a label; None = nobody knows.
        complete: whether the run has reached the end of its source.
        duplicates: frames that were left out because they look like another.

    Raises:
        SourceError: the journal, or an image, is damaged.
        OSError: a file cannot be written.
    """
    options = LabelOptions.of_run(journal.run)
    run = run_id(journal.run, journal.entries())
    remove_drafts(folder)

    def entries() -> Iterator[Line]:
        return decided(journal.entries(), decisions, threshold=threshold, trust=options.trust)

    split = plan_split(lambda: answered(journal.entries()), options.val)
    counts = DataSetCounts(decisions=len(decisions))
    counts.notes += [split.note] if split.note else []
    numbers = LabelNumbers([options.query()])
    yolo = YoloSink(folder, [options.query()])
    _write_frames(folder, split.assign(entries()), yolo, options, counts)
    for part in (TRAIN, VAL):
        path = folder / "annotations" / f"instances_{part}.json"
        write_coco(path, _chosen(split, entries, part), numbers, description="labels of xsam label")
        counts.outputs.append(path)
    _write_yolo_yaml(folder, options, counts)
    counts.notes += yolo.notes()
    counts.review, counts.review_left, counts.doubtful = write_review(
        folder / REVIEW, folder / "images", journal, decisions, run=run, most=options.reviewed
    )
    manifest = {
        "run": run,
        "complete": complete,
        "options": dict(journal.run),
        "models": _models(journal),
        "threshold": threshold,
        "duplicates": duplicates,
        **counts.as_json(),
        "notes": counts.notes,
        "val_sequences": sorted(split.val),
    }
    replace_file(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    counts.outputs += [folder / "data.yaml", folder / MANIFEST, folder / REVIEW]
    return counts


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the description of a data set.

    Raises:
        SourceError: there is none, since labeling was killed, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["complete"], bool) or not isinstance(content["duplicates"], int):
            raise TypeError
        if not isinstance(content["threshold"], float | int | None):
            raise TypeError
    except OSError as error:
        raise SourceError(
            f"{folder} has no data set yet: {path.name}: {error.strerror or error}",
            hint="if labeling was killed, go on with --resume",
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise SourceError(f"{path} is damaged", hint="label again with --resume") from error
    return content


def _write_frames(
    folder: Path,
    parts: Iterable[tuple[str, Line]],
    yolo: YoloSink,
    options: LabelOptions,
    counts: DataSetCounts,
) -> None:
    """Write what there is for each frame, and the lists of frames for training and validation."""
    unlisted = 0
    drafts = {part: folder / f".{part}.txt.part" for part in (TRAIN, VAL)}
    streams = {
        part: path.open("w", encoding="utf-8", errors="surrogateescape") for part, path in drafts.items()
    }
    try:
        for part, entry in parts:
            name, segments = entry["name"], entry["results"][0]["segments"]
            kept = [segment for segment in segments if "ignore" not in segment]
            ignored = [segment for segment in segments if "ignore" in segment]
            text = yolo.text(_masks(kept))
            _put(folder / "labels" / f"{name}.txt", text)
            _put(folder / "ignore" / f"{name}.txt", yolo.text(_masks(ignored)) if ignored else None)
            gray = options.gray and bool(ignored)
            if options.gray:
                _put(folder / "gray" / "labels" / f"{name}.txt", text if gray else None)
                _write_gray(folder, name, [mask for _, mask in _masks(ignored)], [m for _, m in _masks(kept)])
            counts.frames += 1
            counts.negatives += not segments
            counts.labels += len(kept)
            counts.trusted += sum("doubt" in segment and "decision" not in segment for segment in kept)
            counts.ignored += len(ignored)
            setattr(counts, part, getattr(counts, part) + 1)
            if part in streams:
                if "\n" in name or "\r" in name:
                    unlisted += 1
                else:
                    streams[part].write(f"./{'gray/' if gray else ''}images/{name}.jpg\n")
    finally:
        for stream in streams.values():
            stream.close()
    for part, path in drafts.items():
        path.replace(folder / f"{part}.txt")
        counts.outputs.append(folder / f"{part}.txt")
    counts.outputs += [folder / "images", folder / "labels"]
    if unlisted:
        counts.notes.append(f"{unlisted} frames are not in YOLO's lists: their names have line breaks")
    if counts.trusted:
        counts.notes.append(
            f"{counts.trusted} labels are in doubt, and used: such answers of the model are right "
            f"{options.trust:.0%} of the time or more (--trust); {REVIEW} shows them, too"
        )
    if counts.ignored:
        counts.outputs.append(folder / "ignore")
        counts.notes.append(
            f"{counts.ignored} labels are regions to ignore (iscrowd in COCO, ignore/ for YOLO): those in "
            f"doubt, until they are accepted in {REVIEW}"
        )


def _masks(segments: Iterable[Mapping[str, Any]]) -> list[tuple[str, MaskRle]]:
    return [(segment["label"], mask_of(segment)) for segment in segments]


def _write_gray(folder: Path, name: str, ignored: list[MaskRle], kept: list[MaskRle]) -> None:
    """Write a frame with its ignored regions painted over, without touching what is labeled."""
    path = folder / "gray" / "images" / f"{name}.jpg"
    if not ignored:
        path.unlink(missing_ok=True)
        return
    rgb = read_image(folder / "images" / f"{name}.jpg").copy()
    region = np.zeros(rgb.shape[:2], np.uint8)
    for mask in ignored:
        crop = mask.crop()
        region[crop.window] |= crop.pixels
    side = 2 * _GRAY_MARGIN_PX + 1
    region = cv2.dilate(region, np.ones((side, side), np.uint8)).astype(np.uint8)
    for mask in kept:
        crop = mask.crop()
        region[crop.window][crop.pixels] = 0
    rgb[region > 0] = GRAY
    write_image(path, rgb)


def _put(path: Path, text: str | None) -> None:
    """Make a file hold a text, or not exist; one that does already is not touched."""
    if text is None:
        path.unlink(missing_ok=True)
        return
    content = text.encode()
    try:
        if path.read_bytes() == content:
            return
    except OSError:
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)


def _chosen(split: Split, entries: Callable[[], Iterator[Line]], part: str) -> Callable[[], Iterator[Line]]:
    return lambda: (entry for found, entry in split.assign(entries()) if found == part)


def _write_yolo_yaml(folder: Path, options: LabelOptions, counts: DataSetCounts) -> None:
    names = "".join(f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(options.classes))
    val = f"{VAL}.txt" if counts.val else f"{TRAIN}.txt"
    head = "" if counts.val else "# val are the same images: there is no validation part\n"
    replace_file(folder / "data.yaml", f"{head}train: {TRAIN}.txt\nval: {val}\nnames:\n{names}".encode())


def _models(journal: Journal) -> list[str]:
    seen: Counter[str] = Counter(entry["results"][0]["model"] for entry in answered(journal.entries()))
    return sorted(seen)
