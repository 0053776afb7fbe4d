"""Progress notifications of a tool call: sent in order, and before the result, which ends the stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from xsam_agent_tools.runtime.progress import ProgressListener

SENT_WITHIN_S = 2.0
"""How long a result waits for the notifications before it: a client that does not read must not hold it."""

_LOG = logging.getLogger(__name__)


class ProgressSession(Protocol):
    """The part of `mcp.server.ServerSession` that progress needs."""

    async def report_progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None: ...


@asynccontextmanager
async def sent_progress(
    session: ProgressSession, *, within_s: float = SENT_WITHIN_S
) -> AsyncIterator[ProgressListener]:
    """Yield a listener for the events of a tool, for any thread; on leaving, what it got has been sent.

    Notifications that cannot be sent within `within_s` seconds are dropped: the result says everything.
    """
    loop = asyncio.get_running_loop()
    messages: asyncio.Queue[str | None] = asyncio.Queue()

    def listen(event: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(messages.put_nowait, f"{event['tool']}: {event['stage']}")

    sending = asyncio.create_task(_send(session, messages))
    try:
        yield listen
        messages.put_nowait(None)
        await asyncio.wait([sending], timeout=within_s)
    finally:
        sending.cancel()


async def _send(session: ProgressSession, messages: asyncio.Queue[str | None]) -> None:
    steps = 0
    while (message := await messages.get()) is not None:
        steps += 1
        try:
            await session.report_progress(steps, message=message)
        except Exception as error:  # the client has gone, and with it whoever reads this
            _LOG.debug("a progress notification was not sent: %s", error)
            return
