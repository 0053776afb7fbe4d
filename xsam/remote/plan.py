"""One request of a client: what is sent, and what is answered without the server."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xsam.remote.pictures import EncodedPicture
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.requests import Frame, Query, SegmentationResult
from xsam.wire.conversion import results_from_response
from xsam.wire.models import QueryBody, QueueEvent, RequestBody, ResponseBody, StageEvent, TextEvent

Progress = QueueEvent | StageEvent | TextEvent

_MARGIN = 0.05  # of the time left, and at most so many seconds: the server is to say itself that it is late
_MARGIN_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPlan:
    """One request: what is sent, and what is answered here because it is invalid."""

    frame: Frame
    queries: tuple[Query, ...]
    refused: Mapping[int, SegmentationResult]
    bodies: Sequence[QueryBody]
    picture: EncodedPicture | None  # None = nothing is sent
    deadline: Deadline
    keep_frame: bool
    model: str | None

    @property
    def valid(self) -> list[int]:
        """Indices of the queries that are sent."""
        return [index for index in range(len(self.queries)) if index not in self.refused]

    @property
    def picture_id(self) -> str:
        return "" if self.picture is None else self.picture.id

    def request(self, *, by_id: bool, accept: str) -> dict[str, Any]:
        """Return headers and body as httpx2 takes them, with the time that is left now.

        Args:
            by_id: send the id of the frame instead of the frame.
            accept: media type of the answer.
        """
        picture = self.picture
        assert picture is not None
        left_s = self.deadline.remaining_s
        body = RequestBody(
            queries=list(self.bodies),
            frame=picture.id if by_id else None,
            image=None if by_id else picture.raw,
            deadline_s=None if math.isinf(left_s) else left_s - min(_MARGIN * left_s, _MARGIN_S),
            model=self.model,
            keep_frame=self.keep_frame,
        )
        request = body.model_dump_json(exclude_defaults=True).encode()
        if by_id:
            return {"content": request, "headers": {"accept": accept, "content-type": "application/json"}}
        files = {
            "request": (None, request, "application/json"),
            "image": ("image", picture.content, "application/octet-stream"),
        }
        return {"files": files, "headers": {"accept": accept}}

    def report(self, event: Progress, on_stage: StageHook | None, on_text: TextHook | None) -> None:
        """Call the hook that an event belongs to."""
        if isinstance(event, TextEvent):
            if on_text is not None and 0 <= event.query < len(self.valid):
                on_text(self.valid[event.query], event.text)
        elif on_stage is not None:
            on_stage("waiting" if isinstance(event, QueueEvent) else event.stage)

    def results(self, response: ResponseBody | None, notes: Sequence[str] = ()) -> list[SegmentationResult]:
        """Return the results of all queries, in order.

        Raises:
            ModelError: the response does not fit the request.
        """
        results = dict(self.refused)
        if response is not None:
            asked = [self.queries[index] for index in self.valid]
            answers = results_from_response(response, queries=asked, frame=self.frame)
            lost = (self.picture.note,) if self.picture is not None and self.picture.note else ()
            for index, answer in zip(self.valid, answers, strict=True):
                results[index] = answer.with_notes((*lost, *notes))
        return [results[index] for index in range(len(self.queries))]
