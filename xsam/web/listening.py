"""A uvicorn server on one address: bounds on idle connections, signals, and the end. Needs uvicorn."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MAX_CONNECTIONS = 512


def bounded_protocol(*, request_within_s: float, max_waiting: int) -> type[H11Protocol]:
    """Return uvicorn's protocol with a bound on connections that do not send a whole request.

    Without it, 1,024 connections that send nothing take all file descriptors of a process, forever.

    Args:
        request_within_s: a connection that has not sent a whole request by then is closed.
        max_waiting: connections that have not sent a whole request; the oldest is closed.
    """
    waiting: OrderedDict[BoundedProtocol, asyncio.TimerHandle] = OrderedDict()  # oldest first

    class BoundedProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            connection = transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                # asyncio does so only for sockets that name their protocol, which `create_server` leaves out:
                # without it, the second part of every answer waits 40 ms for the receipt of the first.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start or stop the timer of this connection."""
            cycle: RequestResponseCycle | None = self.cycle  # None before the first request
            if self.transport.is_closing() or (
                cycle is not None and not cycle.response_complete and not cycle.more_body
            ):
                self._unwatch()
            elif self not in waiting:
                waiting[self] = self.loop.call_later(request_within_s, self._give_up)
                if len(waiting) > max_waiting:
                    next(iter(waiting))._give_up()

        def _unwatch(self) -> None:
            if timer := waiting.pop(self, None):
                timer.cancel()

        def _give_up(self) -> None:
            self._unwatch()
            self.transport.abort()

    return BoundedProtocol


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it begins to end."""

    def __init__(self, config: uvicorn.Config, on_ending: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._on_ending = on_ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_ending is not None:
            self._on_ending()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 = a free one.

    Raises:
        OSError: the address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


def url_of(listener: socket.socket, host: str, *, scheme: str = "http") -> str:
    """Return the address of a listening socket as clients on this machine write it."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def uvicorn_server(
    app: Any,
    *,
    request_within_s: float,
    max_waiting: int,
    graceful_s: int = 1,
    tls: tuple[Path, Path] | None = None,
    on_ending: Callable[[], None] | None = None,
    **options: Any,
) -> uvicorn.Server:
    """Build the server of an ASGI application.

    Args:
        app: the application.
        request_within_s: see `bounded_protocol`.
        max_waiting: see `bounded_protocol`.
        graceful_s: how long running requests may take once the server is to end.
        tls: files of the certificate chain and of its key, in PEM.
        on_ending: called once the server is to end, before it waits for running requests.
        options: of `uvicorn.Config`.
    """
    config = uvicorn.Config(
        app,
        http=bounded_protocol(request_within_s=request_within_s, max_waiting=max_waiting),
        ws="none",
        log_level="warning",
        access_log=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=graceful_s,
        ssl_certfile=None if tls is None else tls[0],
        ssl_keyfile=None if tls is None else str(tls[1]),
        **options,
    )
    return _Server(config, on_ending)


def run_until_signal(server: uvicorn.Server, listener: socket.socket, *, announcement: str) -> None:
    """Serve on a socket until a signal ends the program; uvicorn raises the signal again at its end.

    Args:
        server: see `uvicorn_server`.
        listener: see `listen`.
        announcement: printed on the standard error once signals are heeded.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # from now on, so that none is missed
        signal.signal(number, server.handle_exit)
    print(announcement, file=sys.stderr, flush=True)
    server.run(sockets=[listener])
