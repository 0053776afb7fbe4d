"""A segmenter that loads in the background: a server is reachable at once, and calls wait for the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xsam.errors import DeadlineExceededError, ModelError, XSamError
from xsam.segmenter import Segmenter, Session, video_engine
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingStatus:
    """State of the loading, as `perception_status` reports it."""

    state: str  # "loading", "ready" or "failed"
    last_error: str = ""


class LoadingSegmenter:
    """Loads a segmenter on a thread of its own; every request waits for it within its own deadline."""

    def __init__(self, load: Callable[[], Segmenter]) -> None:
        """Start loading."""
        self._load = load
        self._done = threading.Event()
        self._segmenter: Segmenter | None = None
        self._error: XSamError | None = None
        threading.Thread(target=self._run, name="xsam-load", daemon=True).start()

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
    ) -> list[SegmentationResult]:
        """Segment as in `xsam.segmenter.Segmenter`; the deadline covers the loading, too."""
        deadline = Deadline(deadline_s)
        segmenter = self.wait_until_ready(deadline)
        if deadline.expired:
            raise DeadlineExceededError("the model was loaded too late for this request")
        return segmenter.segment(
            source, queries, deadline_s=deadline.remaining_s, on_stage=on_stage, on_text=on_text
        )

    @property
    def has_memory(self) -> bool:
        """True once a model is loaded that remembers earlier frames; see `xsam.segmenter.VideoEngine`."""
        return self._segmenter is not None and video_engine(self._segmenter) is not None

    def open_session(self, query: Query, *, refresh_every: int, late_s: float) -> Session:
        """Open a session of the loaded model, which `segment` takes in place of a query."""
        engine = None if self._segmenter is None else video_engine(self._segmenter)
        if engine is None:
            raise ModelError("no model with a memory of earlier frames is loaded")
        return engine.open_session(query, refresh_every=refresh_every, late_s=late_s)

    def wait_until_ready(self, deadline: Deadline) -> Segmenter:
        """Wait for the model and return it; a frame that is fetched after this does not age meanwhile.

        Raises:
            XSamError: it is not loaded in time, or could not be.
        """
        if not self._done.wait(deadline.timeout_s):
            raise DeadlineExceededError("the model is still being loaded", hint="try again in a while")
        if self._segmenter is None:
            raise self._error or ModelError("the model could not be loaded")
        return self._segmenter

    def status(self, *, deadline_s: float) -> LoadingStatus:
        """Return the state of the loading, without waiting."""
        if not self._done.is_set():
            return LoadingStatus(state="loading")
        if self._segmenter is None:
            return LoadingStatus(state="failed", last_error=str(self._error))
        return LoadingStatus(state="ready")

    def _run(self) -> None:
        try:
            self._segmenter = self._load()
        except XSamError as error:
            self._error = error
        except Exception as error:  # of any kind: later calls must raise it instead of waiting
            self._error = ModelError(f"the model could not be loaded: {type(error).__name__}: {error}")
        finally:
            self._done.set()
