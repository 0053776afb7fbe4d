"""Shared by all commands: errors, exit codes and printing."""

from __future__ import annotations

import errno
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from xsam.errors import RequestRefusedError, XSamError
from xsam.types.requests import Status

EXIT_CODES = {Status.FOUND: 0, Status.FAILED: 1, Status.REFUSED: 2, Status.NOT_FOUND: 3}

_EXTRA_MODULES = frozenset({"torch", "transformers", "tokenizers", "safetensors"})


class ErrorGroup(TyperGroup):
    """Command group that ends every error of the project with one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except XSamError as error:
            print_error(error.message, error.hint)
            raise typer.Exit(exit_code(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever reads our output is gone
                raise
            print_error(" ".join(filter(None, (error.filename, error.strerror))) or str(error), "")
            raise typer.Exit(1) from error
        except ModuleNotFoundError as error:
            if error.name not in _EXTRA_MODULES:
                raise
            print_error(f"this needs {error.name}, which is not installed", "pip install 'xsam[model]'")
            raise typer.Exit(1) from error


def exit_code(error: XSamError) -> int:
    """Return the exit code of a command that failed with `error`."""
    return EXIT_CODES[Status.REFUSED if isinstance(error, RequestRefusedError) else Status.FAILED]


def print_error(message: str, hint: str) -> None:
    """Print one red line on stderr."""
    line = Text.assemble(("error: ", "bold red"), (message, "red"))
    if hint:
        line.append(f" ({hint})", style="dim red")
    Console(stderr=True).print(line, soft_wrap=True)


def print_lines(*lines: str) -> None:
    """Print lines on stdout, without markup."""
    for line in lines:
        Console().print(Text(line), soft_wrap=True)
