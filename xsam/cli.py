"""The `xsam` command.

Exit codes: 0 = found or done, 1 = failed, 2 = refused or used wrongly, 3 = not found. What goes wrong on
purpose (`XSamError`) is one red line with a hint, never a traceback. PyTorch and OpenCV are imported by the
commands that need them, so that `xsam --help` is quick.
"""

from __future__ import annotations

import errno
import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from xsam.errors import InvalidImageError, InvalidQueryError, RequestRefusedError, XSamError
from xsam.structures import Query, SegmentationResult, Status, Task, VisualPrompt
from xsam.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xsam.convert import ConversionReport
    from xsam.download import DownloadReport

EXIT_CODES = {Status.FOUND: 0, Status.FAILED: 1, Status.REFUSED: 2, Status.NOT_FOUND: 3}
DEFAULT_DOWNLOAD = Path("data/xsam_download")

_COLOURS = {Status.FOUND: "green", Status.NOT_FOUND: "yellow", Status.REFUSED: "red", Status.FAILED: "red"}
_EXTRA_MODULES = frozenset({"torch", "transformers", "tokenizers", "safetensors", "scipy", "PIL"})


class Dtype(str, Enum):
    """Number formats of converted weights."""

    KEEP = "keep"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class _Group(TyperGroup):
    """Turns the project's errors into one line and an exit code, for every command."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except XSamError as error:
            _print_error(error.message, error.hint)
            raise typer.Exit(_exit_code(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output went away
                raise
            _print_error(" ".join(filter(None, (error.filename, error.strerror))) or str(error), "")
            raise typer.Exit(1) from error
        except ModuleNotFoundError as error:
            if error.name not in _EXTRA_MODULES:
                raise
            _print_error(f"this needs {error.name}, which is not installed", "pip install 'xsam[model]'")
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Group,
    help="X-SAM: segment what you can say or point at.",
    epilog="Exit codes: 0 found or done, 1 failed, 2 refused or used wrongly, 3 not found.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="xsam")


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="Picture file (PNG, JPEG, …).")],
    text: Annotated[str, typer.Argument(help='What to find: "the red mug", "what can hold coffee?".')] = "",
    model: Annotated[str, typer.Option(help="A shipped model, or a folder from `xsam convert`.")] = "tiny",
    device: Annotated[str, typer.Option(help='"auto", "cpu", "cuda", "cuda:1", …')] = "auto",
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Category of objects; repeatable.")
    ] = None,
    stuff: Annotated[list[str] | None, typer.Option(help="Category of surfaces (wall); repeatable.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="x0,y0,x1,y1 in pixels; repeatable.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="x,y in pixels; repeatable.")] = None,
    task: Annotated[Task, typer.Option(help="What is asked; auto picks it from what is given.")] = Task.AUTO,
    explain: Annotated[bool, typer.Option("--explain", help="Explain the answer to a question.")] = False,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Least score to answer with.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the picture with the masks here.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, masks as COCO run-length codes.")
    ] = False,
) -> None:
    """Find something in a picture."""
    try:
        prompts = (*_boxes(box or []), *_points(point or []))
        if task is Task.AUTO and sum(map(bool, (text, classes or stuff, prompts))) > 1:
            raise InvalidQueryError(
                "a text, categories and regions are three different questions",
                hint="ask one at a time, or say with --task which one is meant",
            )
        query = Query(
            text=text,
            task=task,
            thing_classes=tuple(classes or ()),
            stuff_classes=tuple(stuff or ()),
            prompts=prompts,
            score_threshold=threshold,
            explain=explain,
        )
        rgb = _read_image(image)
        query.validate((rgb.shape[0], rgb.shape[1]))
        if out is not None:
            _check_suffix(out)
        result = _answer(rgb, query, model=model, device=device)
        if out is not None:
            _write_image(out, _overlay(rgb, result))
    except XSamError as error:
        if not as_json:
            raise
        status = Status.REFUSED if isinstance(error, RequestRefusedError) else Status.FAILED
        failure = {"status": status.value, "code": error.code, "message": error.message, "hint": error.hint}
        typer.echo(json.dumps(failure))
        raise typer.Exit(_exit_code(error)) from error
    if as_json:
        typer.echo(json.dumps(_as_json(result)))
    else:
        _print_result(result, out)
    raise typer.Exit(EXIT_CODES[result.status])


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Weights: a file, a folder, or the download.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with tokenizer.json.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Number format of the written weights.")] = Dtype.KEEP,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint in OUT.")] = False,
) -> None:
    """Turn published weights into a folder that --model takes."""
    from xsam.convert import convert as run

    with Console(stderr=True).status("reading, checking and writing weights …"):
        report = run(source, out, tokenizer=tokenizer, dtype=dtype.value, force=force)
    _print_conversion(report)


@app.command()
def download(
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = DEFAULT_DOWNLOAD,
    revision: Annotated[list[str] | None, typer.Option(help="REPO=COMMIT to fetch; repeatable.")] = None,
) -> None:
    """Fetch the released checkpoint (about 10 GB) from the Hugging Face hub; resumes."""
    from xsam.download import download as run

    _print_download(run(out, revisions=_pins(revision or [])))


@app.command()
def scenes(
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal scenes.")] = 2_000_000,
    width: Annotated[int, typer.Option(min=16, max=4096, help="In pixels.")] = 640,
    height: Annotated[int, typer.Option(min=16, max=4096, help="In pixels.")] = 480,
) -> None:
    """Render a simulated table-top scene with its ground truth."""
    for path in _write_scene(seed, out, (height, width)):
        typer.echo(str(path))


@app.command()
def version() -> None:
    """Print the versions of xsam and of what it runs on."""
    import platform
    from importlib import metadata

    typer.echo(f"xsam {__version__}")
    typer.echo(f"python {platform.python_version()}")
    for package in ("torch", "transformers", "numpy"):
        try:
            typer.echo(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"{package} is not installed")


def _exit_code(error: XSamError) -> int:
    return EXIT_CODES[Status.REFUSED if isinstance(error, RequestRefusedError) else Status.FAILED]


def _print_error(message: str, hint: str) -> None:
    line = Text.assemble(("error: ", "bold red"), (message, "red"))
    if hint:
        line.append(f" ({hint})", style="dim red")
    Console(stderr=True).print(line, soft_wrap=True)


def _say(*lines: str) -> None:
    for line in lines:
        Console().print(Text(line), soft_wrap=True)


def _numbers(option: str, value: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InvalidQueryError(f"{option} takes {count} numbers with commas between them, got {value!r}")
    return numbers


def _boxes(values: list[str]) -> list[VisualPrompt]:
    return [VisualPrompt.box(*_numbers("--box", value, 4)) for value in values]


def _points(values: list[str]) -> list[VisualPrompt]:
    return [VisualPrompt.point(*_numbers("--point", value, 2)) for value in values]


def _pins(values: list[str]) -> dict[str, str]:
    pins = dict(value.partition("=")[::2] for value in values)
    if not all(repo and commit for repo, commit in pins.items()):
        raise typer.BadParameter("write REPO=COMMIT, for example hao9610/X-SAM=0123abc…")
    return pins


def _read_image(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) RGB; turned upright as the file says."""
    import cv2
    import numpy as np

    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InvalidImageError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        bgr = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except cv2.error:
        bgr = None
    if bgr is None:
        raise InvalidImageError(f"{path} is no picture that OpenCV can read")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def _check_suffix(path: Path) -> None:
    import cv2

    if not cv2.haveImageWriter(path.name):
        raise InvalidQueryError(f"cannot tell the picture format of {path.name!r}", hint="use .png or .jpg")


