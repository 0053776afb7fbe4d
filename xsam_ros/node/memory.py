"""Memory of earlier frames in streams: who has a session with the model, and what all of them may take.

Only engines whose model has a memory take part (`xsam.segmenter.video_engine`). A query without a session is
segmented in each frame for itself, and the status of its stream says why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from xsam.errors import InvalidQueryError
from xsam.segmenter import Engine, Session, video_engine
from xsam.types.requests import Query
from xsam_ros.node.parameters import NodeParameters

_MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStatistics:
    """Memory of earlier frames that a stream has."""

    sessions: int = 0  # queries with a memory
    nbytes: int = 0  # that their sessions take now
    no_memory_reason: str = ""  # why some or all queries have none; "" = all have one, or there is no stream
    is_full: bool = False  # the reason is the bound on the memory of all sessions


class SessionBudget:
    """Bytes that the sessions of all streams may take together. Thread-safe."""

    def __init__(self, engine: Engine, parameters: Callable[[], NodeParameters]) -> None:
        self._engine = engine
        self._parameters = parameters
        self._lock = threading.Lock()
        self._granted = 0
        self._streams: dict[str, StreamSessions] = {}  # the last stream of each camera

    def stream_sessions(self, camera: str) -> StreamSessions:
        """Return the sessions of a new stream, by the parameters of now; none is open yet."""
        sessions = self._streams[camera] = self._new_sessions()
        return sessions

    def request_sessions(self, camera: str) -> RequestSessions:
        """Return what a request about the newest frame of a camera may use of its stream's memory."""
        return RequestSessions(self._streams.get(camera))

    def _new_sessions(self) -> StreamSessions:
        parameters, engine = self._parameters(), video_engine(self._engine)
        if engine is None:
            return StreamSessions(reason="the model has no memory")
        if parameters.memory == "off":
            return StreamSessions(reason="parameter memory is off")

        def open_session(query: Query) -> Session:
            return engine.open_session(
                query, refresh_every=parameters.memory_refresh_frames, late_s=parameters.track_lost_s
            )

        return StreamSessions(self, open_session=open_session, nbytes=engine.session_nbytes)

    def grant(self, nbytes: int) -> str:
        """Reserve memory for a session; return why it cannot be had, "" if it is reserved."""
        limit_mb = self._parameters().memory_mb
        with self._lock:
            left = limit_mb * _MB - self._granted
            if nbytes <= left:
                self._granted += nbytes
                return ""
        return (
            f"it takes up to {nbytes / _MB:.3g} MB, and of the {limit_mb} MB of parameter memory_mb "
            f"{max(0, left) / _MB:.3g} MB are left"
        )

    def give_back(self, nbytes: int) -> None:
        """Release what was granted."""
        with self._lock:
            self._granted -= nbytes


class StreamSessions:
    """The sessions of the queries of one stream: one each, opened with their first frames."""

    def __init__(
        self,
        budget: SessionBudget | None = None,
        *,
        open_session: Callable[[Query], Session] | None = None,
        nbytes: Callable[[Query], int] = lambda _: 0,
        reason: str = "",
    ) -> None:
        """Begin without sessions.

        Args:
            budget: grants their memory; None = there are no sessions.
            open_session: opens one.
            nbytes: returns the most bytes that a query's session will take.
            reason: why there are none.
        """
        self._budget = budget
        self._open = open_session
        self._nbytes = nbytes
        self._reason = reason
        self._lock = threading.Lock()
        self._sessions: dict[int, Session] = {}  # by index of the query
        self._granted = 0
        self._unfit: dict[int, str] = {}  # why a query cannot have one
        self._refused: dict[int, str] = {}  # why there was no memory for one
        self._closed = False

    def of(self, index: int, query: Query) -> Query | Session:
        """Return the session of a query, to be given to the engine in its place; else the query itself.

        A query for which there was no room is tried again with each frame. Call it in the model's thread.
        """
        with self._lock:
            session = self._sessions.get(index)
            if session is not None:
                return session
            budget, open_session = self._budget, self._open
            if budget is None or open_session is None or self._closed or index in self._unfit:
                return query
            try:
                query.validate()
                session = open_session(query)
            except InvalidQueryError as error:  # if it is not just unfit, the engine refuses it itself
                self._unfit[index] = error.message
                return query
            nbytes = self._nbytes(query)
            if reason := budget.grant(nbytes):
                self._refused[index] = reason
                return query
            self._refused.pop(index, None)
            self._granted += nbytes
            self._sessions[index] = session
            return session

    def look_ahead(self, query: Query) -> Session | None:
        """Return a fork of the session that has the same query in words; None if there is none.

        Visual prompts have none: those of a request mean the newest frame, those of a stream its first one.
        """
        with self._lock:
            same = (s for s in self._sessions.values() if s.frame_count and _same_words(s.query, query))
            session = next(same, None)
            return None if session is None else session.fork()

    def notes(self, index: int) -> tuple[str, ...]:
        """Return what the results of a query have to say about its missing memory."""
        reason = self._refused.get(index)
        return () if reason is None else (f"segmented without memory of earlier frames: {reason}",)

    def close(self) -> None:
        """Give the memory back; what the model's thread is using it keeps until it is done."""
        with self._lock:
            self._closed = True
            self._sessions.clear()
            self._refused.clear()
            granted, self._granted = self._granted, 0
        if self._budget is not None:
            self._budget.give_back(granted)

    def statistics(self) -> MemoryStatistics:
        """Return the current statistics."""
        with self._lock:
            sessions, is_full = list(self._sessions.values()), bool(self._refused)
            without = sorted({**self._unfit, **self._refused}.items())
        reasons = [self._reason] if self._reason else []
        reasons += [f"query {index + 1}: {reason}" for index, reason in without]
        return MemoryStatistics(
            sessions=len(sessions),
            nbytes=sum(session.nbytes for session in sessions),
            no_memory_reason="; ".join(reasons),
            is_full=is_full,
        )


class RequestSessions:
    """Forks of a stream's sessions, for one request: a look ahead that the stream never notices."""

    def __init__(self, stream: StreamSessions | None) -> None:
        self._stream = stream
        self._used: set[int] = set()

    def of(self, index: int, query: Query) -> Query | Session:
        """Return what to give to the engine for a query."""
        session = None if self._stream is None else self._stream.look_ahead(query)
        if session is None:
            return query
        self._used.add(index)
        return session

    def notes(self, index: int) -> tuple[str, ...]:
        """Return what the results of a query have to say about the memory that was used."""
        if index not in self._used:
            return ()
        return ("segmented with the memory of the camera's stream, which has this query",)


def _same_words(one: Query, other: Query) -> bool:
    names = ("text", "task", "thing_classes", "stuff_classes", "score_threshold", "max_instances", "explain")
    return not (one.prompts or other.prompts) and all(getattr(one, n) == getattr(other, n) for n in names)
