"""What a server sends → models of `xsam.wire`; what is not understood is an error of the server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from xsam.errors import ModelError
from xsam.remote.plan import Progress
from xsam.wire.conversion import error_from_body, validation_message
from xsam.wire.models import EVENTS, ErrorEvent, Event, ResponseBody, ResponseEvent

B = TypeVar("B", bound=BaseModel)


def parsed(kind: type[B], content: bytes) -> B:
    """Return JSON as a model.

    Raises:
        ModelError: it is none of this kind.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise ModelError(f"the answer of the server is not understood: {validation_message(error)}") from None


def server_seconds(response: httpx2.Response) -> float:
    """Return how long the server took, from its header; 0 if it does not say."""
    match = re.search(r"dur=([0-9.]+)", response.headers.get("server-timing", ""))
    return float(match[1]) / 1000 if match else 0.0


async def read_events(chunks: AsyncIterator[bytes], emit: Callable[[Progress], None]) -> ResponseBody:
    """Read lines of events until the last one.

    Args:
        chunks: the body of an answer as it arrives.
        emit: gets the progress.

    Raises:
        XSamError: the error in the last event.
        httpx2.RemoteProtocolError: the connection broke before it came.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in filter(None, lines):
            event = _parsed_event(line)
            if isinstance(event, ResponseEvent):
                return event
            if isinstance(event, ErrorEvent):
                raise error_from_body(event)
            emit(event)
    raise httpx2.RemoteProtocolError("the server ended its answer too early")


def _parsed_event(line: bytes) -> Event:
    try:
        return EVENTS.validate_json(line)
    except ValidationError as error:
        raise ModelError(f"an event of the server is not understood: {validation_message(error)}") from None
