"""Run the server until a signal ends it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from xsam.errors import InvalidOptionError
from xsam.segmenter import Engine
from xsam.web.gate import is_host_name, is_loopback
from xsam.web.listening import listen, run_until_signal, url_of, uvicorn_server
from xsam.worker import SWITCH_INTERVAL_S
from xsam_server.answering import LocalAnswerer
from xsam_server.app import ModelServer, configure_logging
from xsam_server.cameras import CameraSource, LiveCameras
from xsam_server.dialects.task_images import check_label_studio_url
from xsam_server.settings import ServerSettings


def serve(
    load: Callable[[], Engine], settings: ServerSettings, *, cameras: CameraSource | None = None
) -> None:
    """Load the model in the background, and serve it until a signal ends the program.

    Args:
        load: returns the engine.
        settings: checked by `check_settings` before.
        cameras: those that clients may look through; None = none.

    Raises:
        OSError: the address is not available, or a file of TLS cannot be read.
        XSamError: the model cannot be loaded.
    """
    configure_logging()
    with listen(settings.host, settings.port) as listener:
        _serve_on(listener, load, settings, cameras)


def _serve_on(
    listener: socket.socket,
    load: Callable[[], Engine],
    settings: ServerSettings,
    source: CameraSource | None,
) -> None:
    programs: list[uvicorn.Server] = []

    def end() -> None:
        programs[0].should_exit = True

    answerer = LocalAnswerer(load, settings, on_failed=end)
    cameras = None if source is None else LiveCameras(source=source, keep=answerer.keep)
    server = ModelServer(answerer, settings, cameras=cameras)
    program = uvicorn_server(
        server.app,
        request_within_s=settings.request_within_s,
        max_waiting=settings.max_waiting,
        tls=settings.tls,
        on_ending=answerer.model.stop_accepting,
        timeout_keep_alive=settings.request_within_s,
        server_header=False,
    )
    programs.append(program)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    url = url_of(listener, settings.host, scheme="http" if settings.tls is None else "https")
    run_until_signal(program, listener, announcement=f"xsam: serving on {url} (page), {url}/docs (API)")
    error = answerer.model.error
    if error is not None:
        raise error
    if answerer.model.worker.busy:  # its thread cannot be stopped, and Python would wait for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def check_settings(settings: ServerSettings) -> ServerSettings:
    """Return the settings, if nothing in them opens the server to the network without a token.

    Raises:
        InvalidOptionError: the option that is wrong, and what to do.
    """
    host = settings.host
    for name in settings.allowed_hosts:
        if not is_host_name(name):
            raise InvalidOptionError(f"--allowed-host {name}: give a name or address, and a port if needed")
    if not is_host_name(f"[{host}]" if ":" in host else host):
        raise InvalidOptionError(f"--host {host}: no address of this machine")
    if not is_loopback(host) and not settings.clients:
        raise InvalidOptionError(
            f"--host {host}: other machines could use the model and its memory",
            hint="give --token-file, with a line NAME TOKEN for each client",
        )
    if host in ("0.0.0.0", "::") and not settings.allowed_hosts:
        raise InvalidOptionError(
            f"--host {host}: the names by which clients call this machine are not known",
            hint="add --allowed-host NAME",
        )
    if settings.label_studio_url:
        check_label_studio_url(settings.label_studio_url)
    elif settings.label_studio_token:
        raise InvalidOptionError("--label-studio-token-file is for --label-studio-url, which is not given")
    for path in settings.tls or ():
        _check_file(path)
    return settings


def _check_file(path: Path) -> None:
    """Raise `OSError` if a file cannot be read."""
    with path.open("rb"):
        pass
