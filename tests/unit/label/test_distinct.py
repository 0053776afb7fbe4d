"""Near-duplicates are left out, and what differs in something that matters is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from xsam.errors import InvalidImageError
from xsam.label.distinct import REMEMBERED, DistinctFrames, perceptual_hash
from xsam.media.frames import Every, SourceFrame
from xsam.types.requests import Frame

Image = NDArray[np.uint8]


class Pictures:
    """A source of pictures; None = damaged. Counts how often each is decoded."""

    name = "pictures"

    def __init__(self, pictures: Sequence[Image | None], *, length: int = 1000) -> None:
        self._pictures, self._length = pictures, length
        self.decoded = 0
        self.count = len(pictures)

    def frames(self) -> Iterator[SourceFrame]:
        for index, picture in enumerate(self._pictures):

            def load(notes: list[str], picture: Image | None = picture) -> Frame:
                self.decoded += 1
                if picture is None:
                    raise InvalidImageError("damaged")
                notes.append("a note")
                return Frame(rgb=picture)

            yield SourceFrame(
                source="s",
                sequence=str(index // self._length),
                index=index,
                name=str(index),
                stamp_ns=index,
                load=load,
            )


def table(left: int = 200, size: int = 36, seed: int = 0, noise: float = 0.0) -> Image:
    """A ground with texture and a small object on it, at 640×480."""
    rng = np.random.default_rng(5)
    ground = np.kron(rng.integers(60, 140, (24, 32)), np.ones((20, 20)))
    ground[220 : 220 + size, left : left + size] = 220
    ground = ground + np.random.default_rng(seed).normal(0.0, noise, ground.shape)
    return np.repeat(np.clip(ground, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def kept(pictures: Sequence[Image | None], **options: int) -> list[int]:
    return [frame.index for frame in DistinctFrames(Pictures(pictures), **options).frames()]


def test_a_camera_that_stands_still_gives_one_frame() -> None:
    pictures = [table(seed=seed, noise=6.0) for seed in range(8)]
    assert kept(pictures) == [0]
    assert kept(pictures, tolerance=0) == list(range(8))


def test_a_small_object_that_moves_is_something_new() -> None:
    assert kept([table(200), table(225), table(250), table(250)]) == [0, 1, 2]
    assert kept([table(200), table(200, size=0)]) == [0, 1]


def test_a_slow_motion_is_not_lost_in_small_steps() -> None:
    indices = kept([table(200 + step) for step in range(60)])
    assert 3 <= len(indices) <= 30
    assert max(np.diff(indices)) < 20


def test_light_that_changes_a_little_is_the_same_view() -> None:
    assert kept([table(), np.clip(table().astype(int) + 9, 0, 255).astype(np.uint8)]) == [0]


def test_views_that_come_back_are_known_also_in_another_file() -> None:
    views = [table(100), table(300), table(500)]
    frames = DistinctFrames(Pictures(views * 3, length=3))
    assert [frame.index for frame in frames.frames()] == [0, 1, 2]
    assert frames.dropped == 6
    assert len(list(frames.frames())) == 3
    assert frames.dropped == 6


def test_memory_is_constant() -> None:
    """What was forgotten is new again, and the last ones are still known."""
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(REMEMBERED + 1)]
    assert kept([*small, small[0], small[-1], small[5]]) == [*range(REMEMBERED + 2)]


def test_frames_are_chosen_first_and_decoded_once() -> None:
    pictures = Pictures([table(50 * number) for number in range(8)])
    frames = list(DistinctFrames(pictures, every=Every(frames=3)).frames())
    assert [frame.index for frame in frames] == [0, 3, 6]
    notes: list[str] = []
    assert (frames[1].load(notes).rgb == table(150)).all()
    assert notes == ["a note"]
    assert pictures.decoded == 3


def test_damaged_frames_are_passed_on() -> None:
    frames = list(DistinctFrames(Pictures([table(), None, None, table(300)])).frames())
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    with pytest.raises(InvalidImageError, match="damaged"):
        frames[1].load([])


@pytest.mark.parametrize("hw", [(1, 1), (7, 300), (16, 16)])
def test_pictures_of_any_size_have_a_hash(hw: tuple[int, int]) -> None:
    assert perceptual_hash(np.full((*hw, 3), 80, np.uint8)).tolist() == [0] * 256
