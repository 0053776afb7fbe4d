"""The simulated table of the tests: one swinging camera under every name, small pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from xsam import Frame, SegmentationResult
from xsam.sim import ObjectAnnotation, RenderedView, TableScene
from xsam.sim.oracle import SimulatedTable, simulated_view
from xsam.types.masks import BoolMask

IMAGE_HW = (240, 320)


def view_of(seed: int, t_s: float = 0.0) -> tuple[TableScene, RenderedView, tuple[ObjectAnnotation, ...]]:
    """The scene of a seed, seen by its swinging camera after some seconds, and what is in view."""
    return simulated_view(seed, t_s, IMAGE_HW)


class SimTable(SimulatedTable):
    """Move `t_s` on to move the cameras, which all stand in one place."""

    def __init__(self, seed: int = 2_000_012, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        super().__init__(seed, image_hw=IMAGE_HW, clock_ns=clock_ns)
        self.t_s = 0.0

    @property
    def items(self) -> list[ObjectAnnotation]:
        """What language may speak of, now."""
        return [item for item in self.visible("front") if item.labeled]

    def mask(self, instance_id: int, camera: str = "front", *, t_s: float | None = None) -> BoolMask:
        return self._mask(instance_id, self.t_s if t_s is None else t_s)

    def frame(self, camera: str = "front") -> Frame:
        return super().frame(camera)

    def _eye(self, camera: str) -> float:
        return self.t_s


def with_place(result: SegmentationResult, locations) -> SegmentationResult:
    """The result as a segmenter with a depth camera of its own would send it."""
    return replace(result, segments=replace(result.segments, locations=tuple(locations)))
