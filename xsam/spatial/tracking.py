"""Segments keep their id from frame to frame: mask overlap, constant-velocity motion, optimal assignment.

One tracker follows the answers of one query on one camera. It looks at masks, labels and time stamps only,
so the same input gives the same ids.

    tracker = InstanceTracker()
    ids = tracker.update(result.segments, stamp_s=frame.stamp_ns * 1e-9)
    segments = dataclasses.replace(result.segments, track_ids=ids)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from xsam.types.masks import BoolMask, MaskRle
from xsam.types.segments import Segments

_NOT_TRACKED = np.uint32(0)
_LARGEST_ID = 2**32 - 1
_LEAST_AFFINITY = 0.05
_NEARNESS_WEIGHT = 0.5
_LABEL_FACTOR = 0.4  # of another label
_LOST_FACTOR = 0.8  # of a track that was not in the last frame
_REACH = 1.0  # in object sizes, when seen a moment ago
_VELOCITY_GAIN = 0.5
_AREA_MEMORY_S = 1.0
_STEADY_AREA = 0.7


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Piece:
    """A mask cut out to its box."""

    crop: BoolMask  # (h, w)
    left: int
    top: int
    area: int
    center_xy: tuple[float, float]

    @classmethod
    def of(cls, mask: MaskRle) -> _Piece:
        crop, area = mask.crop(), mask.area
        center_xy = mask.area_and_centroid()[1] if area else (0.0, 0.0)
        return cls(crop=crop.pixels, left=crop.left, top=crop.top, area=area, center_xy=center_xy)

    def iou(self, other: _Piece, shift_xy: tuple[float, float]) -> float:
        """Intersection over union with another mask after this one was moved by whole pixels."""
        left, top = self.left + round(shift_xy[0]), self.top + round(shift_xy[1])
        x_min, y_min = max(left, other.left), max(top, other.top)
        x_max = min(left + self.crop.shape[1], other.left + other.crop.shape[1])
        y_max = min(top + self.crop.shape[0], other.top + other.crop.shape[0])
        if x_min >= x_max or y_min >= y_max:
            return 0.0
        mine = self.crop[y_min - top : y_max - top, x_min - left : x_max - left]
        theirs = other.crop[y_min - other.top : y_max - other.top, x_min - other.left : x_max - other.left]
        common = int(np.count_nonzero(mine & theirs))
        return common / (self.area + other.area - common)


@dataclass(slots=True, kw_only=True, eq=False)
class _Track:
    """One object. Where it is partly hidden, its middle is carried on by its motion, not measured."""

    track_id: int
    label: str
    piece: _Piece
    seen_s: float
    center_xy: tuple[float, float]
    full_area: float  # px, of the object when nothing hides it, as far as was seen lately
    velocity_xy: tuple[float, float] = (0.0, 0.0)  # px/s
    moved: bool = False  # the velocity has been measured

    @classmethod
    def start(cls, track_id: int, label: str, piece: _Piece, stamp_s: float) -> _Track:
        return cls(
            track_id=track_id,
            label=label,
            piece=piece,
            seen_s=stamp_s,
            center_xy=piece.center_xy,
            full_area=float(piece.area),
        )

    def affinity(self, piece: _Piece, stamp_s: float) -> float:
        """How well a mask continues the track, 0 to 1."""
        if piece.area == 0:
            return 0.0
        gap_s = stamp_s - self.seen_s
        smaller, larger = sorted((float(piece.area), self.full_area))
        reach_px = _REACH * (1.0 + gap_s) * math.sqrt(larger)
        off_px = math.dist(_moved(self.center_xy, self.velocity_xy, gap_s), piece.center_xy)
        nearness = max(0.0, 1.0 - off_px / reach_px) * math.pow(smaller / larger, 0.25)
        shift_xy = _moved((0.0, 0.0), self.velocity_xy, gap_s)
        return max(self.piece.iou(piece, shift_xy), _NEARNESS_WEIGHT * nearness)

    def see(self, piece: _Piece, label: str, stamp_s: float) -> None:
        """Continue the track with a mask."""
        gap_s = stamp_s - self.seen_s
        carried_xy = _moved(self.center_xy, self.velocity_xy, gap_s)
        if piece.area >= _STEADY_AREA * self.full_area:
            if gap_s > 0:
                gain = _VELOCITY_GAIN if self.moved else 1.0
                seen = [(b - a) / gap_s for a, b in zip(self.center_xy, piece.center_xy, strict=True)]
                x, y = (old + gain * (now - old) for old, now in zip(self.velocity_xy, seen, strict=True))
                self.velocity_xy, self.moved = (x, y), True
            self.center_xy = piece.center_xy
        elif math.dist(carried_xy, piece.center_xy) <= math.sqrt(self.full_area):
            self.center_xy = carried_xy
        else:
            self.center_xy = piece.center_xy
        forgotten = 1.0 - math.exp(-gap_s / _AREA_MEMORY_S)
        self.full_area = max(float(piece.area), self.full_area + forgotten * (piece.area - self.full_area))
        self.piece, self.label, self.seen_s = piece, label, stamp_s


def _moved(
    point_xy: tuple[float, float], velocity_xy: tuple[float, float], time_s: float
) -> tuple[float, float]:
    return (point_xy[0] + velocity_xy[0] * time_s, point_xy[1] + velocity_xy[1] * time_s)


class InstanceTracker:
    """Gives every segment the id of the object it was before.

    Matching maximises the sum of affinities: the overlap with the mask moved to where it should be now,
    or, where little overlaps, nearness relative to the object's size. Another label weakens a match and
    does not exclude it: open-vocabulary labels flicker between near synonyms, and then the object should
    keep its id; but of two masks in one place the one with the right label is taken. A lost object
    is kept for `max_lost_s` and found again where it should be by then.

    Ids count from `first_id` and are never given twice, not even after a reset.
    """

    def __init__(self, *, max_lost_s: float = 1.0, first_id: int = 1) -> None:
        """Start without tracks.

        Args:
            max_lost_s: how long an object may be out of sight and keep its id.
            first_id: the first id to give; pass `next_id` of another tracker to continue its count.

        Raises:
            ValueError: `max_lost_s` is negative or not finite, or `first_id` is not positive.
        """
        if not (math.isfinite(max_lost_s) and max_lost_s >= 0.0):
            raise ValueError(f"max_lost_s must be a number of seconds from 0 on, got {max_lost_s}")
        if first_id < 1:
            raise ValueError(f"first_id must be positive, 0 means not tracked; got {first_id}")
        self._max_lost_s = max_lost_s
        self._next_id = first_id
        self._tracks: list[_Track] = []
        self._image_hw: tuple[int, int] | None = None
        self._newest_s = -math.inf

    @property
    def next_id(self) -> int:
        """The id that the next new object gets."""
        return self._next_id

    def reset(self) -> None:
        """Forget all objects, for example when the query changes; the ids go on counting."""
        self._tracks.clear()
        self._newest_s = -math.inf

    def update(self, segments: Segments, *, stamp_s: float) -> NDArray[np.uint32]:
        """Match the segments of a new frame.

        The stamps say what happens. A frame older than the newest one, but not by more than `max_lost_s`,
        came late: its segments are not tracked, and the tracks stay as they are. One that is older still
        means that the clock was set back (a bag starts anew): all tracks are dropped. A frame with the same
        stamp replaces the last one. A new image size drops all tracks as well.

        Args:
            segments: of one frame.
            stamp_s: time of the frame in seconds, by the clock of the camera.

        Returns:
            (N,) uint32, the track of each segment; 0 = not tracked (an empty mask, or a late frame).

        Raises:
            ValueError: the stamp is not finite.
        """
        if not math.isfinite(stamp_s):
            raise ValueError(f"stamp_s must be a finite number of seconds, got {stamp_s}")
        if stamp_s < self._newest_s - self._max_lost_s or segments.image_hw != self._image_hw:
            self.reset()
        if stamp_s < self._newest_s:
            return np.full(len(segments), _NOT_TRACKED)
        self._newest_s, self._image_hw = stamp_s, segments.image_hw
        self._tracks = [track for track in self._tracks if stamp_s - track.seen_s <= self._max_lost_s]

        pieces = [_Piece.of(mask) for mask in segments.masks]
        ids = np.full(len(segments), _NOT_TRACKED)
        for index, track in self._matches(pieces, segments.labels, stamp_s):
            track.see(pieces[index], segments.labels[index], stamp_s)
            ids[index] = track.track_id
        for index in np.flatnonzero(ids == _NOT_TRACKED).tolist():
            if pieces[index].area and self._next_id <= _LARGEST_ID:
                ids[index] = self._next_id
                self._tracks.append(
                    _Track.start(self._next_id, segments.labels[index], pieces[index], stamp_s)
                )
                self._next_id += 1
        return ids

    def _matches(
        self, pieces: list[_Piece], labels: tuple[str, ...], stamp_s: float
    ) -> list[tuple[int, _Track]]:
        """Pairs of a segment's index and its track."""
        last_s = max((track.seen_s for track in self._tracks), default=-math.inf)
        affinity = np.zeros((len(pieces), len(self._tracks)))
        for column, track in enumerate(self._tracks):
            factor = 1.0 if track.seen_s == last_s else _LOST_FACTOR
            for row, piece in enumerate(pieces):
                same = labels[row] == track.label
                affinity[row, column] = track.affinity(piece, stamp_s) * (
                    factor if same else factor * _LABEL_FACTOR
                )
        affinity[affinity < _LEAST_AFFINITY] = 0.0
        rows, columns = linear_sum_assignment(affinity, maximize=True)
        return [
            (int(row), self._tracks[column])
            for row, column in zip(rows, columns, strict=True)
            if affinity[row, column] > 0.0
        ]
