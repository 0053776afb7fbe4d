"""Recordings become a data set: what is in it, who is in which part, and what a kill leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.unit.label.labeling import OPTIONS, ColorEngine, coco, files_of, label_colors
from tests.unit.media.clips import color_mask, scene, write_video
from xsam import Query, SegmentationResult
from xsam.errors import InvalidOptionError, InvalidQueryError, SourceError
from xsam.label.run import apply_decisions
from xsam.types.requests import Frame

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [
        write_video(
            folder / f"{name}.mp4", [scene(step + start, blue=step % 4 != 3) for step in range(length)]
        )
        for name, length, start in (("a", 12, 0), ("b", 8, 3), ("c", 6, 9))
    ]


@pytest.fixture(scope="module")
def labeled(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labeled") / "out"
    label_colors(folder, *clips)
    return folder


def test_labels_are_exact_and_doubtful_ones_are_regions_to_ignore(labeled: Path) -> None:
    sizes = []
    for part in ("train", "val"):
        path = labeled / "annotations" / f"instances_{part}.json"
        data = COCO(str(path))
        assert [item["name"] for item in data.loadCats(data.getCatIds())] == ["red", "blue"]
        sizes.append(len(data.imgs))
        for annotation in data.anns.values():
            image = data.imgs[annotation["image_id"]]
            rgb = np.asarray(Image.open(labeled / "images" / image["file_name"]))
            color = ("red", "blue")[annotation["category_id"] - 1]
            mask = data.annToMask(annotation).astype(bool)
            true = color_mask(rgb, color)
            assert (mask & true).sum() / (mask | true).sum() > (0.9 if "carried" not in annotation else 0.5)
            assert annotation["iscrowd"] == annotation.get("ignore", 0) == (color == "blue")
            assert annotation["model"] == "colors"
            assert annotation["prompt"] == color
            assert annotation["threshold"] is None
            assert 0 < annotation["score"] <= 1
            assert annotation["track_id"] > 0
    assert sum(sizes) == 26
    manifest = json.loads((labeled / "label.json").read_text())
    assert (manifest["frames"], manifest["train"], manifest["val"]) == (26, *sizes)
    assert manifest["models"] == ["colors"]
    assert manifest["options"]["classes"] == ["red", "blue"]


def test_yolo_has_the_labels_and_the_regions_to_ignore_beside_them(labeled: Path) -> None:
    listed = {part: (labeled / f"{part}.txt").read_text().splitlines() for part in ("train", "val")}
    for part, lines in listed.items():
        images = coco(labeled, part)["images"]
        assert lines == [f"./images/{image['file_name']}" for image in images]
        crowds = {image["id"]: [0, 0] for image in images}
        for annotation in coco(labeled, part)["annotations"]:
            crowds[annotation["image_id"]][annotation["iscrowd"]] += 1
        for image in images:
            name = image["file_name"].removesuffix(".jpg")
            text = (labeled / "labels" / f"{name}.txt").read_text().splitlines()
            ignore = labeled / "ignore" / f"{name}.txt"
            regions = ignore.read_text().splitlines() if ignore.exists() else []
            assert [len(text), len(regions)] == crowds[image["id"]]
            assert all(line.startswith("0 ") for line in text)
            assert all(line.startswith("1 ") for line in regions)
    assert (labeled / "data.yaml").read_text() == (
        'train: train.txt\nval: val.txt\nnames:\n  0: "red"\n  1: "blue"\n'
    )


def test_files_are_split_whole_and_always_the_same(clips: list[Path], labeled: Path, tmp_path: Path) -> None:
    sources = {
        part: {image["source"] for image in coco(labeled, part)["images"]} for part in ("train", "val")
    }
    assert sources["train"]
    assert sources["val"]
    assert not sources["train"] & sources["val"]
    assert sources["train"] | sources["val"] == {str(clip) for clip in clips}
    label_colors(tmp_path / "again", *clips)
    assert files_of(tmp_path / "again") == files_of(labeled)


def test_one_file_is_split_in_time_with_a_gap(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "one.mp4", [scene(step % 20) for step in range(50)])
    done = label_colors(tmp_path / "out", clip)
    assert "there is one sequence: its last 10 frames" in done.counts.notes[0]
    assert (done.counts.train, done.counts.gap, done.counts.val) == (36, 4, 10)  # a tenth of 1.96 s
    train, val = (coco(tmp_path / "out", part)["images"] for part in ("train", "val"))
    assert [image["frame"] for image in train] == list(range(36))
    assert [image["frame"] for image in val] == list(range(40, 50))
    short = write_video(tmp_path / "two.mp4", [scene(0), scene(3)])
    done = label_colors(tmp_path / "short", short)
    assert (done.counts.train, done.counts.val) == (2, 0)
    assert "too short" in done.counts.notes[0]
    assert "val: train.txt" in (tmp_path / "short" / "data.yaml").read_text()


def test_pictures_are_split_by_folder(tmp_path: Path) -> None:
    for folder, first in (("x", 0), ("y", 6)):
        (tmp_path / folder).mkdir()
        for number in range(4):
            Image.fromarray(scene(first + number)).save(tmp_path / folder / f"{number}.png")
    label_colors(tmp_path / "out", tmp_path / "x", tmp_path / "y")
    folders = [
        {Path(image["source"]).parent.name for image in coco(tmp_path / "out", part)["images"]}
        for part in ("train", "val")
    ]
    assert sorted(map(sorted, folders)) == [["x"], ["y"]]


def test_frames_without_anything_are_kept_and_damaged_ones_are_named(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(photos / "1.png")
    (photos / "2.png").write_bytes(b"no picture")
    Image.fromarray(scene(0, blue=False)).save(photos / "3.png")
    Image.fromarray(scene(0, blue=False)).save(photos / "4.png")
    done = label_colors(tmp_path / "out", photos, options=replace(OPTIONS, duplicates=6))
    assert done.frames is not None
    assert (done.frames.frames, done.frames.damaged, done.duplicates) == (3, 1, 1)
    assert "2.png" in done.frames.problems[0]
    assert (done.counts.frames, done.counts.negatives, done.counts.labels) == (2, 1, 1)
    assert [image["file_name"] for image in coco(tmp_path / "out")["images"]] == ["1.jpg", "3.jpg"]
    assert (tmp_path / "out" / "labels" / "1.txt").read_text() == ""
    assert json.loads((tmp_path / "out" / "label.json").read_text())["duplicates"] == 1


def test_gray_images_hide_what_is_to_be_ignored(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.fromarray(scene(3 * number, blue=number < 2)).save(photos / f"{number}.png")
    label_colors(tmp_path / "out", photos, options=replace(OPTIONS, gray=True))
    listed = (tmp_path / "out" / "train.txt").read_text() + (tmp_path / "out" / "val.txt").read_text()
    assert sorted(listed.splitlines()) == ["./gray/images/0.jpg", "./gray/images/1.jpg", "./images/2.jpg"]
    plain = np.asarray(Image.open(tmp_path / "out" / "images" / "0.jpg"))
    gray = np.asarray(Image.open(tmp_path / "out" / "gray" / "images" / "0.jpg")).astype(int)
    assert color_mask(plain, "blue").any()
    assert not color_mask(gray, "blue").any()
    assert np.abs(gray[34:38, 44:52] - 114).max() < 6
    assert color_mask(gray, "red").sum() > 0.9 * color_mask(plain, "red").sum()
    labels = tmp_path / "out" / "labels" / "0.txt"
    assert (tmp_path / "out" / "gray" / "labels" / "0.txt").read_text() == labels.read_text()


@pytest.mark.parametrize(("asked", "used"), [(None, 0.25), (0.5, 0.5)])
def test_the_threshold_is_named_and_kept(
    clips: list[Path], tmp_path: Path, asked: float | None, used: float
) -> None:
    """A model keeps weak segments back when none is named; here they are regions to ignore."""

    class WithThreshold(ColorEngine):
        config = SimpleNamespace(instance_threshold=0.25)

        def segment(self, source: Frame, queries: Sequence[Query], **more: Any) -> list[SegmentationResult]:
            assert [query.score_threshold for query in queries] == [used]
            return super().segment(source, queries, **more)

    out = tmp_path / "out"
    label_colors(out, clips[2], options=replace(OPTIONS, threshold=asked, val=0.0), engine=WithThreshold())
    assert {annotation["threshold"] for annotation in coco(out)["annotations"]} == {used}
    before = files_of(out)
    path = tmp_path / "decisions.json"
    run = json.loads(before["label.json"])["run"]
    path.write_text(json.dumps({"format": "xsam-label-decisions/1", "run": run, "decisions": {}}))
    apply_decisions(out, path)
    assert {**files_of(out), "decisions.json": b""} == {**before, "decisions.json": b""}


def test_ctrl_c_leaves_a_data_set_and_the_rest_follows(
    clips: list[Path], labeled: Path, tmp_path: Path
) -> None:
    engine = ColorEngine()
    done = label_colors(tmp_path / "out", *clips, engine=engine, stopped=lambda: engine.asked > 2)
    assert not done.complete
    part = coco(tmp_path / "out")
    assert 0 < len(part["images"]) < 26
    with pytest.raises(SourceError, match=r"results\.jsonl exists"):
        label_colors(tmp_path / "out", *clips)
    done = label_colors(tmp_path / "out", *clips, resume=True)
    assert done.complete
    assert files_of(tmp_path / "out") == files_of(labeled)


@pytest.mark.parametrize("lines", [3, 9, 17])
def test_a_run_that_is_killed_goes_on_as_if_nothing_had_happened(
    clips: list[Path], labeled: Path, tmp_path: Path, lines: int
) -> None:
    """Also when masks were being carried: the keyframe before is asked about again."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.unit.label.labeling", str(out), "0.03", *map(str, clips)]
    for number in range(2):
        process = subprocess.Popen(
            [*command, *(["--resume"] if number else [])],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 100
        journal = out / "results.jsonl"
        while not journal.exists() or journal.read_bytes().count(b"\n") < lines + 4 * number:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
        assert process.wait(20) == -9
        assert not (out / "label.json").exists()
    (out / "labels").mkdir(exist_ok=True)
    (out / "labels" / ".a_000001.txt.a1b2c3d4").write_bytes(b"half")
    done = label_colors(out, *clips, resume=True)
    assert done.complete
    assert files_of(out) == files_of(labeled)


def test_other_options_do_not_go_on_with_a_run(clips: list[Path], labeled: Path) -> None:
    before = files_of(labeled)
    with pytest.raises(SourceError, match="is of another run: threshold was None"):
        label_colors(labeled, *clips, options=replace(OPTIONS, threshold=0.5), resume=True)
    with pytest.raises(SourceError, match="is of another run: classes was"):
        label_colors(labeled, *clips, options=replace(OPTIONS, classes=("red",)), resume=True)
    assert files_of(labeled) == before


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"classes": ()}, InvalidOptionError, "nothing to label"),
        ({"classes": (" ",)}, InvalidQueryError, "category names"),
        ({"classes": tuple(map(str, range(300)))}, InvalidQueryError, "300 categories"),
        ({"propagate": 0}, InvalidOptionError, "propagate must be from 1"),
        ({"val": 1.0}, InvalidOptionError, "val must be"),
        ({"val": float("nan")}, InvalidOptionError, "val must be"),
        ({"reviewed": 10**9}, InvalidOptionError, "reviewed must be"),
        ({"threshold": 2.0}, InvalidQueryError, "score_threshold"),
    ],
)
def test_wrong_options(fields: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(OPTIONS, **fields)  # type: ignore[arg-type]
