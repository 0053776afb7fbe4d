"""Progress and outcome of a request: how they are written, and how they are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

from xsam.errors import RequestCancelledError, XSamError
from xsam.wire.models import ErrorEvent, QueueEvent, ResponseBody, ResponseEvent, StageEvent, TextEvent

Progress = QueueEvent | StageEvent | TextEvent
Outcome = ResponseBody | XSamError
_GONE = RequestCancelledError("the client closed the connection")


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

    def tell(_: object) -> None:
        events.put_nowait(_GONE)

    gone.add_done_callback(tell)  # in the queue, because waiting for two things takes twice as many turns
    try:
        while True:
            event: Progress | Outcome | None
            try:
                event = await (events.get() if every_s is None else asyncio.wait_for(events.get(), every_s))
            except asyncio.TimeoutError:
                event = None
            if event is _GONE:
                raise ClientDisconnect
            yield event
    finally:
        gone.remove_done_callback(tell)