def _write_image(path: Path, image: NDArray[Any]) -> None:
    """Write uint8 RGB (H, W, 3) or uint16 (H, W)."""
    import cv2
    import numpy as np

    pixels = np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def _answer(rgb: NDArray[np.uint8], query: Query, *, model: str, device: str) -> SegmentationResult:
    from xsam.engine import XSam

    with Console(stderr=True).status("loading the model …") as status:
        engine = XSam.load(model, device=device)
        return engine.segment(rgb, query, on_stage=lambda stage: status.update(f"{stage} …"))


def _overlay(rgb: NDArray[np.uint8], result: SegmentationResult) -> NDArray[np.uint8]:
    from xsam.draw import draw_overlay, draw_prompts

    query = result.query
    title = query.text or ", ".join(query.thing_classes + query.stuff_classes) or "region"
    picture = draw_overlay(rgb, result.segments, title=title)
    return draw_prompts(picture, query.prompts)


def _as_json(result: SegmentationResult) -> dict[str, Any]:
    segments = result.segments
    height, width = segments.image_hw
    columns = (segments.labels, segments.scores, segments.boxes_xyxy, segments.masks)
    return {
        "status": result.status.value,
        "message": result.message,
        "code": result.code,
        "hint": result.hint,
        "model": result.model_id,
        "task": result.query.resolved_task().value,
        "text": result.text,
        "image": {"width": width, "height": height},
        "segments": [
            {
                "label": label,
                "score": round(float(score), 4),
                "box_xyxy": [float(v) for v in box],
                "area_px": mask.area,
                "mask": {"size": [height, width], "counts": mask.counts.decode("ascii")},
            }
            for label, score, box, mask in zip(*columns, strict=True)
        ],
        "timing_s": {name: round(seconds, 4) for name, seconds in result.timing.stages_s.items()},
    }


