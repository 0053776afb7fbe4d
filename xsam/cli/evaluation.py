"""`xsam eval`: score a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from xsam.cli import loading
from xsam.console import print_error, print_lines

if TYPE_CHECKING:
    from xsam.engine import XSam
    from xsam.eval.pictures import PictureSample
    from xsam.eval.predictions import PredictionFile
    from xsam.eval.processes import Processes

DEFAULT_SCENES = "2000000:500"

# Option → the option that it belongs to; None = simulated scenes.
_BELONGS_TO = {
    "data": "benchmark",
    "images": "benchmark",
    "split": "coco",
    "task": "coco",
    "option": "source",
    "prompts": "source",
    "per_scene": None,
    "count": "pictures",
    "resume": "out",
}
_DATA = ("scenes", "coco", "source", "benchmark", "clips")


class _Evaluation(Protocol):
    """An evaluation of which the data is open."""

    def __call__(
        self,
        model: XSam,
        *,
        show_progress: bool,
        pictures: PictureSample | None,
        predictions: PredictionFile | None,
        processes: Processes,
    ) -> dict[str, Any]: ...


def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=loading.MODEL_HELP)],
    scenes: Annotated[
        str | None, typer.Option(metavar="START:COUNT", help=f"Simulated scenes; default {DEFAULT_SCENES}.")
    ] = None,
    clips: Annotated[
        str | None,
        typer.Option(
            metavar="START:COUNT",
            help="Simulated clips, instead of scenes: J&F and identities over time, every frame segmented "
            "or masks carried from keyframes: --clips 2000000:20.",
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Published benchmark, such as refcoco-val or reasonseg-test."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="With --benchmark: folder of its files; an error lists what is missing."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="With --benchmark: folder of the images, if they are not in --data.")
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
        Path | None, typer.Option(help="Save predictions.jsonl and scores.json in this folder.")
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
    """Score a checkpoint on simulated scenes, a published benchmark, or a data set.

    With --out, `torchrun` and `accelerate launch` start several processes that share the work. Exit code 1 if
    every question failed, 130 after Ctrl-C: the scores are those of the images until then.
    """
    from rich.console import Console

    from xsam.cli.clips import evaluate_on_clips

    if sum(given is not None for given in (scenes, coco, source, benchmark, clips)) > 1:
        raise typer.BadParameter(f"give one of {', '.join(f'--{name}' for name in _DATA)}")
    _check_combination(context)
    load = partial(
        loading.load_model,
        model,
        device=device,
        llm_device=llm_device,
        llm_weights=llm_weights,
        compiled=compiled,
        threads=threads,
        frame_cache_mib=frame_cache_mib,
    )
    if clips is not None:
        if out is not None:
            raise typer.BadParameter("--out is not for clips, whose scores are printed only")
        evaluate_on_clips(load, _seeds(clips)[:limit], pictures=pictures, as_json=as_json)
    evaluation: dict[str, Any] = {"model": model}
    if benchmark is not None:
        if data is None:
            raise typer.BadParameter("--benchmark needs --data")
        evaluation |= {"benchmark": benchmark, "data": str(data), "images": images and str(images)}
        run = _open_benchmark(benchmark, data, images, limit)
    elif coco is not None:
        evaluation |= {"coco": str(coco), "split": split, "tasks": sorted(task or [])}
        run = _open_coco(coco, split, task or [], limit)
    elif source is not None:
        options = _parse_options(option or [])
        evaluation |= {"source": source, "options": options, "prompts": prompts}
        run = _open_source(source, options, prompts, limit)
    else:
        scenes = DEFAULT_SCENES if scenes is None else scenes
        evaluation |= {"scenes": scenes, "per_scene": per_scene}
        run = _open_scenes(scenes, limit, per_scene)
    sample = None
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)  # now, and not after an hour
        sample = _picture_sample(count)
    processes, device = _join_processes(device, out)
    predictions = None if out is None else _prediction_file(out, evaluation, resume, processes)
    with Console(stderr=True, quiet=not processes.is_main).status("loading the model …"):
        loaded = load(device=device)
    scores = run(loaded, show_progress=True, pictures=sample, predictions=predictions, processes=processes)
    processes.leave()
    if processes.is_main:
        _report(scores, predictions, as_json)
    if predictions is not None:
        predictions.close()
    if not processes.is_main:
        return
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


def _report(scores: Mapping[str, Any], predictions: PredictionFile | None, as_json: bool) -> None:
    """Print the scores, and save them."""
    from rich.console import Console

    from xsam.cli.scores import describe_run, score_table

    for reason, times in scores.get("skipped", {}).items():
        Console(stderr=True).print(f"skipped: {times} {reason}", markup=False, soft_wrap=True)
    for reason, times in scores["failures"].items():
        Console(stderr=True).print(f"{times}× no result: {reason}", style="red", markup=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(scores, allow_nan=False))
    else:
        Console().print(score_table(scores))
        print_lines(describe_run(scores))
    if predictions is not None:
        predictions.write_scores(scores)


def _check_combination(context: typer.Context) -> None:
    """Raise an error for an option that has no effect, because it belongs to another one."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    for name in sorted(given & _BELONGS_TO.keys()):
        needed = _BELONGS_TO[name]
        option = f"--{name.replace('_', '-')}"
        if needed is not None and needed not in given:
            raise typer.BadParameter(f"{option} needs --{needed}")
        if needed is None and given & {*_DATA[1:]}:
            raise typer.BadParameter(f"{option} is for simulated scenes only")


