"""The annotated recording: read back with the tools of MCAP and `rosbags`, not with what wrote it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from PIL import Image
from rosbags.highlevel import AnyReader

from tests.unit.media.clips import ask_colors, color_mask, scene, write_video
from tests.unit.media.recordings import DEPTH, STORE, image, with_depth, write_bag
from xsam import Query
from xsam.media.journal import Journal
from xsam.media.options import BagTopics, SourceOptions
from xsam.media.run import segment_frames
from xsam.media.sinks.mcap import LABELS, MARKERS, OVERLAY, RESULTS, McapSink
from xsam.media.sources import open_sources


def annotate(source: Path, folder: Path, depth: str = "") -> Path:
    journal = Journal(folder, {})
    segment_frames(
        open_sources([str(source)], SourceOptions(bag=BagTopics(depth=depth))),
        [Query(thing_classes=("red", "blue"))],
        ask_colors,
        journal=journal,
        sinks=[McapSink(folder)],
        track=True,
    )
    journal.close()
    assert sorted(path.name for path in folder.iterdir()) == ["annotated.mcap", "results.jsonl"]
    return folder / "annotated.mcap"


def messages(path: Path) -> dict[str, list[tuple[int, Any]]]:
    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([path], default_typestore=STORE) as reader:
        for connection, stamp_ns, data in reader.messages():
            decoded = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((stamp_ns, decoded))
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_topics_of_a_video(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [scene(step, blue=step < 2) for step in range(4)])
    path = annotate(clip, tmp_path / "out")
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == 12
    found = messages(path)
    assert found.keys() == {OVERLAY, LABELS, RESULTS}
    results = [(stamp_ns, json.loads(message.data)) for stamp_ns, message in found[RESULTS]]
    assert [stamp for stamp, _ in results] == [0, 40_000_000, 80_000_000, 120_000_000]
    assert [len(body["results"][0]["segments"]) for _, body in results] == [2, 2, 1, 1]


def test_images_markers_and_stamps_of_a_bag(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", with_depth(image(DEPTH, "16UC1", None)))
    found = messages(annotate(bag, tmp_path / "out", "/camera/depth/image_raw"))
    assert found.keys() == {OVERLAY, LABELS, MARKERS, RESULTS}
    ((stamp_ns, labels),) = found[LABELS]
    assert (labels.header.stamp.sec, labels.header.stamp.nanosec) == divmod(stamp_ns, 10**9)
    assert labels.header.frame_id == "camera_optical"
    pixels = labels.data.view("<u2").reshape(labels.height, labels.width)
    assert np.array_equal(pixels == 1, color_mask(scene(0), "red"))
    ((_, drawn),) = found[OVERLAY]
    assert Image.open(io.BytesIO(drawn.data.tobytes())).size == (64, 48)
    ((_, array),) = found[MARKERS]
    assert [marker.action for marker in array.markers] == [3, *[0] * (len(array.markers) - 1)]
    boxes = [marker for marker in array.markers if marker.ns == "boxes"]
    assert boxes[0].pose.position.z == pytest.approx(0.8, abs=0.01)
    assert [marker.text[:9] for marker in array.markers if marker.ns == "labels"][:1] == ["1 red 0.8"]


def test_an_annotated_recording_is_a_source(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [scene(0), scene(1)])
    path = annotate(clip, tmp_path / "out")
    source = open_sources([str(path)], SourceOptions(bag=BagTopics(color=OVERLAY)))
    assert [frame.load([]).rgb.shape for frame in source.frames()] == [(48, 64, 3)] * 2
