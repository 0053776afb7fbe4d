"""Streamable HTTP: who may connect, and how long an idle connection or session lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp.server import Server
from mcp.server.transport_security import TransportSecuritySettings

from xsam.web.gate import App, HttpGate, host_names
from xsam.web.listening import listen, run_until_signal, url_of, uvicorn_server

MAX_SESSIONS = 1000
_PATH = "/mcp"


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


def http_app(server: Server[Any], settings: HttpSettings) -> App:
    """Build the ASGI application of a server."""
    app = server.streamable_http_app(
        streamable_http_path=_PATH,
        host=settings.host,
        session_idle_timeout=settings.session_idle_s,
        max_sessions=MAX_SESSIONS,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # the gate does
    )
    return HttpGate(
        app,
        names=host_names(settings.host, settings.allowed_hosts),
        tokens={"agent": settings.token} if settings.token else None,
    )


def serve_http(server: Server[Any], settings: HttpSettings) -> None:
    """Serve streamable HTTP at /mcp until a signal ends the program; say the address on the standard error.

    Raises:
        SystemExit: the address is not available.
    """
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        raise SystemExit(
            f"error: cannot listen on {settings.host}:{settings.port}: {error.strerror or error} (choose"
            " another port with --port, or 0 for a free one)"
        ) from error
    with listener:
        program = uvicorn_server(
            http_app(server, settings),
            request_within_s=settings.request_within_s,
            max_waiting=settings.max_waiting,
        )
        url = url_of(listener, settings.host) + _PATH
        run_until_signal(program, listener, announcement=f"xsam: MCP on {url}")
