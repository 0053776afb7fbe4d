"""`xsam eval`: score a checkpoint."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from xsam.cli import loading
from xsam.cli.console import print_error, print_lines
from xsam.errors import InvalidOptionError

if TYPE_CHECKING:
    from xsam.engine import XSam
    from xsam.eval.pictures import PictureSample
    from xsam.eval.predictions import PredictionFile

DEFAULT_SCENES = "2000000:500"

_TASKS = {
    "referring": "referring expressions",
    "iou": "… by kind",
    "relation": "… that compare objects",
    "reasoning": "reasoning questions",
    "absent_rejected": "absent phrases",
    "present_rejected": "present phrases",
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
    "giou": "gIoU, including absent ones",
    "p50": "share with IoU of at least 0.5",
    "ap": "mask AP",
    "ap50": "mask AP50",
    "ap75": "mask AP75",
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "pq_things": "PQ of things",
    "pq_stuff": "PQ of stuff",
    "truth_miou": "mean IoU, including missed phrases",
    "recall": "recall of phrases",
    "caption_f1": "F1 of content words",
    "cider": "CIDEr-D, 0 to 10",
}


# Option → the option that it belongs to; None = simulated scenes.
_BELONGS_TO = {
    "split": "coco",
    "task": "coco",
    "option": "source",
    "prompts": "source",
    "per_scene": None,
    "count": "pictures",
    "resume": "out",
}


def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=loading.MODEL_HELP)],
    scenes: Annotated[
        str | None, typer.Option(metavar="START:COUNT", help=f"Simulated scenes; default {DEFAULT_SCENES}.")
    ] = None,
    coco: Annotated[Path | None, typer.Option(help="Folder in COCO format, instead of scenes.")] = None,
    split: Annotated[str, typer.Option(help="With --coco: split to evaluate.")] = "val2017",
    task: Annotated[
        list[str] | None, typer.Option(help="With --coco: panoptic, semantic, instance, …; repeatable.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="KIND", help="Data set from training, instead of scenes.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="With --source: option of the reader, as in recipes; repeatable."
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="With --source: questions per image.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate at most this many images.")] = None,
    per_scene: Annotated[int, typer.Option(min=1, help="Referring expressions per scene.")] = 4,
    pictures: Annotated[
        Path | None, typer.Option(help="Write images of results to this folder, the worst first.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, max=1000, help="With --pictures: how many, chosen at random.")
    ] = 20,
    out: Annotated[
        Path | None,
        typer.Option(help="With --coco or --source: save predictions.jsonl and scores.json in this folder."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --out: go on with the predictions in the folder.")
    ] = False,
    device: loading.Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    llm_device: loading.LlmDevice = None,
    llm_weights: loading.LlmWeightsFormat = loading.LlmWeights.AS_LOADED,
    compiled: loading.Compiled = False,
    threads: loading.Threads = None,
    frame_cache_mib: loading.FrameCacheMib = None,
) -> None:
    """Score a checkpoint on simulated scenes or on a data set.

    Exit code 1 if every question failed, 130 after Ctrl-C: the scores are those of the images until then.
    """
    if sum(given is not None for given in (scenes, coco, source)) > 1:
        raise typer.BadParameter("give one of --scenes, --coco and --source")
    if out is not None and coco is None and source is None:
        raise typer.BadParameter("--out needs --coco or --source")
    _check_combination(context)
    if source is not None:
        options = _parse_options(option or [])
        _check_source(source, options)
    if coco is not None:
        _check_tasks(task or [])
    sample = None
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)  # now, and not after an hour
        sample = _picture_sample(count)

    def load() -> XSam:
        with Console(stderr=True).status("loading the model …"):
            return loading.load_model(
                model,
                device=device,
                llm_device=llm_device,
                llm_weights=llm_weights,
                compiled=compiled,
                threads=threads,
                frame_cache_mib=frame_cache_mib,
            )

    predictions = None
    if out is not None:
        data: dict[str, Any] = {"coco": str(coco), "split": split, "tasks": sorted(task or [])}
        if source is not None:
            data = {"source": source, "options": options, "prompts": prompts}
        predictions = _prediction_file(out, {"model": model, **data}, resume)
    if coco is not None:
        scores = _evaluate_coco(load, coco, split, task or [], limit, sample, predictions)
    elif source is not None:
        scores = _evaluate_source(load, source, options, prompts, limit, sample, predictions)
    else:
        scores = _evaluate_scenes(load, scenes or DEFAULT_SCENES, limit, per_scene, sample)
    for reason, times in scores.get("skipped", {}).items():
        Console(stderr=True).print(f"skipped: {times} {reason}", markup=False, soft_wrap=True)
    for reason, times in scores["failures"].items():
        Console(stderr=True).print(f"{times}× no result: {reason}", style="red", markup=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(scores, allow_nan=False))
    else:
        Console().print(score_table(scores))
        print_lines(_footer(scores))
    if predictions is not None:
        predictions.write_scores(scores)
        predictions.close()
    if pictures is not None and sample is not None:
        try:
            paths = sample.write(pictures)
        except OSError as error:  # the scores are printed: this must not add a second line to them
            print_error(f"cannot write images to {pictures}: {error.strerror or error}", "")
            raise typer.Exit(1) from error
        Console(stderr=True).print(f"wrote {len(paths)} images to {pictures}", markup=False, soft_wrap=True)
    if not scores.get("complete", True):
        raise typer.Exit(130)
    if 0 < scores["questions"] == scores["failed"]:
        raise typer.Exit(1)


def _check_combination(context: typer.Context) -> None:
    """Raise an error for an option that has no effect, because it belongs to another one."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    for name in sorted(given & _BELONGS_TO.keys()):
        needed = _BELONGS_TO[name]
        option = f"--{name.replace('_', '-')}"
        if needed is not None and needed not in given:
            raise typer.BadParameter(f"{option} needs --{needed}")
        if needed is None and given & {"coco", "source"}:
            raise typer.BadParameter(f"{option} is for simulated scenes only")


