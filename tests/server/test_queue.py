"""The queue in front of the model: full, late, given up, and the event loop that never waits for it."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from support.model_server import PATIENCE_S, FakeEngine, RunningServer, running_server
from support.polling import poll_until
from tests.server.conftest import Ask, ask_with, form, new_engine, picture, png
from xsam import CheckpointError, RequestCancelledError
from xsam.errors import DeadlineExceededError
from xsam_server.model import ModelState
from xsam_server.settings import ServerSettings

IMAGE = png(picture())


@pytest.fixture(scope="module")
def server(engine: FakeEngine) -> Iterator[RunningServer]:
    with running_server(lambda: engine, ServerSettings(queue_size=2)) as running:
        yield running


def _wait_for(server: RunningServer, *, waiting: int) -> None:
    worker = server.model.worker
    poll_until(
        lambda: worker.busy == (waiting >= 0) and worker.waiting == max(0, waiting),
        f"{waiting} waiting requests",
        timeout_s=PATIENCE_S,
    )


def test_a_full_queue_refuses_at_once_and_loses_nobody(
    server: RunningServer, engine: FakeEngine, ask: Ask
) -> None:
    engine.free.clear()
    with ThreadPoolExecutor(3) as clients:
        answers = [clients.submit(ask, IMAGE)]
        _wait_for(server, waiting=0)
        answers += [clients.submit(ask, IMAGE) for _ in range(2)]
        _wait_for(server, waiting=2)
        refused = ask(IMAGE)
        assert (refused.status_code, refused.json()["code"]) == (429, "QUEUE_FULL")
        assert int(refused.headers["retry-after"]) >= 1
        assert "2 requests" in refused.json()["message"]
        engine.free.set()
        assert [answer.result().status_code for answer in answers] == [200] * 3


def test_a_request_that_would_wait_in_vain_is_refused_at_once(engine: FakeEngine) -> None:
    """Under twice the load that the model keeps up, nearly every answer came too late."""
    with (
        running_server(lambda: engine) as running,
        ThreadPoolExecutor(3) as clients,
        httpx.Client(base_url=running.url, timeout=PATIENCE_S) as http,
    ):
        ask = ask_with(http)
        engine.free.clear()
        slow = clients.submit(ask, IMAGE)  # so that the server knows how long a call takes
        _wait_for(running, waiting=0)
        with pytest.raises(TimeoutError):
            poll_until(slow.done, "never", timeout_s=0.5)
        engine.free.set()
        assert slow.result().status_code == 200
        engine.free.clear()
        answers = [clients.submit(ask, IMAGE)]
        _wait_for(running, waiting=0)
        answers.append(clients.submit(ask, IMAGE))
        _wait_for(running, waiting=1)
        refused = ask(IMAGE, deadline_s=0.4)
        assert (refused.status_code, refused.json()["code"]) == (429, "QUEUE_FULL")
        assert "with 1 requests ahead" in refused.json()["message"]
        damaged = ask(IMAGE[:-20], deadline_s=0.4)
        assert damaged.json()["code"] == "QUEUE_FULL", "its image is not decoded in vain"
        engine.free.set()
        assert [answer.result().status_code for answer in answers] == [200] * 2


def test_the_model_does_not_begin_what_it_cannot_end(engine: FakeEngine) -> None:
    """It worked until the deadline, for nobody, and made the next one late."""
    with (
        running_server(lambda: engine) as running,
        ThreadPoolExecutor(3) as clients,
        httpx.Client(base_url=running.url, timeout=PATIENCE_S) as http,
    ):
        ask = ask_with(http)

        def hold(call: Future[httpx.Response], seconds: float) -> None:
            with pytest.raises(TimeoutError):
                poll_until(call.done, "never", timeout_s=seconds)
            engine.free.set()

        engine.free.clear()
        slow = clients.submit(ask, IMAGE)
        _wait_for(running, waiting=0)
        hold(slow, 1.0)  # so that the server knows how long a call takes
        assert slow.result().status_code == 200
        engine.free.clear()
        first = clients.submit(ask, IMAGE)
        _wait_for(running, waiting=0)
        hopeless = clients.submit(ask, IMAGE, deadline_s=0.9)
        _wait_for(running, waiting=1)
        last = clients.submit(ask, IMAGE)
        _wait_for(running, waiting=2)
        hold(first, 0.6)
        assert (hopeless.result().status_code, hopeless.result().json()["code"]) == (504, "DEADLINE")
        assert [first.result().status_code, last.result().status_code] == [200] * 2
        assert len(engine.asked) == 3, "the model was asked for nothing"


def test_deadlines_hold_in_the_queue_and_in_the_model(
    server: RunningServer, engine: FakeEngine, ask: Ask
) -> None:
    engine.free.clear()
    with ThreadPoolExecutor(2) as clients:
        running = clients.submit(ask, IMAGE, deadline_s=0.5)
        _wait_for(server, waiting=0)
        waiting = clients.submit(ask, IMAGE, deadline_s=0.2)
        for answer in (waiting.result(), running.result()):
            assert (answer.status_code, answer.json()["code"]) == (504, "DEADLINE")
    assert not engine.free.is_set()
    _wait_for(server, waiting=-1)
    assert isinstance(engine.ended_early[-1], DeadlineExceededError), "the model must not go on for nobody"
    assert len(engine.asked) == 1


def test_a_deadline_of_the_server_ends_requests_that_name_none(engine: FakeEngine) -> None:
    engine.free.clear()
    with (
        running_server(lambda: engine, ServerSettings(max_deadline_s=0.2)) as running,
        httpx.Client(base_url=running.url, timeout=PATIENCE_S) as http,
    ):
        for fields in ({}, {"deadline_s": 1e9}):
            assert ask_with(http)(IMAGE, **fields).json()["code"] == "DEADLINE"


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_closed_connection_ends_the_request_between_stages(
    server: RunningServer, engine: FakeEngine, accept: str
) -> None:
    engine.free.clear()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(form(IMAGE, f"Accept: {accept}"))
        assert engine.entered.wait(PATIENCE_S)
    _wait_for(server, waiting=-1)
    assert isinstance(engine.ended_early[-1], RequestCancelledError)


def test_a_closed_connection_leaves_the_queue(server: RunningServer, engine: FakeEngine, ask: Ask) -> None:
    engine.free.clear()
    with ThreadPoolExecutor(1) as clients:
        running = clients.submit(ask, IMAGE)
        _wait_for(server, waiting=0)
        timeout = httpx.Timeout(PATIENCE_S, read=0.2)
        with httpx.Client(base_url=server.url, timeout=timeout) as http, pytest.raises(httpx.ReadTimeout):
            ask_with(http)(IMAGE)
        _wait_for(server, waiting=0)
        engine.free.set()
        assert running.result().status_code == 200
    assert len(engine.asked) == 1


def test_a_client_that_leaves_while_it_sends_leaves_nothing_behind(
    server: RunningServer, http: httpx.Client
) -> None:
    def cancelled() -> float:
        text = http.get("/metrics").text
        counted = re.search(r'xsam_requests_total\{client="local",code="CANCELLED"\} (\S+)', text)
        return float(counted[1]) if counted else 0.0

    before = cancelled()  # of the tests before: metrics are those of the process
    head = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + b"Content-Length: 1000\r\n\r\n{")

    def gone() -> bool:
        return cancelled() == before + 3 and "xsam_requests_memory_bytes 0.0" in http.get("/metrics").text

    poll_until(gone, "the requests to end and their memory to be given back", timeout_s=PATIENCE_S)


def test_the_event_loop_answers_while_the_model_is_stuck(
    server: RunningServer, engine: FakeEngine, http: httpx.Client, ask: Ask
) -> None:
    engine.free.clear()
    with ThreadPoolExecutor(1) as clients:
        running = clients.submit(ask, IMAGE)
        _wait_for(server, waiting=0)
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").status_code == 200
        assert "xsam_model_busy 1.0" in http.get("/metrics").text
        assert ask(None, frame="0" * 64).json()["code"] == "FRAME_NOT_KEPT"
        assert not running.done()
        engine.free.set()
        assert running.result().status_code == 200


def test_requests_while_the_model_is_loaded_are_told_to_come_back() -> None:
    loaded = threading.Event()
    engine = new_engine()

    def load() -> FakeEngine:
        assert loaded.wait(PATIENCE_S)
        return engine

    with (
        running_server(load, wait_until_ready=False) as running,
        httpx.Client(base_url=running.url, timeout=PATIENCE_S) as http,
    ):
        assert http.get("/healthz").status_code == 200
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"state": "loading"})
        early = ask_with(http)(IMAGE)
        assert (early.status_code, early.json()["code"]) == (503, "NOT_ACTIVE")
        assert "retry-after" in early.headers
        loaded.set()
        poll_until(lambda: http.get("/readyz").status_code == 200, "the model", timeout_s=PATIENCE_S)
        assert ask_with(http)(IMAGE).status_code == 200
        assert http.get("/v1/status").json()["model"] == "fake"
    assert engine.closed


def test_a_model_that_cannot_be_loaded_is_said() -> None:
    def load() -> FakeEngine:
        raise CheckpointError("model.safetensors is damaged")

    with running_server(load) as running, httpx.Client(base_url=running.url, timeout=PATIENCE_S) as http:
        assert running.model.state is ModelState.FAILED
        assert http.get("/readyz").json() == {"state": "failed"}
        answer = ask_with(http)(IMAGE)
        assert (answer.status_code, answer.json()["code"]) == (500, "CHECKPOINT")


def test_the_end_of_the_server_is_a_typed_answer(engine: FakeEngine) -> None:
    engine.free.clear()
    with (
        running_server(lambda: engine) as running,
        ThreadPoolExecutor(2) as clients,
        httpx.Client(base_url=running.url, timeout=PATIENCE_S) as http,
    ):
        answers = [clients.submit(ask_with(http), IMAGE) for _ in range(2)]
        _wait_for(running, waiting=1)
        running.program.should_exit = True
        codes = [answer.result().json()["code"] for answer in answers]
    assert codes == ["NOT_ACTIVE"] * 2
