"""A simulated table that acts as cameras and as a ground-truth segmenter: the upper bound for every model.

::

    table = SimulatedTable(2_000_012)
    table.segment(table.frame("front"), [Query(text="the blue mug")], deadline_s=1.0)

It understands the text that `xsam.sim.language` generates: categories, colors with categories, referring
phrases, and questions about use. It also handles grounded descriptions and visual prompts. Any other text
matches nothing.
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
from xsam.sim.language import grounded_caption, reasoning_questions, referring_expressions
from xsam.sim.render import RenderedView, render
from xsam.sim.scene import TableScene, orbit_camera, sample_scene
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.masks import BoolMask, MaskRle, box_of_mask
from xsam.types.nouns import plural
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult, Segments, Status, Task

FRONT = MappingProxyType({"front": 0.0})
PATCH_LEVEL = 90  # gray level of the flat patch where an object was removed

_KEPT_FRAMES = 256
_Matches = list[tuple[int, str, int]]  # (label index, label, instance id)


@lru_cache(maxsize=64)
def simulated_view(
    scene: TableScene | int, eye: PinholeCamera | float = 0.0, image_hw: tuple[int, int] = (480, 640)
) -> tuple[TableScene, RenderedView, tuple[ObjectAnnotation, ...]]:
    """Render a scene from a camera and annotate the visible objects.

    Args:
        scene: the scene, or its seed.
        eye: the camera; a number means the scene's own camera after that many seconds of `orbit_camera`.
        image_hw: (H, W) in pixels.
    """
    scene = sample_scene(scene) if isinstance(scene, int) else scene
    camera = eye if isinstance(eye, PinholeCamera) else orbit_camera(scene, eye)
    view = render(scene, camera=camera, image_hw=image_hw)
    return scene, view, annotate(scene, view)


class SimulatedTable:
    """Cameras around one simulated table. `frame` is a frame source; `segment` makes it a `Segmenter`.

    Frames carry depth and intrinsics and are stamped with the time of the request. Nothing is rendered
    before the first frame.

    Attributes:
        seed: seed of the scene.
        cameras: name → camera, as in `simulated_view`; assign to one to move it.
        hidden: instance ids of objects that have been removed.
    """

    def __init__(
        self,
        seed: int,
        *,
        cameras: Mapping[str, PinholeCamera | float] = FRONT,
        image_hw: tuple[int, int] = (480, 640),
        clock_ns: Callable[[], int] = time.time_ns,
        scene: TableScene | None = None,
    ) -> None:
        """Set up the table.

        Args:
            seed: seed of the scene.
            cameras: name → camera, as in `simulated_view`.
            image_hw: (H, W) in pixels.
            clock_ns: stamps the frames.
            scene: another scene than that of the seed, such as one with objects moved.
        """
        self.seed = seed
        self._scene: TableScene | int = seed if scene is None else scene
        self.cameras: dict[str, PinholeCamera | float] = dict(cameras)
        self.hidden: set[int] = set()
        self.image_hw = image_hw
        self._clock_ns = clock_ns
        self._taken_at: OrderedDict[int, PinholeCamera | float] = (
            OrderedDict()
        )  # stamp of a frame → its camera
        self._lock = threading.Lock()

    def frame(self, camera: str) -> Frame:
        """Capture what a camera sees now.

        Raises:
            UnknownCameraError: there is no such camera.
        """
        eye = self._eye(camera)
        _, view, _ = simulated_view(self._scene, eye, self.image_hw)
        rgb = view.rgb
        if self.hidden:
            removed = np.isin(view.instance_ids, list(self.hidden))
            rgb = np.where(removed[..., None], PATCH_LEVEL, rgb).astype(np.uint8)
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
        """Return every object of which a camera sees at least one pixel now, except the hidden ones."""
        return self._visible(self._eye(camera))

    def mask(self, instance_id: int, camera: str) -> BoolMask:
        """Return the (H, W) mask of the pixels of one object that a camera sees now."""
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
        """Implement `xsam.segmenter.Segmenter.segment`; frames must come from this table."""
        if not queries:
            raise InvalidQueryError("no queries were given")
        Deadline(deadline_s).check()
        if on_stage is not None:
            on_stage("inference")
        frame = self.frame(source.name) if isinstance(source, CameraRef) else source
        with self._lock:
            eye = self._taken_at.get(frame.stamp_ns)
        if eye is None or frame.image_hw != self.image_hw:
            raise InvalidImageError("ground truth is only known for this table's own recent frames")
        return [self._segment_one(frame, eye, query) for query in queries]

    def _eye(self, camera: str) -> PinholeCamera | float:
        if camera not in self.cameras:
            known = ", ".join(sorted(self.cameras))
            raise UnknownCameraError(f"unknown camera {camera[:40]!r}; configured: {known}")
        return self.cameras[camera]

    def _visible(self, eye: PinholeCamera | float) -> tuple[ObjectAnnotation, ...]:
        _, _, items = simulated_view(self._scene, eye, self.image_hw)
        return tuple(item for item in items if item.instance_id not in self.hidden)

    def _mask(self, instance_id: int, eye: PinholeCamera | float) -> BoolMask:
        mask: BoolMask = simulated_view(self._scene, eye, self.image_hw)[1].instance_ids == instance_id
        return mask

    def _segment_one(self, frame: Frame, eye: PinholeCamera | float, query: Query) -> SegmentationResult:
        try:
            query.validate(frame.image_hw)
        except InvalidQueryError as error:
            return SegmentationResult.from_error(error, query, frame)
        items = self._visible(eye)
        text = ""
        phrases: tuple[str, ...] = ()
        if query.thing_classes or query.stuff_classes:
            matches = _match_categories(query.thing_classes + query.stuff_classes, items)
        elif query.resolved_task() is Task.GROUNDED_CONVERSATION:
            caption = grounded_caption(items)
            text, phrases = _strip_tags(caption.text)
            matches = [(n, phrases[n], i) for n, ids in enumerate(caption.instance_ids) for i in ids]
        elif query.prompts:
            matches = [(0, "region", i) for i in self._match_prompts(query, eye, items)]
        else:
            ids = _match_text(query.text, items, self.image_hw[1])
            matches = [(0, query.text, instance_id) for instance_id in ids]
        matches = matches[: query.max_instances]
        masks = [self._mask(instance_id, eye) for _, _, instance_id in matches]
        return SegmentationResult(
            status=Status.FOUND if matches else Status.NOT_FOUND,
            message="" if matches else "nothing fits",
            query=query,
            text=text,
            phrases=phrases,
            segments=Segments(
                image_hw=self.image_hw,
                masks=tuple(map(MaskRle.encode, masks)),
                labels=tuple(label for _, label, _ in matches),
                label_indices=np.array([index for index, _, _ in matches], np.int32),
                scores=np.ones(len(matches), np.float32),
                boxes_xyxy=np.array([box_of_mask(m) for m in masks], np.float32).reshape(-1, 4),
            ),
            model_id="truth",
            camera=frame.camera,
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
        )

    def _match_prompts(
        self, query: Query, eye: PinholeCamera | float, items: Sequence[ObjectAnnotation]
    ) -> list[int]:
        """Return the object that positive prompts cover most and no negative prompt touches.

        A visual grounded query matches all objects of its category.
        """
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


def _match_categories(names: Sequence[str], items: Iterable[ObjectAnnotation]) -> _Matches:
    return [
        (index, name, item.instance_id)
        for index, name in enumerate(names)
        for item in items
        if name.lower() in _names_of(item)
    ]


def _names_of(item: ObjectAnnotation) -> tuple[str, ...]:
    category, categories = item.category, plural(item.category)
    return category, categories, f"{item.color} {category}", f"{item.color} {categories}"


def _match_text(text: str, items: Sequence[ObjectAnnotation], width_px: int) -> list[int]:
    """Return the objects that text refers to; "the mug" means every mug if there are several."""
    normalized = " ".join(text.lower().split())
    expressions = [*referring_expressions(items, width_px), *reasoning_questions(items)]
    exact = [instance_id for e in expressions if e.text == normalized for instance_id in e.instance_ids]
    if exact:
        return exact
    return [item.instance_id for item in items if normalized.removeprefix("the ") in _names_of(item)]


def _strip_tags(tagged: str) -> tuple[str, tuple[str, ...]]:
    """Return a caption without tags, and its phrases."""
    phrases, rest = [], tagged
    while "<p>" in rest:
        _, _, rest = rest.partition("<p>")
        phrase, _, rest = rest.partition("</p>")
        phrases.append(phrase)
    return tagged.replace("<p>", "").replace("</p>", ""), tuple(phrases)
