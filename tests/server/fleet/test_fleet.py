"""A real fleet: Ray Serve, an ingress and two replicas, each a process of its own, with a fake engine."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np
import pytest

from support.fleet import START_WITHIN_S, EngineFolder, FolderEngine, RunningFleet, deploy, replica_states
from support.polling import poll_until
from tests.server.conftest import RED, ask_with, form, picture, png
from tests.server.fleet.conftest import LIMITS, PATIENCE_S
from xsam import Frame, Query
from xsam.remote import RemoteSegmenter
from xsam.wire.models import EVENTS, ResponseEvent, StageEvent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray, with pydantic's newest release
]
IMAGE = png(picture())
FRAME = Frame(rgb=picture(), encoded=IMAGE)


def _wait_for_calls(engines: EngineFolder, count: int) -> list[int]:
    def have_begun() -> bool:
        return len(engines.processes("began")) >= count

    poll_until(have_begun, f"{count} calls of the model", timeout_s=PATIENCE_S)
    return engines.processes("began")


def _codes(answers: list[Future[httpx.Response]]) -> list[str]:
    return ["OK" if (a := answer.result()).status_code == 200 else a.json()["code"] for answer in answers]


def _wait_for_replicas(states: dict[str, int], *, are: bool = True) -> None:
    poll_until(
        lambda: (replica_states() == states) == are,
        f"{states} of replicas to be {are}",
        timeout_s=START_WITHIN_S,
        interval_s=0.05,
    )


def test_it_looks_like_one_server(http: httpx.Client) -> None:
    answer = ask_with(http)(IMAGE)
    assert answer.status_code == 200
    assert answer.json()["results"][0]["status"] == "found"
    assert answer.headers["server-timing"].startswith("total;dur=")
    assert http.get("/readyz").json() == {"state": "ready"}
    poll_until(lambda: http.get("/v1/status").json()["model"] == "fake", "its name", timeout_s=PATIENCE_S)
    assert "text/html" in http.get("/").headers["content-type"]
    assert http.get("/v1/schema").status_code == 200
    for fields, code in (({"queries": []}, "INVALID_QUERY"), ({"frame": "0" * 64}, "FRAME_NOT_KEPT")):
        assert ask_with(http)(None, **fields).json()["code"] == code
    assert ask_with(http)(IMAGE, model="other").json()["code"] == "WRONG_MODEL"
    metrics = http.get("/metrics").text
    assert 'xsam_frames_total{client="local",frame="new"}' in metrics
    assert 'xsam_stage_seconds_count{stage="inference"}' in metrics


def test_progress_comes_through(http: httpx.Client) -> None:
    answer = ask_with(http)(IMAGE, headers={"accept": "application/x-ndjson"})
    events = [EVENTS.validate_json(line) for line in answer.text.splitlines()]
    assert StageEvent(stage="inference") in events
    assert isinstance(events[-1], ResponseEvent)
    refused = ask_with(http)(None, frame="0" * 64, headers={"accept": "text/event-stream"})
    assert (refused.status_code, refused.json()["code"]) == (404, "FRAME_NOT_KEPT")


def test_further_questions_reach_the_replica_that_has_the_frame(
    fleet: RunningFleet, engines: EngineFolder
) -> None:
    """With any other routing, half of the second questions would have to send the image again."""
    with RemoteSegmenter(fleet.url) as remote:
        for shade in range(100, 140):
            frame = Frame(rgb=picture(shade))
            remote.segment(frame, [Query(text="red")], deadline_s=PATIENCE_S)
            sent = remote.link.bytes_sent
            (floor,) = remote.segment(frame, [Query(text="floor")], deadline_s=PATIENCE_S)
            assert remote.link.bytes_sent - sent < 1000, "the image was sent again"
            assert np.array_equal(floor.masks[0], ~RED)
    assert len(set(engines.processes("began"))) == 2, "one replica had all frames"


def test_when_all_are_busy_the_next_are_refused_at_once(http: httpx.Client, engines: EngineFolder) -> None:
    engines.hold()
    with ThreadPoolExecutor(14) as clients:
        answers = [clients.submit(ask_with(http), png(picture(shade))) for shade in range(14)]
        poll_until(lambda: sum(a.done() for a in answers) >= 6, "refusals", timeout_s=PATIENCE_S)
        refused = [answer for answer in answers if answer.done()]
        assert set(_codes(refused)) == {"QUEUE_FULL"}
        assert http.get("/healthz").status_code == 200
        engines.free()
        codes = _codes(answers)
    assert codes.count("OK") == 8, "two replicas take two each, and four may wait"
    assert codes.count("QUEUE_FULL") == 6
    assert refused[0].result().status_code == 429
    assert int(refused[0].result().headers["retry-after"]) >= 1


def test_deadlines_hold_in_a_replica_and_in_the_queue_before_it(
    http: httpx.Client, engines: EngineFolder
) -> None:
    engines.hold()
    with ThreadPoolExecutor(5) as clients:
        answers = [clients.submit(ask_with(http), png(picture(shade)), deadline_s=3.0) for shade in range(4)]
        _wait_for_calls(engines, 2)  # those that wait behind them have not begun
        answers.append(clients.submit(ask_with(http), png(picture(5)), deadline_s=1.0))
        assert set(_codes(answers)) == {"DEADLINE"}
    engines.free()
    poll_until(lambda: ask_with(http)(IMAGE).status_code == 200, "room", timeout_s=PATIENCE_S, interval_s=0.2)


def test_a_client_that_goes_away_ends_its_request_between_stages(
    fleet: RunningFleet, http: httpx.Client, engines: EngineFolder
) -> None:
    """Ray cancels at an `await` only: the model's thread has none, and must be told."""
    engines.hold()
    with socket.create_connection(("127.0.0.1", fleet.port)) as connection:
        connection.sendall(form(IMAGE))
        (process,) = _wait_for_calls(engines, 1)
    poll_until(lambda: engines.processes("CANCELLED") == [process], "the end", timeout_s=PATIENCE_S)
    engines.free()
    assert ask_with(http)(IMAGE).status_code == 200


