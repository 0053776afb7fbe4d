"""Who may connect: an ASGI application in front of another one compares `Host`, `Origin` and the token."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
CLIENT_KEY = "xsam.client"
"""Key of the ASGI scope under which the gate leaves the name of the client: the one of its token."""
NO_TOKEN_CLIENT = "local"
"""Name of everyone where no token is needed."""

LINGER_BYTES = 1 << 20
LINGER_S = 1.0
"""How much of a refused body is read, and for how long: a client that is cut off may not read why."""
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?", re.ASCII)
_ORIGIN = re.compile(r"https?://(.+)", re.ASCII)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request goes no further."""

    status: int  # of HTTP
    code: str
    message: str
    hint: str = ""


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


def is_token(text: str) -> bool:
    """Return whether a text can be a bearer token: 8 or more characters of ASCII without spaces."""
    return text.isascii() and text.isprintable() and " " not in text and len(text) >= 8


def host_names(host: str, allowed_hosts: Iterable[str] = ()) -> frozenset[str]:
    """Return the names, with or without a port, that a request may have in `Host` and `Origin`.

    Args:
        host: the address that the server listens on.
        allowed_hosts: further names by which clients may call this machine.
    """
    names = {name.lower() for name in allowed_hosts}
    if is_loopback(host):
        names.update(LOOPBACK_NAMES)
    names.add(f"[{host}]" if ":" in host else host.lower())
    return frozenset(names)


class HttpGate:
    """ASGI application in front of another one: it compares `Host`, `Origin` and the token exactly."""

    def __init__(
        self,
        app: App,
        *,
        names: Collection[str],
        tokens: Mapping[str, str] | None = None,
        open_paths: Collection[str] = (),
        this_machine_only: bool = False,
        on_refused: Callable[[Scope, Refusal], None] | None = None,
    ) -> None:
        """Put the gate in front of an application.

        Args:
            app: gets the requests that pass, with the client's name in the scope under `CLIENT_KEY`.
            names: see `host_names`.
            tokens: name of each client → its token; none = no token is needed.
            open_paths: paths that need no token.
            this_machine_only: refuse clients with another address than loopback, wherever the server listens.
            on_refused: called for each request that does not pass.
        """
        self._app = app
        self._names = names
        self._tokens = {name: _digest(token.encode()) for name, token in (tokens or {}).items()}
        self._open_paths = open_paths
        self._this_machine_only = this_machine_only
        self._on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        checked = self._client(scope["path"], scope["headers"])
        if self._this_machine_only and not _comes_from_loopback(scope):
            checked = Refusal(
                status=403,
                code="UNAUTHORIZED",
                message="only programs on the same machine are served",
                hint="start the server with a file of tokens",
            )
        if isinstance(checked, str):
            scope[CLIENT_KEY] = checked
            await self._app(scope, receive, send)
            return
        if self._on_refused is not None:
            self._on_refused(scope, checked)
        await refuse(checked, receive, send)

    def _client(self, path: str, headers: list[tuple[bytes, bytes]]) -> str | Refusal:
        """Return the name of the client, or why it is not served."""
        values: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            values.setdefault(name.lower(), []).append(value)
        hosts, origins = values.get(b"host", []), values.get(b"origin", [])
        hint = "start the server with --allowed-host NAME"
        if len(hosts) != 1 or not self._is_allowed(hosts[0].decode("latin-1")):
            return Refusal(status=421, code="UNKNOWN_HOST", message="unknown Host", hint=hint)
        for origin in origins:
            match = _ORIGIN.fullmatch(origin.decode("latin-1").lower())
            if match is None or not self._is_allowed(match[1]):
                return Refusal(status=403, code="UNKNOWN_ORIGIN", message="unknown Origin", hint=hint)
        if not self._tokens or path in self._open_paths:
            return NO_TOKEN_CLIENT
        given = values.get(b"authorization", [])
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        digest = _digest(token.strip())
        # All are compared, so that the time does not tell which token a guess resembles.
        matches = [name for name, known in self._tokens.items() if hmac.compare_digest(digest, known)]
        if not matches or scheme.lower() != b"bearer":
            return Refusal(
                status=401,
                code="UNAUTHORIZED",
                message="the token is missing or wrong",
                hint="send the header 'Authorization: Bearer TOKEN'",
            )
        return matches[0]

    def _is_allowed(self, host: str) -> bool:
        host = host.lower()
        return is_host_name(host) and (host in self._names or host.rpartition(":")[0] in self._names)


def _comes_from_loopback(scope: Scope) -> bool:
    host = str((scope.get("client") or ("",))[0])
    return is_loopback(host.removeprefix("::ffff:"))


async def refuse(refusal: Refusal, receive: Receive, send: Send) -> None:
    """Answer with an error in JSON, and close the connection."""
    await _drain(receive)
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    fields = {
        "status": "refused",
        "code": refusal.code,
        "message": refusal.message,
        "hint": refusal.hint,
    }
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(fields).encode()})


async def _drain(receive: Receive) -> None:
    """Read some of a refused body and forget it."""

    async def read() -> None:
        size = 0
        while size < LINGER_BYTES:
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body", False):
                return

    try:
        await asyncio.wait_for(read(), LINGER_S)
    except asyncio.TimeoutError:
        return


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
