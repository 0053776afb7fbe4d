"""Progress and outcome of a request: how they are written, and how they are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect

from xsam.errors import XSamError
from xsam.wire.models import ErrorEvent, QueueEvent, ResponseBody, ResponseEvent, StageEvent, TextEvent

Progress = QueueEvent | StageEvent | TextEvent
Outcome = ResponseBody | XSamError


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStyle:
    """How a stream of events is written."""

    media_type: str
    template: str
    heartbeat: str  # an empty event

    def encode(self, event: Progress | ResponseEvent | ErrorEvent) -> bytes:
        """Return an event as bytes."""
        return self.template.format(event=event.event, data=event.model_dump_json()).encode()


EVENT_STYLES = (
    EventStyle(
        media_type="text/event-stream", template="event: {event}\ndata: {data}\n\n", heartbeat=": \n\n"
    ),
    EventStyle(media_type="application/x-ndjson", template="{data}\n", heartbeat="\n"),
)


def event_style(accept: str) -> EventStyle | None:
    """Return the style of the first stream of events that a client accepts; None = it wants plain JSON."""
    for kind in accept.lower().split(","):
        for style in EVENT_STYLES:
            if kind.partition(";")[0].strip() == style.media_type:
                return style
    return None


async def events_until_gone(
    events: asyncio.Queue[Progress | Outcome], gone: asyncio.Future[None], *, every_s: float | None
) -> AsyncIterator[Progress | Outcome | None]:
    """Yield events, and None whenever none has come for some seconds.

    Raises:
        ClientDisconnect: the client has closed the connection.
    """
    next_event: asyncio.Future[Progress | Outcome] | None = None
    try:
        while True:
            if next_event is None and not events.empty():
                yield events.get_nowait()
                continue
            next_event = next_event or asyncio.ensure_future(events.get())
            waited: set[asyncio.Future[Any]] = {next_event, gone}
            await asyncio.wait(waited, timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
            if next_event.done():
                event, next_event = next_event.result(), None
                yield event
            elif gone.done():
                raise ClientDisconnect
            else:
                yield None
    finally:
        if next_event is not None:
            next_event.cancel()
