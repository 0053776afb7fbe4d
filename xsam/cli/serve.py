"""`xsam serve`: one model for many clients over HTTP. The server itself is the package `xsam_server`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsam.cli import loading

if TYPE_CHECKING:
    from xsam.engine import XSam

_PANEL = "Limits"


def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=loading.MODEL_HELP)] = "tiny",
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address; any but loopback needs --token-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 = a free one.")] = 8080,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Clients, one a line: NAME TOKEN [per_s=NUMBER] [concurrent=NUMBER]."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="By which clients may call this machine; repeatable."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM) for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key (PEM) of --tls-cert.")] = None,
    label_studio_url: Annotated[
        str, typer.Option(metavar="URL", help="Label Studio whose images of tasks may be fetched.")
    ] = "",
    label_studio_token_file: Annotated[
        Path | None, typer.Option(help="Access token of a user there, alone in a file.")
    ] = None,
    queue_size: Annotated[
        int, typer.Option(min=1, max=10_000, help="Requests that may wait.", rich_help_panel=_PANEL)
    ] = 16,
    max_body_mib: Annotated[
        float, typer.Option(min=0.01, max=1024, help="Size of a request.", rich_help_panel=_PANEL)
    ] = 32.0,
    max_megapixels: Annotated[
        float, typer.Option(min=0.01, max=268, help="Size of an image.", rich_help_panel=_PANEL)
    ] = 25.0,
    max_deadline_s: Annotated[
        float,
        typer.Option(
            min=0.1, max=86400, help="Longest time for a request, in seconds.", rich_help_panel=_PANEL
        ),
    ] = 60.0,
    frames_mib: Annotated[
        float,
        typer.Option(
            min=0, max=1e6, help="Images kept for further requests, per client.", rich_help_panel=_PANEL
        ),
    ] = 256.0,
    frames_age_s: Annotated[
        float,
        typer.Option(
            min=1, max=1e6, help="Images that nobody asks about are dropped.", rich_help_panel=_PANEL
        ),
    ] = 300.0,
    memory_mib: Annotated[
        float,
        typer.Option(min=1, max=1e6, help="All requests that are being answered.", rich_help_panel=_PANEL),
    ] = 512.0,
    device: loading.Device = "auto",
    llm_device: loading.LlmDevice = None,
    llm_weights: loading.LlmWeightsFormat = loading.LlmWeights.AS_LOADED,
    compiled: loading.Compiled = False,
    threads: loading.Threads = None,
    frame_cache_mib: loading.FrameCacheMib = None,
    ray: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG",
            exists=True,
            dir_okay=False,
            help="Serve replicas on Ray Serve, by its configuration file: config/fleet_one_machine.yaml.",
            rich_help_panel="Fleet",
        ),
    ] = None,
) -> None:
    """Serve a model to robots, agents and people over HTTP."""
    if ray is not None:
        _serve_fleet(ray, context)
        return
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key belong together")

    def load() -> XSam:
        return loading.load_model(
            model,
            device=device,
            llm_device=llm_device,
            llm_weights=llm_weights,
            compiled=compiled,
            threads=threads,
            frame_cache_mib=frame_cache_mib,
        )

    # By name: `xsam` works without the server and must not depend on it.
    clients: Any = import_module("xsam_server.clients")
    serving: Any = import_module("xsam_server.serving")
    settings = import_module("xsam_server.settings").ServerSettings(
        host=host,
        port=port,
        allowed_hosts=tuple(allowed_host or ()),
        clients=() if token_file is None else clients.read_token_file(token_file),
        tls=None if tls_cert is None else (tls_cert, tls_key),
        label_studio_url=label_studio_url,
        label_studio_token=""
        if label_studio_token_file is None
        else clients.read_secret(label_studio_token_file),
        queue_size=queue_size,
        max_body_bytes=int(max_body_mib * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        max_deadline_s=max_deadline_s,
        memory_bytes=int(memory_mib * 2**20),
        frames_bytes=int(frames_mib * 2**20),
        frames_age_s=frames_age_s,
    )
    serving.serve(load, serving.check_settings(settings))


def _serve_fleet(config: Path, context: typer.Context) -> None:
    given = [
        name
        for name in context.params
        if name != "ray" and str(context.get_parameter_source(name)).endswith("COMMANDLINE")
    ]
    if given:
        raise typer.BadParameter(
            f"--ray takes everything from its file: leave out {', '.join(sorted(given))}"
        )
    starting: Any = import_module("xsam_server.fleet.starting")
    starting.serve_fleet(config)
