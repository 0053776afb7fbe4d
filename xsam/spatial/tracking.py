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
_MAX_WAIT = 2.0
_SETTLED_FACTOR = 0.8  # for the place of a track before its mask changed
_SETTLED_IOU = 0.5  # with the mask before, from which on a mask has not changed much
_SETTLES_AFTER_S = 0.5  # a changed mask is the usual one by then
_UNLIKE, _ALIKE = 0.6, 0.9  # cosine of embeddings
_VELOCITY_GAIN = 0.5
_GROWTH_GAIN = 0.5
_FAMILIAR_REACH = 2.0
_AREA_TIME_CONSTANT_S = 1.0
_UNOCCLUDED_AREA = 0.7  # share of the full area from which a mask counts as not occluded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _TrackedMask:
    """A mask cropped to its box, with area and center.

    The center is the median of its pixels along x and y: a stray fragment far away hardly moves it.
    """

    crop: MaskCrop
    area: int
    center_xy: tuple[float, float]

    @classmethod
    def of(cls, mask: MaskRle) -> _TrackedMask:
        crop = mask.crop()
        if not crop.pixels.size:
            return cls(crop=crop, area=0, center_xy=(0.0, 0.0))
        columns, rows = (np.count_nonzero(crop.pixels, axis=axis) for axis in (0, 1))
        center_xy = (crop.left + _median(columns), crop.top + _median(rows))
        return cls(crop=crop, area=int(columns.sum()), center_xy=center_xy)

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sighting:
    """An object in one frame."""

    mask: _TrackedMask
    center_xy: tuple[float, float]  # of the whole object, also where only a part of it is seen
    seen_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class _Track:
    """One tracked object. Its center is predicted while its mask covers less than the object, or more.

    A mask may be wrong in one frame: joined with that of a neighbor, or half of it. So the track also keeps
    how it looked before that.
    """

    track_id: int
    label: str
    last: _Sighting
    settled: _Sighting  # the last one that was much like the one before
    embedding: NDArray[np.float32]  # unit vector (D,), zeros or empty if it is not known
    full_area_px: float  # when it is not occluded, by recent frames
    velocity_xy: tuple[float, float] = (0.0, 0.0)  # px/s
    velocity_known: bool = False

    @classmethod
    def start(
        cls, track_id: int, mask: _TrackedMask, label: str, embedding: NDArray[np.float32], stamp_s: float
    ) -> _Track:
        seen = _Sighting(mask=mask, center_xy=mask.center_xy, seen_s=stamp_s)
        return cls(
            track_id=track_id,
            label=label,
            last=seen,
            settled=seen,
            embedding=embedding,
            full_area_px=float(mask.area),
        )

    def affinity(self, mask: _TrackedMask, embedding: NDArray[np.float32], stamp_s: float) -> float:
        """Rate from 0 to 1 how well a mask continues the track."""
        if mask.area == 0:
            return 0.0
        likeness = self.likeness(embedding)
        reach = _REACH if likeness is None else _REACH + likeness * (_FAMILIAR_REACH - _REACH)
        affinity = self._continues(self.last, mask, reach, stamp_s)
        if self.settled is not self.last:
            before = self._continues(self.settled, mask, reach, stamp_s)
            affinity = max(affinity, _SETTLED_FACTOR * before)
        if likeness is None:
            return affinity
        return affinity * (_OTHER_EMBEDDING_FACTOR + (1.0 - _OTHER_EMBEDDING_FACTOR) * likeness)

    def _continues(self, seen: _Sighting, mask: _TrackedMask, reach: float, stamp_s: float) -> float:
        elapsed_s = stamp_s - seen.seen_s
        smaller, larger = sorted((float(mask.area), self.full_area_px))
        reach_px = reach * min(1.0 + elapsed_s, _MAX_WAIT) * math.sqrt(larger)
        distance_px = math.dist(_displaced(seen.center_xy, self.velocity_xy, elapsed_s), mask.center_xy)
        nearness = max(0.0, 1.0 - distance_px / reach_px) * math.pow(smaller / larger, 0.25)
        shift_xy = _displaced((0.0, 0.0), self.velocity_xy, elapsed_s)
        return max(seen.mask.iou(mask, shift_xy), _NEARNESS_WEIGHT * nearness)

    def likeness(self, embedding: NDArray[np.float32]) -> float | None:
        """Return from 0 to 1 how similar an embedding is to the track's; None if one is missing."""
        if embedding.shape != self.embedding.shape or not (embedding.any() and self.embedding.any()):
            return None
        return min(max((float(embedding @ self.embedding) - _UNLIKE) / (_ALIKE - _UNLIKE), 0.0), 1.0)

    def observe(self, mask: _TrackedMask, label: str, embedding: NDArray[np.float32], stamp_s: float) -> None:
        """Update the track with the mask it was matched to."""
        elapsed_s = stamp_s - self.last.seen_s
        predicted_xy = _displaced(self.last.center_xy, self.velocity_xy, elapsed_s)
        center_xy = mask.center_xy
        shift_xy = _displaced((0.0, 0.0), self.velocity_xy, stamp_s - self.settled.seen_s)
        if _UNOCCLUDED_AREA <= mask.area / self.full_area_px <= 1.0 / _UNOCCLUDED_AREA:
            if elapsed_s > 0:
                gain = _VELOCITY_GAIN if self.velocity_known else 1.0
                seen = [(b - a) / elapsed_s for a, b in zip(self.last.center_xy, center_xy, strict=True)]
                x, y = (old + gain * (now - old) for old, now in zip(self.velocity_xy, seen, strict=True))
                self.velocity_xy, self.velocity_known = (x, y), True
        elif math.dist(predicted_xy, center_xy) <= math.sqrt(self.full_area_px):
            center_xy = predicted_xy
        if mask.area >= self.full_area_px:
            self.full_area_px += _GROWTH_GAIN * (mask.area - self.full_area_px)
        else:
            forgotten = 1.0 - math.exp(-elapsed_s / _AREA_TIME_CONSTANT_S)
            self.full_area_px += forgotten * (mask.area - self.full_area_px)
        self.last = _Sighting(mask=mask, center_xy=center_xy, seen_s=stamp_s)
        if (
            self.settled.mask.iou(mask, shift_xy) >= _SETTLED_IOU
            or stamp_s - self.settled.seen_s >= _SETTLES_AFTER_S
        ):
            self.settled = self.last
        self.label = label
        if embedding.any():
            self.embedding = embedding


