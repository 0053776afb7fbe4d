"""Simulated scenes as a source of training samples, for one task or a mixture of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xsam.data.samples import NO_CONDITION, PromptedImage, TrainPrompt
from xsam.data.scene_prompts import STUFF, TASK_SHARES, ScenePrompt, draw_kinds, draw_prompts
from xsam.inference.chat_format import END_TAG
from xsam.inference.prompts import Conversation, frame_question
from xsam.sim.annotate import ObjectAnnotation, mirror
from xsam.sim.conversation import scene_dialogue
from xsam.sim.household import ALL_COLORS, CATEGORIES
from xsam.sim.shards import SceneShards

DIALOGUE = "dialogue"
CLASS_NAMES: tuple[str, ...] = (*CATEGORIES, *STUFF)

_CLASS_INDEX = {name: i for i, name in enumerate(CLASS_NAMES)}
_COLOR_INDEX = {name: i for i, name in enumerate(ALL_COLORS)}


class SceneSource:
    """Pre-rendered scenes with prompts that are drawn anew for each sample.

    Args:
        shards: the images and their annotations.
        shares: relative frequency of each kind: keys of `TASK_SHARES`, or `DIALOGUE` (text about the image,
            without masks).
        augment: mirror half of the images, and jitter brightness, contrast, and color.
        name: name used in logs and in the mixture.
    """

    def __init__(
        self,
        shards: SceneShards,
        *,
        shares: Mapping[str, float] = TASK_SHARES,
        augment: bool = True,
        name: str = "scenes",
    ) -> None:
        unknown = set(shares) - {*TASK_SHARES, DIALOGUE}
        if unknown:
            raise ValueError(f"unknown prompt kinds {sorted(unknown)}, known: {[*TASK_SHARES, DIALOGUE]}")
        if min(shares.values(), default=-1.0) < 0 or sum(shares.values()) <= 0:
            raise ValueError(f"shares must be positive, got {dict(shares)}")
        self.shards = shards
        self.shares = dict(shares)
        self.augment = augment
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASS_NAMES

    def __len__(self) -> int:
        return len(self.shards)

    def sample(self, index: int, rng: np.random.Generator, *, prompts: int = 1) -> PromptedImage:
        """Implement `xsam.data.samples.SampleSource.sample`, with exactly `prompts` prompts."""
        height, width = (int(v) for v in self.shards.image_hw[index])
        rgb = self.shards.rgb[index, :height, :width]
        ids = self.shards.instance_ids[index, :height, :width]
        stuff = self.shards.stuff_ids[index, :height, :width]
        annotations: Sequence[ObjectAnnotation] = self.shards.annotations[index]
        if self.augment:
            if rng.random() < 0.5:
                rgb, ids, stuff = (np.ascontiguousarray(a[:, ::-1]) for a in (rgb, ids, stuff))
                annotations = mirror(annotations, width)
            rgb = _jittered(rgb, rng)
        labeled = [item for item in annotations if item.labeled]
        surfaces = [(name, i) for name, i in STUFF.items() if (stuff == i).any()]
        masks = [ids == item.instance_id for item in labeled] + [stuff == i for _, i in surfaces]
        known = [item.instance_id for item in labeled]
        names = [item.category for item in labeled] + [name for name, _ in surfaces]
        colors = [_COLOR_INDEX[item.color] for item in labeled] + [-1] * len(surfaces)
        return PromptedImage(
            rgb=rgb,
            masks=np.stack(masks) if masks else np.zeros((0, height, width), bool),
            prompts=tuple(self._prompts(annotations, ids, known, surfaces, rng, prompts)),
            classes=np.array([_CLASS_INDEX[name] for name in names], np.int64),
            ignored=(ids > 0) & ~np.isin(ids, known),
            attributes={"color": np.array(colors, np.int64)},
        )

    def _prompts(
        self,
        annotations: Sequence[ObjectAnnotation],
        ids: NDArray[np.uint8],
        known: Sequence[int],
        surfaces: Sequence[tuple[str, int]],
        rng: np.random.Generator,
        count: int,
    ) -> list[TrainPrompt]:
        kinds = draw_kinds(rng, count, self.shares)
        dialogue_count = kinds.count(DIALOGUE)
        height, width = ids.shape
        drawn = draw_prompts(annotations, ids, rng, [kind for kind in kinds if kind != DIALOGUE])
        total = len(known) + len(surfaces)
        return [
            *(_with_labels(prompt, known, surfaces) for prompt in drawn),
            *(
                TrainPrompt(
                    kind=f"{DIALOGUE}_{pair.kind}",
                    conversation=Conversation(
                        question=frame_question(pair.question), answer=f"{pair.answer}{END_TAG}"
                    ),
                    labels=np.full(total, NO_CONDITION, np.int64),
                )
                for pair in scene_dialogue(annotations, (height, width), rng, count=dialogue_count)
            ),
        ]


def _with_labels(
    prompt: ScenePrompt, known: Sequence[int], surfaces: Sequence[tuple[str, int]]
) -> TrainPrompt:
    labels = np.full(len(known) + len(surfaces), NO_CONDITION, np.int64)
    for condition, ids in enumerate(prompt.targets):
        for instance in ids:
            labels[known.index(instance)] = condition
    stuff_row = {stuff_id: len(known) + row for row, (_, stuff_id) in enumerate(surfaces)}
    for condition, stuff_id in prompt.stuff_targets.items():
        if stuff_id in stuff_row:
            labels[stuff_row[stuff_id]] = condition
    return TrainPrompt(
        kind=prompt.kind, conversation=prompt.conversation, labels=labels, regions=prompt.regions
    )


def _jittered(rgb: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    gain, contrast = rng.uniform(0.75, 1.25), rng.uniform(0.8, 1.2)
    offset = rng.normal(0, 0.02, 3)
    levels = np.arange(256, dtype=np.float32)[:, None] / 255.0
    table = np.clip((levels * gain - 0.5) * contrast + 0.5 + offset, 0, 1)
    lookup = (table * 255 + 0.5).astype(np.uint8)  # (256, 3)
    return np.stack([lookup[rgb[..., c], c] for c in range(3)], axis=-1)
