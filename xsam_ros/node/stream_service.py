"""The service `~/set_stream_query`: requests → streams → responses."""

from __future__ import annotations

from collections.abc import Callable

from xsam.errors import StreamEndedError, StreamTakenError, XSamError
from xsam_ros.messages.streams import StreamEnd
from xsam_ros.messages.text import replace_unsendable
from xsam_ros.msg import StreamStatus
from xsam_ros.node.lifecycle import not_active
from xsam_ros.node.status import stream_to_message
from xsam_ros.node.stream_query import StreamQuery
from xsam_ros.node.streams import Claim, Streams
from xsam_ros.srv import SetStreamQuery


def respond(
    streams: Streams | None,
    request: SetStreamQuery.Request,
    response: SetStreamQuery.Response,
    *,
    state: str,
    topic: Callable[[str], str],
) -> None:
    """Start, change, renew or stop a stream, and fill the response.

    Args:
        streams: None before the node is configured.
        request: from an untrusted sender.
        response: filled, also if the request is refused.
        state: of the node.
        topic: returns the full name of a topic below the node.

    Raises:
        XSamError: the request is refused; see `refuse`.
    """
    if streams is None or not (state == "active" or request.renew):
        raise not_active(state)
    claim = Claim.of(request)
    if request.renew:
        stream = streams.renew(request.camera, claim)
        response.status = response.STATUS_RENEWED
    elif not request.queries:
        stream, was_running = streams.stop(request.camera, claim)
        response.status = response.STATUS_STOPPED
        response.message = "" if was_running else "no stream was running"
    else:
        query = StreamQuery(request.queries, request.rate_hz, propagate=request.propagate)
        stream, was_running = streams.start(request.camera, query, claim)
        response.status = response.STATUS_CHANGED if was_running else response.STATUS_STARTED
    response.stream = stream_to_message(stream)
    if stream.running:
        response.result_topic = topic(f"~/{request.camera}/result")
        response.stream_topic = topic(f"~/{request.camera}/stream")


def refuse(
    error: XSamError,
    request: SetStreamQuery.Request,
    response: SetStreamQuery.Response,
    streams: Streams | None,
) -> None:
    """Fill the response to a request that is refused, with the stream that the refusal is about."""
    response.status, response.code = response.STATUS_REFUSED, error.code
    response.message, response.hint = replace_unsendable(error.message), replace_unsendable(error.hint)
    response.result_topic = response.stream_topic = ""
    if isinstance(error, StreamEndedError):
        response.stream = StreamStatus(
            stream_id=replace_unsendable(request.stream_id),
            owner=replace_unsendable(request.owner),
            end=StreamEnd[error.reason],
            end_message=replace_unsendable(error.message),
        )
    elif isinstance(error, StreamTakenError) and streams is not None:
        running = streams.statistics().get(request.camera)
        response.stream = StreamStatus() if running is None else stream_to_message(running)
