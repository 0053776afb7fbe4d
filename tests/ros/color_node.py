"""The segmenter node with a model that segments by color.

Words in a query make it behave badly: "slow" takes 1.5 s in small stages, "stuck" takes 1.5 s in one stage,
and a minute together with "endless"; "broken" raises an exception, "memory" runs out of memory. "tell" makes
it generate text, word by word.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from xsam import (
    CheckpointError,
    Frame,
    InvalidQueryError,
    MaskRle,
    Query,
    SegmentationResult,
    Segments,
    Status,
    Timing,
)
from xsam.types.deadline import StageHook, TextHook
from xsam.types.masks import box_of_mask
from xsam.types.requests import CameraRef
from xsam_ros.node.node import main
from xsam_ros.node.parameters import NodeParameters

_COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
_LOADING_S = {"large": 3.0, "endless": 60.0}
_TOLERANCE = 60
_GENERATED_WORDS = [f"word{index}" for index in range(12)]


class ColorEngine:
    """An engine that finds the colors named in a query."""

    model_id = "colors"

    def __init__(self) -> None:
        self._weights = np.ones(50_000_000, np.uint8)  # 50 MB that cleanup must release

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        del self._weights

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        assert isinstance(source, Frame), "the node resolves cameras"
        assert on_stage is not None
        assert deadline_s > 0
        for index, query in enumerate(queries):
            for count in range(1, 13 if "tell" in query.text and on_text is not None else 0):
                on_text(index, " ".join(_GENERATED_WORDS[:count]))
                time.sleep(0.05)
        return [self._result(source, query, on_stage) for query in queries]

    def _result(self, frame: Frame, query: Query, on_stage: StageHook) -> SegmentationResult:
        try:
            query.validate(frame.image_hw)
        except InvalidQueryError as error:
            return SegmentationResult.from_error(error, query, frame)
        started_s = time.monotonic()
        if "slow" in query.text:
            for step in range(30):
                on_stage(f"step {step}")
                time.sleep(0.05)
        if "stuck" in query.text:
            time.sleep(60.0 if "endless" in query.text else 1.5)
        if "broken" in query.text:
            raise RuntimeError("a tensor is on the wrong device")
        if "memory" in query.text:
            raise MemoryError("cannot allocate 80 GB")
        labels = [name for name in _COLORS if name in query.text or name in query.thing_classes]
        masks = [(np.abs(frame.rgb.astype(int) - _COLORS[name]) < _TOLERANCE).all(axis=2) for name in labels]
        found = [(index, mask) for index, mask in enumerate(masks) if mask.any()]
        return SegmentationResult(
            status=Status.FOUND if found else Status.NOT_FOUND,
            message="" if found else f"nothing is {query.text!r}",
            query=query,
            segments=Segments(
                image_hw=frame.image_hw,
                masks=tuple(MaskRle.encode(mask) for _, mask in found),
                labels=tuple(labels[index] for index, _ in found),
                label_indices=np.array([index for index, _ in found], np.int32),
                scores=np.array([0.9 - 0.1 * index for index, _ in found], np.float32),
                boxes_xyxy=np.array([box_of_mask(mask) for _, mask in found], np.float32).reshape(-1, 4),
            ),
            model_id=self.model_id,
            camera=frame.camera,
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
            timing=Timing(stages_s={"inference": time.monotonic() - started_s}),
        )


def load(parameters: NodeParameters) -> ColorEngine:
    if parameters.model in _LOADING_S:
        time.sleep(_LOADING_S[parameters.model])
    if parameters.model == "missing":
        raise CheckpointError(f"no checkpoint in {parameters.model}")
    return ColorEngine()


if __name__ == "__main__":
    raise SystemExit(main(engine_factory=load))
