"""A simulated table as a camera and as a segmenter that knows the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from xsam import CameraRef, Frame, MaskRle, Query, SegmentationResult, Segments, Status, Task
from xsam.masks import BoolMask, box_of_mask
from xsam.sim import ObjectAnnotation, RenderedView, Scene, annotate, orbit_camera, render, sample_scene
from xsam.sim.language import grounded_caption, reasoning_questions, referring_expressions

IMAGE_HW = (240, 320)


@lru_cache(maxsize=64)
def view_of(seed: int, t_s: float = 0.0) -> tuple[Scene, RenderedView, tuple[ObjectAnnotation, ...]]:
    """The scene of a seed, seen by its swinging camera after some seconds, and what is in view."""
    scene = sample_scene(seed)
    view = render(scene, camera=orbit_camera(scene, t_s), image_hw=IMAGE_HW)
    return scene, view, annotate(scene, view)


class SimTable:
    """`frame` is a frame source, `segment` makes it a segmenter. Move `t_s` on to move the camera."""

    def __init__(self, seed: int = 2_000_012, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.seed, self.t_s = seed, 0.0
        self.hidden: set[int] = set()  # instance ids that were taken away
        self._clock_ns = clock_ns
        self._times: dict[int, float] = {}  # stamp → time of the camera

    @property
    def items(self) -> list[ObjectAnnotation]:
        """What language may speak of, now."""
        return [a for a in self._items(self.t_s) if a.labelled]

    def mask(self, instance_id: int, t_s: float | None = None) -> BoolMask:
        return view_of(self.seed, self.t_s if t_s is None else t_s)[1].instance_ids == instance_id

    def frame(self, camera: str = "front") -> Frame:
        _, view, _ = view_of(self.seed, self.t_s)
        stamp_ns = self._clock_ns() + len(self._times)  # no two alike
        self._times[stamp_ns] = self.t_s
        rgb = view.rgb
        if self.hidden:  # what was taken away leaves a flat patch
            rgb = np.where(np.isin(view.instance_ids, list(self.hidden))[..., None], 90, rgb).astype(np.uint8)
        return Frame(
            rgb=rgb,
            camera=camera,
            frame_id=f"{camera}_optical",
            stamp_ns=stamp_ns,
            depth_m=view.depth_m,
            intrinsics=view.intrinsics,
        )

    def segment(
        self, source: Frame | CameraRef, queries: Sequence[Query], *, deadline_s: float
    ) -> list[SegmentationResult]:
        assert isinstance(source, Frame)
        t_s = self._times[source.stamp_ns]
        return [self._answer(source, t_s, query) for query in queries]

    def _items(self, t_s: float) -> list[ObjectAnnotation]:
        return [a for a in view_of(self.seed, t_s)[2] if a.instance_id not in self.hidden]

    def _answer(self, frame: Frame, t_s: float, query: Query) -> SegmentationResult:
        task = query.resolved_task()
        items = self._items(t_s)
        text, phrases = "", ()
        if query.thing_classes or query.stuff_classes:
            names = query.thing_classes + query.stuff_classes
            found = [
                (names.index(name), name, a.instance_id)
                for name in names
                for a in items
                if name.lower() in (a.category, f"{a.color} {a.category}")
            ]
        elif task is Task.GROUNDED_CONVERSATION:
            caption = grounded_caption(items)
            text, phrases = _plain(caption.text)
            found = [(n, phrases[n], i) for n, ids in enumerate(caption.instance_ids) for i in ids]
        elif query.prompts:
            found = [(0, "region", i) for i in self._pointed(query, t_s, items)]
        else:
            wanted = query.text.lower()
            said = [*referring_expressions(items, IMAGE_HW[1]), *reasoning_questions(items)]
            found = [(0, query.text, i) for e in said if e.text == wanted for i in e.instance_ids]
        masks = [self.mask(instance_id, t_s) for _, _, instance_id in found]
        return SegmentationResult(
            status=Status.FOUND if found else Status.NOT_FOUND,
            message="" if found else "nothing matches",
            query=query,
            text=text,
            phrases=phrases,
            segments=Segments(
                image_hw=IMAGE_HW,
                masks=tuple(map(MaskRle.encode, masks)),
                labels=tuple(label for _, label, _ in found),
                label_indices=np.array([index for index, _, _ in found], np.int32),
                scores=np.full(len(found), 0.9, np.float32),
                boxes_xyxy=np.array([box_of_mask(m) for m in masks], np.float32).reshape(-1, 4),
            ),
            model_id="truth",
            camera=frame.camera,
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
        )

    def _pointed(self, query: Query, t_s: float, items: list[ObjectAnnotation]) -> list[int]:
        """The object that the positive prompts cover most and the negative ones do not touch."""
        wanted, unwanted = np.zeros(IMAGE_HW, np.bool_), np.zeros(IMAGE_HW, np.bool_)
        for prompt in query.prompts:
            canvas = wanted if prompt.positive else unwanted
            if prompt.mask is not None:
                canvas |= prompt.mask
            elif prompt.box_xyxy is not None:
                x_min, y_min, x_max, y_max = (max(0, round(v)) for v in prompt.box_xyxy)
                canvas[y_min:y_max, x_min:x_max] = True
            elif prompt.points_xy is not None:
                for x_px, y_px in prompt.points_xy.astype(int).tolist():
                    canvas[y_px, x_px] = True
        scored = [
            (int(np.count_nonzero(mask & wanted)), item)
            for item in items
            if not ((mask := self.mask(item.instance_id, t_s)) & unwanted).any()
        ]
        hits, best = max(scored, key=lambda pair: pair[0], default=(0, None))
        if best is None or not hits:
            return []
        if query.resolved_task() is Task.INTERACTIVE:
            return [best.instance_id]
        return [item.instance_id for item in items if item.category == best.category]


def _plain(tagged: str) -> tuple[str, tuple[str, ...]]:
    """A caption without tags, and its phrases."""
    phrases, rest = [], tagged
    while "<p>" in rest:
        _, _, rest = rest.partition("<p>")
        phrase, _, rest = rest.partition("</p>")
        phrases.append(phrase)
    return tagged.replace("<p>", "").replace("</p>", ""), tuple(phrases)


def with_place(result: SegmentationResult, locations) -> SegmentationResult:
    """The result as a segmenter with a depth camera of its own would send it."""
    return replace(result, segments=replace(result.segments, locations=tuple(locations)))