def _check_source(kind: str, options: Mapping[str, Any]) -> None:
    """Raise an error if there is no such reader, or if it does not take these options."""
    from xsam.data.readers import READERS

    if kind not in READERS:
        raise InvalidOptionError(f"unknown dataset kind {kind!r}", hint=f"known: {', '.join(READERS)}")
    signature = inspect.signature(READERS[kind])
    try:
        signature.bind(**options)
    except TypeError as error:
        raise InvalidOptionError(
            f"{kind}: {error}", hint=f"options: {', '.join(signature.parameters)}"
        ) from error


def _check_tasks(tasks: list[str]) -> None:
    from xsam.eval.coco import COCO_TASKS

    if unknown := sorted(set(tasks) - set(COCO_TASKS)):
        raise InvalidOptionError(f"unknown tasks {unknown}", hint=f"known: {', '.join(COCO_TASKS)}")


def _picture_sample(count: int) -> PictureSample:
    from xsam.eval.pictures import PictureSample

    return PictureSample(count)


def _prediction_file(folder: Path, evaluation: Mapping[str, Any], resume: bool) -> PredictionFile:
    from xsam.eval.predictions import PredictionFile

    return PredictionFile(folder, evaluation, resume=resume)


def _evaluate_scenes(
    load: Callable[[], XSam], text: str, limit: int | None, per_scene: int, sample: PictureSample | None
) -> dict[str, Any]:
    from xsam.eval.scenes import evaluate as run
    from xsam.eval.scenes import parse_seeds

    seeds = parse_seeds(text)[:limit]
    return run(load(), seeds, per_scene=per_scene, show_progress=True, pictures=sample)


def _evaluate_coco(
    load: Callable[[], XSam],
    folder: Path,
    split: str,
    tasks: list[str],
    limit: int | None,
    sample: PictureSample | None,
    predictions: PredictionFile | None,
) -> dict[str, Any]:
    from xsam.eval.coco import COCO_TASKS, CocoFolder, evaluate_coco

    data = CocoFolder.open(folder, split, tasks or COCO_TASKS)  # first, to fail before the model is loaded
    return evaluate_coco(
        load(), data, limit=limit, show_progress=True, pictures=sample, predictions=predictions
    )


def _evaluate_source(
    load: Callable[[], XSam],
    kind: str,
    options: dict[str, Any],
    prompts: int,
    limit: int | None,
    sample: PictureSample | None,
    predictions: PredictionFile | None,
) -> dict[str, Any]:
    from xsam.data.readers import open_source
    from xsam.eval.sources import evaluate_source

    opened = open_source(kind, **options)
    return evaluate_source(
        load(),
        opened,
        prompts=prompts,
        limit=limit,
        show_progress=True,
        pictures=sample,
        predictions=predictions,
    )


def _parse_options(values: list[str]) -> dict[str, Any]:
    """Parse NAME=VALUE pairs; a value that is JSON (`0.5`, `["point"]`) is read as such."""
    options: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"write NAME=VALUE, for example images=train2017, not {value!r}")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def score_table(scores: Mapping[str, Any]) -> Table:
    """Build a table of the scores that have a value, with their names spelled out."""
    table = Table("task", "score", "value")
    previous = ""
    for name, value in scores.items():
        description = _describe_score(name)
        if description is None or value is None:
            continue
        task, metric = description
        table.add_row("" if task == previous else task, metric, f"{value:.3f}")
        previous = task
    return table


def _describe_score(name: str) -> tuple[str, str] | None:
    """Return task and metric of a score by its name; None if it is not a score."""
    if name in ("absent_rejected", "present_rejected"):
        return _TASKS[name], 'share reported "not found"'
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
    failed = f", {scores['failed']} without a result" if scores["failed"] else ""
    protocol = f"\n{scores['protocol']}" if "protocol" in scores else ""
    return f"{scores['n']} images, {scores['questions']} questions{failed}: {counts or 'none'}{protocol}"
