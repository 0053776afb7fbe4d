"""The body of a request: its JSON and its image, with the limits checked while it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from xsam.errors import InvalidQueryError, RequestTooLargeError

MAX_JSON_BYTES = 4 << 20
_JSON = "application/json"
_MULTIPART = "multipart/form-data"
_HINT = (
    "send multipart/form-data with a part `request` (JSON) and a part `image`, or application/json with the"
    " id of a frame"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """What a request consists of."""

    request: bytes  # JSON
    image: bytes | None = None


async def read_body(
    chunks: AsyncIterator[bytes],
    *,
    content_type: str,
    content_length: str | None,
    max_bytes: int,
    max_json_bytes: int = MAX_JSON_BYTES,
    take_memory: Callable[[int], None],
) -> Incoming:
    """Read the body of a request.

    Args:
        chunks: the body as it arrives.
        content_type: header of that name.
        content_length: header of that name; None = the body comes in pieces of unknown number.
        max_bytes: more are refused: at once if the header says so.
        max_json_bytes: more JSON is refused.
        take_memory: called with bytes before they are stored; may raise.

    Raises:
        InvalidQueryError: it has another type, or parts that do not belong to a request.
        RequestTooLargeError: it has more than `max_bytes`, or the JSON more than `max_json_bytes`.
    """
    kind, options = parse_options_header(content_type)
    if content_length is not None and content_length.isdecimal():
        _check_size(int(content_length), max_bytes)
    if kind == _JSON.encode():
        sink: _Json | _Parts = _Json(max_json_bytes)
    elif kind == _MULTIPART.encode() and options.get(b"boundary"):
        sink = _Parts(options[b"boundary"], max_json_bytes)
    else:
        raise InvalidQueryError(f"a request cannot be of the type {content_type!r:.80}", hint=_HINT)
    nbytes = 0
    async for chunk in chunks:
        nbytes += len(chunk)
        _check_size(nbytes, max_bytes)
        take_memory(len(chunk))
        sink.write(chunk)
    return sink.finish()


def _check_size(nbytes: int, max_bytes: int) -> None:
    if nbytes > max_bytes:
        raise RequestTooLargeError(
            f"the body of the request has {nbytes / 2**20:.1f} MiB or more, at most"
            f" {max_bytes / 2**20:.1f} are allowed"
        )


def _check_json_size(nbytes: int, max_bytes: int) -> None:
    if nbytes > max_bytes:
        raise RequestTooLargeError(
            f"the JSON of the request has more than {max_bytes / 2**20:.3g} MiB",
            hint="send fewer mask prompts",
        )


class _Json:
    """A body that is JSON and nothing else."""

    def __init__(self, max_bytes: int) -> None:
        self._content = bytearray()
        self._max_bytes = max_bytes

    def write(self, chunk: bytes) -> None:
        self._content += chunk
        _check_json_size(len(self._content), self._max_bytes)

    def finish(self) -> Incoming:
        return Incoming(request=bytes(self._content))


@dataclass(slots=True)
class _Part:
    name: str = ""
    content: bytearray = field(default_factory=bytearray)


class _Parts:
    """A multipart body of the parts `request` and `image`."""

    def __init__(self, boundary: bytes, max_json_bytes: int) -> None:
        self._max_json_bytes = max_json_bytes
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise InvalidQueryError(f"the multipart body is malformed: {error}", hint=_HINT) from None
        self._parts: dict[str, bytearray] = {}
        self._part = _Part()
        self._header, self._value = bytearray(), bytearray()
        self._ended = False

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidQueryError(f"the multipart body is malformed: {error}", hint=_HINT) from None

    def finish(self) -> Incoming:
        if not self._ended:
            raise InvalidQueryError("the multipart body is cut off", hint=_HINT)
        if "request" not in self._parts:
            raise InvalidQueryError("the multipart body has no part `request`", hint=_HINT)
        image = self._parts.get("image")
        return Incoming(request=bytes(self._parts["request"]), image=None if image is None else bytes(image))

    def _begin(self) -> None:
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._part.name = options.get(b"name", b"").decode("latin-1")
        self._header, self._value = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        name = self._part.name
        if name not in ("request", "image") or name in self._parts:
            problem = "twice" if name in self._parts else "not a part of a request"
            raise InvalidQueryError(f"the part {name!r:.40} of the multipart body is {problem}", hint=_HINT)
        self._parts[name] = self._part.content

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        content = self._part.content
        content += data[start:end]
        if self._part.name == "request":
            _check_json_size(len(content), self._max_json_bytes)

    def _on_end(self) -> None:
        self._ended = True
