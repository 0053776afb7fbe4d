"""The table of benchmarks: name → reader, task, protocol, scores, and expected files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from xsam.data.readers.files import Layout
from xsam.data.readers.gcg_benchmark import GCG_LAYOUT, GcgBenchmark
from xsam.data.readers.grefcoco import GRefCoco
from xsam.data.readers.reason_seg import ReasonSeg
from xsam.data.readers.refcoco import PARTITIONS, RefCoco
from xsam.data.readers.regions import CocoRegions
from xsam.eval.benchmarks.files import DataFolder
from xsam.eval.benchmarks.questions import DescribedImages, Rules, WholeImages
from xsam.eval.coco import LAYOUT, CocoFolder, CocoQuestions
from xsam.eval.loop import QuestionSource
from xsam.types.requests import Task

_LEAST_PX = 50  # of a mask that is a target


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A published benchmark.

    Attributes:
        name: on the command line.
        task: what is asked, in words.
        protocol: paper and rules, in sentences.
        scores: the scores that are published for it.
        expected: the files that must be in the data folder.
        open: opens them.
    """

    name: str
    task: str
    protocol: str
    scores: tuple[str, ...]
    expected: str
    open: Callable[[DataFolder], QuestionSource]


def _refcoco(dataset: str, split: str, folder: DataFolder) -> QuestionSource:
    folder.find(dataset)
    images = folder.find_images(*_TRAIN_2014)
    source = RefCoco(dataset, root=folder.root, images=images, split=split, negative_share=0.0)
    return WholeImages(source, Rules(group="referring"))


def _grefcoco(split: str, folder: DataFolder) -> QuestionSource:
    folder.find("grefcoco")
    source = GRefCoco(root=folder.root, images=folder.find_images(*_TRAIN_2014), split=split)
    return WholeImages(source, Rules(group="grefcoco", always_answered=False, least_px=_LEAST_PX))


def _reason_seg(split: str, queries: str, folder: DataFolder) -> QuestionSource:
    root = folder.find(split, f"ReasonSeg/{split}", f"reason_seg/ReasonSeg/{split}", f"lisa/{split}").parent
    return WholeImages(
        ReasonSeg(root=root, split=split, explanations=False, queries=queries), Rules(group="reasoning")
    )


def _gcg(split: str, folder: DataFolder) -> QuestionSource:
    notes = folder.find(
        *(f"{above}annotations/val_test" for above in ("", "GranDf/", "GranD-f/", "grand_f/")), "val_test"
    )
    images = folder.find_images("GranDf_HA_images/val_test", "images/GranDf_HA_images/val_test")
    captions, masks = (notes / f"{split}_gcg_coco_{kind}_gt.json" for kind in ("caption", "mask"))
    return DescribedImages(GcgBenchmark(captions=captions, masks=masks, images=images))


def _regions(task: Task, group: str, names: tuple[str, ...], folder: DataFolder) -> QuestionSource:
    path = folder.find(*names, *(f"annotations/{name}" for name in names))
    images = folder.find_images("val2017", "coco2017/val2017", "images/val2017")
    return WholeImages(CocoRegions(task.value, annotations=path, images=images), Rules(group=group))


def _coco(tasks: tuple[str, ...], folder: DataFolder) -> QuestionSource:
    notes = folder.find("annotations")
    layouts = bool({"panoptic", "semantic"} & set(tasks))
    masks = ("annotations/panoptic_val2017", "panoptic_val2017")
    return CocoQuestions(
        CocoFolder.read(
            tasks=tasks,
            pictures=folder.find_images("val2017", "images/val2017"),
            panoptic=folder.find(f"{notes.name}/panoptic_val2017.json") if layouts else None,
            masks=folder.find(*masks) if layouts else None,
            instances=folder.find(f"{notes.name}/instances_val2017.json") if "instance" in tasks else None,
            score_threshold=0.0,
            layout=LAYOUT,
        )
    )


