"""The standard streams as a transport that ends at once: at Ctrl-C, or when the client closes the input."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import anyio
from mcp.server import Server
from mcp.server.stdio import stdio_server

from xsam.types.deadline import Deadline
from xsam_agent_tools.runtime.call_threads import CallThreads

MAX_LINE_BYTES = 4 * 1024**2  # as for a request over HTTP
AFTER_INPUT_S = 1.0  # for calls that run when the input ends, as a shell's pipe does after its last line
AFTER_SIGNAL_S = 1.5  # then the process ends whatever it is waiting for
_QUIET_S = 0.2  # the last line may not have become a call yet, or its answer not have been written
_CHUNK_BYTES = 64 * 1024
_MAX_PENDING_LINES = 64
_TOO_LONG = "a message is too long"  # no JSON, so the client gets a parse error
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InputLines:
    """The lines of a file descriptor, for asyncio.

    They are read on a daemon thread, which is abandoned when the server ends: a thread that blocks in a read
    cannot be cancelled, and asyncio waits for threads of its own even after Ctrl-C.
    """

    def __init__(self, descriptor: int, calls: CallThreads) -> None:
        """Start to read.

        Args:
            descriptor: an open file; it is never closed.
            calls: the lines end when these have, or after `AFTER_INPUT_S`: their end closes the session.
        """
        self._calls = calls
        self._descriptor = descriptor
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._free = threading.BoundedSemaphore(_MAX_PENDING_LINES)
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="xsam-stdin", daemon=True).start()

    async def __aiter__(self) -> AsyncIterator[str]:
        while (line := await self._lines.get()) is not None:
            self._free.release()
            yield line
        deadline, quiet = Deadline(AFTER_INPUT_S), Deadline(_QUIET_S)
        while not (quiet.expired or deadline.expired):
            await asyncio.sleep(0.02)
            if self._calls.running:
                quiet = Deadline(_QUIET_S)

    def _read(self) -> None:
        line, too_long = bytearray(), False
        with suppress(OSError, RuntimeError):  # RuntimeError: the loop is closed
            while chunk := os.read(self._descriptor, _CHUNK_BYTES):
                *complete, rest = chunk.split(b"\n")
                for part in complete:
                    too_long = too_long or len(line) + len(part) > MAX_LINE_BYTES
                    self._put(_TOO_LONG if too_long else (line + part).decode(errors="replace"))
                    line, too_long = bytearray(), False
                too_long = too_long or len(line) + len(rest) > MAX_LINE_BYTES
                line = bytearray() if too_long else line + rest
        with suppress(RuntimeError):
            if line:
                self._put(line.decode(errors="replace"))
            self._loop.call_soon_threadsafe(self._lines.put_nowait, None)

    def _put(self, line: str) -> None:
        if line.strip():
            self._free.acquire()
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)


async def serve_stdio(server: Server[Any], calls: CallThreads) -> None:
    """Serve until the client closes the standard input, or a signal ends the program.

    While serving, the standard input is the null device to everybody else, and what is printed goes to the
    standard error.
    """
    wire = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    loop = asyncio.get_running_loop()
    try:
        with anyio.CancelScope() as scope:
            for number in _SIGNALS:
                loop.add_signal_handler(number, _end, scope)
            lines = InputLines(wire, calls)
            async with stdio_server(stdin=cast("anyio.AsyncFile[str]", lines)) as (reading, writing):
                await server.run(reading, writing, server.create_initialization_options())
    finally:
        sys.stdout.flush()


def _end(scope: anyio.CancelScope) -> None:
    scope.cancel()
    timer = threading.Timer(AFTER_SIGNAL_S, os._exit, (0,))
    timer.daemon = True
    timer.start()
