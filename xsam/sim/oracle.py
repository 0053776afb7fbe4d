"""A simulated table as cameras and as a segmenter that knows the truth: the upper bound of every model.

::

    table = SimulatedTable(2_000_012)
    table.segment(table.frame("front"), [Query(text="the blue mug")], deadline_s=1.0)

It understands what `xsam.sim.language` can say: categories, colors with categories, referring phrases,
questions of use, "describe", and visual prompts. Any other words fit nothing.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from xsam.errors import InvalidImageError, InvalidQueryError, UnknownCameraError
from xsam.sim.annotate import ObjectAnnotation, annotate
from xsam.sim.camera import PinholeCamera
from xsam.sim.language import grounded_caption, plural, reasoning_questions, referring_expressions
from xsam.sim.render import RenderedView, render
from xsam.sim.scene import TableScene, orbit_camera, sample_scene
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.masks import BoolMask, MaskRle, box_of_mask
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult, Segments, Status, Task

FRONT = MappingProxyType({"front": 0.0})
PATCH_LEVEL = 90  # gray of the flat patch where something was taken away

_KEPT_FRAMES = 256
_Found = list[tuple[int, str, int]]  # (label index, label, instance id)


@lru_cache(maxsize=64)
def simulated_view(
    seed: int, eye: PinholeCamera | float = 0.0, image_hw: tuple[int, int] = (480, 640)
) -> tuple[TableScene, RenderedView, tuple[ObjectAnnotation, ...]]:
    """The scene of a seed as a camera sees it, and what is in view.

    Args:
        seed: of the scene.
        eye: the camera; a number is the scene's own one after so many seconds of `orbit_camera`.
        image_hw: (H, W) in pixels.
    """
    scene = sample_scene(seed)
    camera = eye if isinstance(eye, PinholeCamera) else orbit_camera(scene, eye)
    view = render(scene, camera=camera, image_hw=image_hw)
    return scene, view, annotate(scene, view)


class SimulatedTable:
    """Cameras around one simulated table. `frame` is a frame source, `segment` makes it a `Segmenter`.

    Frames have depth and intrinsics and are stamped with the time at which they are asked for.

    Attributes:
        seed: of the scene.
        cameras: name → the camera, as in `simulated_view`; change one to move it.
        hidden: instance ids of objects that were taken away.
    """

    def __init__(
        self,
        seed: int,
        *,
        cameras: Mapping[str, PinholeCamera | float] = FRONT,
        image_hw: tuple[int, int] = (480, 640),
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Nothing is rendered yet."""
        self.seed = seed
        self.cameras: dict[str, PinholeCamera | float] = dict(cameras)
        self.hidden: set[int] = set()
        self.image_hw = image_hw
        self._clock_ns = clock_ns
        self._taken_at: OrderedDict[int, PinholeCamera | float] = (
            OrderedDict()
        )  # stamp of a frame → its camera
        self._lock = threading.Lock()

    def frame(self, camera: str) -> Frame:
        """What a camera sees now.

        Raises:
            UnknownCameraError: there is no such camera.
        """
        eye = self._eye(camera)
        _, view, _ = simulated_view(self.seed, eye, self.image_hw)
        rgb = view.rgb
        if self.hidden:
            gone = np.isin(view.instance_ids, list(self.hidden))
            rgb = np.where(gone[..., None], PATCH_LEVEL, rgb).astype(np.uint8)
        with self._lock:
            stamp_ns = max(self._clock_ns(), next(reversed(self._taken_at), 0) + 1)  # no two alike
            self._taken_at[stamp_ns] = eye
            while len(self._taken_at) > _KEPT_FRAMES:
                self._taken_at.popitem(last=False)
        return Frame(
            rgb=rgb,
            camera=camera,
            frame_id=f"{camera}_optical",
            stamp_ns=stamp_ns,
            depth_m=view.depth_m,
            intrinsics=view.intrinsics,
        )

    def visible(self, camera: str) -> tuple[ObjectAnnotation, ...]:
        """Every object of which a camera sees a pixel now, the hidden ones left out."""
        return self._visible(self._eye(camera))

    def mask(self, instance_id: int, camera: str) -> BoolMask:
        """(H, W): the pixels of one object that a camera sees now."""
        return self._mask(instance_id, self._eye(camera))

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
    ) -> list[SegmentationResult]:
        """See `xsam.segmenter.Segmenter.segment`; frames must come from this table."""
        if not queries:
            raise InvalidQueryError("no queries were given")
        Deadline(deadline_s).check()
        if on_stage is not None:
            on_stage("inference")
        frame = self.frame(source.name) if isinstance(source, CameraRef) else source
        with self._lock:
            eye = self._taken_at.get(frame.stamp_ns)
        if eye is None or frame.image_hw != self.image_hw:
            raise InvalidImageError("the truth is known of this table's own newer frames only")
        return [self._answer(frame, eye, query) for query in queries]

    def _eye(self, camera: str) -> PinholeCamera | float:
        if camera not in self.cameras:
            known = ", ".join(sorted(self.cameras))
            raise UnknownCameraError(f"unknown camera {camera[:40]!r}; configured: {known}")
        return self.cameras[camera]

    def _visible(self, eye: PinholeCamera | float) -> tuple[ObjectAnnotation, ...]:
        _, _, items = simulated_view(self.seed, eye, self.image_hw)
        return tuple(item for item in items if item.instance_id not in self.hidden)

    def _mask(self, instance_id: int, eye: PinholeCamera | float) -> BoolMask:
        mask: BoolMask = simulated_view(self.seed, eye, self.image_hw)[1].instance_ids == instance_id
        return mask

    def _answer(self, frame: Frame, eye: PinholeCamera | float, query: Query) -> SegmentationResult:
        try:
            query.validate(frame.image_hw)
        except InvalidQueryError as error:
            return SegmentationResult.from_error(error, query, frame)
        items = self._visible(eye)
        text = ""
        phrases: tuple[str, ...] = ()
        if query.thing_classes or query.stuff_classes:
            found = _of_categories(query.thing_classes + query.stuff_classes, items)
        elif query.resolved_task() is Task.GROUNDED_CONVERSATION:
            caption = grounded_caption(items)
            text, phrases = _plain(caption.text)
            found = [(n, phrases[n], i) for n, ids in enumerate(caption.instance_ids) for i in ids]
        elif query.prompts:
            found = [(0, "region", i) for i in self._pointed_at(query, eye, items)]
        else:
            ids = _meant(query.text, items, self.image_hw[1])
            found = [(0, query.text, instance_id) for instance_id in ids]
        found = found[: query.max_instances]
        masks = [self._mask(instance_id, eye) for _, _, instance_id in found]
        return SegmentationResult(
            status=Status.FOUND if found else Status.NOT_FOUND,
            message="" if found else "nothing fits",
            query=query,
            text=text,
            phrases=phrases,
            segments=Segments(
                image_hw=self.image_hw,
                masks=tuple(map(MaskRle.encode, masks)),
                labels=tuple(label for _, label, _ in found),
                label_indices=np.array([index for index, _, _ in found], np.int32),
                scores=np.ones(len(found), np.float32),
                boxes_xyxy=np.array([box_of_mask(m) for m in masks], np.float32).reshape(-1, 4),
            ),
            model_id="truth",
            camera=frame.camera,
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
        )

    def _pointed_at(
        self, query: Query, eye: PinholeCamera | float, items: Sequence[ObjectAnnotation]
    ) -> list[int]:
        """The object that the positive prompts cover most and no negative one touches."""
        height, width = self.image_hw
        wanted, unwanted = np.zeros(self.image_hw, np.bool_), np.zeros(self.image_hw, np.bool_)
        for prompt in query.prompts:
            canvas = wanted if prompt.positive else unwanted
            if prompt.mask is not None:
                canvas |= prompt.mask
            elif prompt.box_xyxy is not None:
                x_min, y_min, x_max, y_max = (max(0, round(value)) for value in prompt.box_xyxy)
                canvas[y_min:y_max, x_min:x_max] = True
            elif prompt.points_xy is not None:
                columns, rows = np.clip(prompt.points_xy.astype(int), 0, (width - 1, height - 1)).T
                canvas[rows, columns] = True
        masks = {item.instance_id: self._mask(item.instance_id, eye) for item in items}
        scored = [
            (int(np.count_nonzero(masks[item.instance_id] & wanted)), item)
            for item in items
            if not (masks[item.instance_id] & unwanted).any()
        ]
        hits, best = max(scored, key=lambda pair: pair[0], default=(0, None))
        if best is None or not hits:
            return []
        if query.resolved_task() is Task.INTERACTIVE:
            return [best.instance_id]
        return [item.instance_id for item in items if item.category == best.category]


