"""What the server needs to know about a form of requests and answers."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from xsam.errors import InvalidImageError, error_for_code
from xsam.types.deadline import Deadline
from xsam.types.requests import Query, SegmentationResult
from xsam.wire.conversion import query_to_body, result_from_body
from xsam.wire.models import RequestBody, ResponseBody
from xsam_server.reading import Incoming

TakeMemory = Callable[[int], None]
"""Called with bytes before they are allocated; may raise."""

_DATA_URI = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuestion:
    """One query about one image."""

    query: Query
    image: bytes  # a file
    image_hw: tuple[int, int] | None = None  # what the client takes its size to be; None = it does not say

    def request(self, *, model: str | None, keep_frame: bool) -> Incoming:
        """Return the question as a request to `POST /v1/segment`.

        Raises:
            InvalidQueryError: the query cannot be written as JSON.
        """
        body = RequestBody(
            queries=[query_to_body(self.query)],
            frame=None,
            image=None,
            deadline_s=None,
            model=model,
            keep_frame=keep_frame,
        )
        return Incoming(request=body.model_dump_json().encode(), image=self.image)

    def result(self, response: ResponseBody) -> SegmentationResult:
        """Return the result in the response to `request`.

        Raises:
            InvalidImageError: the client takes the image to have another size.
            XSamError: the query was refused, or the model failed: it must not look like "there is none".
        """
        (body,) = response.results
        result = result_from_body(body, query=self.query)
        height, width = result.segments.image_hw
        if self.image_hw is not None and self.image_hw != (height, width):
            raise InvalidImageError(
                f"the image has {width}×{height} px, and the request takes it to be"
                f" {self.image_hw[1]}×{self.image_hw[0]}: its positions would be wrong",
                hint="send the image that is shown, not turned and not scaled",
            )
        if not result.answered:
            raise error_for_code(result.code, result.message, hint=result.hint)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectRequest:
    """A request in whatever form it came."""

    questions: Sequence[ImageQuestion]
    model: str | None = None  # refuse the request unless this model answers
    keep_frames: bool = True


class Dialect(Protocol):
    """A form of requests and answers. Its methods are called in a thread."""

    def parse(self, content: bytes, take_memory: TakeMemory, deadline: Deadline) -> DialectRequest:
        """Read the JSON of a request.

        Raises:
            XSamError: it is refused.
        """
        ...

    def write(self, parsed: DialectRequest, responses: Sequence[ResponseBody]) -> bytes:
        """Write the responses to the questions of a request, in their order, as JSON.

        Raises:
            XSamError: one of them is no answer, and the form has no way to say so.
        """
        ...


def embedded_image(text: str, take_memory: TakeMemory) -> bytes:
    """Return the bytes of an image that a request contains as base64, as a data URI or without its head.

    Raises:
        InvalidImageError: it is something else, such as a URL or path: nothing is fetched.
    """
    head = _DATA_URI.match(text)
    coded = text[head.end() :] if head else text
    take_memory(len(coded) * 3 // 4)
    try:
        return base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImageError(
            f"the image is not contained in the request: {text!r:.60}",
            hint="send it as data:image/jpeg;base64,… (JPEG, PNG or WebP); URLs and paths are not fetched",
        ) from None
