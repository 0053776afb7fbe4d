"""What a replica sends to the ingress, as lines of JSON: the events of the wire, and facts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from xsam.errors import XSamError
from xsam.wire.conversion import error_from_body, error_to_body
from xsam.wire.models import ErrorEvent, QueueEvent, ResponseBody, ResponseEvent, StageEvent, TextEvent
from xsam_server.events import Outcome, Progress
from xsam_server.metrics import RequestRecord


class FactsLine(BaseModel):
    """What the ingress tells about a request in metrics and logs; the first one says that it is queued."""

    model_config = ConfigDict(frozen=True, strict=True)

    event: Literal["facts"] = "facts"
    queries: int
    frame: str
    stages_s: dict[str, float]
    model_stages_s: dict[str, float]


Line = Annotated[
    FactsLine | QueueEvent | StageEvent | TextEvent | ResponseEvent | ErrorEvent, Field(discriminator="event")
]
_LINES: TypeAdapter[Line] = TypeAdapter(Line)


def facts_line(record: RequestRecord) -> bytes:
    """Return what a replica knows about a request."""
    facts = FactsLine(
        queries=record.queries,
        frame=record.frame,
        stages_s=record.stages_s,
        model_stages_s=record.model_stages_s,
    )
    return facts.model_dump_json().encode()


def event_line(event: Progress | Outcome) -> bytes:
    """Return an event or outcome as a line."""
    if isinstance(event, XSamError):
        return ErrorEvent(**error_to_body(event).model_dump()).model_dump_json().encode()
    if isinstance(event, ResponseBody):
        event = ResponseEvent(frame=event.frame, results=event.results)
    return event.model_dump_json().encode()


def read_line(line: bytes, record: RequestRecord) -> Progress | Outcome | None:
    """Return an event or outcome; or take note of facts, and return None."""
    event = _LINES.validate_json(line)
    if isinstance(event, FactsLine):
        record.queries, record.frame = event.queries, event.frame
        record.stages_s.update(event.stages_s)
        record.model_stages_s.update(event.model_stages_s)
        return None
    if isinstance(event, ErrorEvent):
        return error_from_body(event)
    if isinstance(event, ResponseEvent):
        return ResponseBody(frame=event.frame, results=event.results)
    return event
