"""A table with mugs and a plate, and parsed tool results."""

from __future__ import annotations

import functools
import json
import time
from typing import Any

import numpy as np
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool

from xsam import CameraRef, Frame, MaskRle, Query, SegmentationResult, Segments, Status
from xsam.types.masks import BoolMask

HEIGHT, WIDTH = 480, 640


def rectangle(x_min: int, y_min: int, x_max: int, y_max: int) -> BoolMask:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[y_min:y_max, x_min:x_max] = True
    return mask


# No two share an x or a y, so that swapped axes and mixed-up objects show.
MASKS = {
    "mug": [rectangle(100, 100, 200, 240), rectangle(500, 20, 560, 110)],
    "red mug": [rectangle(500, 20, 560, 110)],
    "plate": [rectangle(240, 330, 460, 470)],
    "What can I drink from?": [rectangle(100, 100, 200, 240)],
}


@functools.cache
def _noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def new_frame(camera: str = "front", *, age_s: float = 0.1, seed: int = 0) -> Frame:
    stamp_ns = time.time_ns() - int(age_s * 1e9)
    return Frame(rgb=_noise(seed), camera=camera, frame_id=f"{camera}_optical", stamp_ns=stamp_ns)


class RecordingSegmenter:
    """A segmenter that returns given masks and scores, and records the requests."""

    def __init__(self, masks: list[Any], scores: list[float] | None = None, label: str = "thing") -> None:
        self.masks, self.label = masks, label
        self.scores = np.array(scores if scores is not None else [0.9] * len(masks), np.float32)
        self.requests: list[tuple[Frame | CameraRef, list[Query], float]] = []

    def segment(self, source, queries, *, deadline_s) -> list[SegmentationResult]:
        self.requests.append((source, list(queries), deadline_s))
        hw = self.masks[0].shape if self.masks else (480, 640)
        segments = Segments(
            image_hw=hw,
            masks=tuple(map(MaskRle.encode, self.masks)),
            labels=(self.label,) * len(self.masks),
            label_indices=np.zeros(len(self.masks), np.int32),
            scores=self.scores,
            boxes_xyxy=np.zeros((len(self.masks), 4), np.float32),
        )
        status = Status.FOUND if self.masks else Status.NOT_FOUND
        stamp_ns = source.stamp_ns if isinstance(source, Frame) else time.time_ns()
        return [
            SegmentationResult(status=status, query=q, segments=segments, stamp_ns=stamp_ns) for q in queries
        ]


class ToolCallResult:
    """A tool message with its content parsed."""

    def __init__(self, message: ToolMessage) -> None:
        assert isinstance(message.content, str)
        self.message = message
        self.json: dict[str, Any] = json.loads(message.content)
        self.artifact: dict[str, Any] = message.artifact

    @property
    def images(self) -> list[str | None]:
        """The pictures of the call in base64, wherever they are kept."""
        from xsam_agent_tools.middleware import artifact_images  # needs LangChain 1, which ROSA does not take

        return artifact_images(self.message)

    def __getitem__(self, key: str) -> Any:
        return self.json[key]


def as_call(tool: BaseTool, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": tool.name, "args": args, "id": "call_1", "type": "tool_call"}


def assert_plain(value: object) -> None:
    """Assert plain Python values: NumPy scalars pass `isinstance(…, float)`, but crash checkpointers."""
    if type(value) is dict:
        for key, item in value.items():
            assert type(key) is str
            assert_plain(item)
    elif type(value) is list:
        for item in value:
            assert_plain(item)
    else:
        assert value is None or type(value) in (str, int, float, bool), type(value)