def _print_result(result: SegmentationResult, out: Path | None) -> None:
    word = (result.status.value.replace("_", " "), f"bold {_COLOURS[result.status]}")
    detail = result.message or f"in {result.timing.total_s:.2f} s with {result.model_id}"
    Console().print(Text.assemble(word, f": {detail}"), soft_wrap=True)
    _say(*filter(None, (result.text, result.hint)))
    segments = result.segments
    if len(segments):
        table = Table("label", "score", "box x0 y0 x1 y1", "area px")
        columns = (segments.labels, segments.scores, segments.boxes_xyxy, segments.masks)
        for label, score, box, mask in zip(*columns, strict=True):
            table.add_row(Text(label), f"{score:.2f}", " ".join(f"{v:.0f}" for v in box), str(mask.area))
        Console().print(table)
    if out is not None:
        _say(f"wrote {out}")


def _print_conversion(report: ConversionReport) -> None:
    kinds = ", ".join(report.dtypes)
    added = f", {' '.join(report.added_tokens)} added" if report.added_tokens else ""
    _say(
        f"{report.layout} layout, {kinds}; {report.tensor_count} tensors, {report.parameter_count:,} numbers",
        f"tokenizer: {report.token_count} tokens for {report.vocab_size} rows{added}",
        *(f"note: {note}" for note in report.notes),
        *(f"{digest}  {name}" for name, digest in report.sha256.items()),
        f"wrote {report.out} ({report.size_bytes / 1e6:,.1f} MB)",
    )


def _print_download(report: DownloadReport) -> None:
    import shlex

    what = f"fetched {', '.join(report.fetched)}" if report.fetched else "everything was there already"
    target = report.out.parent / "xsam_full"
    _say(
        *(f"{commit}  {repo}" for repo, commit in report.commits.items()),
        f"{what}; {report.file_count} files, {report.size_bytes / 1e9:.2f} GB checked in {report.out}",
        f"next: xsam convert {shlex.quote(str(report.out))} {shlex.quote(str(target))}",
    )


def _write_scene(seed: int, out: Path, image_hw: tuple[int, int]) -> list[Path]:
    """Colour (8 bit), depth in mm (16 bit, 0 = none), instance ids (16 bit, 0 = none) and the truth."""
    from dataclasses import asdict

    import numpy as np

    from xsam.sim import annotate, language, render, sample_scene

    scene = sample_scene(seed)
    view = render(scene, image_hw=image_hw)
    items = annotate(scene, view)
    phrases = (
        *language.referring_expressions(items, image_hw[1]),
        *language.reasoning_questions(items),
        *language.absent_expressions(items, np.random.default_rng(seed)),
    )
    truth = {
        "seed": seed,
        "image_hw": image_hw,
        "intrinsics": view.intrinsics.tolist(),
        "world_from_camera": view.world_from_camera.tolist(),
        "depth_unit_m": 0.001,
        "objects": [asdict(item) for item in items],
        "expressions": [asdict(phrase) for phrase in phrases],
        "caption": asdict(language.grounded_caption(items)),
    }
    depth_mm = np.clip(np.round(view.depth_m * 1000.0), 0, 65535).astype(np.uint16)
    stem = f"scene_{seed:07d}"
    pictures: list[tuple[str, NDArray[Any]]]
    pictures = [("rgb", view.rgb), ("depth_mm", depth_mm), ("instances", view.instance_ids)]
    for name, picture in pictures:
        _write_image(out / f"{stem}_{name}.png", picture)
    record = out / f"{stem}_truth.json"
    record.write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    return [*(out / f"{stem}_{name}.png" for name, _ in pictures), record]
