"""The connection to a server: kept alive, opened again when it broke, and what went over it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx2
from pydantic import ValidationError

from xsam.errors import LinkDownError, ModelError, ReplicaLostError, UnauthorizedError, XSamError
from xsam.types.deadline import Deadline
from xsam.version import __version__
from xsam.wire.conversion import error_from_body
from xsam.wire.models import ErrorBody

T = TypeVar("T")

MAX_ANSWER_BYTES = 256 << 20
_MOST_RESENDS = 2
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_KEEP_ALIVE_S = 20.0  # less than the server's 30: who closes first should be the client
_SURELY_DOWN_S = 1.0  # in half of this, a server that is there answers a request for its health
_PROBE_S = 1.0  # then another connection is tried
_GATEWAY_STATUS = (502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """What is known of a link from the last requests."""

    is_up: bool = False  # the last attempt got an answer
    last_error: str = ""
    round_trip_s: float = 0.0  # of the last request, without the time that the server took
    bytes_sent: int = 0
    bytes_received: int = 0
    connections_lost: int = 0


class ServerLink:
    """An HTTP client in one event loop. Its methods run there; `status` may be read anywhere."""

    def __init__(self, url: str, *, token: str, ca_file: str | None, reconnect_within_s: float) -> None:
        """Prepare the link; nothing is sent.

        Args:
            url: of the server.
            token: "" = none.
            ca_file: certificates to trust instead of the system's.
            reconnect_within_s: how long a request may try to get a connection, within its deadline.
        """
        self.url = url
        self.status = LinkStatus()
        self._reconnect_within_s = reconnect_within_s
        headers = {"user-agent": f"xsam/{__version__}"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._headers = headers
        verify = _trusting(ca_file) if url.startswith("https:") else False  # certificates take 20 ms to read
        self._http = _connections(64, verify)
        self._health_http = _connections(1, verify)  # all others may be waiting for the model
        self._probe: asyncio.Future[bool] | None = None

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()
        await self._health_http.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        handle: Callable[[httpx2.Response], Awaitable[T]],
        options: Callable[[], Mapping[str, Any]] = dict,
    ) -> T:
        """Send a request that may be sent again, and return what `handle` makes of the answer.

        A connection that cannot be opened is tried again for `reconnect_within_s`. One that broke is opened
        again and the request sent again, at once the first time, because a server may close an idle
        connection at any moment; not more than twice, because the request may be what ends the server. An
        answer that says that the replica has ended counts as a connection that broke.

        Args:
            method: of HTTP.
            path: of the server.
            deadline: when the caller gives up; the caller cancels this coroutine then.
            handle: reads the answer.
            options: returns what else `httpx2.Request` takes, for each attempt.

        Raises:
            LinkDownError: there is no connection, or it broke too often.
            DeadlineExceededError: the time was too short to tell whether there could be one.
        """
        reconnect = Deadline(min(self._reconnect_within_s, deadline.remaining_s))
        pause_s, times_broken = 0.0, 0
        while True:
            request = self._request(method, path, connect_within_s=reconnect.remaining_s, **options())
            try:
                response = await self._http.handle_async_request(request)
                try:
                    self._sent(int(request.headers.get("content-length", 0)))
                    return await handle(response)
                finally:
                    await response.aclose()
            except (httpx2.TransportError, OSError, ReplicaLostError) as error:
                self._lost(error)
                if isinstance(error, httpx2.ConnectTimeout) and is_too_short_to_tell(deadline):
                    raise deadline.error("request") from error
                if not isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
                    times_broken += 1
                    reconnect = Deadline(min(self._reconnect_within_s, deadline.remaining_s))
                if times_broken > _MOST_RESENDS or reconnect.remaining_s <= pause_s:
                    what = "the connection to {} broke" if times_broken else "no connection to {}"
                    raise LinkDownError(f"{what.format(self.url)}: {_reason(error)}") from error
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * pause_s))

    def _request(
        self,
        method: str,
        path: str,
        *,
        connect_within_s: float,
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> httpx2.Request:
        request = httpx2.Request(
            method,
            self.url + path,
            headers={**self._headers, **(headers or {})},
            extensions={"timeout": {"connect": max(0.001, connect_within_s)}},
            **body,
        )
        request.read()  # into one piece: each part of a form would be sent apart, and wake the server up
        return request

    async def is_alive(self, deadline: Deadline) -> bool:
        """Tell whether the server answers a request for its health; all that want to know share one."""
        while not deadline.expired:
            if self._probe is None or self._probe.done():
                self._probe = asyncio.ensure_future(self._answers_for_health())
            if await asyncio.shield(self._probe):
                return True
            await asyncio.sleep(_FIRST_PAUSE_S)
        return False

    async def _answers_for_health(self) -> bool:
        request = self._request("GET", "/healthz", connect_within_s=_PROBE_S)
        try:
            response = await asyncio.wait_for(self._health_http.handle_async_request(request), _PROBE_S)
            await response.aclose()
        except (httpx2.TransportError, OSError, asyncio.TimeoutError):
            return False
        return response.status_code == 200

    async def chunks(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        """Yield the body of an answer as it arrives.

        Raises:
            ModelError: it is larger than any answer can be.
        """
        size = 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise ModelError(f"the server sent more than {MAX_ANSWER_BYTES >> 20} MiB")
            self.status = replace(self.status, bytes_received=self.status.bytes_received + len(chunk))
            yield chunk

    async def read(self, response: httpx2.Response) -> bytes:
        """Return the whole body of an answer; see `chunks`."""
        return b"".join([chunk async for chunk in self.chunks(response)])

    async def error_of(self, response: httpx2.Response) -> XSamError:
        """Return the error that an answer other than 200 stands for."""
        content = await self.read(response)
        try:
            return error_from_body(ErrorBody.model_validate_json(content))
        except ValidationError:
            pass
        if response.status_code == 401:
            return UnauthorizedError("the token is missing or wrong")
        what = f"{self.url} answered with HTTP {response.status_code} instead of an answer of xsam serve"
        if response.status_code in _GATEWAY_STATUS:  # of a proxy, or of a server with too many connections
            return LinkDownError(what)
        return ModelError(what, hint="check the address: it must be that of xsam serve")

    def took(self, round_trip_s: float) -> None:
        """Note how long an answer was under way."""
        self.status = replace(self.status, round_trip_s=max(0.0, round_trip_s))

    def gave_up(self, reason: str) -> None:
        """Note that no answer came in time."""
        self.status = replace(self.status, is_up=False, last_error=reason)

    def _sent(self, nbytes: int) -> None:
        self.status = replace(
            self.status, is_up=True, last_error="", bytes_sent=self.status.bytes_sent + nbytes
        )

    def _lost(self, error: Exception) -> None:
        self.status = replace(
            self.status,
            is_up=False,
            last_error=_reason(error),
            connections_lost=self.status.connections_lost + 1,
        )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def is_too_short_to_tell(deadline: Deadline) -> bool:
    """Return whether a server may be there although it has not answered until a deadline."""
    return deadline.allowed_s is not None and deadline.allowed_s < _SURELY_DOWN_S


def _connections(most: int, verify: ssl.SSLContext | bool) -> httpx2.AsyncHTTPTransport:
    """Return connections without httpx2's client.

    It adds cookies, redirects and authentication, which take 0.2 ms and are not wanted here, and proxies of
    the environment, which would break links in the laboratory. Not httpx: its pool loses a connection for
    ever when a request ends in the turn in which it gets one, and is stuck after 64 of them.
    """
    limits = httpx2.Limits(max_connections=most, keepalive_expiry=_KEEP_ALIVE_S)
    return httpx2.AsyncHTTPTransport(verify=verify, limits=limits, trust_env=False)


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that trusts the certificates of a file, or those of the system."""
    return ssl.create_default_context(cafile=ca_file)
