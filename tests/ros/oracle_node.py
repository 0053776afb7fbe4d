"""The segmenter node with a model that knows the pictures of simulated cameras, and with them the true masks.

The parameter `model` says which: "<seed>,<seed>,...:<views>:<height>x<width>", views of the swing around
the table as `xsam_ros.camera_sim` renders them. Every query is answered with all objects in view that have
at least 60 pixels: labeled "object <number>", and the answer's text says "<seed> <view>".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from xsam import Frame, MaskRle, ModelError, Query, SegmentationResult, Segments, Status
from xsam.sim.render import RenderedView, render
from xsam.sim.scene import orbit_camera, sample_scene
from xsam.types.masks import box_of_mask
from xsam_ros.node.node import main

PERIOD_S = 20.0
LEAST_PX = 60


def rendered_views(seed: int, count: int, image_hw: tuple[int, int]) -> list[RenderedView]:
    """The pictures of a simulated camera with `orbit_views` = count; of one that stands still if it is 1."""
    scene = sample_scene(seed)
    return [
        render(
            scene,
            camera=orbit_camera(scene, index * PERIOD_S / count, period_s=PERIOD_S),
            image_hw=image_hw,
        )
        for index in range(count)
    ]


def _key(rgb: np.ndarray) -> bytes:
    return hashlib.sha256(rgb.tobytes()).digest()


class TruthEngine:
    model_id = "truth"

    def __init__(self, description: str) -> None:
        seeds, count, size = description.split(":")
        height, width = (int(side) for side in size.split("x"))
        self._known = {
            _key(view.rgb): (seed, index, view.instance_ids)
            for seed in seeds.split(",")
            for index, view in enumerate(rendered_views(int(seed), int(count), (height, width)))
        }

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        self._known.clear()

    def segment(
        self,
        frame: Frame,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: Callable[[str], None] | None = None,
    ) -> list[SegmentationResult]:
        known = self._known.get(_key(frame.rgb))
        if known is None:
            raise ModelError("a picture that nobody rendered")
        seed, index, ids = known
        numbers = [int(n) for n in np.unique(ids) if n and np.count_nonzero(ids == n) >= LEAST_PX]
        masks = [ids == number for number in numbers]
        segments = Segments(
            image_hw=frame.image_hw,
            masks=tuple(MaskRle.encode(mask) for mask in masks),
            labels=tuple(f"object {number}" for number in numbers),
            label_indices=np.zeros(len(masks), np.int32),
            scores=np.full(len(masks), 1.0, np.float32),
            boxes_xyxy=np.array([box_of_mask(mask) for mask in masks], np.float32).reshape(-1, 4),
        )
        return [
            SegmentationResult(
                status=Status.FOUND,
                query=query,
                segments=segments,
                text=f"{seed} {index}",
                model_id=self.model_id,
                camera=frame.camera,
                frame_id=frame.frame_id,
                stamp_ns=frame.stamp_ns,
            )
            for query in queries
        ]


if __name__ == "__main__":
    raise SystemExit(main(engine_factory=lambda parameters: TruthEngine(parameters.model)))
