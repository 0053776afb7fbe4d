"""`xsam eval`: score a checkpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from xsam.cli.console import say

if TYPE_CHECKING:
    from xsam.engine import XSam
    from xsam.eval.pictures import PictureSample

DEFAULT_SCENES = "2000000:500"

_TASKS = {
    "referring": "referring expressions",
    "iou": "… by kind",
    "relation": "… that compare objects",
    "reasoning": "reasoning questions",
    "absent_rejected": "absent phrases",
    "false_alarm": "present phrases",
    "interactive": "interactive",
    "category": "categories",
    "instance": "instances",
    "vgd": "visual grounded",
    "panoptic": "panoptic",
    "semantic": "semantic",
    "gcg": "grounded captions",
}
_METRICS = {
    "miou": "mean IoU",
    "iou": "mean IoU",
    "ciou": "cIoU",
    "giou": "gIoU, absent ones included",
    "p50": "share with IoU of 0.5 and more",
    "ap": "mask AP",
    "ap50": "mask AP50",
    "ap75": "mask AP75",
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "pq_things": "PQ of things",
    "pq_stuff": "PQ of stuff",
    "truth_miou": "mean IoU, missed phrases included",
    "recall": "recall of phrases",
    "caption_f1": "F1 of content words",
    "cider": "CIDEr-D, 0 to 10",
}


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A shipped model, or a folder from `xsam convert`.")
    ],
    scenes: Annotated[
        str | None, typer.Option(metavar="START:COUNT", help=f"Simulated scenes; default {DEFAULT_SCENES}.")
    ] = None,
    coco: Annotated[Path | None, typer.Option(help="Folder in COCO's format instead of scenes.")] = None,
    split: Annotated[str, typer.Option(help="With --coco: which files of it.")] = "val2017",
    task: Annotated[
        list[str] | None, typer.Option(help="With --coco: panoptic, semantic, instance, …; repeatable.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="KIND", help="Data set that training reads, instead of scenes.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="With --source: for the reader, as in recipes; repeatable."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="With --source: questions a picture.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many pictures only.")] = None,
    per_scene: Annotated[int, typer.Option(min=1, help="Referring expressions a scene.")] = 4,
    pictures: Annotated[
        Path | None, typer.Option(help="Write drawn answers to this folder, the worst first.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many, chosen at random.")] = 20,
    device: Annotated[str, typer.Option(help='"auto", "cpu", "cuda", "cuda:1", …')] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The last line is JSON, and the only one.")] = False,
) -> None:
    """Score a checkpoint on simulated scenes or on a data set.

    Exit code 1 when not one question got an answer.
    """
    if sum(given is not None for given in (scenes, coco, source)) > 1:
        raise typer.BadParameter("give one of --scenes, --coco and --source")
    sample = None
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)  # now, and not after an hour
        sample = _picture_sample(count)
    if coco is not None:
        scores = _on_coco(model, device, coco, split, task or [], limit, sample)
    elif source is not None:
        scores = _on_source(model, device, source, _options(option or []), prompts, limit, sample)
    else:
        scores = _on_scenes(model, device, scenes or DEFAULT_SCENES, limit, per_scene, sample)
    for reason, times in scores["failures"].items():
        Console(stderr=True).print(f"{times}× no answer: {reason}", style="red", markup=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(scores, allow_nan=False))
    else:
        Console().print(score_table(scores))
        say(_footer(scores))
    if pictures is not None and sample is not None:
        paths = sample.write(pictures)
        Console(stderr=True).print(f"wrote {len(paths)} pictures to {pictures}", markup=False, soft_wrap=True)
    if 0 < scores["questions"] == scores["failed"]:
        raise typer.Exit(1)


def _load(model: str, device: str) -> XSam:
    from xsam.engine import XSam

    with Console(stderr=True).status("loading the model …"):
        return XSam.load(model, device=device)


def _picture_sample(count: int) -> PictureSample:
    from xsam.eval.pictures import PictureSample

    return PictureSample(count)


def _on_scenes(
    model: str, device: str, text: str, limit: int | None, per_scene: int, sample: PictureSample | None
) -> dict[str, Any]:
    from xsam.eval.scenes import evaluate as run
    from xsam.eval.scenes import parse_seeds

    try:
        seeds = parse_seeds(text)[:limit]
    except argparse.ArgumentTypeError as error:
        raise typer.BadParameter(str(error)) from error
    return run(_load(model, device), seeds, per_scene=per_scene, show_progress=True, pictures=sample)


def _on_coco(
    model: str,
    device: str,
    folder: Path,
    split: str,
    tasks: list[str],
    limit: int | None,
    sample: PictureSample | None,
) -> dict[str, Any]:
    from xsam.eval.coco import COCO_TASKS, CocoFolder, evaluate_coco

    data = CocoFolder.open(folder, split, tasks or COCO_TASKS)  # first: fails sooner than the model loads
    return evaluate_coco(_load(model, device), data, limit=limit, show_progress=True, pictures=sample)


def _on_source(
    model: str,
    device: str,
    kind: str,
    options: dict[str, Any],
    prompts: int,
    limit: int | None,
    sample: PictureSample | None,
) -> dict[str, Any]:
    from xsam.data.readers import open_source
    from xsam.eval.sources import evaluate_source

    opened = open_source(kind, **options)
    return evaluate_source(
        _load(model, device), opened, prompts=prompts, limit=limit, show_progress=True, pictures=sample
    )


def _options(values: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that is JSON (`0.5`, `["point"]`) is read as such."""
    found: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"write NAME=VALUE, for example images=train2017, not {value!r}")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def score_table(scores: Mapping[str, Any]) -> Table:
    """What was measured, in words; scores without a value are left out."""
    table = Table("task", "score", "value")
    before = ""
    for name, value in scores.items():
        words = _words(name)
        if words is None or value is None:
            continue
        task, metric = words
        table.add_row("" if task == before else task, metric, f"{value:.3f}")
        before = task
    return table


def _words(name: str) -> tuple[str, str] | None:
    """Task and metric of a score's name; None for what is no score."""
    if name in ("absent_rejected", "false_alarm"):
        return _TASKS[name], 'share answered "not found"'
    task, _, metric = name.partition("_")
    if task not in _TASKS or not metric:
        return None
    if task == "iou":
        return _TASKS[task], f"{metric.replace('_', ' ')}, mean IoU"
    if task == "interactive":
        kind, _, metric = metric.rpartition("_")
        return _TASKS[task], f"{kind}, {_METRICS[metric]}" if kind else _METRICS[metric]
    return _TASKS[task], _METRICS[metric]


def _footer(scores: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {group}" for group, count in scores["counts"].items())
    failed = f", {scores['failed']} without an answer" if scores["failed"] else ""
    return f"{scores['n']} pictures, {scores['questions']} questions{failed}: {counts or 'none'}"
