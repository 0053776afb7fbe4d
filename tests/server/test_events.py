"""Progress as server-sent events and as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from support.model_server import PATIENCE_S, FakeEngine, RunningServer, running_server
from support.polling import poll_until
from tests.server.conftest import Ask, picture, png
from xsam import ModelError
from xsam.wire.models import EVENTS, Event
from xsam_server.settings import ServerSettings

IMAGE = png(picture())
NDJSON = {"accept": "application/x-ndjson"}


@pytest.fixture(scope="module")
def server(engine: FakeEngine) -> Iterator[RunningServer]:
    with running_server(lambda: engine, ServerSettings(heartbeat_s=0.05)) as running:
        yield running


def _events(response: httpx.Response) -> list[Event]:
    return [EVENTS.validate_json(line) for line in response.text.splitlines() if line]


def _of(events: list[Event], kind: str) -> list[Any]:
    return [event for event in events if event.event == kind]


def test_stages_texts_and_the_response_as_lines(ask: Ask) -> None:
    plain = ask(IMAGE).json()
    response = ask(IMAGE, headers=NDJSON)
    assert response.headers["content-type"].startswith("application/x-ndjson")
    events = _events(response)
    assert [event.text for event in _of(events, "text")] == ["some", "some text"]
    assert [event.stage for event in _of(events, "stage")] == ["inference"]
    last = json.loads(response.text.splitlines()[-1])
    assert {**last, "event": None} == {**plain, "event": None}


def test_server_sent_events(ask: Ask) -> None:
    response = ask(IMAGE, headers={"accept": "text/event-stream, application/json;q=0.5"})
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in response.text.split("\n\n") if block.strip(": ")]
    parsed = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
    assert [block["event"] for block in parsed][-1] == "response"
    assert all(json.loads(block["data"])["event"] == block["event"] for block in parsed)


def test_requests_that_are_refused_have_their_status(ask: Ask) -> None:
    response = ask(None, frame="0" * 64, headers=NDJSON)
    assert (response.status_code, response.json()["code"]) == (404, "FRAME_NOT_KEPT")


def test_an_error_of_the_model_is_the_last_event(ask: Ask, engine: FakeEngine) -> None:
    engine.error = ModelError("the network gave NaN")
    *_, last = _events(ask(IMAGE, headers=NDJSON))
    assert (last.event, last.code, last.message) == ("error", "MODEL_ERROR", "the network gave NaN")


def test_the_place_in_the_queue_and_signs_of_life(
    server: RunningServer, ask: Ask, engine: FakeEngine
) -> None:
    engine.free.clear()
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(ask, IMAGE)
        assert engine.entered.wait(PATIENCE_S)
        second = clients.submit(ask, IMAGE, headers=NDJSON)
        poll_until(lambda: server.model.worker.waiting == 1, "the second", timeout_s=PATIENCE_S)
        with pytest.raises(TimeoutError):
            poll_until(second.done, "heartbeats", timeout_s=0.3)
        engine.free.set()
        assert first.result().status_code == 200
        response = second.result()
    assert [event.ahead for event in _of(_events(response), "queue")] == [1]
    assert "" in response.text.splitlines(), "an empty line at least every 0.05 s"
