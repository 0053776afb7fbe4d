"""The client's link: servers that are away, come back, are others, or misbehave."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from support.model_server import PATIENCE_S, FakeEngine, RunningServer, running_server
from support.polling import poll_until
from tests.server.conftest import RED, RED_QUERY, frame_of, free_port, new_engine
from xsam import (
    DeadlineExceededError,
    Frame,
    LinkDownError,
    ModelError,
    NotActiveError,
    SegmentationResult,
    SegmenterUnavailableError,
    Status,
    UnauthorizedError,
    WrongModelError,
    XSamError,
)
from xsam.errors import ReplicaLostError
from xsam.remote import RemoteSegmenter
from xsam.remote.link import ServerLink
from xsam.wire.conversion import result_to_body
from xsam.wire.models import ResponseBody
from xsam_server.settings import ServerSettings


def test_a_server_that_is_not_there_is_said_in_time() -> None:
    with RemoteSegmenter(f"http://127.0.0.1:{free_port()}", reconnect_within_s=0.2) as remote:
        for _ in range(2):
            with pytest.raises(LinkDownError, match="no connection to http:") as caught:
                remote.segment(frame_of(1), RED_QUERY, deadline_s=PATIENCE_S)
        assert caught.value.retryable
        assert not remote.link.is_up
        assert remote.link.last_error
        with pytest.raises(LinkDownError):
            remote.status()


def test_a_request_waits_for_a_server_that_comes_back() -> None:
    port = free_port()
    with (
        RemoteSegmenter(f"http://127.0.0.1:{port}", reconnect_within_s=PATIENCE_S) as remote,
        ThreadPoolExecutor(1) as callers,
    ):
        answer = callers.submit(remote.segment, frame_of(1), RED_QUERY, deadline_s=PATIENCE_S)
        poll_until(lambda: remote.link.connections_lost > 0, "an attempt", timeout_s=PATIENCE_S)
        loaded = new_engine()
        with running_server(lambda: loaded, port=port):
            assert _until_active(answer.result)


def _until_active(result) -> bool:
    try:
        return bool(result()[0].found)
    except NotActiveError:  # it came back, and its model was not there yet
        return True


def test_frames_are_sent_again_to_a_server_that_was_restarted() -> None:
    frame = frame_of(1)
    with running_server(new_engine) as first, RemoteSegmenter(first.url) as remote:
        remote.segment(frame, RED_QUERY, deadline_s=PATIENCE_S)
        port = first.port
        first.program.should_exit = True
        poll_until(lambda: not _listens(port), "the end of the server", timeout_s=PATIENCE_S)
        with running_server(new_engine, port=port):
            (result,) = remote.segment(frame, RED_QUERY, deadline_s=PATIENCE_S)
    assert result.found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_another_model_does_not_answer_silently() -> None:
    frame = frame_of(1)
    with running_server(lambda: new_engine(model_id="large")) as first, RemoteSegmenter(first.url) as remote:
        (before,) = remote.segment(frame, RED_QUERY, deadline_s=PATIENCE_S)
        assert (remote.model_id, before.notes) == ("large", ())
        port = first.port
        first.program.should_exit = True
        poll_until(lambda: not _listens(port), "the end of the server", timeout_s=PATIENCE_S)
        with running_server(lambda: new_engine(model_id="tiny"), port=port) as second:
            (after,) = remote.segment(frame, RED_QUERY, deadline_s=PATIENCE_S)
            assert after.model_id == "tiny"
            assert "holds the model tiny now; before, it held large" in after.notes[0]
            with RemoteSegmenter(second.url, model="large") as strict, pytest.raises(WrongModelError):
                strict.segment(frame, RED_QUERY, deadline_s=PATIENCE_S)


def _read_request(connection: socket.socket) -> None:
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0 or len(received) < end + 4 + _length(received[:end]):
        chunk = connection.recv(1 << 16)
        if not chunk:
            return
        received += chunk


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])


@contextmanager
def _bad_server(answer: bytes | None) -> Iterator[tuple[str, list[int]]]:
    """Yield the address of a server that reads a request and sends these bytes; None = it stays silent."""
    accepted: list[int] = []
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def run() -> None:
            open_connections = []
            while not done.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                accepted.append(1)
                if answer is None:
                    open_connections.append(connection)
                else:
                    connection.settimeout(5.0)
                    _read_request(connection)
                    connection.sendall(answer)
                    connection.close()
            for connection in open_connections:
                connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", accepted
        finally:
            done.set()
            thread.join()


def _http(status: str, body: bytes, length: int | None = None) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {length or len(body)}\r\n\r\n".encode() + body


def test_a_half_open_link_ends_with_the_deadline() -> None:
    with _bad_server(None) as (url, _), RemoteSegmenter(url) as remote:
        with pytest.raises(LinkDownError, match="no answer within 2 s"):
            remote.segment(frame_of(1), RED_QUERY, deadline_s=2.0)
        assert not remote.link.is_up
        with pytest.raises(DeadlineExceededError):
            remote.segment(frame_of(1), RED_QUERY, deadline_s=0.05)


@pytest.mark.parametrize(
    ("answer", "error", "named"),
    [
        (b"", LinkDownError, "broke"),
        (_http("200 OK", b'{"frame": "', 900), LinkDownError, "broke"),
        (_http("502 Bad Gateway", b"<html>"), LinkDownError, "HTTP 502"),
        (_http("503 Service Unavailable", b"Service Unavailable"), LinkDownError, "HTTP 503"),
        (_http("404 Not Found", b"<html>"), ModelError, "HTTP 404"),
        (_http("401 Unauthorized", b""), UnauthorizedError, "token"),
        (_http("200 OK", b"hello"), ModelError, "not understood"),
        (_http("200 OK", b'{"frame": "", "results": []}'), ModelError, "0 results for 1"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", LinkDownError, "broke"),
    ],
)
def test_servers_of_other_kinds(answer: bytes, error: type[Exception], named: str) -> None:
    with _bad_server(answer) as (url, accepted), RemoteSegmenter(url, reconnect_within_s=0.3) as remote:
        with pytest.raises(error, match=named):
            remote.segment(frame_of(1), RED_QUERY, deadline_s=PATIENCE_S)
        assert len(accepted) <= 3, "what may be the end of a server is not sent for ever"


def test_a_result_about_another_picture_is_not_believed(engine: FakeEngine) -> None:
    (result,) = engine.segment(Frame(rgb=np.zeros((9, 9, 3), np.uint8)), RED_QUERY, deadline_s=1.0)
    body = ResponseBody(frame="0" * 64, results=[result_to_body(result)]).model_dump_json().encode()
    with _bad_server(_http("200 OK", body)) as (url, _), RemoteSegmenter(url) as remote:  # noqa: SIM117
        with pytest.raises(ModelError, match="9×9"):
            remote.segment(frame_of(1), RED_QUERY, deadline_s=PATIENCE_S)


async def _codes(remote: RemoteSegmenter, count: int, deadline_s: Callable[[], float]) -> Counter[str]:
    """Send requests at once; return how each ended."""

    async def ask(number: int) -> str:
        try:
            await remote.segment_async(frame_of(number % 3), RED_QUERY, deadline_s=deadline_s())
        except XSamError as error:
            return error.code
        return "OK"

    return Counter(await asyncio.gather(*(ask(number) for number in range(count))))


def test_requests_that_give_up_early_leave_the_connections_usable(server: RunningServer) -> None:
    """A request that ended in the turn in which it got a connection took it along; 64 took all."""
    chance = random.Random(0)
    with RemoteSegmenter(server.url) as remote:
        for _ in range(150):
            asyncio.run(_codes(remote, 5, lambda: chance.uniform(0.001, 0.02)))
        (result,) = remote.segment(frame_of(1), RED_QUERY, deadline_s=PATIENCE_S)
    assert result.found


def test_a_server_with_much_to_do_is_not_called_down() -> None:
    """All connections waited for the model, and the question whether the server is there waited for one."""
    engine = new_engine()
    with (
        running_server(lambda: engine, ServerSettings(queue_size=200)) as server,
        RemoteSegmenter(server.url) as remote,
    ):
        engine.free.clear()
        try:
            codes = asyncio.run(_codes(remote, 100, lambda: 2.0))
        finally:
            engine.free.set()
    assert codes == {"DEADLINE": 100}


def test_a_closed_client_refuses_and_ends_what_runs(server: RunningServer, engine: FakeEngine) -> None:
    remote = RemoteSegmenter(server.url)
    engine.free.clear()
    with ThreadPoolExecutor(1) as callers:
        running = callers.submit(remote.segment, frame_of(90), RED_QUERY, deadline_s=PATIENCE_S)
        assert engine.entered.wait(PATIENCE_S)
        remote.close()
        with pytest.raises(SegmenterUnavailableError, match="closed"):
            running.result()
    remote.close()
    with pytest.raises(SegmenterUnavailableError, match="closed"):
        remote.segment(frame_of(90), RED_QUERY, deadline_s=PATIENCE_S)


def test_a_connection_that_does_not_close_holds_nobody_up(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def close(_: ServerLink) -> None:
        await asyncio.sleep(3600.0)

    monkeypatch.setattr(ServerLink, "close", close)
    segmenter = RemoteSegmenter(server.url)
    closing = threading.Thread(target=segmenter.close, daemon=True)
    closing.start()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()


class _EngineOfLostReplicas(FakeEngine):
    """Answers as an ingress does when the replica behind it dies, for some times."""

    times_lost = 0

    def warm_up(self) -> None:
        self.asked.clear()

    def segment(self, *arguments: Any, **options: Any) -> list[SegmentationResult]:
        results = super().segment(*arguments, **options)
        if len(self.asked) <= self.times_lost:
            raise ReplicaLostError("the replica that had the request has ended")
        return results


@pytest.mark.parametrize("stages", [None, list[str]()])
def test_a_request_whose_replica_died_is_sent_again_but_not_for_ever(stages: list[str] | None) -> None:
    """It is a pure question; but one that ends every replica must not go through all of them."""
    engine = _EngineOfLostReplicas({"red": [RED]})
    on_stage = None if stages is None else stages.append
    with running_server(lambda: engine) as running, RemoteSegmenter(running.url) as remote:
        engine.times_lost = 2
        (result,) = remote.segment(frame_of(201), RED_QUERY, deadline_s=PATIENCE_S, on_stage=on_stage)
        assert result.status is Status.FOUND
        assert (len(engine.asked), remote.link.connections_lost) == (3, 2)
        engine.asked.clear()
        engine.times_lost = 99
        with pytest.raises(LinkDownError, match="replica") as caught:
            remote.segment(frame_of(202), RED_QUERY, deadline_s=PATIENCE_S, on_stage=on_stage)
        assert caught.value.retryable
        assert len(engine.asked) == 3
