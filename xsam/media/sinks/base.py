"""What all sinks have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.media.frames import SourceFrame
from xsam.types.requests import Frame, Query, SegmentationResult, Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedFrame:
    """A frame with the results of all queries."""

    source: SourceFrame
    frame: Frame
    results: tuple[SegmentationResult, ...]

    @property
    def answered(self) -> bool:
        """True if every query was answered: only then is what has no mask known to be absent."""
        return all(result.answered for result in self.results)


class Sink:
    """Writes one kind of output into the folder of a run.

    `finish` is called once, also after Ctrl-C, and what it leaves is valid. After a kill, a run goes on:
    sinks that write a file per frame get new frames only, the others get all frames again and start their
    files anew under another name, so that nothing is there twice.
    """

    needs_all_frames = False
    """Whether frames of an earlier part of the run are needed, too, when it goes on."""

    def begin(self, earlier: Iterable[dict[str, Any]]) -> None:
        """Take note of the journal of an earlier part of the run."""

    def add(self, item: SegmentedFrame) -> None:
        """Write what belongs to one frame; what was written for it before is replaced.

        Raises:
            OSError: it cannot be written.
        """

    def finish(self, entries: Callable[[], Iterable[dict[str, Any]]]) -> list[Path]:
        """Complete the output.

        Args:
            entries: returns all lines of the journal, as often as it is called.

        Returns:
            Files and folders that were written.
        """
        return []

    def notes(self) -> list[str]:
        """Return what a user should know about the output."""
        return []

    def abandon(self) -> None:
        """Release files after an error, without completing them."""


def merged(results: Sequence[SegmentationResult], image_hw: tuple[int, int]) -> Segments:
    """Return the segments of all results together, in the order of the queries."""
    return Segments.joined([Segments(image_hw=image_hw), *(r.segments for r in results if len(r.segments))])


def title_of(queries: Sequence[Query]) -> str:
    """Return the queries in words."""
    return "; ".join(
        query.text or ", ".join(query.thing_classes + query.stuff_classes) or "region" for query in queries
    )


def overlay(item: SegmentedFrame) -> NDArray[np.uint8]:
    """Draw the results of all queries on the frame: tracked objects with their ids."""
    from xsam.draw.overlay import draw_overlay, draw_prompts

    segments = merged(item.results, item.frame.image_hw)
    tracked = len(segments) > 0 and bool(segments.track_ids.all())
    canvas = draw_overlay(
        item.frame.rgb,
        segments,
        title=title_of([result.query for result in item.results]),
        numbers=segments.track_ids.tolist() if tracked else None,
    )
    return draw_prompts(canvas, [prompt for result in item.results for prompt in result.query.prompts])
