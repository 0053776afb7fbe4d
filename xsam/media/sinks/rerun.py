"""An annotated recording for the Rerun viewer: pictures, masks, boxes in space and doubts on one timeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xsam.media.sinks.base import SegmentedFrame, Sink, merged, title_of
from xsam.types.requests import Segments

if TYPE_CHECKING:
    import rerun

FILE = "annotated.rrd"
IMAGE, MASKS, BOXES, OBJECTS, NOTES = (
    "camera/image",
    "camera/image/masks",
    "camera/image/boxes",
    "objects",
    "notes",
)
FRAME, STAMP = "frame", "stamp"
_APPLICATION = "xsam"
_JPEG_QUALITY = 85
_FLUSH_S = 60.0


class RerunSink(Sink):
    """One file with the entities of `IMAGE` and so on; timelines are the number and the stamp of the frame.

    Masks are a segmentation image: the class of a pixel is the track of its segment, or its number in the
    frame if nothing is tracked. `objects` has boxes in space, in the frame of the source's locations, in m.
    Rerun only warns of most errors; strict calls raise them.
    """

    needs_all_frames = True

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._draft = folder / f".{FILE}.part"
        self._stream: rerun.RecordingStream | None = None
        self._frames = 0

    def add(self, item: SegmentedFrame) -> None:
        import cv2
        import rerun as rr

        stream = self._opened()
        stream.set_time(FRAME, sequence=self._frames)
        stream.set_time(STAMP, timestamp=np.datetime64(max(0, item.source.stamp_ns), "ns"))
        self._frames += 1
        _, jpeg = cv2.imencode(
            ".jpg", np.ascontiguousarray(item.frame.rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        )
        stream.log(IMAGE, rr.EncodedImage(contents=jpeg.tobytes(), media_type="image/jpeg"), strict=True)
        segments = merged(item.results, item.frame.image_hw)
        if item.answered:
            self._log_segments(stream, segments)
        for path in () if item.answered else (MASKS, BOXES, OBJECTS):
            stream.log(
                path, rr.Clear(recursive=True), strict=True
            )  # what an earlier frame showed is not known now
        lines = [f"{title_of([result.query])}: {result.status.value}" for result in item.results]
        lines += [
            f"{label}: {doubt}"
            for label, doubt in zip(segments.labels, segments.doubts, strict=True)
            if doubt
        ]
        stream.log(NOTES, rr.TextDocument("\n".join(lines)), strict=True)

    def _log_segments(self, stream: rerun.RecordingStream, segments: Segments) -> None:
        import rerun as rr

        from xsam.draw.shapes import color_of

        numbers = _numbers(segments)
        colors = [color_of(number - 1) for number in numbers]
        titles = [
            f"{number} {label} {score:.2f}{' ?' if doubt else ''}"
            for number, label, score, doubt in zip(
                numbers, segments.labels, segments.scores.tolist(), segments.doubts, strict=True
            )
        ]
        numbered = np.array([0, *numbers], np.uint16)[segments.label_map()]
        stream.log(
            MASKS,
            rr.AnnotationContext(list(zip(numbers, titles, colors, strict=True))),
            rr.SegmentationImage(numbered, opacity=0.5),
            strict=True,
        )
        stream.log(
            BOXES,
            rr.Boxes2D(
                array=segments.boxes_xyxy, array_format=rr.Box2DFormat.XYXY, labels=titles, colors=colors
            ),
            strict=True,
        )
        placed = [
            (place, title, color)
            for place, title, color in zip(segments.locations, titles, colors, strict=True)
            if place is not None and place.valid
        ]
        stream.log(
            OBJECTS,
            rr.Boxes3D(
                centers=[place.center_m for place, _, _ in placed],
                sizes=[place.size_m for place, _, _ in placed],
                quaternions=[rr.Quaternion(xyzw=place.orientation_xyzw) for place, _, _ in placed],
                labels=[title for _, title, _ in placed],
                colors=[color for _, _, color in placed],
            ),
            strict=True,
        )

    def finish(self, entries: Callable[[], Iterable[dict[str, Any]]]) -> list[Path]:
        stream = self._opened()
        stream.flush(timeout_sec=_FLUSH_S)
        stream.disconnect()
        with self._draft.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(self._draft, self._path)
        return [self._path]

    def abandon(self) -> None:
        if self._stream is not None:
            self._stream.disconnect()
            with suppress(OSError):
                self._draft.unlink()

    def _opened(self) -> rerun.RecordingStream:
        if self._stream is None:
            import rerun as rr

            self._draft.parent.mkdir(parents=True, exist_ok=True)
            self._stream = rr.RecordingStream(_APPLICATION)
            self._stream.save(self._draft)
        return self._stream


def _numbers(segments: Segments) -> list[int]:
    """Return a number from 1 for each segment: that of its track, where there are tracks."""
    tracked = len(segments) > 0 and bool(segments.track_ids.all())
    return segments.track_ids.tolist() if tracked else list(range(1, len(segments) + 1))
