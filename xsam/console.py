"""Shared by all commands, `xsam` and `python -m xsam.…`: errors, exit codes and printing.

Whatever goes wrong ends a command with one line and an exit code. With `--json` it is JSON on stdout::

    {"status": "refused", "code": "INVALID_OPTION", "message": "…", "hint": "…"}

`code` is that of an `XSamError`, or USAGE (unknown or malformed argument), FILE (a file or the disk),
MISSING_PACKAGE, CANCELLED, or INTERNAL (a bug). `XSAM_TRACEBACK=1` shows the traceback of a bug.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from xsam.errors import OutOfMemoryError, RequestRefusedError, XSamError
from xsam.types.kinds import Status

EXIT_CODES = {
    Status.FOUND: 0,
    Status.FAILED: 1,
    Status.REFUSED: 2,
    Status.NOT_FOUND: 3,
    Status.UNSURE: 4,
}

_EXTRA_MODULES = {
    **dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors"), "pip install 'xsam[model]'"),
    **dict.fromkeys(("cv2", "PIL", "scipy", "pycocotools"), "pip install xsam"),
    "accelerate": "pip install 'xsam[train]'",
    **dict.fromkeys(("xsam_server", "fastapi", "prometheus_client"), "pip install 'xsam[server]'"),
    **dict.fromkeys(("python_multipart", "uvicorn"), "pip install 'xsam[server]'"),
    "av": "pip install 'xsam[media]'",
    **dict.fromkeys(("mcap", "rosbags", "zstandard", "yaml"), "pip install 'xsam[bags]'"),
    "rerun": "pip install 'xsam[rerun]'",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a command ends early."""

    status: Status  # REFUSED or FAILED
    code: str
    message: str
    hint: str = ""

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]

    def as_json(self) -> str:
        fields = {"status": self.status.value, "code": self.code, "message": self.message, "hint": self.hint}
        return json.dumps(fields)


class _OneLineErrors:
    """Mixin of commands: every error is one line and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = args[: args.index("--")] if "--" in args else args
        ctx.meta["xsam.json"] = "--json" in options
        try:
            rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        except Exception as error:
            # A command without arguments may be answered with its help.
            if not hasattr(error, "format_message") or type(error).__name__ == "NoArgsIsHelpError":
                raise
            raise _end(_usage(error, ctx), ctx) from error
        return rest

    def invoke(self, ctx: Any) -> Any:
        as_json = ctx.meta["xsam.json"]
        try:
            return super().invoke(ctx)  # type: ignore[misc]
        except typer.Exit:
            raise
        except (typer.Abort, KeyboardInterrupt):
            if as_json:
                typer.echo(Failure(status=Status.FAILED, code="CANCELLED", message="interrupted").as_json())
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:  # whoever reads our output is gone
                raise
            failure = _usage(error, ctx) if hasattr(error, "format_message") else failure_of(error)
            if failure.code == "INTERNAL" and os.environ.get("XSAM_TRACEBACK"):
                raise
            raise _end(failure, ctx) from error


class ErrorGroup(_OneLineErrors, TyperGroup):
    """Group of commands that ends every error with one line and an exit code."""


class ErrorCommand(_OneLineErrors, TyperCommand):
    """The only command of a module, with the errors of `ErrorGroup`."""


def failure_of(error: Exception) -> Failure:
    """Return what to report for an exception of any kind."""
    if isinstance(error, XSamError):
        status = Status.REFUSED if isinstance(error, RequestRefusedError) else Status.FAILED
        return Failure(status=status, code=error.code, message=_one_line(error.message), hint=error.hint)
    if isinstance(error, MemoryError):
        return Failure(
            status=Status.FAILED,
            code=OutOfMemoryError.code,
            message=f"out of memory{': ' if str(error) else ''}{_one_line(str(error))}",
            hint=OutOfMemoryError.default_hint,
        )
    if isinstance(error, OSError):
        parts = [str(part) for part in (error.filename, error.strerror) if part]
        return Failure(
            status=Status.FAILED,
            code="FILE",
            message=": ".join(parts) or _one_line(str(error)) or type(error).__name__,
            hint=_FILE_HINTS.get(error.errno or 0, ""),
        )
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _EXTRA_MODULES:
        package = (error.name or "").partition(".")[0]
        return Failure(
            status=Status.FAILED,
            code="MISSING_PACKAGE",
            message=f"this needs {package}, which is not installed",
            hint=_EXTRA_MODULES[package],
        )
    where = _where(error)
    return Failure(
        status=Status.FAILED,
        code="INTERNAL",
        message=f"{type(error).__name__}: {_one_line(str(error)) or 'no message'}{where}",
        hint="this is a bug: run it again with XSAM_TRACEBACK=1 and report what it prints",
    )


_FILE_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EACCES: "check the permissions",
    errno.EADDRINUSE: "another program uses this port; choose another one",
}


def _usage(error: Any, ctx: Any) -> Failure:
    """Return what to report for an exception of typer about the arguments."""
    return Failure(
        status=Status.REFUSED,
        code="USAGE",
        message=_one_line(error.format_message()),
        hint=f"see {(getattr(error, 'ctx', None) or ctx).command_path} --help",
    )


def _end(failure: Failure, ctx: Any) -> typer.Exit:
    """Print a failure as the command line wants it, and return what ends the command."""
    if ctx.meta["xsam.json"]:
        _echo_json(failure)
    else:
        print_error(failure.message, failure.hint)
    return typer.Exit(failure.exit_code)


def _where(error: Exception) -> str:
    """Return the file and the line that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _echo_json(failure: Failure) -> None:
    """Print a line of JSON; if stdout itself is what failed, print the error on stderr."""
    try:
        typer.echo(failure.as_json())
        sys.stdout.flush()
    except OSError:
        print_error(failure.message, failure.hint)


def print_error(message: str, hint: str) -> None:
    """Print one red line on stderr."""
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble(("error: ", "bold red"), (message, "red"))
    if hint:
        line.append(f" ({hint})", style="dim red")
    Console(stderr=True).print(line, soft_wrap=True)


def print_lines(*lines: str) -> None:
    """Print lines on stdout, without markup."""
    from rich.console import Console
    from rich.text import Text

    for line in lines:
        Console().print(Text(line), soft_wrap=True)