def _median(counts: NDArray[np.intp]) -> float:
    """Return the median of pixels along an axis, between positions, by how many there are at each."""
    until = np.cumsum(counts)
    half = until[-1] / 2.0
    index = int(np.searchsorted(until, half))
    before = until[index] - counts[index]
    return float(index + (half - before) / counts[index] - 0.5)


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
    it decides between objects that pass each other, and what looks the same may be farther away. Of two masks
    in the same position the one with the right label is taken. A lost object is kept for `max_lost_s` and
    looked for at its predicted position. A mask that suddenly covers more than its object, or less, changes
    neither its motion nor what is looked for in the next frames.

    Ids count from `first_id` and are never reused, not even after a reset.
    """

    def __init__(self, *, max_lost_s: float = 2.0, first_id: int = 1) -> None:
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
        self._keyframe_ns: int | None = None
        self._ids_in_keyframe: dict[int, int] = {}  # track ids by the number of the segment there
        self._image_hw: tuple[int, int] | None = None
        self._newest_s = -math.inf

    @property
    def next_id(self) -> int:
        """Id of the next new object."""
        return self._next_id

    def reset(self) -> None:
        """Forget all objects, for example when the query changes; ids continue from the last one."""
        self._tracks.clear()
        self._keyframe_ns = None
        self._newest_s = -math.inf

    def update(
        self,
        segments: Segments,
        *,
        stamp_s: float,
        keyframe_ns: int | None = None,
        known_ids: NDArray[np.uint32] | None = None,
    ) -> NDArray[np.uint32]:
        """Match the segments of a new frame.

        A frame older than the newest one by at most `max_lost_s` arrived late: its segments are not tracked,
        and the tracks do not change. An even older frame means that the clock was reset (a bag restarts): all
        tracks are dropped. A frame with the same stamp replaces the previous one. A change of image size also
        drops all tracks.

        Args:
            segments: of one frame.
            stamp_s: time stamp of the frame in seconds, by the clock of the camera.
            keyframe_ns: `SegmentationResult.keyframe_ns`, if masks are carried between keyframes: what
                was one segment there keeps its id (see `Segments.origins`).
            known_ids: (N,) ids that the segments were given before, when frames are gone through again.

        Returns:
            (N,) uint32 track id of each segment; 0 = not tracked (an empty mask, or a late frame).

        Raises:
            ValueError: the stamp is not finite, or there is not one known id for each segment.
        """
        if not math.isfinite(stamp_s):
            raise ValueError(f"stamp_s must be a finite number of seconds, got {stamp_s}")
        if known_ids is not None and known_ids.shape != (len(segments),):
            raise ValueError(f"{len(segments)} segments need as many known ids, got {known_ids.shape}")
        if stamp_s < self._newest_s - self._max_lost_s or segments.image_hw != self._image_hw:
            self.reset()
        if stamp_s < self._newest_s:
            return np.full(len(segments), _NOT_TRACKED)
        self._newest_s, self._image_hw = stamp_s, segments.image_hw
        self._tracks = [track for track in self._tracks if stamp_s - track.last.seen_s <= self._max_lost_s]

        masks = [_TrackedMask.of(mask) for mask in segments.masks]
        embeddings = [row.copy() for row in segments.embeddings]  # a view would keep all rows in memory
        if known_ids is None:
            pairs = self._carried(segments, masks, keyframe_ns)
            pairs += self._match(pairs, masks, segments.labels, embeddings, stamp_s)
            ids = np.full(len(segments), _NOT_TRACKED)
            ids[[index for index, _ in pairs]] = [track.track_id for _, track in pairs]
            for index in np.flatnonzero(ids == _NOT_TRACKED).tolist():
                if masks[index].area and self._next_id <= _LARGEST_ID:
                    ids[index] = self._next_id
                    self._next_id += 1
        else:
            ids = known_ids.copy()
            self._next_id = max(self._next_id, int(ids.max(initial=0)) + 1)
        tracks = {track.track_id: track for track in self._tracks}
        for index, own in enumerate(ids.tolist()):
            seen = (masks[index], segments.labels[index], embeddings[index], stamp_s)
            if own in tracks:
                tracks[own].observe(*seen)
            elif own:
                self._tracks.append(_Track.start(own, *seen))
        self._remember_keyframe(segments, ids, keyframe_ns)
        return ids

    def _carried(
        self, segments: Segments, masks: list[_TrackedMask], keyframe_ns: int | None
    ) -> list[tuple[int, _Track]]:
        """Return pairs of a segment's index and the track that it has had since the keyframe."""
        if keyframe_ns is None or keyframe_ns != self._keyframe_ns:
            return []
        tracks = {track.track_id: track for track in self._tracks}
        ids = [self._ids_in_keyframe.get(origin, 0) for origin in segments.origins.tolist()]
        return [(index, tracks[own]) for index, own in enumerate(ids) if own in tracks and masks[index].area]

    def _remember_keyframe(
        self, segments: Segments, ids: NDArray[np.uint32], keyframe_ns: int | None
    ) -> None:
        """Keep the ids of the segments of the last keyframe, by their number there."""
        origins = segments.origins.tolist()
        is_keyframe = bool(origins) and max(origins) < 0
        if is_keyframe or keyframe_ns != self._keyframe_ns:
            self._keyframe_ns, self._ids_in_keyframe = keyframe_ns, {}
        numbers = range(len(origins)) if is_keyframe else origins
        self._ids_in_keyframe.update((n, own) for n, own in zip(numbers, ids.tolist(), strict=True) if own)

    def _match(
        self,
        known: list[tuple[int, _Track]],
        masks: list[_TrackedMask],
        labels: tuple[str, ...],
        embeddings: list[NDArray[np.float32]],
        stamp_s: float,
    ) -> list[tuple[int, _Track]]:
        """Return pairs of a segment's index and its track, beyond those that are known."""
        last_s = max((track.last.seen_s for track in self._tracks), default=-math.inf)
        affinity = np.zeros((len(masks), len(self._tracks)))
        for column, track in enumerate(self._tracks):
            factor = 1.0 if track.last.seen_s == last_s else _LOST_FACTOR
            for row, mask in enumerate(masks):
                same = labels[row] == track.label
                affinity[row, column] = track.affinity(mask, embeddings[row], stamp_s) * (
                    factor if same else factor * _OTHER_LABEL_FACTOR
                )
        affinity[affinity < _MIN_AFFINITY] = 0.0
        affinity[[index for index, _ in known]] = 0.0
        affinity[:, [self._tracks.index(track) for _, track in known]] = 0.0
        rows, columns = self._assign(affinity, maximize=True)
        return [
            (int(row), self._tracks[column])
            for row, column in zip(rows, columns, strict=True)
            if affinity[row, column] > 0.0
        ]
