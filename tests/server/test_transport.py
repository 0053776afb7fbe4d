"""The client's transport against a server that says exactly what a test wants, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from xsam.remote.transport import OneServerTransport

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
PATIENCE_S = 10.0


@asynccontextmanager
async def _connected(
    serve: Serve, *, max_connections: int = 4, keep_alive_s: float = 60.0
) -> AsyncIterator[tuple[Callable[..., Awaitable[httpx.Response]], list[int]]]:
    """Yield a function that asks, and a list with an entry for each connection."""
    accepted: list[int] = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(1)
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = OneServerTransport(tls=None, max_connections=max_connections, keep_alive_s=keep_alive_s)

    async def ask(content: bytes = b"") -> httpx.Response:
        url = f"http://127.0.0.1:{port}/path?a=b"
        timeout = {"timeout": {"connect": PATIENCE_S}}
        request = httpx.Request("POST", url, content=content, extensions=timeout)
        return await asyncio.wait_for(transport.handle_async_request(request), PATIENCE_S)

    try:
        yield ask, accepted
    finally:
        await transport.aclose()
        server.close()


async def _request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def _text(response: httpx.Response) -> bytes:
    content = b"".join([chunk async for chunk in response.aiter_bytes()])
    await response.aclose()
    return content


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [0, 100, 3_000_000])
async def test_a_connection_is_used_again(size: int) -> None:
    seen = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await _request(reader))
            writer.write(OK)

    async with _connected(serve) as (ask, accepted):
        for number in range(3):
            response = await ask(bytes([number]) * size)
            assert (response.status_code, await _text(response)) == (200, b"hi")
    assert len(accepted) == 1
    assert [body for _, body in seen] == [bytes([number]) * size for number in range(3)]
    assert all(head.startswith(b"POST /path?a=b HTTP/1.1\r\n") for head, _ in seen)


@pytest.mark.asyncio
async def test_an_answer_in_pieces_after_a_provisional_one() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for piece in (answer[:30], answer[30:], b"3\r\nab", b"c\r\n", b"0\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        await reader.read()

    async with _connected(serve) as (ask, _):
        assert await _text(await ask()) == b"abc"


@pytest.mark.asyncio
async def test_a_large_answer_waits_until_it_is_read_and_arrives_whole() -> None:
    size = 12_000_000
    written = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await _request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(12):
                writer.write(b"x" * (size // 12))
                await writer.drain()
                written.append(1)

    async with _connected(serve) as (ask, accepted):
        response = await ask()
        await asyncio.sleep(0.2)
        assert len(written) < 12, "what nobody reads is not taken into memory"
        assert await _text(response) == b"x" * size
        assert len(await _text(await ask())) == size
    assert len(accepted) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "farewell",
    [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"],
    ids=["closed", "says something"],
)
async def test_a_connection_that_ended_while_it_was_idle_is_not_used(farewell: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(farewell)

    async with _connected(serve) as (ask, accepted):
        for _ in range(2):
            response = await ask()
            assert (response.status_code, await _text(response)) == (200, b"hi")
            await asyncio.sleep(0.2)
    assert len(accepted) == 2


@pytest.mark.asyncio
async def test_an_answer_that_is_not_read_to_its_end_and_old_connections_are_closed() -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        writer.write(OK[:-1])
        assert await reader.read() == b""
        ended.set()

    async with _connected(serve, max_connections=1) as (ask, accepted):
        for _ in range(2):  # the second one finds room
            await (await ask()).aclose()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
    assert len(accepted) == 2

    async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await _request(reader)
            writer.write(OK)

    async with _connected(polite, keep_alive_s=0.0) as (ask, accepted):
        for _ in range(2):
            assert await _text(await ask()) == b"hi"
            await asyncio.sleep(0.01)
    assert len(accepted) == 2


@pytest.mark.asyncio
async def test_a_refusal_that_comes_before_the_request_is_sent_is_read() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        while await reader.read(1 << 20):
            pass

    async with _connected(serve) as (ask, _):
        response = await ask(b"x" * 30_000_000)
        assert (response.status_code, await _text(response)) == (413, b"no")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"]
)
async def test_what_is_no_answer_is_a_broken_connection(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        writer.write(answer)

    async with _connected(serve) as (ask, _):
        with pytest.raises(httpx.TransportError):
            await ask()


@pytest.mark.asyncio
async def test_a_request_that_is_cancelled_closes_its_connection_and_leaves_room() -> None:
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        if arrived.is_set():
            writer.write(OK)
        arrived.set()
        await reader.read()
        ended.set()

    async with _connected(serve, max_connections=1) as (ask, accepted):
        asking = asyncio.ensure_future(ask())
        await asyncio.wait_for(arrived.wait(), PATIENCE_S)
        asking.cancel()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
        assert await _text(await ask()) == b"hi"
    assert len(accepted) == 2