def _ade20k(tasks: tuple[str, ...], folder: DataFolder) -> QuestionSource:
    above = ("", "ADEChallengeData2016/", "ade20k/")

    def find(name: str) -> tuple[str, ...]:
        return tuple(f"{parent}{name}" for parent in above)

    layouts = bool({"panoptic", "semantic"} & set(tasks))
    with_maps = "semantic" in tasks
    return CocoQuestions(
        CocoFolder.read(
            tasks=tasks,
            pictures=folder.find_images(*find("images/validation")),
            panoptic=folder.find(*find("ade20k_panoptic_val.json")) if layouts else None,
            masks=folder.find(*find("ade20k_panoptic_val")) if layouts else None,
            class_maps=folder.find(*find("annotations_detectron2/validation")) if with_maps else None,
            instances=folder.find(*find("ade20k_instance_val.json")) if "instance" in tasks else None,
            score_threshold=0.0,
            layout=Layout(dataset="ADE20K", folders=_ADE20K_FILES, published=_ADE20K_URL),
        )
    )


_TRAIN_2014 = ("train2014", "images/train2014", "images/mscoco/images/train2014", "coco2014/train2014")
_ADE20K_URL = "https://github.com/facebookresearch/Mask2Former/tree/main/datasets"
_ADE20K_FILES = (
    "ade20k_panoptic_val.json, ade20k_panoptic_val/ and ade20k_instance_val.json, made by Mask2Former's "
    "scripts; annotations_detectron2/validation/ for semantic segmentation; images/validation/"
)
_COCO_FILES = (
    "annotations/panoptic_val2017.json with the folder panoptic_val2017/ (panoptic, semantic), "
    "annotations/instances_val2017.json (instance), val2017/"
)
_LAYOUT_RULES = {
    "panoptic": (
        "PQ, SQ and RQ as in panopticapi (Kirillov et al. 2019); all categories in one query, threshold 0"
    ),
    "semantic": "mIoU over the classes that occur and the pixels that are not void; every pixel gets a class",
    "instance": "mask AP as in COCO: the 100 best detections of an image, IoU 0.50 to 0.95, crowds ignored",
}
_LAYOUT_SCORES = {
    "panoptic": ("panoptic_pq", "panoptic_sq", "panoptic_rq"),
    "semantic": ("semantic_miou",),
    "instance": ("instance_ap", "instance_ap50"),
}


def _layout_benchmarks(
    name: str, dataset: str, expected: str, open_: Callable[[tuple[str, ...], DataFolder], QuestionSource]
) -> Iterator[Benchmark]:
    every = tuple(_LAYOUT_RULES)
    for suffix, tasks in (("", every), *((f"-{task}", (task,)) for task in every)):
        yield Benchmark(
            name=f"{name}{suffix}",
            task=" and ".join(tasks) + " segmentation",
            protocol=f"{dataset}: " + "; ".join(_LAYOUT_RULES[task] for task in tasks) + ".",
            scores=tuple(score for task in tasks for score in _LAYOUT_SCORES[task]),
            expected=expected,
            open=partial(open_, tasks),
        )


def _phrase_benchmarks() -> Iterator[Benchmark]:
    splits = {
        "refcoco": ("val", "testA", "testB"),
        "refcoco+": ("val", "testA", "testB"),
        "refcocog": ("val", "test"),
    }
    titles = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}
    for dataset, names in splits.items():
        partition = PARTITIONS[dataset][0]
        for split in names:
            yield Benchmark(
                name=f"{dataset}-{split}",
                task="referring expressions",
                protocol=(
                    f"{titles[dataset]} {split} in the {partition.upper()} partition (Yu et al. 2016, Mao et "
                    "al. 2016): every sentence of every ref is asked, no absent phrases are added, the best "
                    "mask counts whatever its score; published is cIoU, the sum of intersections over the "
                    "sum of unions."
                ),
                scores=("referring_ciou", "referring_giou"),
                expected=f"{dataset}/refs({partition}).p or .json, {dataset}/instances.json, train2014/",
                open=partial(_refcoco, dataset, split),
            )
    for split in ("val", "testA", "testB"):
        yield Benchmark(
            name=f"grefcoco-{split}",
            task="expressions for no, one, or several objects",
            protocol=(
                f"gRefCOCO {split} (GRES, Liu et al. 2023): every sentence is asked; no target is a result "
                f'that is "not found" by the checkpoint\'s own threshold, or has fewer than {_LEAST_PX} '
                "pixels. gIoU is the mean IoU with 1 for a no-target sentence answered so, 0 otherwise; "
                "cIoU the sum of intersections over the sum of unions; N-acc and T-acc the shares of "
                "sentences without and with a target that are recognized as such."
            ),
            scores=("grefcoco_giou", "grefcoco_ciou", "grefcoco_n_acc", "grefcoco_t_acc"),
            expected="grefcoco/grefs(unc).json, grefcoco/instances.json, train2014/",
            open=partial(_grefcoco, split),
        )
    for name, split, queries in (
        ("reasonseg-val", "val", "all"),
        ("reasonseg-test", "test", "all"),
        ("reasonseg-test-short", "test", "short"),
        ("reasonseg-test-long", "test", "long"),
    ):
        which = {
            "all": "every text of every image",
            "short": "every text of the images with phrases (is_sentence false)",
            "long": "every text of the images with sentences (is_sentence true)",
        }
        yield Benchmark(
            name=name,
            task="reasoning",
            protocol=(
                f"ReasonSeg {split} (LISA, Lai et al. 2024): {which[queries]} is asked, phrases as referring "
                "expressions and sentences as questions, without explanations; the best mask counts whatever "
                "its score, ignored regions count neither way. gIoU is the mean IoU, cIoU the sum of "
                "intersections over the sum of unions."
            ),
            scores=("reasoning_giou", "reasoning_ciou"),
            expected=f"{split}/*.jpg with a .json of the same name, also below ReasonSeg/",
            open=partial(_reason_seg, split, queries),
        )


