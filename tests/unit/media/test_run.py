"""A run from a source into sinks: they hold what was found, also after kills, Ctrl-C and damage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from tests.unit.media.clips import ask_colors, color_mask, scene, write_video
from xsam import MaskRle, ModelError, Query, SegmentationResult
from xsam.data.readers.annotations import instance_records
from xsam.errors import SourceError
from xsam.media.journal import Journal
from xsam.media.options import SourceOptions
from xsam.media.run import Summary, segment_frames
from xsam.media.sinks.base import Sink
from xsam.media.sinks.coco import CocoSink
from xsam.media.sinks.images import FrameSink, LabelImageSink, OverlaySink
from xsam.media.sinks.mcap import McapSink
from xsam.media.sinks.video import VideoSink
from xsam.media.sinks.yolo import YoloSink
from xsam.media.sources import open_sources
from xsam.types.requests import Frame

pytestmark = pytest.mark.slow

QUERIES = (Query(thing_classes=("red", "blue")),)
RUN = {"model": "colors"}


def sinks_for(folder: Path) -> list[Sink]:
    return [
        OverlaySink(folder),
        LabelImageSink(folder),
        FrameSink(folder),
        CocoSink(folder, QUERIES),
        YoloSink(folder, QUERIES),
        VideoSink(folder),
        McapSink(folder),
    ]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program runs after it."""


