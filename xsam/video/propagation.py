"""One query on one camera: masks of the last keyframe carried to the newest frame, and when to ask again.

The model may take its time: a frame is held, frames go by, and its masks are then carried to the newest one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from xsam.types.carried import Carried
from xsam.types.masks import MaskCrop, MaskRle
from xsam.types.requests import Frame, Query, SegmentationResult, Status, VisualPrompt
from xsam.video.carrying import CarriedMask, behind, cut
from xsam.video.growth import grown
from xsam.video.motion import Field, Motion, displaced, middle, sample

_NEW_CELLS = 0.005
"""Share of the image that looks unlike anything in the keyframe, from which a new one is due."""

_NEW_VIEW = 0.06
"""Share of the image that was not in view in the keyframe, from which a new one is due."""

_ENTERING_CELLS = 2.0
"""How far an object that the edge of the image cut off may move inwards: more of it is in view then."""

_DUE_CONFIDENCE = 0.7
_POINTING_CONFIDENCE = 0.6
"""Of a mask, from which on it may take the place of what was pointed at."""

_GRAY_TOLERANCE = 20.0
_FADING = 0.99  # of the confidence, with each frame


@dataclass(frozen=True, slots=True, kw_only=True)
class PropagationOptions:
    """When the model is asked again, and what is doubted.

    Attributes:
        every: frames from one keyframe to the next, at most.
        eager: also ask before that, when something enters, the view changes, or objects no longer look as
            they did.
        doubt_below: confidence of a mask from which on it is in doubt.
    """

    every: int = 10
    eager: bool = True
    doubt_below: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Since:
    """What has happened since a frame that the model segments, or has segmented."""

    frame: Frame
    gray: NDArray[np.uint8]
    offsets: Field  # from cells of the newest frame to their places in that frame
    consistent: NDArray[np.bool_]
    frames: int = 0

    @property
    def nbytes(self) -> int:
        arrays = (self.frame.rgb, self.gray, self.offsets, self.consistent)
        return sum(array.nbytes for array in arrays)

    @classmethod
    def begin(cls, frame: Frame, gray: NDArray[np.uint8]) -> _Since:
        return cls(
            frame=frame,
            gray=gray,
            offsets=np.zeros((*gray.shape, 2), np.float32),
            consistent=np.ones(gray.shape, np.bool_),
        )

    def advanced(self, motion: Motion, places: Field) -> _Since:
        offsets = motion.backward + sample(self.offsets, places)
        seen = sample(self.consistent.view(np.uint8) * 255, places) > 127
        return replace(self, offsets=offsets, consistent=motion.consistent & seen, frames=self.frames + 1)

    def as_motion(self, gray: NDArray[np.uint8]) -> Motion:
        """Return the motion from that frame to the newest one in one step."""
        return Motion(backward=self.offsets, consistent=self.consistent, gray=gray, gray_before=self.gray)

    def unseen(self) -> NDArray[np.bool_]:
        """Return which cells of the newest frame show what that frame does not."""
        sources = displaced(self.offsets)
        return ~self.consistent | _outside(sources)

    def news(self, gray: NDArray[np.uint8]) -> str:
        """Return what in the newest frame that frame does not show; "" = nothing of importance."""
        sources = displaced(self.offsets)
        if float(_outside(sources).mean()) > _NEW_VIEW:
            return "the camera looks elsewhere"
        difference = gray.astype(np.float32) - sample(self.gray, sources).astype(np.float32)
        differs = np.abs(difference - middle(difference)) > _GRAY_TOLERANCE
        blobs = cv2.morphologyEx(differs.view(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        return "something has appeared" if float(blobs.mean()) > _NEW_CELLS else ""


def _outside(places: Field) -> NDArray[np.bool_]:
    """Return which places (h, w, 2) lie beyond the grid."""
    height, width = places.shape[:2]
    x, y = places[..., 0], places[..., 1]
    outside: NDArray[np.bool_] = (x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5)
    return outside


class Propagation:
    """The masks of one query. Frames and the motion between them come from outside; nothing here waits."""

    def __init__(self, query: Query, options: PropagationOptions | None = None) -> None:
        self.query = query
        self.options = options or PropagationOptions()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is a keyframe."""
        self._frame: Frame | None = None
        self._gray: NDArray[np.uint8] | None = None
        self._answer: SegmentationResult | None = None  # of the keyframe
        self._masks: tuple[CarriedMask | None, ...] = ()  # of its segments; None = out of view
        self._since: _Since | None = None  # the keyframe
        self._held: _Since | None = None
        self._wanted = False
        self._refusal: SegmentationResult | None = None  # of the last keyframe, if it was not answered
        self._asked: tuple[int, ...] = ()  # label indices of the masks that took the place of prompts

    def advance(self, frame: Frame, gray: NDArray[np.uint8], motion: Motion | None) -> None:
        """Carry the masks to the next frame.

        Args:
            frame: it; given again, it changes nothing.
            gray: of its cells.
            motion: from the frame before; None = it does not follow that one, and everything is forgotten.
        """
        if frame is self._frame:
            return
        if motion is None:
            self.reset()
        self._frame, self._gray = frame, gray
        if motion is None:
            return
        places = displaced(motion.backward)
        if self._held is not None:
            self._held = self._held.advanced(motion, places)
        if self._since is not None:
            self._since = self._since.advanced(motion, places)
            self._masks = behind(
                [mask and mask.carried(motion, places=places) for mask in self._masks], motion
            )

    def want(self) -> None:
        """Make the next frame a keyframe."""
        self._wanted = True

    @property
    def due(self) -> str:
        """Why the newest frame should be a keyframe; "" = it need not."""
        answer, since = self._answer, self._since
        if answer is None or since is None or self._gray is None:
            return "there is no keyframe"
        if self._wanted:
            return "it was asked for"
        if since.frames >= self.options.every:
            return f"the last one was {since.frames} frames ago"
        if not self.options.eager or not since.frames:
            return ""
        if any(mask is not None and mask.enters_by() > _ENTERING_CELLS for mask in self._masks):
            return "more of an object has come into view"
        if any(mask is not None and self._confidence(mask) < _DUE_CONFIDENCE for mask in self._masks):
            return "an object does not look as it did"
        return since.news(self._gray)

    def keyframe_query(self) -> Query | None:
        """Return what to ask a model without memory about the newest frame.

        Visual prompts belong to the first frame. In later ones, the masks of what they pointed at take their
        place, as far as these can be trusted.

        Returns:
            None if nothing of what was pointed at is in view any more.
        """
        query, answer = self.query, self._answer
        if not query.prompts or answer is None:
            return query
        assert self._frame is not None
        best: dict[int, MaskCrop] = {}
        for index, crop in enumerate(self._crops(self._frame, self._since)):
            mask = self._masks[index]
            number = int(answer.segments.label_indices[index])
            if crop is None or mask is None or number in best:
                continue
            if self._confidence(mask) >= _POINTING_CONFIDENCE:
                best[number] = crop
        self._asked = tuple(sorted(best))
        prompts = []
        for number in self._asked:
            pixels = np.zeros(self._frame.image_hw, np.bool_)
            pixels[best[number].window] = best[number].pixels
            prompts.append(VisualPrompt.from_mask(pixels))
        return replace(query, prompts=tuple(prompts), task=query.resolved_task()) if prompts else None

    def as_asked(self, answer: SegmentationResult) -> SegmentationResult:
        """Return the answer to `keyframe_query` as that to the query itself."""
        segments, labels = answer.segments, {}
        if self._asked and self._answer is not None:
            before = self._answer.segments
            labels = dict(zip(before.label_indices.tolist(), before.labels, strict=True))
            indices = np.array([self._asked[index] for index in segments.label_indices.tolist()], np.int32)
            segments = replace(
                segments, label_indices=indices, labels=tuple(labels[index] for index in indices.tolist())
            )
        self._asked = ()
        return replace(answer, query=self.query, segments=segments)

    @property
    def nbytes(self) -> int:
        """Memory of masks and of what has happened since their frame, bytes."""
        masks = [mask.nbytes for mask in self._masks if mask is not None]
        return sum(masks) + sum(since.nbytes for since in (self._since, self._held) if since is not None)

    def hold(self) -> None:
        """Keep the newest frame as the next keyframe, until `correct` or `release`; see `advance` first."""
        assert self._frame is not None
        assert self._gray is not None
        self._held = _Since.begin(self._frame, self._gray)

    def release(self) -> None:
        """Give up the frame that is held: the model did not segment it."""
        self._held = None

    def correct(self, answer: SegmentationResult) -> None:
        """Take over the masks of the frame that is held, and carry them to the newest one.

        Does nothing if no frame is held, because everything was forgotten meanwhile, or if there is no answer
        (refused, failed): earlier masks stay, and the next frame is due.
        """
        held, self._held = self._held, None
        if held is None:
            return
        if not answer.answered:
            self._refusal = answer
            return
        assert self._gray is not None
        self._refusal = None
        self._wanted = False
        masks = [CarriedMask.of(mask, held.gray, held.frame.rgb) for mask in answer.segments.masks]
        if held.frames:
            motion = held.as_motion(self._gray)
            places = displaced(motion.backward)
            masks = list(behind([mask and mask.carried(motion, places=places) for mask in masks], motion))
        self._answer, self._masks, self._since = answer, tuple(masks), held

    def result(self) -> SegmentationResult | None:
        """Return the masks in the newest frame; None before the first keyframe.

        As long as no keyframe was answered, it is what the model said instead, and why.
        """
        answer, since, frame = self._answer, self._since, self._frame
        if answer is None or since is None or frame is None:
            return self._refusal
        if not since.frames:
            return answer
        age_s = (frame.stamp_ns - since.frame.stamp_ns) * 1e-9
        crops = {index: crop for index, crop in enumerate(self._crops(frame, since)) if crop is not None}
        kept = list(crops)
        confidences = [self._confidence(mask) for index in kept if (mask := self._masks[index])]
        masks = tuple(
            MaskRle.encode_crop(crop.pixels, top=crop.top, left=crop.left, image_hw=frame.image_hw)
            for crop in crops.values()
        )
        boxes = np.array([mask.crop().box_xyxy for mask in masks], np.float32).reshape(-1, 4)
        segments = replace(
            answer.segments[np.array(kept, np.intp)],
            masks=masks,
            boxes_xyxy=boxes,
            locations=(),
            origins=np.array(kept, np.int32),
        )
        refusal = self._refusal
        notes = () if refusal is None else (f"the last keyframe has no answer: {refusal.message}",)
        carried = replace(
            answer,
            segments=segments,
            notes=(*answer.notes, *notes),
            camera=frame.camera,
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
            carried=Carried(
                keyframe_ns=since.frame.stamp_ns,
                age_s=age_s,
                frames=since.frames,
                confidence=min(confidences, default=_FADING**since.frames),
            ),
        )
        when = f"{since.frames} frames ago" + (f", {age_s:.2f} s" if age_s > 0.0 else "")
        if not kept:
            message = answer.message or f"what was found in the keyframe {when}, is out of view"
            return replace(carried, status=Status.NOT_FOUND, message=message)
        limit = self.options.doubt_below
        doubts = [
            doubt or (f"it may have changed since the keyframe {when}" if confidence < limit else "")
            for doubt, confidence in zip(segments.doubts, confidences, strict=True)
        ]
        drift = np.array(
            [confidence if confidence < limit else 1.0 for confidence in confidences], np.float32
        )
        carried = replace(carried, segments=replace(segments, chances=segments.chances * drift))
        return carried.with_doubts(doubts)

    def _crops(self, frame: Frame, since: _Since | None) -> list[MaskCrop | None]:
        """Return the pixels of all masks in the newest frame; None for one that is out of view."""
        crops = cut(self._masks, frame.rgb)
        if since is None or not since.frames:
            return crops
        return grown(
            crops, [None if mask is None else mask.colors for mask in self._masks], since.unseen(), frame.rgb
        )

    def _confidence(self, mask: CarriedMask) -> float:
        """Return how far a mask can be trusted, from 0 to 1."""
        assert self._since is not None
        return float(mask.agreement * _FADING**self._since.frames)
