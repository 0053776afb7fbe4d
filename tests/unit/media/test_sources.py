"""What a user may name as a source: files, folders, patterns, lists, and things that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.media.clips import scene, write_video
from xsam import InvalidImageError
from xsam.errors import InvalidOptionError, SourceError
from xsam.media.frames import Every, SourceFrame
from xsam.media.options import SourceOptions
from xsam.media.sources import looks_like_source, open_sources, single_picture

OPTIONS = SourceOptions()


def save(path: Path, step: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(step)).save(path)
    return path


def names(*arguments: object, options: SourceOptions = OPTIONS) -> list[str]:
    return [frame.name for frame in open_sources([str(a) for a in arguments], options).frames()]


def test_a_folder_is_a_sequence_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 2, 1):
        save(tmp_path / f"img{number}.png", number)
    (tmp_path / "notes.md").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture")
    source = open_sources([str(tmp_path)], SourceOptions(rate_hz=20))
    frames = list(source.frames())
    assert source.count == 4
    assert [frame.name for frame in frames] == ["img1", "img2", "img9", "img10"]
    assert [frame.stamp_ns for frame in frames] == [0, 50_000_000, 100_000_000, 150_000_000]
    assert len({frame.sequence for frame in frames}) == 1
    assert np.array_equal(frames[2].load([]).rgb, scene(9))


def test_patterns_reach_into_folders_and_keep_their_names(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.png")
    save(tmp_path / "b" / "x.jpg")
    save(tmp_path / "b" / "x.png")
    assert names(tmp_path / "**" / "*.*") == ["a/x", "b/x_jpg", "b/x_png"]
    assert names(tmp_path / "?" / "*.png") == ["a/x", "b/x"]


def test_a_list_names_files_relative_to_itself(tmp_path: Path) -> None:
    save(tmp_path / "pictures" / "one.png")
    save(tmp_path / "pictures" / "two.png")
    path = tmp_path / "list.txt"
    path.write_text("# mine\npictures/two.png\n\n  pictures/one.png\npictures/gone.png\npictures/one.png\n")
    frames = list(open_sources([str(path)], OPTIONS).frames())
    assert [frame.name for frame in frames] == ["two", "one", "gone", "one_2"]
    with pytest.raises(InvalidImageError, match=r"cannot read .*gone\.png"):
        frames[2].load([])


def test_pictures_and_videos_together(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one.png"), save(tmp_path / "two.png")
    clip = write_video(tmp_path / "clip.mp4", [scene(0), scene(1)])
    source = open_sources([str(one), str(two), str(clip)], OPTIONS)
    frames = list(source.frames())
    assert source.count == 4
    assert [frame.name.split("/")[1] for frame in frames] == ["one", "two", "clip_000000", "clip_000001"]
    assert len({frame.name for frame in frames}) == 4
    assert len({frame.sequence for frame in frames}) == 2


def test_a_video_is_recognized_without_a_suffix(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [scene(0)]).rename(tmp_path / "upload")
    assert names(path) == ["upload_000000"]
    assert single_picture([str(path)]) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, "has no pictures, videos or bags in it"),
        (lambda folder: folder / "*.png", "no file matches"),
        (lambda folder: folder / "list.txt", "cannot read the list"),
    ],
)
def test_sources_without_pictures_are_refused(tmp_path: Path, make: object, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        names(make(tmp_path))  # type: ignore[operator]


def test_a_list_does_not_open_addresses(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("http://example.com/a.png\n")
    with pytest.raises(SourceError, match="names an address"):
        names(path)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("photo.jpg", True),
        ("gone/photos", True),
        ("photos/*", True),
        ("clip.MP4", True),
        ("run.mcap", True),
        ("0", True),
        ("/dev/video2", True),
        ("rtsp://camera/stream", True),
        ("mug", False),
        ("the red mug", False),
        ("what can hold coffee?", False),
        ("the and/or sign", False),
        ("mug?", False),
        ("a" * 5000, False),
    ],
)
def test_sources_are_told_from_queries(text: str, source: bool) -> None:
    assert looks_like_source(text) == source


def frame_at(stamp_s: float, sequence: str = "a") -> SourceFrame:
    def load(notes: list[str]) -> None:
        raise AssertionError("it is not decoded")

    return SourceFrame(
        source=sequence,
        sequence=sequence,
        index=0,
        name="",
        stamp_ns=round(stamp_s * 1e9),
        load=load,  # type: ignore[arg-type]
    )


def chosen(every: str, stamps_s: list[float]) -> list[float]:
    return [f.stamp_ns / 1e9 for f in Every.parse(every).choose(map(frame_at, stamps_s))]


def test_one_frame_in_n_or_in_a_time() -> None:
    assert chosen("3", [0, 1, 2, 3, 4, 5, 6]) == [0, 3, 6]
    assert chosen("1s", [7.0, 7.4, 7.9, 8.1, 8.9, 9.0, 12.5, 12.9, 13.1]) == [7.0, 8.1, 9.0, 12.5, 13.1]
    # A rate that does not divide the time: the grid keeps the mean.
    assert len(chosen("0.5s", [n / 30 for n in range(301)])) == 21
    # A bag that starts again.
    assert chosen("1s", [5.0, 5.5, 6.0, 1.0, 1.5, 2.0]) == [5.0, 6.0, 1.0, 2.0]


@pytest.mark.parametrize("text", ["", "0", "-1", "0s", "x", "1m", "inf s", "1.5"])
def test_intervals_that_are_none(text: str) -> None:
    with pytest.raises(InvalidOptionError, match="--every takes"):
        Every.parse(text)
