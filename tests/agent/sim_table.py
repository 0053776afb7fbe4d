"""The simulated table of the tests: one swinging camera under every name, small images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from xsam import Frame, SegmentationResult
from xsam.sim import ObjectAnnotation, RenderedView, TableScene
from xsam.sim.oracle import SimulatedTable, simulated_view
from xsam.types.location import Location3D
from xsam.types.masks import BoolMask

IMAGE_HW = (240, 320)


def view_of(seed: int, t_s: float = 0.0) -> tuple[TableScene, RenderedView, tuple[ObjectAnnotation, ...]]:
    """Return the scene of a seed, its swinging camera's view after some seconds, and the visible objects."""
    return simulated_view(seed, t_s, IMAGE_HW)


class SwingingCameraTable(SimulatedTable):
    """A table whose cameras all share one pose; set `t_s` to move them."""

    def __init__(self, seed: int = 2_000_012, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        cameras = {"front": 0.0, "wrist": 0.0}
        super().__init__(seed, cameras=cameras, image_hw=IMAGE_HW, clock_ns=clock_ns)
        self._t_s = 0.0

    @property
    def t_s(self) -> float:
        """Seconds for which the cameras have been swinging."""
        return self._t_s

    @t_s.setter
    def t_s(self, value: float) -> None:
        self._t_s = value
        self.cameras.update(dict.fromkeys(self.cameras, value))

    @property
    def items(self) -> list[ObjectAnnotation]:
        """The objects in view that phrases may refer to."""
        return [item for item in self.visible("front") if item.labeled]

    def mask(self, instance_id: int, camera: str = "front", *, t_s: float | None = None) -> BoolMask:
        if t_s is None:
            return super().mask(instance_id, camera)
        mask: BoolMask = view_of(self.seed, t_s)[1].instance_ids == instance_id
        return mask

    def frame(self, camera: str = "front") -> Frame:
        return super().frame(camera)


def with_locations(result: SegmentationResult, locations: list[Location3D | None]) -> SegmentationResult:
    """Add locations to a result, as a segmenter with a depth camera of its own does."""
    return replace(result, segments=replace(result.segments, locations=tuple(locations)))
