"""Instance tracking: segments keep their id from frame to frame.

Matches mask overlap after constant-velocity motion, by optimal assignment. One tracker follows the results of
one query on one camera. It only uses masks, labels and time stamps, so the same input gives the same ids.

    tracker = InstanceTracker()
    ids = tracker.update(result.segments, stamp_s=frame.stamp_ns * 1e-9)
    segments = dataclasses.replace(result.segments, track_ids=ids)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import MaskCrop, MaskRle
from xsam.types.segments import Segments

_NOT_TRACKED = np.uint32(0)
_LARGEST_ID = 2**32 - 1
_MIN_AFFINITY = 0.05
_NEARNESS_WEIGHT = 0.5
_OTHER_LABEL_FACTOR = 0.4  # when the label differs from the track's
_OTHER_EMBEDDING_FACTOR = 0.4  # when the embedding has nothing in common with the track's
_LOST_FACTOR = 0.8  # for a track that was not in the previous frame
_REACH = 1.0  # in object sizes, for a track seen a moment ago
_VELOCITY_GAIN = 0.5
_AREA_TIME_CONSTANT_S = 1.0
_UNOCCLUDED_AREA = 0.7  # share of the full area from which a mask counts as not occluded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _TrackedMask:
    """A mask cropped to its box, with area and centroid."""

    crop: MaskCrop
    area: int
    center_xy: tuple[float, float]

    @classmethod
    def of(cls, mask: MaskRle) -> _TrackedMask:
        area, centroid_xy = mask.area_and_centroid()
        return cls(crop=mask.crop(), area=area, center_xy=centroid_xy if area else (0.0, 0.0))

    def iou(self, other: _TrackedMask, shift_xy: tuple[float, float]) -> float:
        """Return the intersection over union with another mask after shifting this one by whole pixels."""
        first, second = self.crop, other.crop
        left, top = first.left + round(shift_xy[0]), first.top + round(shift_xy[1])
        height, width = first.pixels.shape
        x_other_max, y_other_max = second.box_xyxy[2:]
        x_min, y_min = max(left, second.left), max(top, second.top)
        x_max, y_max = min(left + width, x_other_max), min(top + height, y_other_max)
        if x_min >= x_max or y_min >= y_max:
            return 0.0
        mine = first.pixels[y_min - top : y_max - top, x_min - left : x_max - left]
        theirs = second.pixels[
            y_min - second.top : y_max - second.top, x_min - second.left : x_max - second.left
        ]
        common = int(np.count_nonzero(mine & theirs))
        return common / (self.area + other.area - common)


@dataclass(slots=True, kw_only=True, eq=False)
class _Track:
    """One tracked object. While it is partly occluded, its center is predicted from its motion."""

    track_id: int
    label: str
    mask: _TrackedMask  # when it was last seen
    seen_s: float
    embedding: NDArray[np.float32]  # unit vector (D,), zeros or empty if it is not known
    center_xy: tuple[float, float]
    full_area_px: float  # when it is not occluded, by recent frames
    velocity_xy: tuple[float, float] = (0.0, 0.0)  # px/s
    velocity_known: bool = False

    @classmethod
    def start(
        cls, track_id: int, label: str, mask: _TrackedMask, embedding: NDArray[np.float32], stamp_s: float
    ) -> _Track:
        return cls(
            track_id=track_id,
            label=label,
            mask=mask,
            seen_s=stamp_s,
            embedding=embedding,
            center_xy=mask.center_xy,
            full_area_px=float(mask.area),
        )

    def affinity(self, mask: _TrackedMask, stamp_s: float) -> float:
        """Rate from 0 to 1 how well a mask continues the track."""
        if mask.area == 0:
            return 0.0
        elapsed_s = stamp_s - self.seen_s
        smaller, larger = sorted((float(mask.area), self.full_area_px))
        reach_px = _REACH * (1.0 + elapsed_s) * math.sqrt(larger)
        distance_px = math.dist(_displaced(self.center_xy, self.velocity_xy, elapsed_s), mask.center_xy)
        nearness = max(0.0, 1.0 - distance_px / reach_px) * math.pow(smaller / larger, 0.25)
        shift_xy = _displaced((0.0, 0.0), self.velocity_xy, elapsed_s)
        return max(self.mask.iou(mask, shift_xy), _NEARNESS_WEIGHT * nearness)

    def similarity(self, embedding: NDArray[np.float32]) -> float:
        """Return the factor of the affinity by how similar two embeddings are; 1 if one is missing."""
        if embedding.shape != self.embedding.shape or not (embedding.any() and self.embedding.any()):
            return 1.0
        cosine = max(0.0, float(embedding @ self.embedding))
        return _OTHER_EMBEDDING_FACTOR + (1.0 - _OTHER_EMBEDDING_FACTOR) * cosine

    def observe(self, mask: _TrackedMask, label: str, embedding: NDArray[np.float32], stamp_s: float) -> None:
        """Update the track with the mask it was matched to."""
        elapsed_s = stamp_s - self.seen_s
        predicted_xy = _displaced(self.center_xy, self.velocity_xy, elapsed_s)
        if mask.area >= _UNOCCLUDED_AREA * self.full_area_px:
            if elapsed_s > 0:
                gain = _VELOCITY_GAIN if self.velocity_known else 1.0
                seen = [(b - a) / elapsed_s for a, b in zip(self.center_xy, mask.center_xy, strict=True)]
                x, y = (old + gain * (now - old) for old, now in zip(self.velocity_xy, seen, strict=True))
                self.velocity_xy, self.velocity_known = (x, y), True
            self.center_xy = mask.center_xy
        elif math.dist(predicted_xy, mask.center_xy) <= math.sqrt(self.full_area_px):
            self.center_xy = predicted_xy
        else:
            self.center_xy = mask.center_xy
        forgotten = 1.0 - math.exp(-elapsed_s / _AREA_TIME_CONSTANT_S)
        self.full_area_px = max(
            float(mask.area), self.full_area_px + forgotten * (mask.area - self.full_area_px)
        )
        self.mask, self.label, self.seen_s = mask, label, stamp_s
        if embedding.any():
            self.embedding = embedding


def _displaced(
    point_xy: tuple[float, float], velocity_xy: tuple[float, float], time_s: float
) -> tuple[float, float]:
    return (point_xy[0] + velocity_xy[0] * time_s, point_xy[1] + velocity_xy[1] * time_s)


class InstanceTracker:
    """Gives each segment the id that its object had in earlier frames.

    Matching maximizes the sum of affinities: the overlap with the mask moved to its predicted position or,
    where there is little overlap, nearness relative to the object's size. A different label weakens a match
    but does not exclude it: open-vocabulary labels flicker between near synonyms, and the object should keep
    its id. So does another embedding (`Segments.embeddings`, the decoder's queries), if the model gives any:
    it decides between objects that pass each other. Of two masks in the same position the one with the right
    label is taken. A lost object is kept for `max_lost_s` and looked for at its predicted position.

    Ids count from `first_id` and are never reused, not even after a reset.
    """

    def __init__(self, *, max_lost_s: float = 1.0, first_id: int = 1) -> None:
        """Start without tracks.

        Args:
            max_lost_s: how long an object may be out of sight without losing its id.
            first_id: the first id to assign; pass `next_id` of another tracker to continue its count.

        Raises:
            ValueError: `max_lost_s` is negative or not finite, or `first_id` is not positive.
        """
        if not (math.isfinite(max_lost_s) and max_lost_s >= 0.0):
            raise ValueError(f"max_lost_s must be finite and not negative, got {max_lost_s}")
        if first_id < 1:
            raise ValueError(f"first_id must be positive (0 means not tracked), got {first_id}")
        # Not with this module, since it is half of what importing the node would cost, and not with the
        # second frame either: on a busy machine it takes longer than an object may be out of sight.
        from scipy.optimize import linear_sum_assignment

        self._assign = linear_sum_assignment
        self._max_lost_s = max_lost_s
        self._next_id = first_id
        self._tracks: list[_Track] = []
        self._image_hw: tuple[int, int] | None = None
        self._newest_s = -math.inf

    @property
    def next_id(self) -> int:
        """Id of the next new object."""
        return self._next_id

    def reset(self) -> None:
        """Forget all objects, for example when the query changes; ids continue from the last one."""
        self._tracks.clear()
        self._newest_s = -math.inf

    def update(self, segments: Segments, *, stamp_s: float) -> NDArray[np.uint32]:
        """Match the segments of a new frame.

        A frame older than the newest one by at most `max_lost_s` arrived late: its segments are not tracked,
        and the tracks do not change. An even older frame means that the clock was reset (a bag restarts): all
        tracks are dropped. A frame with the same stamp replaces the previous one. A change of image size also
        drops all tracks.

        Args:
            segments: of one frame.
            stamp_s: time stamp of the frame in seconds, by the clock of the camera.

        Returns:
            (N,) uint32 track id of each segment; 0 = not tracked (an empty mask, or a late frame).

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

        masks = [_TrackedMask.of(mask) for mask in segments.masks]
        ids = np.full(len(segments), _NOT_TRACKED)
        embeddings = [row.copy() for row in segments.embeddings]  # a view would keep all rows in memory
        for index, track in self._match(masks, segments.labels, embeddings, stamp_s):
            track.observe(masks[index], segments.labels[index], embeddings[index], stamp_s)
            ids[index] = track.track_id
        for index in np.flatnonzero(ids == _NOT_TRACKED).tolist():
            if masks[index].area and self._next_id <= _LARGEST_ID:
                ids[index] = self._next_id
                self._tracks.append(
                    _Track.start(
                        self._next_id, segments.labels[index], masks[index], embeddings[index], stamp_s
                    )
                )
                self._next_id += 1
        return ids

    def _match(
        self,
        masks: list[_TrackedMask],
        labels: tuple[str, ...],
        embeddings: list[NDArray[np.float32]],
        stamp_s: float,
    ) -> list[tuple[int, _Track]]:
        """Return pairs of a segment's index and its track."""
        last_s = max((track.seen_s for track in self._tracks), default=-math.inf)
        affinity = np.zeros((len(masks), len(self._tracks)))
        for column, track in enumerate(self._tracks):
            factor = 1.0 if track.seen_s == last_s else _LOST_FACTOR
            for row, mask in enumerate(masks):
                same = labels[row] == track.label
                affinity[row, column] = (
                    track.affinity(mask, stamp_s)
                    * track.similarity(embeddings[row])
                    * (factor if same else factor * _OTHER_LABEL_FACTOR)
                )
        affinity[affinity < _MIN_AFFINITY] = 0.0
        rows, columns = self._assign(affinity, maximize=True)
        return [
            (int(row), self._tracks[column])
            for row, column in zip(rows, columns, strict=True)
            if affinity[row, column] > 0.0
        ]
