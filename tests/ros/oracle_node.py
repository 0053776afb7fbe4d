"""The segmenter node with a model that knows the images of simulated cameras and their true masks.

The parameter `model` says which: "<seed>,<seed>,...:<views>:<height>x<width>", with views of the swing around
the table as `xsam_ros.camera_sim` renders them. Every query finds all objects in view that have at least 60
pixels. Their labels are "object <id>", and the text of the result is "<seed> <view>".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from xsam import Frame, MaskRle, ModelError, Query, SegmentationResult, Segments, Status
from xsam.sim.render import RenderedView, render
from xsam.sim.scene import orbit_camera, sample_scene
from xsam.types.deadline import StageHook, TextHook
from xsam.types.masks import box_of_mask
from xsam.types.requests import CameraRef
from xsam_ros.node.node import main

LEAST_PX = 60


def rendered_views(seed: int, count: int, image_hw: tuple[int, int]) -> list[RenderedView]:
    """Render the images of a simulated camera with `orbit_views` = count; with 1, it stands still."""
    scene = sample_scene(seed)
    return [
        render(
            scene,
            camera=orbit_camera(scene, float(index), period_s=float(count)),
            image_hw=image_hw,
        )
        for index in range(count)
    ]


def _key(rgb: np.ndarray) -> bytes:
    return hashlib.sha256(rgb.tobytes()).digest()


class TruthEngine:
    """An engine that looks up an image by its pixels and returns the true masks."""

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
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        assert isinstance(source, Frame), "the node resolves cameras"
        frame = source
        known = self._known.get(_key(frame.rgb))
        if known is None:
            raise ModelError("the image is not one of the rendered views")
        seed, index, ids = known
        visible = [int(i) for i in np.unique(ids) if i and np.count_nonzero(ids == i) >= LEAST_PX]
        masks = [ids == instance_id for instance_id in visible]
        segments = Segments(
            image_hw=frame.image_hw,
            masks=tuple(MaskRle.encode(mask) for mask in masks),
            labels=tuple(f"object {instance_id}" for instance_id in visible),
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
