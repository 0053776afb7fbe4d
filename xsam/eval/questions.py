"""Questions with known answers: a query, its true masks, and the group its score belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xsam.data.region_prompts import draw_region_prompt
from xsam.types.masks import BoolMask
from xsam.types.requests import PromptKind, Query, Task, VisualPrompt

MAX_DETECTIONS = 100  # per image, for AP: COCO's limit
MAX_SEGMENTS = 1000  # per image, for panoptic and semantic segmentation: high enough to truncate nothing
INTERACTIVE_KINDS: tuple[PromptKind, ...] = (
    PromptKind.POINT,
    PromptKind.SCRIBBLE,
    PromptKind.BOX,
    PromptKind.MASK,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionTruth:
    """One region: the union of everything the query refers to.

    Attributes:
        mask: (H, W); empty if nothing in the image matches.
        ignored: (H, W), pixels that are neither correct nor incorrect; None if there are none.
        least_px: a result with fewer pixels counts as "not found".
    """

    mask: BoolMask
    ignored: BoolMask | None = None
    least_px: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InstanceTruth:
    """Objects by label: categories, or prompted regions.

    Attributes:
        classes: for each label index of the result, the class under which its AP counts.
        masks: for each label index, its objects, each (H, W).
        crowd: for each label index, regions where a detection is neither correct nor incorrect; may be empty.
    """

    classes: tuple[str, ...]
    masks: tuple[tuple[BoolMask, ...], ...]
    crowd: tuple[tuple[BoolMask, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.masks) != len(self.classes) or len(self.crowd) not in (0, len(self.classes)):
            raise ValueError("every label index needs its class, its objects, and its crowd")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticTruth:
    """The segment of every pixel.

    Attributes:
        segment_ids: (H, W) integers, 0 = void.
        classes: segment id → label index of its class.
        crowd: ids of segments that stand for groups.
    """

    segment_ids: NDArray[np.integer]
    classes: Mapping[int, int]
    crowd: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SemanticTruth:
    """The class of every pixel: (H, W) label indices, −1 = void."""

    class_map: NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionTruth:
    """A description with masks for its phrases.

    Attributes:
        text: the description, without tags.
        phrases: the phrases that have a mask.
        masks: for each phrase, the (H, W) union of the objects it refers to.
        ranked: AP ranks the masks of the result by their scores; otherwise all scores are equal.
    """

    text: str
    phrases: tuple[str, ...]
    masks: tuple[BoolMask, ...]
    ranked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceTruth:
    """Whether anything in the image matches; the query has a threshold of 0, so that its score is known."""

    present: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CountTruth:
    """The number of objects of each category, by label index."""

    counts: tuple[int, ...]


Truth = (
    CountTruth | PresenceTruth | RegionTruth | InstanceTruth | PanopticTruth | SemanticTruth | CaptionTruth
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A query and its ground truth.

    Attributes:
        group: first part of the names of its scores, such as "referring".
        kind: subdivision, such as "color_category" or "point"; may be empty.
    """

    group: str
    kind: str = ""
    query: Query
    truth: Truth = field(repr=False)

    @property
    def absent(self) -> bool:
        """True if nothing in the image matches."""
        return isinstance(self.truth, RegionTruth) and not self.truth.mask.any()


def interactive_question(prompt: VisualPrompt, truth: BoolMask) -> Question:
    """Ask for the object at a point, scribble, box, or mask."""
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
    """Prompt with one object of each of a few categories and ask for all objects of these categories.

    Args:
        objects: category → objects, at least one each.
        crowd: category → regions that are neither correct nor incorrect; may lack categories.
        rng: draws the categories, their number, the examples, and the kind of prompt.
        most: maximum number of categories.
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
            prompts=tuple(draw_region_prompt(kind, example, rng) for example in examples),
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
    score_threshold: float | None = None,
) -> Iterator[Question]:
    """Ask for panoptic and for semantic segmentation of the whole image.

    The engine treats things with stuff as panoptic segmentation, and stuff alone as semantic.

    Args:
        segment_ids: (H, W) integers, 0 = void.
        classes: segment id → index of its class in `things` + `stuff`.
        things: names of the thing classes.
        stuff: names of the stuff classes.
        crowd: ids of segments that stand for groups; in semantic segmentation they count as their class.
        score_threshold: of both queries; None = that of the model.
    """
    known, inverse = np.unique(segment_ids, return_inverse=True)
    label_of = np.array([classes[segment] if segment else -1 for segment in known.tolist()])
    yield Question(
        group="panoptic",
        query=Query(
            task=Task.GENERIC,
            thing_classes=tuple(things),
            stuff_classes=tuple(stuff),
            score_threshold=score_threshold,
            max_instances=MAX_SEGMENTS,
        ),
        truth=PanopticTruth(segment_ids=segment_ids, classes=classes, crowd=crowd),
    )
    class_map = label_of[inverse].reshape(segment_ids.shape)
    yield semantic_question(class_map, (*things, *stuff), score_threshold=score_threshold)


def semantic_question(
    class_map: NDArray[np.integer], classes: Sequence[str], *, score_threshold: float | None = None
) -> Question:
    """Ask for the class of every pixel of an image.

    Args:
        class_map: (H, W) index of each pixel in `classes`, −1 = void.
        classes: names.
        score_threshold: of the query; None = that of the model.
    """
    return Question(
        group="semantic",
        query=Query(
            task=Task.GENERIC,
            stuff_classes=tuple(classes),
            score_threshold=score_threshold,
            max_instances=MAX_SEGMENTS,
        ),
        truth=SemanticTruth(class_map=class_map),
    )
