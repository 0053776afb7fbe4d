"""Requests and results: frames, queries, visual prompts, segments.

Conventions, everywhere in the project:

* images are RGB uint8 (H, W, 3); masks are bool (H, W), True = object;
* points are (x, y) in pixels of the original image, boxes `xyxy` with max exclusive;
* depth is float32 meters, 0 or NaN = no measurement; stamps are nanoseconds of the source clock;
* the dataclasses are frozen and their arrays read-only; shapes and dtypes are checked when made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from xsam.errors import REFUSAL_CODES, InvalidImageError, InvalidQueryError, XSamError
from xsam.types.arrays import Rebuilt, owned
from xsam.types.carried import Carried
from xsam.types.checks import (
    enum_member,
    flag,
    real_number,
    typed_entries,
    whole_number,
)
from xsam.types.kinds import Status, Task
from xsam.types.lens import LensDistortion
from xsam.types.masks import MAX_IMAGE_SIDE_PX, BoolMask
from xsam.types.pixels import check_rgb
from xsam.types.segments import Segments
from xsam.types.visual_prompts import PromptKind, VisualPrompt

__all__ = [
    "MAX_CATEGORIES",
    "MAX_IMAGE_SIDE_PX",
    "MAX_PROMPTS",
    "MAX_TEXT_CHARS",
    "CameraRef",
    "Frame",
    "PromptKind",
    "Query",
    "SegmentationResult",
    "Segments",
    "Status",
    "Task",
    "Timing",
    "VisualPrompt",
    "check_rgb",
]

MAX_TEXT_CHARS = 2000
MAX_CATEGORIES = 256
MAX_PROMPTS = 32


# Fields of a query that make up the question of each task.
_USED: Mapping[Task, tuple[str, ...]] = {
    **dict.fromkeys((Task.GENERIC, Task.OPEN_VOCABULARY), ("categories",)),
    **dict.fromkeys((Task.REFERRING, Task.REASONING, Task.CHAT), ("text",)),
    **dict.fromkeys((Task.INTERACTIVE, Task.VISUAL_GROUNDED), ("prompts",)),
    Task.GROUNDED_CONVERSATION: ("text",),  # how the caller asked; the question is always the same
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame(Rebuilt):
    """One camera image with its metadata, depth and intrinsics.

    A frame owns its pixels: arrays that the caller could still write to are copied, so a driver may re-use
    its buffers (see `xsam.types.arrays.owned`).
    """

    rgb: NDArray[np.uint8]  # (H, W, 3)
    camera: str = ""
    frame_id: str = ""
    stamp_ns: int = 0
    depth_m: NDArray[np.float32] | None = None  # (H, W) registered to rgb
    intrinsics: NDArray[np.float64] | None = None  # (3, 3) K of the rgb image
    lens: LensDistortion | None = None  # of the rgb image; None = rectified
    encoded: bytes | None = None  # JPEG, PNG or WebP file of exactly these pixels, to be sent on untouched
    _pixels_id: bytes = field(default=b"", init=False, repr=False)

    def __post_init__(self) -> None:
        check_rgb(self.rgb)
        object.__setattr__(self, "rgb", owned(self.rgb))
        kinds = (("camera", str), ("frame_id", str), ("stamp_ns", (int, np.integer)))
        optional = (("lens", (LensDistortion, type(None))), ("encoded", (bytes, type(None))))
        for name, kind in (*kinds, *optional):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InvalidImageError(f"{name} of a frame has the wrong type: {value!r:.80}")
        object.__setattr__(self, "stamp_ns", int(self.stamp_ns))
        for name in ("depth_m", "intrinsics"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, np.ndarray):
                raise InvalidImageError(f"{name} must be a NumPy array, got {type(value).__name__}")
        if self.depth_m is not None:
            if self.depth_m.shape != self.rgb.shape[:2] or self.depth_m.dtype != np.float32:
                got = f"{self.depth_m.dtype} {self.depth_m.shape}"
                raise InvalidImageError(f"depth must be float32 {self.rgb.shape[:2]}, got {got}")
            object.__setattr__(self, "depth_m", owned(self.depth_m))
        if self.intrinsics is not None:
            if self.intrinsics.shape != (3, 3) or self.intrinsics.dtype.kind not in "iuf":
                got = f"{self.intrinsics.dtype} {self.intrinsics.shape}"
                raise InvalidImageError(f"intrinsics must be numbers (3, 3), got {got}")
            object.__setattr__(self, "intrinsics", owned(self.intrinsics.astype(np.float64)))

    @property
    def image_hw(self) -> tuple[int, int]:
        return (int(self.rgb.shape[0]), int(self.rgb.shape[1]))

    @property
    def pixels_id(self) -> bytes:
        """Hash of shape and pixels, computed once: nobody can change the pixels (4K takes 14 ms)."""
        if not self._pixels_id:
            import hashlib  # imported late: it loads OpenSSL

            digest = hashlib.sha256(repr(self.rgb.shape).encode())
            digest.update(np.ascontiguousarray(self.rgb).data)
            object.__setattr__(self, "_pixels_id", digest.digest())
        return self._pixels_id


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraRef:
    """A camera by its configured name; the segmenter uses its newest frame."""

    name: str
    max_age_s: float | None = None  # None = the segmenter's own limit

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InvalidQueryError(f"the name of a camera must be text, got {self.name!r:.80}")
        if self.max_age_s is not None:
            age_s = real_number("max_age_s", self.max_age_s)
            if not age_s >= 0.0:
                raise InvalidQueryError(f"max_age_s must not be negative, got {age_s}")
            object.__setattr__(self, "max_age_s", age_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """One segmentation query about one frame.

    `text` is a phrase, question or chat text. Categories go to `thing_classes` (one segment per
    object) and `stuff_classes` (one segment per class). `prompts` are regions: one for INTERACTIVE,
    several for VISUAL_GROUNDED.
    """

    text: str = ""
    task: Task = Task.AUTO
    thing_classes: tuple[str, ...] = ()
    stuff_classes: tuple[str, ...] = ()
    prompts: tuple[VisualPrompt, ...] = ()
    score_threshold: float | None = None  # None = the model's own, per task
    max_instances: int = 100
    explain: bool = False  # REASONING: generate an explanation

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", enum_member(Task, "task", self.task))
        if not isinstance(self.text, str):
            raise InvalidQueryError(f"text must be text, got {type(self.text).__name__}")
        object.__setattr__(self, "text", str(self.text))  # without subclasses such as np.str_
        for name, kind in (("thing_classes", str), ("stuff_classes", str), ("prompts", VisualPrompt)):
            object.__setattr__(self, name, typed_entries(name, getattr(self, name), kind))
        if self.score_threshold is not None:
            threshold = real_number("score_threshold", self.score_threshold)
            object.__setattr__(self, "score_threshold", threshold)
        object.__setattr__(self, "max_instances", whole_number("max_instances", self.max_instances))
        object.__setattr__(self, "explain", flag("explain", self.explain))

    def resolved_task(self) -> Task:
        """Return the task, with `AUTO` resolved.

        Categories → OPEN_VOCABULARY; one prompt → INTERACTIVE; several → VISUAL_GROUNDED; text
        that ends with "?" → REASONING; other text → REFERRING.
        """
        if self.task is not Task.AUTO:
            return self.task
        if self.thing_classes or self.stuff_classes:
            return Task.OPEN_VOCABULARY
        if self.prompts:
            return Task.INTERACTIVE if len(self.prompts) == 1 else Task.VISUAL_GROUNDED
        return Task.REASONING if self.text.rstrip().endswith("?") else Task.REFERRING

    def validate(self, image_hw: tuple[int, int] | None = None) -> Task:
        """Check the query (against the image when its size is known) and return its task.

        Raises:
            InvalidQueryError: the message says which field is wrong.
        """
        task = self.resolved_task()
        if len(self.text) > MAX_TEXT_CHARS:
            raise InvalidQueryError(
                f"text has {len(self.text)} characters, at most {MAX_TEXT_CHARS} are allowed"
            )
        classes = self.thing_classes + self.stuff_classes
        if len(classes) > MAX_CATEGORIES:
            raise InvalidQueryError(f"{len(classes)} categories, at most {MAX_CATEGORIES} are allowed")
        if any(not name.strip() or len(name) > MAX_TEXT_CHARS for name in classes):
            raise InvalidQueryError(f"category names must have 1 to {MAX_TEXT_CHARS} characters")
        both = {plain_name(name) for name in self.thing_classes} & set(map(plain_name, self.stuff_classes))
        if both:
            raise InvalidQueryError(
                f"the category {min(both)!r:.80} is given as a thing and as stuff",
                hint="name each category once: things are countable objects, stuff is a surface",
            )
        if not all(_is_unicode(value) for value in (self.text, *classes)):
            raise InvalidQueryError("the text contains a lone surrogate, which is not a valid character")
        if len(self.prompts) > MAX_PROMPTS:
            raise InvalidQueryError(f"{len(self.prompts)} prompts, at most {MAX_PROMPTS} are allowed")
        if self.score_threshold is not None and not 0.0 <= self.score_threshold <= 1.0:
            raise InvalidQueryError(f"score_threshold must be in [0, 1], got {self.score_threshold}")
        if self.max_instances < 1:
            raise InvalidQueryError(f"max_instances must be positive, got {self.max_instances}")
        if task in (Task.GENERIC, Task.OPEN_VOCABULARY) and not classes:
            raise InvalidQueryError(f"{task.value} queries need thing_classes or stuff_classes")
        if task in (Task.REFERRING, Task.REASONING, Task.CHAT) and not self.text.strip():
            raise InvalidQueryError(
                "the query is empty: give text, categories or a visual prompt"
                if self.task is Task.AUTO
                else f"{task.value} queries need text"
            )
        if task in (Task.INTERACTIVE, Task.VISUAL_GROUNDED):
            if not any(prompt.positive for prompt in self.prompts):
                raise InvalidQueryError(f"{task.value} queries need at least one positive prompt")
        self._refuse_unused(task)
        if image_hw is not None:
            for prompt in self.prompts:
                prompt.check_inside(image_hw)
        return task

    def _refuse_unused(self, task: Task) -> None:
        """Raise an error for a field that the task would leave out of the question."""
        given = {
            "text": bool(self.text.strip()),
            "categories": bool(self.thing_classes or self.stuff_classes),
            "prompts": bool(self.prompts),
        }
        unused = [name for name, is_given in given.items() if is_given and name not in _USED[task]]
        if unused:
            raise InvalidQueryError(
                f"{task.value} queries do not use {' and '.join(unused)}",
                hint="text, categories and visual prompts are different requests: send a query for each",
            )
        if self.explain and task is not Task.REASONING:
            raise InvalidQueryError(
                f"{task.value} queries cannot be explained",
                hint='ask a question that ends in "?", or set task to reasoning',
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Wall-clock seconds by stage, from a monotonic clock."""

    stages_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        return float(sum(self.stages_s.values()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentationResult:
    """The result of one query.

    FOUND has at least one segment (or, for CHAT, text), and nothing speaks against any of them. UNSURE has
    segments, too, and `segments.doubts` says what speaks against some or all of them: a low score, a word
    that the model does not know, a label that fits better. NOT_FOUND says in `message` what was searched
    for; REFUSED and FAILED carry the error's `code`, `message` and `hint`.
    """

    status: Status
    query: Query
    segments: Segments
    text: str = ""  # generated text: grounded conversation, explanations and chat
    phrases: tuple[str, ...] = ()  # grounded conversation: the phrase of each label index
    message: str = ""
    code: str = ""
    hint: str = ""
    notes: tuple[str, ...] = ()  # what limits the accuracy of the colors and of locations
    model_id: str = ""
    camera: str = ""
    frame_id: str = ""
    stamp_ns: int = 0
    timing: Timing = field(default_factory=Timing)
    carried: Carried | None = None  # None = the model segmented this very frame

    @property
    def found(self) -> bool:
        """True if there is something and nothing speaks against it."""
        return self.status is Status.FOUND

    @property
    def answered(self) -> bool:
        """True if the model was asked and answered, whatever the answer; False if refused or failed."""
        return self.status in (Status.FOUND, Status.UNSURE, Status.NOT_FOUND)

    @property
    def keyframe_ns(self) -> int:
        """Stamp of the frame that the model segmented: this one, unless the masks were carried over."""
        return self.stamp_ns if self.carried is None else self.carried.keyframe_ns

    @property
    def masks(self) -> BoolMask:
        """All masks as bool (N, H, W)."""
        return self.segments.decode_masks()

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[tuple[str, float, BoolMask]]:
        """Yield (label, score, mask) of each segment."""
        for index in range(len(self)):
            segments = self.segments
            yield segments.labels[index], float(segments.scores[index]), segments.masks[index].decode()

    def with_timing(self, stages_s: Mapping[str, float]) -> SegmentationResult:
        """Return the same result with the times of its stages."""
        return replace(self, timing=Timing(stages_s=dict(stages_s)))

    def with_notes(self, notes: Sequence[str]) -> SegmentationResult:
        """Return the same result with more notes."""
        return replace(self, notes=(*self.notes, *notes)) if notes else self

    def with_doubts(self, doubts: Sequence[str]) -> SegmentationResult:
        """Return the same result with these doubts about its segments, and the status that they call for."""
        status = Status.UNSURE if any(doubts) else Status.FOUND
        return replace(self, segments=replace(self.segments, doubts=tuple(doubts)), status=status)

    @classmethod
    def from_error(cls, error: XSamError, query: Query, frame: Frame) -> SegmentationResult:
        """Build the result of a query that was refused or failed."""
        refused = error.code in REFUSAL_CODES
        return cls(
            status=Status.REFUSED if refused else Status.FAILED,
            query=query,
            segments=Segments(image_hw=frame.image_hw),
            message=error.message,
            code=error.code,
            hint=error.hint,
            camera=frame.camera,
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
        )


def _is_unicode(text: str) -> bool:
    """Return True if the text can be encoded as UTF-8; a lone surrogate from broken JSON cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_name(name: str) -> str:
    """Return the name of a category without differences of case and spacing."""
    return " ".join(name.split()).casefold()
