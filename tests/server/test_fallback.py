"""A server with a local model behind it: who answers, and that every result says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.model_server import PATIENCE_S, FakeEngine, running_server
from support.polling import poll_until
from tests.server.conftest import free_port, new_engine, picture
from xsam import (
    CheckpointError,
    DeadlineExceededError,
    Frame,
    LinkDownError,
    Query,
    SegmenterUnavailableError,
    UnauthorizedError,
)
from xsam.remote import RemoteEngine, RemoteSegmenter
from xsam_server.settings import Client, ServerSettings

FRAME = Frame(rgb=picture(7))
RED_QUERY = [Query(text="red")]


@pytest.fixture
def local() -> FakeEngine:
    return new_engine(model_id="small")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def fallback(local: FakeEngine, port: int) -> Iterator[RemoteEngine]:
    """Return an engine whose server is not there yet."""
    remote = RemoteSegmenter(f"http://127.0.0.1:{port}", reconnect_within_s=0.1)
    fallback = RemoteEngine(remote, load_local=lambda: local, probe_every_s=0.02, probes_to_return=2)
    yield fallback
    fallback.close()


def _ask(engine: RemoteEngine, deadline_s: float = PATIENCE_S) -> tuple[str, tuple[str, ...]]:
    (result,) = engine.segment(FRAME, RED_QUERY, deadline_s=deadline_s)
    assert result.found
    return result.model_id, result.notes


def test_the_local_model_answers_until_the_server_has_been_back_for_a_while(
    fallback: RemoteEngine, port: int
) -> None:
    fallback.warm_up()
    model, (note,) = _ask(fallback)
    assert model == fallback.model_id == "small"
    assert f"the local model small, because http://127.0.0.1:{port} is away: no connection" in note
    with running_server(lambda: new_engine(model_id="large"), port=port):
        poll_until(lambda: not fallback.is_local, "the way back", timeout_s=PATIENCE_S)
        assert _ask(fallback) == ("large", ())
        assert fallback.model_id == "large"
        assert fallback.link.is_up
    model, (note,) = _ask(fallback)
    assert model == "small"
    assert "is away" in note


def test_one_answer_of_a_shaky_link_is_not_enough(local: FakeEngine, port: int) -> None:
    remote = RemoteSegmenter(f"http://127.0.0.1:{port}", reconnect_within_s=0.1)
    engine = RemoteEngine(remote, load_local=lambda: local, probe_every_s=0.02, probes_to_return=10**6)
    engine.warm_up()
    with running_server(lambda: new_engine(model_id="large"), port=port):
        poll_until(lambda: engine.link.is_up, "a probe", timeout_s=PATIENCE_S)
        assert _ask(engine)[0] == "small"
    engine.close()


def test_a_server_that_is_late_is_not_away(local: FakeEngine) -> None:
    slow = new_engine()
    slow.free.clear()
    with running_server(lambda: slow) as server:
        engine = RemoteEngine(RemoteSegmenter(server.url), load_local=lambda: local)
        engine.warm_up()
        with pytest.raises(DeadlineExceededError):
            _ask(engine, deadline_s=6.0)
        assert not engine.is_local
        engine.close()
    assert local.asked == []
    assert local.closed


def test_without_a_local_model_requests_end_typed_and_go_on_when_the_link_is_back(port: int) -> None:
    engine = RemoteEngine(RemoteSegmenter(f"http://127.0.0.1:{port}", reconnect_within_s=0.1))
    engine.warm_up()  # a server that is away is no reason not to start
    assert engine.model_id == ""
    with pytest.raises(LinkDownError):
        _ask(engine)
    with running_server(lambda: new_engine(model_id="large"), port=port):
        assert _ask(engine) == ("large", ())
    engine.close()
    with pytest.raises(SegmenterUnavailableError, match="closed"):
        _ask(engine)


def test_what_is_wrong_with_the_setup_is_said_at_once(local: FakeEngine) -> None:
    def broken() -> FakeEngine:
        raise CheckpointError("no such folder")

    settings = ServerSettings(clients=(Client(name="spot", token="secret-of-spot"),))
    with running_server(new_engine, settings) as server:
        stranger = RemoteEngine(RemoteSegmenter(server.url), load_local=lambda: local)
        with pytest.raises(UnauthorizedError):
            stranger.warm_up()
        stranger.close()
        without_model = RemoteEngine(RemoteSegmenter(server.url), load_local=broken)
        with pytest.raises(CheckpointError):
            without_model.warm_up()
        without_model.close()
