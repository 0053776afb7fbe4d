"""The queries of a stream: checked and bounded when they arrive, parsed for the size of the images."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

from xsam.errors import InvalidQueryError
from xsam.segmenter import check_video_query
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.messages.queries import check_elements, check_query_message
from xsam_ros.msg import SegmentQuery
from xsam_ros.node.requests import ParsedQuery, parse_queries

MIN_RATE_HZ = 0.001
MAX_RATE_HZ = 1000.0
MAX_TEXT_CHARS = 100_000
"""Most characters of all queries of a stream together: they are kept, and sent with each result."""

MAX_POINTS = 10_000
MAX_MASK_BYTES = 4_000_000
_DESCRIPTION_CHARS = 200


class StreamQuery:
    """The queries of a stream and its rate."""

    def __init__(self, messages: Sequence[SegmentQuery], rate_hz: float, *, propagate: bool = False) -> None:
        """Check what shows without an image. Mask prompts are not decoded.

        Args:
            messages: from an untrusted sender; kept until the stream ends.
            rate_hz: highest rate; 0 = as fast as the model can, or with `propagate` the camera.
            propagate: the model segments keyframes only, and their masks are carried along in between.

        Raises:
            InvalidQueryError: a query is invalid for every image, there is too much to keep, or the rate is
                out of range.
        """
        check_rate(rate_hz)
        check_elements(messages)
        _check_amount("characters", sum(map(_characters, messages)), MAX_TEXT_CHARS)
        prompts = [prompt for message in messages for prompt in message.prompts]
        _check_amount("prompt points", sum(len(prompt.points) for prompt in prompts), MAX_POINTS)
        _check_amount("bytes of masks", sum(len(prompt.mask.counts) for prompt in prompts), MAX_MASK_BYTES)
        for message in messages:
            query = check_query_message(message)
            if propagate:
                check_video_query(query)
        self.rate_hz = float(rate_hz)
        self.propagate = propagate
        self._messages = tuple(messages)
        self._lock = threading.Lock()
        self._image_hw: tuple[int, int] | None = None
        self._parsed: tuple[ParsedQuery, ...] = ()

    def __len__(self) -> int:
        return len(self._messages)

    def parsed(self, image_hw: tuple[int, int]) -> tuple[ParsedQuery, ...]:
        """Return the queries for images of (H, W) pixels; call it in the model's thread, it decodes masks."""
        with self._lock:
            if image_hw != self._image_hw:
                self._parsed = parse_queries(self._messages, image_hw=image_hw)
                self._image_hw = image_hw
            return self._parsed

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Return a short description of each query, for people."""
        return tuple(
            shortened(
                message.text
                or ", ".join([*message.thing_classes, *message.stuff_classes])
                or f"{len(message.prompts)} prompts"
            )
            for message in self._messages
        )


def configured_stream(camera: CameraParameters) -> StreamQuery:
    """Return the queries of the stream that the parameters of a camera describe.

    Raises:
        InvalidQueryError: see `StreamQuery`.
    """
    return StreamQuery(
        [SegmentQuery(text=camera.stream_text)], camera.stream_rate_hz, propagate=camera.stream_propagate
    )


def check_rate(rate_hz: float) -> None:
    """Raise `InvalidQueryError` unless a rate is 0 or one that a stream can keep."""
    if not (rate_hz == 0.0 or (math.isfinite(rate_hz) and MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ)):
        raise InvalidQueryError(
            f"rate_hz must be 0 (as fast as the model can) or {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g}, "
            f"got {rate_hz:g}",
            hint="to stop a stream, send no queries",
        )


def shortened(text: str, characters: int = _DESCRIPTION_CHARS) -> str:
    """Return a text, or its beginning with "…" if it is longer than so many characters."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _characters(message: SegmentQuery) -> int:
    return len(message.text) + sum(map(len, [*message.thing_classes, *message.stuff_classes]))


def _check_amount(what: str, amount: int, most: int) -> None:
    if amount > most:
        raise InvalidQueryError(f"the queries of the stream have {amount} {what}, at most {most} are allowed")
