"""A segmenter that does what marks say."""

from __future__ import annotations

import numpy as np

from xsam import MaskRle, Query, SegmentationResult, Segments, Status
from xsam.types.masks import box_of_mask

THOUSANDTHS = {"type": "point", "x": 297, "y": 463}  # (190, 222) of 640×480, on the mug, from 0 to 1000


class MarkFollowingSegmenter:
    """A segmenter that returns the positive marks' area without the negative one, or always `fixed`.

    Nothing that it sees has a name.
    """

    def __init__(self, fixed: np.ndarray | None = None) -> None:
        self.fixed, self.queries = fixed, []

    def segment(self, source, queries, *, deadline_s) -> list[SegmentationResult]:
        self.queries += [query for query in queries if query.prompts]
        return [self._answer(source, query) for query in queries]

    def _answer(self, source, query: Query) -> SegmentationResult:
        mask = self.fixed if query.prompts else None
        if mask is None:
            mask = np.zeros((480, 640), np.bool_)
            for prompt in sorted(query.prompts, key=lambda p: not p.positive):
                if prompt.mask is not None:
                    mask |= prompt.mask
                elif prompt.box_xyxy is not None:
                    x_min, y_min, x_max, y_max = map(round, prompt.box_xyxy)
                    mask[y_min:y_max, x_min:x_max] = prompt.positive
                elif prompt.points_xy is not None:
                    for x_px, y_px in prompt.points_xy.astype(int).tolist():
                        mask[max(0, y_px - 10) : y_px + 11, max(0, x_px - 10) : x_px + 11] = prompt.positive
        found = int(mask.any())
        segments = Segments(
            image_hw=(480, 640),
            masks=(MaskRle.encode(mask),) if found else (),
            labels=("region",) * found,
            label_indices=np.zeros(found, np.int32),
            scores=np.full(found, 0.7, np.float32),
            boxes_xyxy=np.array([box_of_mask(mask)] * found, np.float32).reshape(-1, 4),
        )
        status = Status.FOUND if found else Status.NOT_FOUND
        return SegmentationResult(
            status=status, query=query, segments=segments, camera=source.camera, stamp_ns=source.stamp_ns
        )
