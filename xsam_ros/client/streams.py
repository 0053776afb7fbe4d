"""The streams that a client has started."""

from __future__ import annotations

import contextlib
import socket
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from xsam.errors import NotActiveError, StreamTakenError, XSamError, error_for_code
from xsam.types.deadline import Deadline
from xsam.types.requests import Query
from xsam_ros.client.connection import NodeConnection
from xsam_ros.client.lease import StreamLease
from xsam_ros.client.stream import ResultStream
from xsam_ros.messages.streams import StreamEnd
from xsam_ros.messages.text import require_sendable
from xsam_ros.srv import SetStreamQuery

_CLOSE_S = 1.0
_STOP_S = 5.0


class ClientStreams:
    """Starts and stops streams, and keeps up their leases. Thread-safe."""

    def __init__(self, connection: NodeConnection, *, owner: str) -> None:
        """Begin without streams; "" as the owner = the name of this program, unique to the client."""
        self.owner = require_sendable("owner", owner) or _default_owner(connection.node.get_name())
        self._connection = connection
        self._leases: dict[str, StreamLease] = {}  # by stream id

    def start(
        self, request: SetStreamQuery.Request, queries: Sequence[Query], *, wait_s: float, deadline: Deadline
    ) -> ResultStream:
        """Start a stream; the request lacks the owner and the id. Raises as `RosSegmenter.start_stream`."""
        request.owner, request.stream_id = self.owner, uuid.uuid4().hex
        try:
            response = self._call(request, deadline)
        except XSamError as error:
            if error.code in ("UNAVAILABLE", "DEADLINE"):
                self._abandon(request)
            raise
        lease = StreamLease(self._connection, request, response)
        self._leases = {**self._running(), lease.stream_id: lease}
        return ResultStream(
            self._connection.node,
            lease,
            topic=response.result_topic,
            queries=queries,
            wait_s=wait_s,
            stop=lambda: self._stop_one(lease),
        )

    def stop(self, request: SetStreamQuery.Request, deadline: Deadline) -> None:
        """Stop this client's stream of a camera; the request lacks the owner."""
        request.owner = self.owner
        self._call(request, deadline)
        for lease in self._running().values():
            if lease.camera == request.camera and request.stream_id in ("", lease.stream_id):
                lease.end(StreamEnd.STOPPED, "this client stopped the stream")

    def close(self) -> None:
        """Stop the streams that have a lease, as far as the node responds, and end the iteration over all."""
        for lease in self._running().values():
            usable = not self._connection.in_own_thread and self._connection.node.context.ok()
            if lease.lease_s and usable:
                with contextlib.suppress(XSamError):  # without renewals it ends by itself
                    self.stop(_stop_request(lease), Deadline(_CLOSE_S))
            lease.end(StreamEnd.STOPPED, "the client was closed")

    def _running(self) -> dict[str, StreamLease]:
        return {name: lease for name, lease in list(self._leases.items()) if lease.ended is None}

    def _stop_one(self, lease: StreamLease) -> None:
        if lease.ended is None:
            with contextlib.suppress(NotActiveError):  # which has ended the stream
                self.stop(_stop_request(lease), Deadline(_STOP_S))

    def _call(self, request: SetStreamQuery.Request, deadline: Deadline) -> SetStreamQuery.Response:
        response = self._connection.call(self._connection.set_stream, request, deadline)
        if response.code == StreamTakenError.code:
            raise StreamTakenError(response.message, hint=response.hint, owner=response.stream.owner)
        if response.code:
            raise error_for_code(response.code, response.message, hint=response.hint)
        return response

    def _abandon(self, request: SetStreamQuery.Request) -> None:
        """Ask the node, without waiting, to stop a stream that it may have started after all."""
        client, request = self._connection.set_stream, _stop_request(request)
        if not self._connection.closed:
            request.owner = self.owner
            client.remove_pending_request(client.call_async(request))


def _stop_request(stream: SetStreamQuery.Request | StreamLease) -> SetStreamQuery.Request:
    return SetStreamQuery.Request(camera=stream.camera, stream_id=stream.stream_id)


def _default_owner(node_name: str) -> str:
    program = Path(sys.argv[0] if sys.argv else "").name or "python"
    owner = f"{program[:40]} on {socket.gethostname()[:40]} ({node_name})"
    return "".join(character if character.isprintable() else "?" for character in owner)[:128]