def run(
    source: Path,
    folder: Path,
    *,
    kill_at: int | None = None,
    resume: bool = False,
    stop_at: int | None = None,
    fail_at: Sequence[int] = (),
    track: bool = True,
) -> tuple[Summary, int]:
    """Segment a source; return the summary and how often the segmenter was asked."""
    asked = 0

    def ask(frame: Frame, queries: Sequence[Query]) -> list[SegmentationResult]:
        nonlocal asked
        if asked == kill_at:
            raise Killed
        asked += 1
        if asked - 1 in fail_at:
            raise ModelError("it broke")
        return ask_colors(frame, queries)

    journal = Journal(folder, RUN, resume=resume)
    sinks = sinks_for(folder)
    try:
        summary = segment_frames(
            open_sources([str(source)], SourceOptions()),
            QUERIES,
            ask,
            journal=journal,
            sinks=sinks,
            track=track,
            stopped=lambda: asked == stop_at,
        )
    finally:
        journal.close()
    return summary, asked


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [scene(step, blue=step < 8) for step in range(12)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def content(folder: Path) -> dict[str, bytes]:
    """Return every file but recordings by its path; times in the journal are left out."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".mp4", ".mcap"):
            data = path.read_bytes()
            if path.name == "results.jsonl":
                lines = [json.loads(line) for line in data.splitlines()]
                for result in (r for line in lines for r in line.get("results", ())):
                    result["timing_s"] = {}
                data = json.dumps(lines).encode()
            files[str(path.relative_to(folder))] = data
    return files


def assert_same(first: Path, second: Path) -> None:
    """Compare two folders; the encoder of videos does not give the same bytes twice."""
    assert content(first) == content(second)
    videos = [sorted(path.name for path in folder.glob("*.mp4")) for folder in (first, second)]
    assert videos[0] == videos[1] != []
    for name in videos[0]:
        for (stamp, pixels), (other_stamp, others) in zip(
            video_frames(first / name), video_frames(second / name), strict=True
        ):
            assert stamp == other_stamp
            assert np.abs(pixels.astype(int) - others).mean() < 6


def video_frames(path: Path) -> list[tuple[int, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(round(1000 * f.time), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def test_every_output_holds_what_was_found(clip: Path, tmp_path: Path) -> None:
    summary, asked = run(clip, tmp_path)
    assert (summary.frames, asked, summary.damaged, summary.segments) == (12, 12, 0, 20)
    truth = [scene(step, blue=step < 8) for step in range(12)]

    annotations = tmp_path / "annotations" / "instances_results.json"
    data = json.loads(annotations.read_text())
    assert [category["name"] for category in data["categories"]] == ["red", "blue"]
    records = list(instance_records(data, {1: 0, 2: 1}, annotations, {}, keep_empty=True))  # type: ignore[arg-type]
    assert len(records) == 12
    for step, record in enumerate(records):
        found = {item["class"]: item["segmentation"] for item in record["objects"]}
        for number, color in enumerate(("red", "blue")):
            mask = color_mask(truth[step], color)
            assert (number in found) == mask.any()
            if number in found:
                decoded = MaskRle.from_counts(
                    *found[number]["size"], found[number]["counts"].encode()
                ).decode()
                assert (decoded != mask).sum() <= 4  # the codec blurs colors at edges
        stored = cv2.imread(str(tmp_path / "images" / record["file_name"]))[..., ::-1]
        assert stored.shape == truth[step].shape
        assert np.abs(stored.astype(int) - truth[step]).mean() < 6
    assert {a["track_id"] for a in data["annotations"] if a["category_id"] == 1} == {1}

    for step in range(12):
        labels = np.asarray(Image.open(tmp_path / "masks" / f"clip_{step:06d}.png"))
        assert labels.dtype == np.uint16
        assert (labels[color_mask(truth[step], "red")] == 1).mean() > 0.95
        assert ((labels == 2).any()) == (step < 8)
        lines = (tmp_path / "labels" / f"clip_{step:06d}.txt").read_text().splitlines()
        assert [line.split()[0] for line in lines] == (["0", "1"] if step < 8 else ["0"])
        assert (tmp_path / "overlays" / f"clip_{step:06d}.png").is_file()
    assert "mean IoU of 100.0%" in " ".join(summary.notes)

    frames = video_frames(tmp_path / "overlay.mp4")
    assert [stamp for stamp, _ in frames] == [40 * number for number in range(12)]
    drawn = cv2.imread(str(tmp_path / "overlays" / "clip_000003.png"))[..., ::-1]
    assert np.abs(frames[3][1].astype(int) - drawn).mean() < 12


@pytest.mark.parametrize("kill_at", [0, 1, 7, 11])
def test_a_run_that_was_killed_is_completed(clip: Path, tmp_path: Path, kill_at: int) -> None:
    """The same files as without the kill, nothing twice, and no frame is asked about again."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(clip, whole)
    with pytest.raises(Killed):
        run(clip, resumed, kill_at=kill_at)
    with (resumed / "results.jsonl").open("ab") as stream:
        stream.write(b'{"source":"clip.mp4","frame":')  # a line that the kill cut off
    summary, asked = run(clip, resumed, resume=True)
    assert (summary.frames, summary.known, asked) == (12, kill_at, 12 - kill_at)
    assert_same(resumed, whole)


def test_a_file_per_frame_that_was_written_before_the_kill_is_replaced(clip: Path, tmp_path: Path) -> None:
    """The kill came after the outputs of a frame, before its line in the journal."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(clip, whole)
    run(clip, resumed)
    lines = (resumed / "results.jsonl").read_bytes().splitlines(keepends=True)
    (resumed / "results.jsonl").write_bytes(b"".join(lines[:6]))
    summary, _ = run(clip, resumed, resume=True)
    assert (summary.frames, summary.known) == (12, 5)
    assert_same(resumed, whole)


def test_ctrl_c_leaves_valid_files(clip: Path, tmp_path: Path) -> None:
    summary, asked = run(clip, tmp_path, stop_at=5)
    assert summary.interrupted
    assert asked == 5
    assert len(video_frames(tmp_path / "overlay.mp4")) == 5
    data = json.loads((tmp_path / "annotations" / "instances_results.json").read_text())
    assert len(data["images"]) == 5
    summary, asked = run(clip, tmp_path, resume=True)
    assert (summary.interrupted, summary.frames, asked) == (False, 12, 7)
    assert len(video_frames(tmp_path / "overlay.mp4")) == 12


def test_damaged_frames_are_counted_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for step in range(4):
        Image.fromarray(scene(step)).save(folder / f"{step}.png")
    cut = folder / "1.png"
    cut.write_bytes(cut.read_bytes()[:80])
    (folder / "2.png").write_bytes(b"")
    summary, asked = run(folder, tmp_path / "out")
    assert (summary.frames, summary.damaged, asked) == (4, 2, 2)
    assert ["1.png" in problem or "2.png" in problem for problem in summary.problems] == [True, True]
    assert "is empty" in summary.problems[1]
    entries = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()[1:]]
    assert ["problem" in entry for entry in entries] == [False, True, True, False]
    data = json.loads((tmp_path / "out" / "annotations" / "instances_results.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["0.jpg", "3.jpg"]


def test_a_frame_that_the_model_fails_for_is_no_negative(clip: Path, tmp_path: Path) -> None:
    """It had no annotations in COCO, as if nothing were there."""
    summary, _ = run(clip, tmp_path, fail_at=[2, 3])
    assert summary.status.value == "found"
    assert summary.statuses["failed"] == 2  # type: ignore[index]
    assert summary.first_failure == "it broke"
    data = json.loads((tmp_path / "annotations" / "instances_results.json").read_text())
    assert len(data["images"]) == 10
    assert not (tmp_path / "labels" / "clip_000002.txt").exists()
    assert not (tmp_path / "images" / "clip_000002.jpg").exists()


def test_a_broken_model_does_not_run_for_hours(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it broke"):
        run(clip, tmp_path, fail_at=range(100))
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 6


def test_another_run_is_never_continued(clip: Path, tmp_path: Path) -> None:
    run(clip, tmp_path)
    with pytest.raises(SourceError, match="go on with that run with --resume"):
        Journal(tmp_path, RUN)
    with pytest.raises(SourceError, match="model was 'colors'"):
        Journal(tmp_path, {"model": "another"}, resume=True)
    other = write_video(tmp_path / "other.mp4", [scene(0)] * 20)
    with pytest.raises(SourceError, match="the results in the folder are about clip_000000"):
        run(other, tmp_path, resume=True)


def test_a_run_that_ended_before_its_first_frame_is_in_nobodys_way(clip: Path, tmp_path: Path) -> None:
    """Its model could not be loaded, and the same folder was refused after that was mended."""
    Journal(tmp_path, {"model": "a typo"}).close()
    assert run(clip, tmp_path)[1] == 12


def test_two_runs_do_not_write_one_folder(clip: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path, RUN)
    with pytest.raises(SourceError, match="another run is writing"):
        Journal(tmp_path, RUN, resume=True)
    journal.close()


def test_a_damaged_line_is_named(clip: Path, tmp_path: Path) -> None:
    run(clip, tmp_path)
    path = tmp_path / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"{}\n", *lines[5:]]))
    with pytest.raises(SourceError, match=r"results\.jsonl, line 5 is damaged"):
        Journal(tmp_path, RUN, resume=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"score":0.9', '"score":"high"'), ('"status":"found"', '"status":"?"'), ("[48,64]", "[9,9]")],
)
def test_results_that_were_altered_are_not_used(clip: Path, tmp_path: Path, old: str, new: str) -> None:
    run(clip, tmp_path)
    path = tmp_path / "results.jsonl"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(SourceError, match="the results of clip_000000 in the folder are damaged"):
        run(clip, tmp_path, resume=True)


def test_tracks_of_two_queries_have_different_ids(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [scene(step) for step in range(5)])
    journal = Journal(tmp_path / "out", RUN)
    segment_frames(
        open_sources([str(path)], SourceOptions()),
        (Query(text="red"), Query(text="blue")),
        ask_colors,
        journal=journal,
        track=True,
    )
    ids = [[s["track_id"] for r in entry["results"] for s in r["segments"]] for entry in journal.entries()]
    journal.close()
    assert ids == [[1, 2]] * 5


def test_a_change_of_size_starts_another_video(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, hw in enumerate([(48, 64), (48, 64), (49, 65)]):
        Image.fromarray(scene(0, hw=hw)).save(folder / f"{number}.png")
    run(folder, tmp_path / "out")
    videos = sorted((tmp_path / "out").glob("*.mp4"))
    assert [len(video_frames(path)) for path in videos] == [2, 1]
    assert video_frames(videos[1])[0][1].shape == (50, 66, 3)


def test_stamps_that_stand_still_or_go_back_keep_the_order(tmp_path: Path) -> None:
    from dataclasses import replace

    path = write_video(tmp_path / "clip.mp4", [scene(step) for step in range(6)])
    source = open_sources([str(path)], SourceOptions())
    stamps_s = [100.0, 100.5, 100.5, 3.0, 3.04, 90_000.0]

    class Restamped:
        name, count = source.name, source.count

        def frames(self):  # type: ignore[no-untyped-def]
            for frame, stamp_s in zip(source.frames(), stamps_s, strict=True):
                yield replace(frame, stamp_ns=round(stamp_s * 1e9))

    journal = Journal(tmp_path / "out", RUN)
    sink = VideoSink(tmp_path / "out")
    segment_frames(Restamped(), QUERIES, ask_colors, journal=journal, sinks=[sink])
    journal.close()
    shown = [stamp for stamp, _ in video_frames(tmp_path / "out" / "overlay.mp4")]
    assert shown == [0, 500, 501, 502, 542, 60_542]
