"""Which queries get a session: by the model, the parameters, and what is left of the memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xsam import FakeSegmenter, InvalidQueryError, Query, VisualPrompt
from xsam.segmenter import Session
from xsam_ros.node.memory import SessionBudget, StreamSessions
from xsam_ros.node.parameters import NodeParameters

_NBYTES = 400_000
_CUBE, _MUG, _CAP = (Query(text=f"the {name}") for name in ("cube", "mug", "cap"))


class _Session:
    """A session that takes three quarters of what was announced."""

    nbytes = _NBYTES * 3 // 4

    def __init__(self, query: Query, frame_count: int = 0) -> None:
        self.query, self.frame_count = query, frame_count

    def fork(self) -> _Session:
        return _Session(self.query, self.frame_count)

    def refresh(self) -> None: ...

    def reset(self) -> None: ...


class _Rememberer(FakeSegmenter):
    """An engine that gives sessions; it notes with what options."""

    model_id = "rememberer"
    has_memory = True

    def __init__(self) -> None:
        super().__init__({})
        self.options: list[tuple[int, float]] = []

    def warm_up(self) -> None: ...

    def close(self) -> None: ...

    def session_nbytes(self, query: Query) -> int:
        return _NBYTES

    def open_session(self, query: Query, *, refresh_every: int, late_s: float) -> Session:
        if query.explain:
            raise InvalidQueryError("it generates text")
        self.options.append((refresh_every, late_s))
        return _Session(query)


class _Forgetful(_Rememberer):
    """An engine whose model has no memory, as X-SAM in `XSam`."""

    model_id = "forgetful"
    has_memory = False


@pytest.fixture
def parameters() -> list[NodeParameters]:
    """The parameters of now are the last ones."""
    return [NodeParameters(memory_mb=1, memory_refresh_frames=7, track_lost_s=2.5)]


@pytest.fixture
def engine() -> _Rememberer:
    return _Rememberer()


@pytest.fixture
def budget(engine: _Rememberer, parameters: list[NodeParameters]) -> SessionBudget:
    return SessionBudget(engine, lambda: parameters[-1])


def _open(sessions: StreamSessions, *queries: Query) -> list[bool]:
    return [isinstance(sessions.of(index, query), _Session) for index, query in enumerate(queries)]


def test_each_query_keeps_its_session(budget: SessionBudget, engine: _Rememberer) -> None:
    sessions = budget.stream_sessions("front")
    first = [sessions.of(0, _CUBE), sessions.of(1, _MUG)]
    assert [session.query for session in first if isinstance(session, _Session)] == [_CUBE, _MUG]
    assert [sessions.of(0, _CUBE), sessions.of(1, _MUG)] == first
    assert engine.options == [(7, 2.5)] * 2
    statistics = sessions.statistics()
    assert (statistics.sessions, statistics.nbytes) == (2, 2 * _Session.nbytes)
    assert (statistics.no_memory_reason, statistics.is_full) == ("", False)


def test_what_is_beyond_the_bound_goes_without_and_says_so(budget: SessionBudget) -> None:
    """Sizes are those announced, for both streams together, before any of it is taken."""
    one, other = budget.stream_sessions("front"), budget.stream_sessions("rear")
    assert _open(one, _CUBE) == [True]
    assert _open(other, _CUBE, _MUG, _CAP) == [True, False, False]
    assert other.notes(0) == ()
    (note,) = other.notes(1)
    assert note == (
        "segmented without memory of earlier frames: it takes up to 0.4 MB, and of the 1 MB of parameter "
        "memory_mb 0.2 MB are left"
    )
    statistics = other.statistics()
    assert (statistics.sessions, statistics.is_full) == (1, True)
    assert statistics.no_memory_reason.startswith("query 2: it takes up to 0.4 MB")
    assert "query 3: " in statistics.no_memory_reason


def test_memory_of_a_stream_that_has_ended_goes_to_others(budget: SessionBudget) -> None:
    one, other = budget.stream_sessions("front"), budget.stream_sessions("rear")
    assert _open(one, _CUBE, _MUG) == [True, True]
    assert _open(other, _CAP) == [False]
    one.close()
    one.close()  # gives nothing back twice
    assert _open(other, _CAP, _CUBE, _MUG) == [True, True, False]
    assert other.notes(0) == ()
    assert _open(one, _CUBE) == [False]  # the model may still be busy with its last frame
    assert one.statistics().sessions == 0


def test_a_larger_bound_counts_at_once(budget: SessionBudget, parameters: list[NodeParameters]) -> None:
    sessions = budget.stream_sessions("front")
    assert _open(sessions, _CUBE, _MUG, _CAP) == [True, True, False]
    parameters.append(replace(parameters[-1], memory_mb=2))
    assert _open(sessions, _CUBE, _MUG, _CAP) == [True, True, True]
    parameters.append(replace(parameters[-1], memory_mb=0))
    assert _open(sessions, _CUBE) == [True]  # what is there is kept


def test_generated_and_invalid_queries_have_no_session(budget: SessionBudget) -> None:
    sessions = budget.stream_sessions("front")
    asked = Query(text="why?", explain=True)
    assert _open(sessions, asked, Query(text=" "), _CUBE) == [False, False, True]
    assert sessions.of(0, asked) is asked
    reason = sessions.statistics().no_memory_reason
    assert reason.startswith("query 1: it generates text; query 2: the query is empty")


def test_off_and_models_without_memory(engine: _Rememberer) -> None:
    off = SessionBudget(engine, lambda: NodeParameters(memory="off")).stream_sessions("front")
    without = SessionBudget(_Forgetful(), NodeParameters).stream_sessions("front")
    for sessions, reason in ((off, "parameter memory is off"), (without, "the model has no memory")):
        assert _open(sessions, _CUBE) == [False]
        assert sessions.notes(0) == ()
        assert sessions.statistics().no_memory_reason == reason
        assert not sessions.statistics().is_full
    assert engine.options == []


def test_a_request_with_the_words_of_a_stream_looks_with_its_memory(budget: SessionBudget) -> None:
    stream = budget.stream_sessions("front")
    marked = Query(prompts=(VisualPrompt.point(3, 4),))
    opened = [stream.of(index, query) for index, query in enumerate((_CUBE, marked))]

    def used(*queries: Query, camera: str = "front") -> list[bool]:
        request = budget.request_sessions(camera)
        given = [request.of(index, query) for index, query in enumerate(queries)]
        assert not any(item is session for item in given for session in opened)
        assert [bool(request.notes(index)) for index in range(len(queries))] == [
            isinstance(item, _Session) for item in given
        ]
        return [isinstance(item, _Session) for item in given]

    same = Query(text="the cube")
    assert used(same) == [False]  # the stream has seen no frame yet
    for session in opened:
        assert isinstance(session, _Session)
        session.frame_count = 5
    assert used(_MUG, same, marked, replace(same, score_threshold=0.1)) == [False, True, False, False]
    assert used(same, camera="rear") == [False]
    stream.close()
    assert used(same) == [False]