def _other_benchmarks() -> Iterator[Benchmark]:
    for split in ("val", "test"):
        yield Benchmark(
            name=f"gcg-{split}",
            task="grounded conversation",
            protocol=(
                f"GranD-f {split} (GLaMM, Rasheed et al. 2024): AP50 without categories and with equal "
                "scores; mIoU of the one-to-one pairs of masks, 0 for an image without a pair; CIDEr as "
                "CIDEr-D, with words split by a regular expression. METEOR is not computed, as it needs "
                "Java or WordNet; recall compares words instead of BERT embeddings and is not comparable "
                "with published numbers."
            ),
            scores=("gcg_ap50", "gcg_miou", "gcg_cider"),
            expected=GCG_LAYOUT.folders,
            open=partial(_gcg, split),
        )
    kinds = ("point", "scribble", "box", "mask")
    yield Benchmark(
        name="coco-interactive",
        task="interactive segmentation",
        protocol=(
            "COCO-Interactive val2017 (PSALM, Zhang et al. 2024): every object is asked for with each of "
            "its four regions from the file, one at a time, crowds included; per kind of region, mIoU and "
            "cIoU, the sum of intersections over the sum of unions."
        ),
        scores=tuple(f"interactive_{kind}_{score}" for kind in kinds for score in ("iou", "ciou")),
        expected="coco_interactive_val_psalm.json (or below annotations/), val2017/",
        open=partial(
            _regions, Task.INTERACTIVE, "interactive", ("coco_interactive_val_psalm.json", "intseg_val.json")
        ),
    )
    yield Benchmark(
        name="coco-vgd",
        task="visual grounded segmentation",
        protocol=(
            "COCO-VGD val2017 (X-SAM, Wang et al. 2025): for each kind of region, one query per image with "
            "one region for each of its categories: that of one of its objects, drawn at random as in the "
            "paper, but by the id of the image, so that it is the same each time; mask AP as in COCO over "
            "all objects of these categories."
        ),
        scores=tuple(f"vgd_{kind}_{score}" for kind in kinds for score in ("ap", "ap50")),
        expected="coco_vgdseg_val.json (or vgdseg_val.json, also below annotations/), val2017/",
        open=partial(
            _regions,
            Task.VISUAL_GROUNDED,
            "vgd",
            ("coco_vgdseg_val.json", "vgdseg_val.json", "img_vgdseg_coco_val.json"),
        ),
    )
    yield from _layout_benchmarks(
        "coco", "COCO 2017 val (Lin et al. 2014), 133 and 80 categories", _COCO_FILES, _coco
    )
    yield from _layout_benchmarks(
        "ade20k",
        "ADE20K val (Zhou et al. 2017), open vocabulary, 150 and 100 categories",
        _ADE20K_FILES,
        _ade20k,
    )


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (*_phrase_benchmarks(), *_other_benchmarks())
}
