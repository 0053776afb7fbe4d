"""Command-line options of `xsam train` and `python -m xsam.train.run`, without importing PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xsam.console import ErrorCommand

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=ErrorCommand)
def train(
    recipe: Annotated[
        str, typer.Argument(help='YAML file, or a shipped recipe: "tiny/stage1", "full/stage3", …')
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; resumed if it contains one.")],
    data: Annotated[Path, typer.Option(help="Folder that the paths in the recipe are relative to.")] = Path(
        "data"
    ),
    init: Annotated[Path | None, typer.Option(help="Checkpoint folder to start from.")] = None,
    image_size: Annotated[
        int | None, typer.Option(metavar="PX", help="Input side of the SAM branch, if not that of --init.")
    ] = None,
    mask_places: Annotated[
        bool, typer.Option("--mask-places", help="Tell the mask decoder's queries where their masks are.")
    ] = False,
    heads: Annotated[
        list[Path] | None,
        typer.Option(help="Run of an earlier stage whose auxiliary heads continue training; repeatable."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change the recipe; repeatable.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")] = False,
) -> None:
    """Train one stage, or resume it; several processes: accelerate launch -m xsam.train.run."""
    from xsam.train.run import parse_overrides
    from xsam.train.run import train as run

    run(
        recipe,
        data=data,
        out=out,
        init=init,
        image_size=image_size,
        mask_places=mask_places,
        heads=heads or (),
        overrides=parse_overrides(overrides or []),
        cpu=cpu,
    )
