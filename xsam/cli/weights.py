"""`xsam convert` and `xsam download`: the weights of the released checkpoint."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xsam.console import print_lines

if TYPE_CHECKING:
    from xsam.weights.convert import ConversionReport
    from xsam.weights.download import DownloadReport


class Release(str, Enum):
    """Published models."""

    XSAM = "xsam"
    X2SAM = "x2sam"


class Dtype(str, Enum):
    """Number formats of converted weights."""

    KEEP = "keep"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Weight file, folder with weights, or download folder.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with tokenizer.json.")] = None,
    base: Annotated[
        Path | None, typer.Option(help="Folder of Qwen3-VL-4B-Instruct, for released weights of X2SAM.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Number format of the written weights.")] = Dtype.KEEP,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint in OUT.")] = False,
) -> None:
    """Turn published weights into a folder that --model takes."""
    from rich.console import Console

    from xsam.weights.convert import convert as run

    with Console(stderr=True).status("reading, checking and writing weights …"):
        report = run(source, out, tokenizer=tokenizer, base=base, dtype=dtype.value, force=force)
    _print_conversion(report)


def download(
    model: Annotated[Release, typer.Argument(help="Which model to fetch.")] = Release.XSAM,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files.", show_default="data/MODEL_download")
    ] = None,
    revision: Annotated[list[str] | None, typer.Option(help="REPO=COMMIT to fetch; repeatable.")] = None,
) -> None:
    """Fetch a released checkpoint and its base models (about 10 GB) from the Hugging Face hub; resumes."""
    from xsam.weights.download import download as run
    from xsam.weights.releases import RELEASES

    report = run(
        out or Path(f"data/{model.value}_download"),
        revisions=_parse_revisions(revision or []),
        repositories=RELEASES[model.value],
    )
    _print_download(report, Path(f"{model.value}_full"))


def _parse_revisions(values: list[str]) -> dict[str, str]:
    revisions = dict(value.partition("=")[::2] for value in values)
    if not all(repo and commit for repo, commit in revisions.items()):
        raise typer.BadParameter("write REPO=COMMIT, for example hao9610/X-SAM=0123abc…")
    return revisions


def _print_conversion(report: ConversionReport) -> None:
    dtypes = ", ".join(report.dtypes)
    added = f", {' '.join(report.added_tokens)} added" if report.added_tokens else ""
    print_lines(
        f"{report.layout} layout, {dtypes}; {report.tensor_count} tensors with {report.parameter_count:,}"
        " parameters",
        f"tokenizer: {report.token_count} tokens for {report.vocab_size} rows{added}",
        *(f"note: {note}" for note in report.notes),
        *(f"{digest}  {name}" for name, digest in report.sha256.items()),
        f"wrote {report.out} ({report.size_bytes / 1e6:,.1f} MB)",
    )


def _print_download(report: DownloadReport, converted: Path) -> None:
    import shlex

    fetched = f"fetched {', '.join(report.fetched)}" if report.fetched else "all files were there already"
    target = report.out.parent / converted
    print_lines(
        *(f"{commit}  {repo}" for repo, commit in report.commits.items()),
        f"{fetched}; {report.file_count} files, {report.size_bytes / 1e9:.2f} GB checked in {report.out}",
        f"next: xsam convert {shlex.quote(str(report.out))} {shlex.quote(str(target))}",
    )