def _of_categories(names: Sequence[str], items: Iterable[ObjectAnnotation]) -> _Found:
    return [
        (index, name, item.instance_id)
        for index, name in enumerate(names)
        for item in items
        if name.lower() in _names_of(item)
    ]


def _names_of(item: ObjectAnnotation) -> tuple[str, ...]:
    category, several = item.category, plural(item.category)
    return category, several, f"{item.color} {category}", f"{item.color} {several}"


def _meant(text: str, items: Sequence[ObjectAnnotation], width_px: int) -> list[int]:
    """The objects that a phrase or question means; of "the mug" every mug when there are several."""
    wanted = " ".join(text.lower().split())
    said = [*referring_expressions(items, width_px), *reasoning_questions(items)]
    exact = [instance_id for e in said if e.text == wanted for instance_id in e.instance_ids]
    if exact:
        return exact
    return [item.instance_id for item in items if wanted.removeprefix("the ") in _names_of(item)]


def _plain(tagged: str) -> tuple[str, tuple[str, ...]]:
    """A caption without tags, and its phrases."""
    phrases, rest = [], tagged
    while "<p>" in rest:
        _, _, rest = rest.partition("<p>")
        phrase, _, rest = rest.partition("</p>")
        phrases.append(phrase)
    return tagged.replace("<p>", "").replace("</p>", ""), tuple(phrases)
