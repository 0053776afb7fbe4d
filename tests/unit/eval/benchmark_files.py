"""Small copies of the published benchmarks on disk, with values that can be computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.unit.eval.answers import rectangle
from xsam.types.masks import MaskRle

HW = (20, 30)
LEFT, RIGHT = rectangle(0, 0, 10, 20, HW), rectangle(20, 0, 30, 20, HW)  # 200 px each
MIDDLE = rectangle(12, 0, 18, 20, HW)  # 120 px
Mask = NDArray[np.bool_]


def rle(mask: Mask) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": MaskRle.encode(mask).counts.decode()}


def outline(x_min: int, y_min: int, x_max: int, y_max: int) -> list[float]:
    """Return the polygon that covers exactly the pixels of a box, max exclusive."""
    return [float(v) for v in (x_min, y_min, x_max, y_min, x_max, y_max, x_min, y_max)]


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*HW, 3), 90, np.uint8)).save(path, format="PNG")


def write_map(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def image_entry(identity: int | str, file_name: str) -> dict[str, Any]:
    return {"id": identity, "file_name": file_name, "height": HW[0], "width": HW[1]}


INSTANCES = {
    "images": [image_entry(1, "COCO_1.jpg"), image_entry(2, "COCO_2.jpg")],
    "annotations": [
        {"id": 11, "image_id": 1, "category_id": 1, "segmentation": [outline(0, 0, 10, 20)]},
        {"id": 12, "image_id": 1, "category_id": 1, "segmentation": rle(RIGHT)},
        {"id": 21, "image_id": 2, "category_id": 1, "segmentation": rle(MIDDLE)},
    ],
    "categories": [{"id": 1, "name": "person"}],
}


def ref(number: int, image_id: int, ann_id: Any, split: str, *sentences: str, **more: Any) -> dict[str, Any]:
    return {
        "ref_id": number,
        "image_id": image_id,
        "ann_id": ann_id,
        "split": split,
        "sentences": [{"sent": text, "sent_id": index} for index, text in enumerate(sentences)],
        **more,
    }


def refcoco(root: Path, dataset: str = "refcoco", partition: str = "unc") -> Path:
    """Three refs in two images of "val", one of them with a sentence that occurs twice."""
    refs = [
        ref(1, 1, 11, "val", "the left man", "left man", "left man"),
        ref(2, 1, 12, "val", "the right man"),
        ref(3, 2, 21, "val", "the man"),
        ref(4, 2, 21, "train", "nobody asks this"),
    ]
    write_json(root / dataset / f"refs({partition}).json", refs)
    write_json(root / dataset / "instances.json", INSTANCES)
    for image in INSTANCES["images"]:
        write_image(root / "train2014" / image["file_name"])
    return root


def grefcoco(root: Path) -> Path:
    refs = [
        ref(1, 1, [11, 12], "val", "both men"),
        ref(2, 1, [-1], "val", "the dog", no_target=True),
        ref(3, 2, [21], "val", "the man"),
        ref(4, 2, [-1], "val", "the cat", "a cat"),
    ]
    write_json(root / "grefcoco" / "grefs(unc).json", refs)
    write_json(root / "grefcoco" / "instances.json", INSTANCES)
    for image in INSTANCES["images"]:
        write_image(root / "train2014" / image["file_name"])
    return root


def reason_seg(root: Path, split: str = "test") -> Path:
    """An image with a sentence and an ignored region, and one with two phrases."""

    def shape(label: str, x_min: int, x_max: int) -> dict[str, Any]:
        # LabelMe's outline covers its border, too.
        points = [[x_min, 0], [x_max - 1, 0], [x_max - 1, 19], [x_min, 19]]
        return {"label": label, "points": points}

    for name, sentence, texts, shapes in (
        ("long", True, ["What is on the left?"], [shape("target", 0, 10), shape("ignore", 20, 30)]),
        ("short", False, ["the thing", "something"], [shape("target", 12, 18)]),
    ):
        write_image(root / split / f"{name}.jpg")
        write_json(root / split / f"{name}.json", {"text": texts, "is_sentence": sentence, "shapes": shapes})
    return root


def gcg(root: Path, split: str = "val") -> Path:
    captions = [
        {"id": 1, "image_id": "sa_1", "caption": "A man and a dog.", "labels": ["A man", "a dog"]},
        {"id": 2, "image_id": "sa_2", "caption": "A cat on a red mat.", "labels": ["A cat"]},
    ]
    masks = [
        {"id": 1, "image_id": "sa_1", "category_id": 1, "iscrowd": 0, "segmentation": rle(LEFT)},
        {"id": 2, "image_id": "sa_1", "category_id": 1, "iscrowd": 0, "segmentation": rle(RIGHT)},
        {"id": 3, "image_id": "sa_2", "category_id": 1, "iscrowd": 0, "segmentation": rle(MIDDLE)},
    ]
    images = [{"id": name, "height": HW[0], "width": HW[1]} for name in ("sa_1", "sa_2")]
    notes = root / "annotations" / "val_test"
    write_json(notes / f"{split}_gcg_coco_caption_gt.json", {"images": images, "annotations": captions})
    write_json(notes / f"{split}_gcg_coco_mask_gt.json", {"images": images, "annotations": masks})
    for image in images:
        write_image(root / "GranDf_HA_images" / "val_test" / f"{image['id']}.jpg")
    return root


def _annotation(identity: int, category: int, mask: Mask, *, crowd: int = 0) -> dict[str, Any]:
    return {
        "id": identity,
        "category_id": category,
        "iscrowd": crowd,
        "bbox": [0, 0, 1, 1],
        "area": int(mask.sum()),
        "segmentation": rle(mask),
    }


def interactive(root: Path) -> Path:
    """Two objects and a crowd; the second object has no scribble, and an empty point."""
    point, nothing = rectangle(4, 4, 5, 5, HW), np.zeros(HW, np.bool_)
    regions = [
        {"point": point, "scribble": point, "box": LEFT, "mask": LEFT},
        {"point": nothing, "box": RIGHT, "mask": RIGHT},
        {"mask": MIDDLE},
    ]
    annotations = [
        annotation | {f"{kind}_visual_prompt_mask": rle(region) for kind, region in given.items()}
        for annotation, given in zip(
            [_annotation(1, 1, LEFT), _annotation(2, 3, RIGHT), _annotation(3, 3, MIDDLE, crowd=1)],
            regions,
            strict=True,
        )
    ]
    record = {"image": "1.jpg", "image_info": image_entry(1, "1.jpg"), "anns": annotations}
    write_json(root / "coco_interactive_val_psalm.json", [record])
    write_image(root / "val2017" / "1.jpg")
    return root


def vgd(root: Path) -> Path:
    """Two objects of one category and one of another; the second has no point."""
    objects = [
        (_annotation(1, 7, LEFT), ("point", "mask")),
        (_annotation(2, 7, RIGHT), ("mask",)),
        (_annotation(3, 2, MIDDLE), ("point", "mask")),
    ]
    annotations = []
    for annotation, kinds in objects:
        code = annotation["segmentation"]
        annotations.append(annotation | {"visual_prompts": {f"{k}_visual_prompt": code for k in kinds}})
    record = {"image_file": "1.jpg", "image_id": 1, "image_size": list(HW), "annotations": annotations}
    write_json(root / "annotations" / "coco_vgdseg_val.json", [record])
    write_image(root / "val2017" / "1.jpg")
    return root


def ade20k(root: Path) -> Path:
    """A wall with two doors; one pixel column is void in the map of classes, and the file ids differ."""
    categories = [{"id": 0, "name": "wall", "isthing": 0}, {"id": 14, "name": "door", "isthing": 1}]
    ids = np.full(HW, 1, np.uint8)
    ids[LEFT], ids[RIGHT] = 2, 3
    colors = np.zeros((*HW, 3), np.uint8)
    colors[..., 0] = ids
    stem = "ADE_val_00000001"
    segments = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 14}, {"id": 3, "category_id": 14}]
    write_json(
        root / "ade20k_panoptic_val.json",
        {
            "images": [image_entry(stem, f"{stem}.jpg")],
            "annotations": [{"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments}],
            "categories": categories,
        },
    )
    objects = [_annotation(1, 1, LEFT) | {"image_id": 1}, _annotation(2, 1, RIGHT) | {"image_id": 1}]
    write_json(
        root / "ade20k_instance_val.json",
        {
            "images": [image_entry(1, f"{stem}.jpg")],
            "annotations": objects,
            "categories": [{"id": 1, "name": "door"}],
        },
    )
    write_map(root / "ade20k_panoptic_val" / f"{stem}.png", colors)
    classes = np.where(LEFT | RIGHT, 14, 0).astype(np.uint8)
    classes[:, 0] = 255
    write_map(root / "annotations_detectron2" / "validation" / f"{stem}.png", classes)
    write_image(root / "images" / "validation" / f"{stem}.jpg")
    return root


def coco(root: Path) -> Path:
    """The same with the file names of COCO, without a map of classes."""
    other = ade20k(root / "other")
    panoptic = json.loads((other / "ade20k_panoptic_val.json").read_text())
    for image in panoptic["images"]:
        image["id"] = 1
    for annotation in panoptic["annotations"]:
        annotation["image_id"] = 1
    write_json(root / "annotations" / "panoptic_val2017.json", panoptic)
    instances = json.loads((other / "ade20k_instance_val.json").read_text())
    write_json(root / "annotations" / "instances_val2017.json", instances)
    (other / "ade20k_panoptic_val").rename(root / "annotations" / "panoptic_val2017")
    (other / "images" / "validation").rename(root / "val2017")
    return root
