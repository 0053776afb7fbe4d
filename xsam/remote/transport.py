"""HTTP/1.1 to one server: `h11` over asyncio, behind httpx's interface of a transport.

httpx's own transport has a pool of connections to any servers, over any event loop: a millisecond of the
processor for each request.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable

import h11
import httpx

_NEXT_ADDRESS_AFTER_S = 0.25  # of a name with several addresses, as RFC 8305 has it
_UNREAD_BYTES = 1 << 20  # of an answer; the server has to wait until they are read
_JOINED_BYTES = 1 << 16  # a body up to this is sent together with its headers


class OneServerTransport(httpx.AsyncBaseTransport):
    """Connections to one server, kept for the next request. Used in one event loop."""

    def __init__(self, *, tls: ssl.SSLContext | None, max_connections: int, keep_alive_s: float) -> None:
        """Prepare; nothing is connected.

        Args:
            tls: for https; None = http.
            max_connections: further requests wait.
            keep_alive_s: how long an idle connection is kept.
        """
        self._tls = tls
        self._keep_alive_s = keep_alive_s
        self._room = asyncio.Semaphore(max_connections)
        self._idle: list[tuple[float, _Connection]] = []  # since when; the oldest first

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request whose body is in memory, and return the answer as soon as its headers are there.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: nothing was sent.
            httpx.TransportError: the connection broke.
        """
        await self._room.acquire()
        connection: _Connection | None = None
        try:
            connection = self._kept() or await self._connect(request)
            head = await connection.ask(request)
        except BaseException:
            self._room.release()
            if connection is not None:
                connection.abort()
            raise
        body = _Body(connection, self._ended)
        return httpx.Response(head.status_code, headers=list(head.headers), stream=body, request=request)

    async def aclose(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop()[1].abort()

    def _kept(self) -> _Connection | None:
        """Return the connection that was used last; those that are too old or broken are closed."""
        oldest_s = time.monotonic() - self._keep_alive_s
        while self._idle and self._idle[0][0] < oldest_s:
            self._idle.pop(0)[1].abort()
        while self._idle:
            connection = self._idle.pop()[1]
            if connection.is_idle:
                return connection
            connection.abort()
        return None

    async def _connect(self, request: httpx.Request) -> _Connection:
        url = request.url
        connecting = asyncio.get_running_loop().create_connection(
            _Connection,
            url.host,
            url.port or (80 if self._tls is None else 443),
            ssl=self._tls,
            happy_eyeballs_delay=_NEXT_ADDRESS_AFTER_S,
        )
        within_s = request.extensions["timeout"]["connect"]
        try:
            return (await asyncio.wait_for(connecting, within_s))[1]
        except asyncio.TimeoutError:
            raise httpx.ConnectTimeout(f"no connection within {within_s:.2g} s") from None
        except (OSError, UnicodeError) as error:  # also of TLS; a name that is no name of a host
            raise httpx.ConnectError(str(error)) from error

    def _ended(self, connection: _Connection) -> None:
        """Keep a connection whose answer was read to its end, and close any other."""
        self._room.release()
        if connection.start_next():
            self._idle.append((time.monotonic(), connection))
        else:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection; what arrives waits in `h11`, also after the connection is lost."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._arrived: asyncio.Future[None] | None = None  # somebody waits for data
        self._writable: asyncio.Future[None] | None = None  # set while the buffer to send is full
        self._lost = False
        self._unread = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        self._unread += len(data)
        if self._unread > _UNREAD_BYTES and self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    @property
    def is_idle(self) -> bool:
        """True if it can take a request; an answer that nobody asked for is a farewell."""
        return not self._lost and self._unread == 0

    async def ask(self, request: httpx.Request) -> h11.Response:
        """Send a request, and return the head of the answer."""
        assert self._transport is not None
        http, content = self._http, request.content
        headers = request.headers.raw
        parts = [http.send(h11.Request(method=request.method, target=request.url.raw_path, headers=headers))]
        if content:
            parts.append(http.send(h11.Data(data=content)))
        parts.append(http.send(h11.EndOfMessage()))
        for part in [b"".join(filter(None, parts))] if len(content) <= _JOINED_BYTES else parts:
            if part:
                self._transport.write(part)
        if self._writable is not None:
            await self._writable  # it ends as well when the connection is lost: perhaps after an answer
        while True:
            event = await self.next_event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise httpx.RemoteProtocolError("the server closed the connection without an answer")

    async def next_event(self) -> h11.Event:
        """Return the next part of an answer."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise httpx.RemoteProtocolError(str(error)) from error
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:  # it wants another protocol
                raise httpx.RemoteProtocolError("the server does not speak HTTP/1.1 any more")
            self._read_on()
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived

    def start_next(self) -> bool:
        """Get ready for another request; return whether that is possible."""
        states = {self._http.our_state, self._http.their_state}
        if self._lost or states != {h11.DONE} or self._http.trailing_data[0]:
            return False
        self._http.start_next_cycle()
        self._read_on()
        return True

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _read_on(self) -> None:
        """Read again, if it was too much before."""
        self._unread = 0
        if self._transport is not None and not self._lost:
            self._transport.resume_reading()

    def _end(self) -> None:
        self._lost = True
        self._http.receive_data(b"")
        self.resume_writing()
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


class _Body(httpx.AsyncByteStream):
    """The body of an answer as it arrives."""

    def __init__(self, connection: _Connection, ended: Callable[[_Connection], None]) -> None:
        self._connection = connection
        self._ended: Callable[[_Connection], None] | None = ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not isinstance(event := await self._connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                raise httpx.RemoteProtocolError("the connection ended before the answer did")

    async def aclose(self) -> None:
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended(self._connection)
