"""Clients: their names and tokens from a file, and how much each may ask."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from xsam.errors import InvalidOptionError, RateLimitError
from xsam.web.gate import NO_TOKEN_CLIENT, is_token
from xsam_server.settings import Client

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", re.ASCII)
_OPTIONS = ("per_s", "concurrent")
_READABLE_BY_OTHERS = 0o004


def read_token_file(path: Path) -> tuple[Client, ...]:
    """Read clients, one a line: `NAME TOKEN [per_s=NUMBER] [concurrent=NUMBER]`; # begins a comment.

    Raises:
        InvalidOptionError: a line is wrong (errors never show a token), or everybody may read the file.
        OSError: the file cannot be read.
    """
    _check_private(path)
    clients: list[Client] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words:
            try:
                clients.append(_client(words))
            except ValueError as error:
                raise InvalidOptionError(
                    f"{path}, line {number}: {error}",
                    hint="write NAME TOKEN [per_s=NUMBER] [concurrent=NUMBER]",
                ) from None
    for what, values in (("name", [c.name for c in clients]), ("token", [c.token for c in clients])):
        if len(set(values)) < len(values):
            raise InvalidOptionError(f"{path}: two clients have the same {what}")
    if not clients:
        raise InvalidOptionError(f"{path} names no client")
    return tuple(clients)


def read_secret(path: Path) -> str:
    """Return the one line of a file.

    Raises:
        InvalidOptionError: it has no line or several (errors never show it), or everybody may read it.
        OSError: the file cannot be read.
    """
    _check_private(path)
    secret = path.read_text(encoding="utf-8").strip()
    if not is_token(secret):
        raise InvalidOptionError(f"{path} does not hold one token alone")
    return secret


def _check_private(path: Path) -> None:
    if path.stat().st_mode & _READABLE_BY_OTHERS:
        raise InvalidOptionError(
            f"{path} holds secrets, and every user of this machine can read it", hint=f"chmod 600 {path}"
        )


def _client(words: Sequence[str]) -> Client:
    if len(words) < 2:
        raise ValueError("a name or a token is missing")
    name, token, *options = words
    if not _NAME.fullmatch(name):
        raise ValueError("a name has up to 40 letters, digits, dots, dashes and underscores")
    if not is_token(token):
        raise ValueError("a token needs 8 or more characters of ASCII without spaces")
    given: dict[str, float] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in _OPTIONS or key in given:
            raise ValueError(f"unknown or repeated option {key!r:.40}")
        try:
            given[key] = float(value)
        except ValueError:
            given[key] = math.nan
        if not 0 < given[key] < math.inf:
            raise ValueError(f"{key} must be a positive number, got {value!r:.40}")
    concurrent = given.get("concurrent")
    if concurrent is not None and concurrent != int(concurrent):
        raise ValueError(f"concurrent must be a whole number, got {concurrent:g}")
    return Client(
        name=name,
        token=token,
        requests_per_s=given.get("per_s"),
        concurrent=None if concurrent is None else int(concurrent),
    )


@dataclass(slots=True, kw_only=True)
class _Use:
    """What a client has used up: a bucket that a second fills with `requests_per_s` requests."""

    tokens: float
    filled_s: float
    running: int = 0


@dataclass(slots=True, kw_only=True)
class ClientLimits:
    """Rate and concurrency of each client. Used by the event loop alone."""

    clients: Sequence[Client]
    clock: Callable[[], float] = time.monotonic
    _by_name: dict[str, Client] = field(init=False)
    _used: dict[str, _Use] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name = {client.name: client for client in self.clients}

    @contextmanager
    def admit(self, name: str) -> Iterator[None]:
        """Count a request of a client while it lasts.

        Raises:
            RateLimitError: the client is over one of its limits.
        """
        client = self._by_name.get(name, Client(name=NO_TOKEN_CLIENT, token=""))
        burst = max(1.0, client.requests_per_s or 1.0)
        now_s = self.clock()
        use = self._used.setdefault(client.name, _Use(tokens=burst, filled_s=now_s))
        if client.concurrent is not None and use.running >= client.concurrent:
            raise RateLimitError(
                f"{client.name} has {use.running} requests running already, the most that its token allows",
                retry_after_s=1.0,
            )
        if client.requests_per_s is not None:
            use.tokens = min(burst, use.tokens + (now_s - use.filled_s) * client.requests_per_s)
            use.filled_s = now_s
            if use.tokens < 1.0:
                raise RateLimitError(
                    f"{client.name} sends more than {client.requests_per_s:g} requests a second, which its"
                    " token allows",
                    retry_after_s=(1.0 - use.tokens) / client.requests_per_s,
                )
            use.tokens -= 1.0
        use.running += 1
        try:
            yield
        finally:
            use.running -= 1
