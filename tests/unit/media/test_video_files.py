"""Videos as people have them: turned, of variable rate, cut off, damaged, and files that are no videos."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.media.clips import scene, write_video
from xsam import InvalidImageError
from xsam.errors import SourceError
from xsam.media.frames import SourceFrame
from xsam.media.video_files import VideoFile

FRAMES = [scene(step) for step in range(20)]
NOISE = list(np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8))  # every frame takes bytes


def read(path: Path) -> tuple[list[SourceFrame], list[str]]:
    """All frames of a file, and what is wrong with the damaged ones."""
    frames, problems = list(VideoFile(path.name, path).frames()), []
    for frame in frames:
        try:
            frame.load([])
        except InvalidImageError as error:
            problems.append(error.message)
    return frames, problems


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi", "webm"])
def test_frames_and_colors_of_every_container(tmp_path: Path, suffix: str) -> None:
    codec = {"avi": "mpeg4", "webm": "libvpx-vp9"}.get(suffix, "libx264")
    frames, problems = read(write_video(tmp_path / f"clip.{suffix}", FRAMES, codec=codec))
    assert not problems
    assert [frame.index for frame in frames] == list(range(20))
    assert [round(frame.stamp_ns / 1e6) for frame in frames] == [40 * number for number in range(20)]
    for frame, truth in zip(frames, FRAMES, strict=True):
        assert np.abs(frame.load([]).rgb.astype(int) - truth).mean() < 6


def test_stamps_of_a_variable_rate(tmp_path: Path) -> None:
    stamps = [0, 10, 50, 60, 200, 210, 500, 505, 1000, 3000]
    frames, problems = read(write_video(tmp_path / "phone.mp4", FRAMES[:10], stamps))
    assert not problems
    assert [frame.stamp_ns for frame in frames] == [1_000_000 * stamp for stamp in stamps]
    assert [frame.load([]).stamp_ns for frame in frames] == [frame.stamp_ns for frame in frames]


MATRICES = {  # a, b, c, d of the display matrix → what is shown
    (1, 0, 0, 1): lambda pixels: pixels,
    (0, 1, -1, 0): lambda pixels: np.rot90(pixels, -1),  # a phone held upright
    (-1, 0, 0, -1): lambda pixels: np.rot90(pixels, 2),
    (0, -1, 1, 0): np.rot90,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_video_is_turned_as_it_says(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = write_video(tmp_path / "turned.mp4", FRAMES[:2])
    content = bytearray(path.read_bytes())
    start = content.find(b"tkhd") + 4 + 40  # version 0
    a, b, c, d = (value << 16 for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    shown: NDArray[np.uint8] = MATRICES[matrix](FRAMES[1])
    frame = read(path)[0][1].load([])
    assert frame.rgb.shape == shown.shape
    assert np.abs(frame.rgb.astype(int) - shown).mean() < 6


def test_a_video_that_is_cut_off_ends_with_a_damaged_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", NOISE, options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    frames, problems = read(path)
    assert 2 < len(frames) < 20
    assert "the file is cut off: it has" in problems[-1]
    assert problems[-1].endswith("of 20 frames")


def test_a_stream_that_is_cut_off_ends_with_a_damaged_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", NOISE, [200 * number for number in range(20)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    _, problems = read(path)
    assert "the file is cut off: it has" in problems[-1]


def test_damage_in_the_middle_costs_frames_and_not_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", NOISE, options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    frames, problems = read(path)
    assert len(frames) == 20
    assert 0 < len(problems) < 10
    assert all(re.search("clip.mp4, frame .*(cannot be decoded|corrupt)", problem) for problem in problems)
    notes: list[str] = []
    for frame in frames[-3:]:
        frame.load(notes)
    assert all("builds on a damaged frame" in note for note in notes)
    assert notes


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it is empty"), (b"not a video at all" * 9, "Invalid data"), (None, "No such file")],
)
def test_files_that_are_no_videos(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        VideoFile("clip", path)


def test_a_video_whose_recording_was_not_finished_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", FRAMES)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SourceError, match="recording was not finished has no index"):
        VideoFile("clip", path)


def test_a_playlist_does_not_open_other_files(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.ts", FRAMES[:3])
    path = tmp_path / "clip.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(SourceError):
        VideoFile("clip", path)


def test_a_file_name_is_not_an_instruction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", FRAMES[:3]).rename("concat:a.mp4")
    frames, problems = read(Path("concat:a.mp4"))
    assert len(frames) == 3
    assert not problems
