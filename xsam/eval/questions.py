"""Questions with known answers: a query, what the masks should be, and where the score goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import BoolMask
from xsam.types.requests import PromptKind, Query, Task, VisualPrompt

MAX_DETECTIONS = 100  # a picture, for AP: COCO's limit
MAX_SEGMENTS = 1000  # a picture, for panoptic and semantic answers: not cut off
INTERACTIVE_KINDS: tuple[PromptKind, ...] = (
    PromptKind.POINT,
    PromptKind.SCRIBBLE,
    PromptKind.BOX,
    PromptKind.MASK,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionTruth:
    """One region: the union of everything that is meant.

    Attributes:
        mask: (H, W); empty = nothing in the picture fits.
        ignored: (H, W), pixels that are neither right nor wrong; None = no pixel.
    """

    mask: BoolMask
    ignored: BoolMask | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InstanceTruth:
    """Objects by label: categories, or regions pointed at.

    Attributes:
        classes: for each label index of the answer, the class under which its AP counts.
        masks: for each label index, its objects, each (H, W).
        crowd: for each label index, regions where a detection is neither right nor wrong; empty = none.
    """

    classes: tuple[str, ...]
    masks: tuple[tuple[BoolMask, ...], ...]
    crowd: tuple[tuple[BoolMask, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.masks) != len(self.classes) or len(self.crowd) not in (0, len(self.classes)):
            raise ValueError("every label index needs its class, its objects and its crowd")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticTruth:
    """Every pixel's segment.

    Attributes:
        segment_ids: (H, W) integers, 0 = void.
        classes: for each segment, the label index of its class.
        crowd: segments that stand for groups.
    """

    segment_ids: NDArray[np.integer]
    classes: Mapping[int, int]
    crowd: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SemanticTruth:
    """Every pixel's class: (H, W) label indices, −1 = void."""

    class_map: NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionTruth:
    """A description whose phrases have masks.

    Attributes:
        text: without tags.
        phrases: those that have a mask.
        masks: (H, W) for each phrase, the union of what it means.
    """

    text: str
    phrases: tuple[str, ...]
    masks: tuple[BoolMask, ...]


Truth = RegionTruth | InstanceTruth | PanopticTruth | SemanticTruth | CaptionTruth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A query and its right answer.

    Attributes:
        group: first part of the names of its scores, such as "referring".
        kind: finer division, such as "color_category" or "point"; may be empty.
    """

    group: str
    kind: str = ""
    query: Query
    truth: Truth = field(repr=False)

    @property
    def absent(self) -> bool:
        """Whether nothing in the picture fits."""
        return isinstance(self.truth, RegionTruth) and not self.truth.mask.any()


def region_prompt(kind: PromptKind, mask: BoolMask, rng: np.random.Generator) -> VisualPrompt:
    """A prompt for an object (H, W), as a person might give it.

    POINT is any pixel of the object; SCRIBBLE a line through three of its pixels, in order along its
    longer side; BOX the tight box; MASK the object itself.
    """
    rows, columns = np.nonzero(mask)
    if kind is PromptKind.MASK:
        return VisualPrompt.from_mask(mask)
    if kind is PromptKind.BOX:
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return VisualPrompt.box(*(float(edge) for edge in edges))
    if kind is PromptKind.POINT:
        pick = int(rng.integers(len(rows)))
        return VisualPrompt.point(float(columns[pick]), float(rows[pick]))
    picks = rng.integers(len(rows), size=3)
    along = columns if np.ptp(columns) >= np.ptp(rows) else rows
    ordered = picks[np.argsort(along[picks], kind="stable")]
    return VisualPrompt.scribble([(float(columns[k]), float(rows[k])) for k in ordered])


def interactive_question(prompt: VisualPrompt, truth: BoolMask) -> Question:
    """Which object is meant by a point, scribble, box or mask."""
    return Question(
        group="interactive",
        kind=prompt.kind.value,
        query=Query(task=Task.INTERACTIVE, prompts=(prompt,)),
        truth=RegionTruth(mask=truth),
    )


def visual_grounded_question(
    objects: Mapping[str, Sequence[BoolMask]],
    crowd: Mapping[str, Sequence[BoolMask]],
    rng: np.random.Generator,
    *,
    most: int = 3,
) -> Question:
    """Point at one object of each of a few categories and ask for all of their kind.

    Args:
        objects: at least one for each category.
        crowd: regions of a category that count neither way; may lack categories.
        most: greatest number of categories; how many and which is drawn, and the kind of prompt.
    """
    names = sorted(objects)
    chosen = [names[i] for i in rng.permutation(len(names))[: int(rng.integers(1, most + 1))]]
    kind = INTERACTIVE_KINDS[int(rng.integers(len(INTERACTIVE_KINDS)))]
    examples = [objects[name][int(rng.integers(len(objects[name])))] for name in chosen]
    return Question(
        group="vgd",
        kind=kind.value,
        query=Query(
            task=Task.VISUAL_GROUNDED,
            prompts=tuple(region_prompt(kind, example, rng) for example in examples),
            score_threshold=0.0,  # AP ranks all detections itself
            max_instances=MAX_DETECTIONS,
        ),
        truth=InstanceTruth(
            classes=tuple(chosen),
            masks=tuple(tuple(objects[name]) for name in chosen),
            crowd=tuple(tuple(crowd.get(name, ())) for name in chosen),
        ),
    )


def layout_questions(
    segment_ids: NDArray[np.integer],
    classes: Mapping[int, int],
    *,
    things: Sequence[str],
    stuff: Sequence[str],
    crowd: frozenset[int] = frozenset(),
) -> Iterator[Question]:
    """Ask for the whole picture as panoptic, and as semantic segmentation.

    The engine answers things with stuff as panoptic segmentation, and stuff alone as semantic.

    Args:
        segment_ids: (H, W) integers, 0 = void.
        classes: for each segment, index of its class in `things` + `stuff`.
        crowd: segments that stand for groups; in semantic segmentation they count as their class.
    """
    known, place = np.unique(segment_ids, return_inverse=True)
    label_of = np.array([classes[segment] if segment else -1 for segment in known.tolist()])
    yield Question(
        group="panoptic",
        query=Query(
            task=Task.GENERIC,
            thing_classes=tuple(things),
            stuff_classes=tuple(stuff),
            max_instances=MAX_SEGMENTS,
        ),
        truth=PanopticTruth(segment_ids=segment_ids, classes=classes, crowd=crowd),
    )
    yield Question(
        group="semantic",
        query=Query(task=Task.GENERIC, stuff_classes=(*things, *stuff), max_instances=MAX_SEGMENTS),
        truth=SemanticTruth(class_map=label_of[place].reshape(segment_ids.shape)),
    )
