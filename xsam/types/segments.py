"""The segments of one result: masks, labels, scores and boxes, and what tracking and depth add to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.types.arrays import Rebuilt, owned
from xsam.types.location import Location3D
from xsam.types.masks import BoolMask, MaskRle


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments(Rebuilt):
    """Segments of one result as parallel columns, best score first.

    `track_ids` and `locations` come from `xsam.spatial`; left out they say "not tracked" and "not located"
    for every segment. `dataclasses.replace` adds them to segments. `doubts` says for each segment, in words,
    what speaks against it; left out, nothing does. `chances` says how often such answers of the model are
    right, in [0, 1], where that was measured. `embeddings` are the unit vectors by which a model tells
    objects apart, and `origins` says for masks that were carried over which segment of the keyframe each was;
    both are for `xsam.spatial.tracking` and never leave the process.
    """

    image_hw: tuple[int, int]
    masks: tuple[MaskRle, ...] = ()
    labels: tuple[str, ...] = ()
    label_indices: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))  # (N,)
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # (N,) in [0, 1]
    boxes_xyxy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))  # (N, 4)
    track_ids: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))  # (N,) 0 = none
    locations: tuple[Location3D | None, ...] = ()  # (N,) None = no depth was asked for or given
    doubts: tuple[str, ...] = ()  # (N,) "" = nothing speaks against the segment
    chances: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros(0, np.float32)
    )  # (N,) NaN = unknown
    # (N, D), zeros for a segment without; (N, 0) if the model gives none
    embeddings: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    origins: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))  # (N,) -1 = none

    def __post_init__(self) -> None:
        count = len(self.masks)
        if self.track_ids.size == 0:
            object.__setattr__(self, "track_ids", np.zeros(count, np.uint32))
        if self.chances.size == 0:
            object.__setattr__(self, "chances", np.full(count, np.nan, np.float32))
        if self.embeddings.size == 0:
            object.__setattr__(self, "embeddings", np.zeros((count, 0), np.float32))
        if self.origins.size == 0:
            object.__setattr__(self, "origins", np.full(count, -1, np.int32))
        object.__setattr__(self, "locations", tuple(self.locations) or (None,) * count)
        object.__setattr__(self, "doubts", tuple(self.doubts) or ("",) * count)
        shapes = {
            "labels": (len(self.labels),) == (count,),
            "label_indices": self.label_indices.shape == (count,),
            "scores": self.scores.shape == (count,),
            "boxes_xyxy": self.boxes_xyxy.shape == (count, 4),
            "track_ids": self.track_ids.shape == (count,) and self.track_ids.dtype == np.uint32,
            "locations": len(self.locations) == count,
            "doubts": len(self.doubts) == count,
            "chances": self.chances.shape == (count,),
            "embeddings": self.embeddings.ndim == 2 and len(self.embeddings) == count,
            "origins": self.origins.shape == (count,),
            "masks": all((m.height, m.width) == self.image_hw for m in self.masks),
        }
        wrong = [name for name, right in shapes.items() if not right]
        if wrong:
            raise ValueError(f"segments do not fit together ({count} masks): {', '.join(wrong)}")
        columns = ("label_indices", "scores", "boxes_xyxy", "track_ids", "chances", "embeddings", "origins")
        for name in columns:
            object.__setattr__(self, name, owned(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: Sequence[int] | NDArray[np.int_] | NDArray[np.bool_] | slice) -> Segments:
        """Select segments by indices, a bool array or a slice; all columns are filtered together."""
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index if index.dtype == np.bool_ else index.astype(np.intp)
        chosen = np.arange(len(self))[index]
        return Segments(
            image_hw=self.image_hw,
            masks=tuple(self.masks[i] for i in chosen),
            labels=tuple(self.labels[i] for i in chosen),
            label_indices=self.label_indices[chosen],
            scores=self.scores[chosen],
            boxes_xyxy=self.boxes_xyxy[chosen],
            track_ids=self.track_ids[chosen],
            locations=tuple(self.locations[i] for i in chosen),
            doubts=tuple(self.doubts[i] for i in chosen),
            chances=self.chances[chosen],
            embeddings=self.embeddings[chosen],
            origins=self.origins[chosen],
        )

    @classmethod
    def joined(cls, parts: Sequence[Segments]) -> Segments:
        """Return the segments of all parts, in their order, with the label indices that they have.

        Raises:
            ValueError: there are no parts, or their images differ in size.
        """
        if len(sizes := {part.image_hw for part in parts}) != 1:
            raise ValueError(f"expected segments of images of one size, got {sorted(sizes)}")

        def column(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        width = max(part.embeddings.shape[1] for part in parts)
        embeddings = np.zeros((sum(map(len, parts)), width), np.float32)
        starts = np.cumsum([0, *map(len, parts)])
        for start, part in zip(starts, parts, strict=False):
            embeddings[start : start + len(part), : part.embeddings.shape[1]] = part.embeddings
        return cls(
            image_hw=sizes.pop(),
            masks=tuple(mask for part in parts for mask in part.masks),
            labels=tuple(label for part in parts for label in part.labels),
            label_indices=column("label_indices"),
            scores=column("scores"),
            boxes_xyxy=column("boxes_xyxy"),
            track_ids=column("track_ids"),
            locations=tuple(place for part in parts for place in part.locations),
            doubts=tuple(doubt for part in parts for doubt in part.doubts),
            chances=column("chances"),
            embeddings=embeddings,
        )

    def decode_masks(self) -> BoolMask:
        """Decode all masks to bool (N, H, W)."""
        if not self.masks:
            return np.zeros((0, *self.image_hw), np.bool_)
        return np.stack([mask.decode() for mask in self.masks])

    def label_map(self) -> NDArray[np.uint16]:
        """Draw instance ids (H, W) uint16: 0 = none, i + 1 = segment i; the better score wins an overlap."""
        ids = np.zeros(self.image_hw, np.uint16)
        for index in np.argsort(-self.scores, kind="stable")[::-1]:
            crop = self.masks[index].crop()
            ids[crop.window][crop.pixels] = index + 1
        return ids
