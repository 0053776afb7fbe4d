"""Images and the objects found on them, by id.

The language model sees ids only: "f7kqztw" for an image, "f7kqztw/m1" for an object on it. The letters at the
end belong to this store alone: an id of an earlier process, which a resumed conversation may contain, never
names another image. Masks and pixels stay until they are the least recently used ones and room is needed.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from xsam.types.location import Location3D
from xsam.types.masks import MaskRle
from xsam.types.requests import Frame
from xsam_agent_tools.errors import ImageFullError, StaleIdError, UnknownIdError
from xsam_agent_tools.memory.pictures import PictureStore

_RUN_LETTERS = "bcdfghjkmnpqrstvwxz"  # no vowels: no words
_RUN_LENGTH = 5
_IMAGE_ID = re.compile(r"f([1-9]\d{0,17})([a-z]*)", re.ASCII)
_OBJECT_OVERHEAD_BYTES = 400  # of the Python objects around a mask's counts


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """One object on one image. `mark` is its number in overlays of that image."""

    object_id: str = ""  # assigned by the store
    mark: int = 0  # assigned by the store
    parent_id: str = ""  # the object that was refined or tracked; may have been dropped since
    dropped: bool = False  # excluded from overlays and sets by `filter_objects`; the id stays valid
    query: str  # the phrase that found it; empty when it was pointed at
    label: str
    score: float | None
    box_xyxy: tuple[int, int, int, int]  # of the largest piece of the mask
    center_xy: tuple[int, int]  # a pixel of that piece
    pieces: int = 1  # of the mask
    mask: MaskRle
    location: Location3D | None = None  # measured by the segmenter; None = not measured
    doubt: str = ""  # what speaks against it, in words; "" = nothing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """An image and the objects found on it so far."""

    image_id: str
    camera: str
    frame_id: str
    stamp_ns: int
    image_hw: tuple[int, int]
    arrived_ns: int = 0  # arrival by the toolkit's clock; 0 = unknown
    frame: Frame | None = None  # None = the pixels are not known here
    notes: tuple[str, ...] = ()  # what limits the accuracy of the colors and of locations
    objects: tuple[SceneObject, ...] = field(default=())
    number: int = 0  # counts up within the store

    @property
    def shown(self) -> tuple[SceneObject, ...]:
        """The objects that were not dropped."""
        return tuple(item for item in self.objects if not item.dropped)

    @property
    def nbytes(self) -> int:
        """Approximate memory of the scene."""
        total = sum(len(item.mask.counts) + _OBJECT_OVERHEAD_BYTES for item in self.objects)
        if self.frame is not None:
            total += self.frame.rgb.nbytes
            total += self.frame.depth_m.nbytes if self.frame.depth_m is not None else 0
            total += self.frame.intrinsics.nbytes if self.frame.intrinsics is not None else 0
        return total


class SceneStore:
    """Bounded, thread-safe memory of scenes; the least recently used one makes room.

    Ids are never reused, within a store or by another one, whatever process it is in.
    """

    def __init__(
        self,
        *,
        max_images: int = 64,
        max_bytes: int = 256 * 1024**2,
        max_objects_per_image: int = 200,
        run: str | None = None,
    ) -> None:
        """Start empty.

        Args:
            max_images, max_bytes, max_objects_per_image: bounds.
            run: lowercase letters at the end of every image id; None = drawn at random. Choose them only for
                repeatable texts, as in tests: an id of another run with the same letters is not recognized.

        Raises:
            ValueError: a bound is not positive, or `run` has other characters.
        """
        if min(max_images, max_bytes, max_objects_per_image) < 1:
            raise ValueError(
                "the bounds of a scene store must be positive, got"
                f" {max_images=}, {max_bytes=}, {max_objects_per_image=}"
            )
        if run is not None and not re.fullmatch("[a-z]{0,16}", run):
            raise ValueError(f"run must be up to 16 lowercase letters, got {run!r:.60}")
        self.max_images = max_images
        self.max_bytes = max_bytes
        self.max_objects_per_image = max_objects_per_image
        self._run = _random_letters() if run is None else run
        self._draws_run = run is None
        self._process = os.getpid()
        self._next_number = 1
        self._scenes: OrderedDict[str, Scene] = OrderedDict()  # least recently used first
        self._nbytes = 0
        self._lock = threading.Lock()
        self.pictures = PictureStore()

    def __len__(self) -> int:
        with self._lock:
            return len(self._scenes)

    @property
    def nbytes(self) -> int:
        """Approximate memory of all scenes; at most `max_bytes`."""
        with self._lock:
            return self._nbytes

    def add_scene(
        self,
        *,
        camera: str,
        frame_id: str,
        stamp_ns: int,
        image_hw: tuple[int, int],
        arrived_ns: int = 0,
        frame: Frame | None = None,
        notes: Sequence[str] = (),
        objects: Sequence[SceneObject] = (),
    ) -> Scene:
        """Add a scene and assign ids and marks to its objects.

        The pixels are not kept when they alone would exceed `max_bytes`.

        Raises:
            ImageFullError: more objects than one image may carry.
        """
        with self._lock:
            self._notice_fork()
            empty = Scene(
                image_id=f"f{self._next_number}{self._run}",
                number=self._next_number,
                camera=camera,
                frame_id=frame_id,
                stamp_ns=stamp_ns,
                image_hw=image_hw,
                arrived_ns=arrived_ns,
                frame=frame,
                notes=tuple(notes),
            )
            scene = self._with_objects(empty, objects)
            self._next_number += 1
            return self._put(scene)

    def add_objects(self, image_id: str, objects: Sequence[SceneObject]) -> Scene:
        """Add objects to a scene, numbered on from those it has, and return the new scene.

        Raises:
            StaleIdError: the scene was dropped.
            UnknownIdError: there never was a scene with that id.
            ImageFullError: more objects than one image may carry.
        """
        with self._lock:
            return self._put(self._with_objects(self._find(image_id), objects))

    def keep(self, image_id: str, shown: Collection[str]) -> Scene:
        """Show exactly these objects of a scene and drop the others; all ids stay valid.

        Raises:
            StaleIdError: the scene was dropped.
            UnknownIdError: there never was a scene with that id.
        """
        with self._lock:
            scene = self._find(image_id)
            objects = tuple(replace(item, dropped=item.object_id not in shown) for item in scene.objects)
            return self._put(replace(scene, objects=objects))

    def newest(self, camera: str) -> Scene | None:
        """Return the newest stored image of a camera; does not count as a use."""
        with self._lock:
            candidates = [scene for scene in self._scenes.values() if scene.camera == camera]
        return max(candidates, key=lambda scene: scene.number, default=None)

    def scene(self, image_id: str) -> Scene:
        """Return the scene of an image id; counts as a use of it.

        Raises:
            StaleIdError: the scene was dropped.
            UnknownIdError: there never was a scene with that id.
        """
        with self._lock:
            return self._find(image_id)

    def object(self, object_id: str) -> tuple[Scene, SceneObject]:
        """Return an object and its scene, by an id like "f7/m1"; counts as a use of the scene.

        Raises:
            StaleIdError: the scene was dropped.
            UnknownIdError: there never was an object with that id.
        """
        image_id = object_id.partition("/")[0]
        with self._lock:
            scene = self._find(image_id)
        for candidate in scene.objects:
            if candidate.object_id == object_id:
                return scene, candidate
        known = ", ".join(item.object_id for item in scene.objects[:10]) or "no objects"
        raise UnknownIdError(f"no object {object_id[:40]!r}; on {image_id}: {known}")

    def _find(self, image_id: str) -> Scene:
        scene = self._scenes.get(image_id)
        if scene is not None:
            self._scenes.move_to_end(image_id)
            return scene
        match = _IMAGE_ID.fullmatch(image_id)
        if match is None:
            raise UnknownIdError(f"no image {image_id[:40]!r}")
        number, run = int(match[1]), match[2]
        if run == self._run and number < self._next_number:
            raise StaleIdError(f"image {image_id} was dropped to make room for newer ones")
        if run != self._run and len(run) == _RUN_LENGTH and set(run) <= set(_RUN_LETTERS):
            raise StaleIdError(f"image {image_id} is from an earlier run: nothing is known about it any more")
        ending = f"; ids end with {self._run!r} here" if self._run else ""
        raise UnknownIdError(f"no image {image_id[:40]!r}{ending}")

    def _notice_fork(self) -> None:
        """Take other letters in a forked process, whose parent goes on with the old ones."""
        if self._draws_run and os.getpid() != self._process:
            self._process, self._run, self._next_number = os.getpid(), _random_letters(), 1

    def _with_objects(self, scene: Scene, objects: Sequence[SceneObject]) -> Scene:
        if len(scene.objects) + len(objects) > self.max_objects_per_image:
            raise ImageFullError(
                f"image {scene.image_id} has {len(scene.objects)} objects,"
                f" {len(objects)} more would exceed {self.max_objects_per_image}"
            )
        marks = range(len(scene.objects) + 1, len(scene.objects) + len(objects) + 1)
        numbered = tuple(
            replace(new, object_id=f"{scene.image_id}/m{mark}", mark=mark, mask=new.mask.compact())
            for mark, new in zip(marks, objects, strict=True)
        )
        return replace(scene, objects=scene.objects + numbered)

    def _put(self, scene: Scene) -> Scene:
        if scene.nbytes > self.max_bytes:
            scene = replace(scene, frame=None)
        old = self._scenes.pop(scene.image_id, None)
        self._nbytes += scene.nbytes - (old.nbytes if old is not None else 0)
        self._scenes[scene.image_id] = scene
        while self._scenes and (len(self._scenes) > self.max_images or self._nbytes > self.max_bytes):
            _, dropped = self._scenes.popitem(last=False)
            self._nbytes -= dropped.nbytes
        return scene


def _random_letters() -> str:
    return "".join(secrets.choice(_RUN_LETTERS) for _ in range(_RUN_LENGTH))
