"""Streamable HTTP: who may connect, and how long an idle connection or session lives."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import signal
import socket
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import uvicorn
from mcp.server import Server
from mcp.server.transport_security import TransportSecuritySettings
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
MAX_CONNECTIONS = 512
MAX_SESSIONS = 1000
_PATH = "/mcp"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?", re.ASCII)
_ORIGIN = re.compile(r"https?://(.+)", re.ASCII)

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where to listen, whom to serve, and for how long."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 = a free one
    allowed_hosts: tuple[str, ...] = ()  # names by which clients may call this machine, besides `host`
    token: str = ""  # "" = none is needed
    session_idle_s: float = 300.0  # a session without a request or an open stream ends
    request_within_s: float = 10.0  # a connection that has not sent a whole request is closed
    max_waiting: int = 128  # connections that have not sent a whole request; the oldest is closed

    @property
    def host_names(self) -> frozenset[str]:
        """The names, with or without a port, that a request may have in `Host` and `Origin`."""
        names = {name.lower() for name in self.allowed_hosts}
        if is_loopback(self.host):
            names.update(LOOPBACK_NAMES)
        names.add(f"[{self.host}]" if ":" in self.host else self.host.lower())
        return frozenset(names)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_host_name(text: str) -> bool:
    """Return whether a text can be in the header `Host`: a name or address, with or without a port."""
    match = _HOST.fullmatch(text.lower())
    return match is not None and (match[2] is None or int(match[2]) <= 65535)


class HttpGate:
    """ASGI application in front of another one: it compares `Host`, `Origin` and the token exactly."""

    def __init__(self, app: App, settings: HttpSettings) -> None:
        self._app = app
        self._names = settings.host_names
        self._token = settings.token.encode()

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http" or (refusal := self._refusal(scope["headers"])) is None:
            await self._app(scope, receive, send)
            return
        status, text = refusal
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})

    def _refusal(self, headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        values: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            values.setdefault(name.lower(), []).append(value)
        hosts, origins = values.get(b"host", []), values.get(b"origin", [])
        if len(hosts) != 1 or not self._is_allowed(hosts[0].decode("latin-1")):
            return 421, "unknown Host: start the server with --allowed-host NAME"
        for origin in origins:
            match = _ORIGIN.fullmatch(origin.decode("latin-1").lower())
            if match is None or not self._is_allowed(match[1]):
                return 403, "unknown Origin: start the server with --allowed-host NAME"
        if self._token:
            given = values.get(b"authorization", [])
            scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
            if not hmac.compare_digest(token.strip(), self._token) or scheme.lower() != b"bearer":
                return 401, "the header 'Authorization: Bearer TOKEN' is missing or wrong"
        return None

    def _is_allowed(self, host: str) -> bool:
        host = host.lower()
        return is_host_name(host) and (host in self._names or host.rpartition(":")[0] in self._names)


def http_app(server: Server[Any], settings: HttpSettings) -> App:
    """Build the ASGI application of a server."""
    app = server.streamable_http_app(
        streamable_http_path=_PATH,
        host=settings.host,
        session_idle_timeout=settings.session_idle_s,
        max_sessions=MAX_SESSIONS,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # the gate does
    )
    return HttpGate(app, settings)


def protocol_class(settings: HttpSettings) -> type[H11Protocol]:
    """Return uvicorn's protocol with a bound on connections that do not send a whole request.

    Without it, 1,024 connections that send nothing take all file descriptors of a process, forever.
    """
    waiting: OrderedDict[BoundedProtocol, asyncio.TimerHandle] = OrderedDict()  # oldest first

    class BoundedProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            connection = transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
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
                waiting[self] = self.loop.call_later(settings.request_within_s, self._give_up)
                if len(waiting) > settings.max_waiting:
                    next(iter(waiting))._give_up()

        def _unwatch(self) -> None:
            if timer := waiting.pop(self, None):
                timer.cancel()

        def _give_up(self) -> None:
            self._unwatch()
            self.transport.abort()

    return BoundedProtocol


def serve_http(server: Server[Any], settings: HttpSettings) -> None:
    """Serve streamable HTTP at /mcp until a signal ends the program; say the address on the standard error.

    Raises:
        SystemExit: the address is not available.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise SystemExit(
            f"error: cannot listen on {settings.host}:{settings.port}: {error.strerror or error} (choose"
            " another port with --port, or 0 for a free one)"
        ) from error
    with listener:
        config = uvicorn.Config(
            http_app(server, settings),
            http=protocol_class(settings),
            ws="none",
            log_level="warning",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        program = uvicorn.Server(config)
        # From now on, so that no signal is missed. At its end uvicorn raises again what has ended it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, program.handle_exit)
        host = f"[{settings.host}]" if family is socket.AF_INET6 else settings.host
        port = listener.getsockname()[1]
        print(f"xsam: MCP on http://{host}:{port}{_PATH}", file=sys.stderr, flush=True)
        program.run(sockets=[listener])
