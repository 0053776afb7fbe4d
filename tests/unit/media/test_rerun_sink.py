"""The recording for Rerun: read back with Rerun's own reader."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rerun", reason="rerun-sdk is not installed")

from rerun.chunk import RrdReader

from tests.unit.media.clips import ask_colors, color_mask, scene, write_video
from tests.unit.media.recordings import DEPTH, image, with_depth, write_bag
from xsam import Query
from xsam.media.journal import Journal
from xsam.media.options import BagTopics, SourceOptions
from xsam.media.run import segment_frames
from xsam.media.sinks.rerun import BOXES, FRAME, IMAGE, MASKS, NOTES, OBJECTS, STAMP, RerunSink
from xsam.media.sources import open_sources


def annotate(source: Path, folder: Path, depth: str = "") -> Path:
    journal = Journal(folder, {})
    segment_frames(
        open_sources([str(source)], SourceOptions(bag=BagTopics(depth=depth))),
        [Query(thing_classes=("red", "blue"))],
        ask_colors,
        journal=journal,
        sinks=[RerunSink(folder)],
        track=True,
    )
    journal.close()
    assert sorted(path.name for path in folder.iterdir()) == ["annotated.rrd", "results.jsonl"]
    return folder / "annotated.rrd"


def rows_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each entity, in the order of the frames."""
    found: dict[str, list[dict[str, Any]]] = {}
    for chunk in RrdReader(str(path)).stream().to_chunks():
        batch = chunk.to_record_batch()
        columns = {
            name: (column.cast("int64") if name in (STAMP, "log_time") else column).to_pylist()
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        found.setdefault(chunk.entity_path.strip("/"), []).extend(rows)
    return {name: sorted(rows, key=lambda row: row.get(FRAME, -1)) for name, rows in found.items()}


def test_a_video_on_two_timelines(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [scene(step, blue=step < 2) for step in range(4)])
    rows = rows_of(annotate(clip, tmp_path / "out"))
    assert {IMAGE, MASKS, BOXES, NOTES} <= rows.keys()
    assert [row[FRAME] for row in rows[IMAGE]] == [0, 1, 2, 3]
    assert [row[STAMP] for row in rows[IMAGE]] == [0, 40_000_000, 80_000_000, 120_000_000]
    assert [len(row["Boxes2D:labels"]) for row in rows[BOXES]] == [2, 2, 1, 1]
    (jpeg,) = rows[IMAGE][0]["EncodedImage:blob"]
    assert Image.open(io.BytesIO(bytes(jpeg))).size == (64, 48)
    assert "found" in rows[NOTES][0]["TextDocument:text"][0]


def test_masks_and_boxes_of_a_bag_with_depth(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", with_depth(image(DEPTH, "16UC1", None)))
    folder = tmp_path / "out"
    rows = rows_of(annotate(bag, folder, "/camera/depth/image_raw"))
    (masks,) = rows[MASKS]
    (buffer,) = masks["SegmentationImage:buffer"]
    pixels = np.frombuffer(bytes(buffer), "<u2").reshape(48, 64)
    lines = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    segments = next(line for line in lines if "results" in line)["results"][0]["segments"]
    (track,) = {segment["track_id"] for segment in segments if segment["label"] == "red"}
    assert np.array_equal(pixels == track, color_mask(scene(0), "red"))
    (boxes,) = rows[OBJECTS]
    assert boxes["Boxes3D:centers"][0][2] == pytest.approx(0.8, abs=0.05)
    assert boxes["Boxes3D:labels"][0].startswith(f"{track} red")
