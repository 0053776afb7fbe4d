"""Images of tasks, fetched from the one Label Studio that the server was told of."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote, urlsplit

from xsam.errors import InvalidImageError, InvalidOptionError, RequestTooLargeError
from xsam.types.deadline import Deadline
from xsam_server.dialects.base import TakeMemory

_CHUNK_BYTES = 1 << 16
_CONNECT_WITHIN_S = 5.0
_ANSWER_WITHIN_S = 10.0  # of one image, within the deadline of the request
_KEPT_S = 120.0  # an access token; Label Studio's last 5 minutes
_MAX_TOKEN_BYTES = 65_536
_HINT = "only images that tasks contain, and those below /data/ of --label-studio-url, are read"
_SAFE = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """An address of a Label Studio."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> _Base:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        return cls(scheme=parts.scheme, host=parts.hostname or "", port=port, path=parts.path.rstrip("/"))

    @property
    def root(self) -> _Base:
        return replace(self, path="")


def check_label_studio_url(url: str) -> str:
    """Return the address of a Label Studio, if it is one.

    Raises:
        InvalidOptionError: it is something else.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise InvalidOptionError(
            f"--label-studio-url {url!r:.80}: no address of a Label Studio", hint="give http://HOST:PORT"
        )
    return url


@dataclass(slots=True, kw_only=True)
class TaskImages:
    """Fetches images below `/data/` of one address, and nothing else: no redirect is followed.

    Used in threads; requests for one image do not wait for those for others.
    """

    url: str
    token: str  # access token of a user: a personal one (three parts, joined by dots) or a legacy one
    max_bytes: int
    _base: _Base = field(init=False)
    _access: tuple[float, str] = field(init=False, default=(0.0, ""))

    def __post_init__(self) -> None:
        self._base = _Base.of(self.url)

    def fetch(self, reference: str, take_memory: TakeMemory, deadline: Deadline) -> bytes:
        """Return an image.

        Args:
            reference: what a task names: a path such as /data/upload/1/a.jpg, or a URL of this Label Studio.
            take_memory: called with bytes before they are stored; may raise.
            deadline: when to give up.

        Raises:
            InvalidImageError: it is elsewhere, or cannot be had.
            RequestTooLargeError: it has more than `max_bytes`.
            DeadlineExceededError: it did not arrive in time.
        """
        target = self._target(reference)
        limit = Deadline(min(_ANSWER_WITHIN_S, deadline.remaining_s))
        headers = {"Authorization": self._authorization(limit)} if self.token else {}
        try:
            return self._get(target, headers, limit, take_memory)
        except (OSError, http.client.HTTPException) as error:
            deadline.check("fetch")
            kind = type(error).__name__
            raise InvalidImageError(f"{reference!r:.80} cannot be had from {self.url}: {kind}") from None

    def _target(self, reference: str) -> str:
        """Return path and query of a reference, if it is below /data/."""
        try:
            parts = urlsplit(reference)
            same = not parts.netloc or _Base.of(f"{parts.scheme}://{parts.netloc}") == self._base.root
        except (ValueError, KeyError):
            same = False
        if not same or (parts.scheme and not parts.netloc) or not reference.isprintable():
            raise InvalidImageError(f"{reference!r:.80} is not at {self.url}", hint=_HINT)
        path = parts.path
        if path.startswith(f"{self._base.path}/data/"):
            path = path.removeprefix(self._base.path)
        plain = unquote(unquote(f"{path}?{parts.query}"))
        if not path.startswith("/data/") or ".." in plain or "\\" in plain or not plain.isprintable():
            raise InvalidImageError(f"{reference!r:.80} is not below /data/ of {self.url}", hint=_HINT)
        query = f"?{quote(parts.query, safe=_SAFE + '?')}" if parts.query else ""
        return f"{self._base.path}{quote(path, safe=_SAFE)}{query}"

    def _authorization(self, limit: Deadline) -> str:
        """Return the value of the header: a personal token is exchanged for one of a few minutes."""
        if self.token.count(".") != 2:
            return f"Token {self.token}"
        until_s, access = self._access
        if time.monotonic() >= until_s:
            body = json.dumps({"refresh": self.token}).encode()
            connection = self._connect(limit)
            try:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", f"{self._base.path}/api/token/refresh", body, headers)
                response = connection.getresponse()
                answer = response.read(_MAX_TOKEN_BYTES) if response.status == 200 else b"{}"
                access = str(json.loads(answer).get("access", ""))
            except (OSError, http.client.HTTPException, ValueError, AttributeError):
                access = ""
            finally:
                connection.close()
            if not re.fullmatch(r"[!-~]{1,8192}", access):
                raise InvalidImageError(f"{self.url} does not accept the token of --label-studio-token-file")
            self._access = (time.monotonic() + _KEPT_S, access)
        return f"Bearer {access}"

    def _connect(self, limit: Deadline) -> http.client.HTTPConnection:
        timeout_s = max(0.001, min(_CONNECT_WITHIN_S, limit.remaining_s))
        if self._base.scheme == "http":
            return http.client.HTTPConnection(self._base.host, self._base.port, timeout=timeout_s)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(
            self._base.host, self._base.port, timeout=timeout_s, context=context
        )

    def _get(
        self, target: str, headers: Mapping[str, str], limit: Deadline, take_memory: TakeMemory
    ) -> bytes:
        connection = self._connect(limit)
        try:
            connection.request("GET", target, headers=dict(headers))
            response = connection.getresponse()
            if response.status != 200:
                words = "it is redirected elsewhere" if 300 <= response.status < 400 else "it is not given"
                raise InvalidImageError(f"{target!r:.80}: {words} by {self.url} (HTTP {response.status})")
            content = bytearray()
            while chunk := response.read1(_CHUNK_BYTES):  # as it comes: `limit` is checked in between
                limit.check("fetch")
                if len(content) + len(chunk) > self.max_bytes:
                    raise RequestTooLargeError(
                        f"{target!r:.80} has more than {self.max_bytes / 2**20:.3g} MiB"
                    )
                take_memory(len(chunk))
                content += chunk
            return bytes(content)
        finally:
            connection.close()