def _join_processes(device: str, out: Path | None) -> tuple[Processes, str]:
    """Join the other processes if there are any, and choose the device of this one."""
    from xsam.eval.processes import Processes, join_processes, launched_processes

    if launched_processes() == 1:
        return Processes(), device
    if out is None:
        raise typer.BadParameter("several processes need --out, through which they exchange predictions")
    import torch

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    processes = join_processes(cpu=not on_gpu)
    return processes, f"cuda:{processes.local_index}" if on_gpu and device in ("auto", "cuda") else device


def _picture_sample(count: int) -> PictureSample:
    from xsam.eval.pictures import PictureSample

    return PictureSample(count)


def _prediction_file(
    folder: Path, evaluation: Mapping[str, Any], resume: bool, processes: Processes
) -> PredictionFile:
    from xsam.eval.predictions import PredictionFile

    return PredictionFile(folder, evaluation, resume=resume, processes=processes)


def _seeds(text: str) -> range:
    from xsam.eval.scenes import parse_seeds

    return parse_seeds(text)


def _open_scenes(text: str, limit: int | None, per_scene: int) -> _Evaluation:
    from xsam.eval.scenes import evaluate as run

    return partial(run, seeds=_seeds(text)[:limit], per_scene=per_scene)


def _open_benchmark(name: str, folder: Path, images: Path | None, limit: int | None) -> _Evaluation:
    from xsam.eval.benchmarks.evaluation import evaluate_benchmark, open_benchmark

    source = open_benchmark(name, folder, images=images)
    return partial(evaluate_benchmark, name=name, source=source, limit=limit)


def _open_coco(folder: Path, split: str, tasks: list[str], limit: int | None) -> _Evaluation:
    from xsam.eval.coco import COCO_TASKS, CocoFolder, evaluate_coco

    return partial(evaluate_coco, data=CocoFolder.open(folder, split, tasks or COCO_TASKS), limit=limit)


def _open_source(kind: str, options: Mapping[str, Any], prompts: int, limit: int | None) -> _Evaluation:
    from xsam.data.readers import open_source
    from xsam.eval.sources import evaluate_source

    return partial(evaluate_source, source=open_source(kind, **options), prompts=prompts, limit=limit)


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
