"""Score a model on a published benchmark."""

from __future__ import annotations

from pathlib import Path

from xsam.errors import InvalidOptionError, MissingDataError
from xsam.eval.benchmarks.files import DataFolder
from xsam.eval.benchmarks.table import BENCHMARKS, Benchmark
from xsam.eval.loop import QuestionSource, evaluate_questions, sampled
from xsam.eval.pictures import PictureSample
from xsam.eval.predictions import PredictionFile
from xsam.eval.processes import Processes
from xsam.eval.scoreboard import Scores
from xsam.segmenter import Segmenter


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark of `BENCHMARKS`.

    Raises:
        InvalidOptionError: there is none of this name.
    """
    if name not in BENCHMARKS:
        raise InvalidOptionError(f"unknown benchmark {name!r}", hint=f"known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def open_benchmark(name: str, folder: Path, *, images: Path | None = None) -> QuestionSource:
    """Open the files of a benchmark.

    Args:
        name: a key of `BENCHMARKS`.
        folder: holds the files in one of the layouts in which they are commonly kept.
        images: folder of the images; None = they are below `folder`, too.

    Raises:
        InvalidOptionError: there is no benchmark of this name.
        MissingDataError: a file is missing; the hint says what is expected.
        DatasetError: a file is malformed.
    """
    benchmark = find_benchmark(name)
    if not folder.is_dir():
        raise MissingDataError(
            f"{name}: there is no folder {folder}", hint=f"expected in it: {benchmark.expected}"
        )
    return benchmark.open(DataFolder(root=folder, images=images, benchmark=name, expected=benchmark.expected))


def evaluate_benchmark(
    model: Segmenter,
    name: str,
    source: QuestionSource,
    *,
    limit: int | None = None,
    show_progress: bool = False,
    pictures: PictureSample | None = None,
    predictions: PredictionFile | None = None,
    processes: Processes | None = None,
) -> Scores:
    """Score a model by the rules of a benchmark; equal results give equal scores.

    Args:
        model: the segmenter to evaluate.
        name: a key of `BENCHMARKS`.
        source: its questions, from `open_benchmark`.
        limit: number of images, evenly spread over the benchmark; None means all, as its rules demand.
        show_progress: show a progress bar on stderr.
        pictures: collects results to be drawn.
        predictions: saves the results, and holds those of an earlier run.
        processes: the processes that share the work; those other than the first get no scores.

    Returns:
        The scores of `Scoreboard`; `benchmark`, its name; `published`, the scores that are published for it;
        `protocol`, its rules; the number `n` of images that were evaluated; what was `skipped`, by reason;
        `complete`: False if Ctrl-C ended the evaluation early; and `ms_per_query_median`.

    Raises:
        DatasetError: no image could be used.
    """
    benchmark = find_benchmark(name)
    board, rest = evaluate_questions(
        model,
        source,
        limit=limit,
        show_progress=show_progress,
        pictures=pictures,
        predictions=predictions,
        processes=processes,
    )
    if not rest:
        return {}
    return {
        **board.scores(),
        "ms_per_query_median": rest.pop("ms_median"),
        "benchmark": name,
        "published": list(benchmark.scores),
        "protocol": benchmark.protocol.removesuffix(".") + sampled(limit, len(source)) + _left_out(rest),
        **rest,
    }


def _left_out(rest: Scores) -> str:
    """Say what keeps the scores from being those of the whole benchmark."""
    left_out = sum(rest["skipped"].values())
    skipped = f"; {left_out} images or records were skipped" if left_out else ""
    return skipped + ("" if rest["complete"] else "; interrupted, not comparable with published scores")