def test_a_replica_that_dies_is_a_typed_answer_and_its_clients_find_another(
    fleet: RunningFleet, http: httpx.Client, engines: EngineFolder
) -> None:
    engines.hold()
    with ThreadPoolExecutor(1) as clients:
        plain = clients.submit(ask_with(http), IMAGE)
        (process,) = _wait_for_calls(engines, 1)
        os.kill(process, signal.SIGKILL)
        answer = plain.result()
    _wait_for_replicas({"RUNNING": 2}, are=False)  # the controller has seen it, and starts another one
    assert (answer.status_code, answer.json()["code"]) == (503, "REPLICA_LOST")
    assert int(answer.headers["retry-after"]) >= 1
    assert "ask again" in answer.json()["hint"]
    engines.free()
    assert ask_with(http)(IMAGE).status_code == 200, "the other replica takes over at once"

    _wait_for_replicas({"RUNNING": 2})
    engines.clear()
    engines.hold()
    with ThreadPoolExecutor(1) as clients, RemoteSegmenter(fleet.url) as remote:
        patient = clients.submit(remote.segment, FRAME, [Query(text="red")], deadline_s=PATIENCE_S)
        (process,) = _wait_for_calls(engines, 1)
        os.kill(process, signal.SIGKILL)
        _wait_for_calls(engines, 2)
        engines.free()
        assert patient.result()[0].status == "found", "no request is lost"
        assert remote.link.connections_lost == 1
    _wait_for_replicas({"RUNNING": 2}, are=False)
    _wait_for_replicas({"RUNNING": 2})


def test_a_fleet_that_shrinks_loses_no_request(
    http: httpx.Client, engines: EngineFolder, load_engine: partial[FolderEngine]
) -> None:
    engines.hold()
    with ThreadPoolExecutor(5) as clients:
        answers = [clients.submit(ask_with(http), png(picture(shade))) for shade in range(200, 204)]
        poll_until(lambda: len(set(engines.processes("began"))) == 2, "both replicas", timeout_s=PATIENCE_S)
        deploy(load_engine, wait=False, min_replicas=1, **LIMITS)
        poll_until(lambda: replica_states().get("STOPPING"), "the drain", timeout_s=START_WITHIN_S)
        assert not any(answer.done() for answer in answers)
        engines.free()
        assert _codes(answers) == ["OK"] * 4
    _wait_for_replicas({"RUNNING": 1})
    poll_until(lambda: ask_with(http)(IMAGE).status_code == 200, "the fleet", timeout_s=PATIENCE_S)


def test_ray_is_closed_to_others(ray_cluster: None) -> None:
    """Whoever reaches a port of Ray could run code, and most of them listen on all addresses."""
    import grpc
    import ray
    from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    def ask_with_token(token: str) -> None:
        with grpc.insecure_channel(ray.get_runtime_context().gcs_address) as channel:
            NodeInfoGcsServiceStub(channel).GetAllNodeInfo(
                GetAllNodeInfoRequest(),
                timeout=PATIENCE_S,
                metadata=(("authorization", f"Bearer {token}"),) if token else (),
            )

    for token in ("", "a-wrong-one"):
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            ask_with_token(token)
    ask_with_token(os.environ["RAY_AUTH_TOKEN"])
    with socket.socket() as dashboard:
        assert dashboard.connect_ex(("127.0.0.1", 8265)) != 0, "the dashboard executes code"
