"""Simulated clips as a source of frames, labeled by the model and with true boxes beside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.inference.images import read_image
from xsam.label.options import LabelOptions
from xsam.label.run import label_frames, open_run
from xsam.media.frames import NS_PER_S, SourceFrame
from xsam.segmenter import Engine
from xsam.sim.annotate import annotate
from xsam.sim.clips import FRAME_RATE_HZ, ClipConfig, TableClip, sample_clip
from xsam.sim.render import RenderedView
from xsam.types.masks import box_of_mask
from xsam.types.requests import Frame

HW = (240, 320)
TRUTH = "truth.json"
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A frame with boxes in its pixels."""

    rgb: NDArray[np.uint8]  # (H, W, 3)
    objects: tuple[tuple[str, Box], ...]  # category and box
    ignored: tuple[tuple[str, Box], ...]  # "" = of any category


class SimulatedClips:
    """A source that renders clips of some seeds and keeps their true boxes, by the names of frames."""

    def __init__(self, seeds: range, length: int, classes: Sequence[str], others: Sequence[str] = ()) -> None:
        self.name = f"clips {seeds.start}:{len(seeds)}"
        self.count = len(seeds) * length
        self.truth: dict[str, dict[str, Any]] = {}
        self._seeds, self._classes = seeds, frozenset(classes)
        self._config = clip_config(length, classes, others)

    def frames(self) -> Iterator[SourceFrame]:
        for seed in self._seeds:
            clip = sample_clip(seed, self._config)
            for index, view in enumerate(clip.views(image_hw=HW)):
                # Stamps do not begin with 0, which stands for none.
                frame = Frame(rgb=view.rgb, stamp_ns=round((1.0 + index / FRAME_RATE_HZ) * NS_PER_S))
                name = f"clip_{seed}_{index:03d}"
                self.truth[name] = true_boxes(clip, index, view, self._classes)
                yield SourceFrame(
                    source=f"clip_{seed}",
                    sequence=f"clip_{seed}",
                    index=index,
                    name=name,
                    stamp_ns=frame.stamp_ns,
                    load=lambda notes, frame=frame: frame,  # type: ignore[misc]
                )


def clip_config(length: int, classes: Sequence[str], others: Sequence[str]) -> ClipConfig:
    """Return clips with objects of these categories only: several of each are seen in few clips."""
    config = ClipConfig(length=length)
    return replace(config, scene=replace(config.scene, categories=(*classes, *others)))


def true_boxes(
    clip: TableClip, index: int, view: RenderedView, classes: frozenset[str]
) -> dict[str, list[tuple[str, Box]]]:
    """Return the boxes of what can be seen of the classes; slivers and the like are to be ignored."""
    found: dict[str, list[tuple[str, Box]]] = {"objects": [], "ignored": []}
    for item in annotate(clip.scene_at(index), view):
        mask = view.instance_ids == item.instance_id
        if item.category in classes and mask.any():
            box = tuple(map(float, box_of_mask(mask)))
            found["objects" if item.labeled else "ignored"].append((item.category, box))  # type: ignore[arg-type]
    return found


def label_clips(
    folder: Path,
    engine: Engine,
    seeds: range,
    options: LabelOptions,
    *,
    length: int,
    others: Sequence[str] = (),
) -> None:
    """Label clips with the model; true boxes are written beside. What is there already is not made again."""
    if (folder / TRUTH).exists():
        return
    clips = SimulatedClips(seeds, length, options.classes, others)
    with closing(
        open_run(folder, options, model=engine.model_id, sources=[clips.name], resume=True)
    ) as journal:
        label_frames(clips, engine, journal)
    (folder / TRUTH).write_text(json.dumps(clips.truth))


def read_examples(folder: Path, every: int) -> tuple[list[Example], list[Example]]:
    """Read one in so many frames of a data set, with the labels of the model and with the true ones."""
    data = json.loads((folder / "annotations" / "instances_train.json").read_text())
    truth = json.loads((folder / TRUTH).read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in data["images"]}
    for annotation in data["annotations"]:
        found[annotation["image_id"]].append(annotation)
    automatic, true = [], []
    for image in data["images"][::every]:
        rgb = read_image(folder / "images" / image["file_name"])
        boxes: tuple[list[tuple[str, Box]], list[tuple[str, Box]]] = ([], [])
        for annotation in found[image["id"]]:
            x_min, y_min, width, height = annotation["bbox"]
            box = (x_min, y_min, x_min + width, y_min + height)
            boxes[annotation["iscrowd"]].append((names[annotation["category_id"]], box))
        example = Example(rgb=rgb, objects=tuple(boxes[0]), ignored=tuple(("", box) for _, box in boxes[1]))
        right = truth[image["file_name"].removesuffix(".jpg")]
        automatic.append(example)
        true.append(
            replace(
                example,
                objects=tuple((name, tuple(box)) for name, box in right["objects"]),
                ignored=tuple(("", tuple(box)) for _, box in right["ignored"]),
            )
        )
    return automatic, true


def render_examples(
    seeds: range, classes: Sequence[str], *, frames: int, length: int, others: Sequence[str] = ()
) -> list[Example]:
    """Render some frames of clips, far from each other, with true boxes."""
    examples = []
    for seed in seeds:
        clip = sample_clip(seed, clip_config(length, classes, others))
        for index in np.linspace(0, length - 1, frames).round().astype(int).tolist():
            view = clip.render(index, image_hw=HW)
            boxes = true_boxes(clip, index, view, frozenset(classes))
            examples.append(
                Example(rgb=view.rgb, objects=tuple(boxes["objects"]), ignored=tuple(boxes["ignored"]))
            )
    return examples
