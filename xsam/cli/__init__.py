"""The `xsam` command, with one module for each group of subcommands.

Exit codes: 0 = found or done, 1 = failed, 2 = refused or used wrongly, 3 = not found. An `XSamError` becomes
one red line with a hint, never a traceback. Commands import PyTorch and OpenCV only when they need them, so
`xsam --help` is fast.
"""

from __future__ import annotations

import typer

from xsam.cli import evaluation, label, scenes, segment, serve, versions, weights
from xsam.console import EXIT_CODES, ErrorGroup
from xsam.train.command import train

__all__ = ["EXIT_CODES", "app", "main"]

app = typer.Typer(
    cls=ErrorGroup,
    help="X-SAM: segment what you can say or point at.",
    epilog="Exit codes: 0 found or done, 1 failed, 2 refused or used wrongly, 3 not found.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,  # half of the time of `xsam --help`
)


# In the order of `xsam --help`.
app.command(epilog=segment.EPILOG)(segment.segment)
app.command(epilog=label.EPILOG)(label.label)
app.command()(serve.serve)
app.command("eval")(evaluation.evaluate)
app.command()(train)
app.command()(weights.convert)
app.command()(weights.download)
app.command()(scenes.scenes)
app.command()(versions.version)


def main() -> None:
    """Run the command line."""
    app(prog_name="xsam")
