"""`xsam version`: print versions."""

from __future__ import annotations

import typer

from xsam.version import __version__


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
