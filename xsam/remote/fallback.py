"""A server with a local model behind it, which answers while the link is down; every result says who did."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from xsam.errors import NotActiveError, SegmenterUnavailableError, XSamError
from xsam.remote.link import LinkStatus
from xsam.remote.segmenter import RemoteSegmenter
from xsam.segmenter import Engine
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult

_PROBE_WITHIN_S = 1.0
_REMOTE_SHARE = 0.6  # of the deadline; the rest is the local model's, if the server stays silent


class RemoteEngine:
    """An `Engine` that asks a server, and a local model while the link is down, if there is one.

    After a request that got no connection the local model answers at once, without a new attempt, until the
    server has answered several probes in a row: a link that comes and goes does not switch models with every
    frame.
    """

    def __init__(
        self,
        remote: RemoteSegmenter,
        *,
        load_local: Callable[[], Engine] | None = None,
        probe_every_s: float = 1.0,
        probes_to_return: int = 3,
    ) -> None:
        """Prepare; nothing is sent or loaded.

        Args:
            remote: asks the server; closed with this engine.
            load_local: loads the model that answers while the link is down; None = nobody does.
            probe_every_s: how often the server is probed while the link is down.
            probes_to_return: answers in a row after which the server is asked again.
        """
        self._remote = remote
        self._load_local = load_local
        self._local: Engine | None = None
        self._probe_every_s = probe_every_s
        self._probes_to_return = probes_to_return
        self._lock = threading.Lock()
        self._down_reason = ""  # "" = the server is asked
        self._closed = threading.Event()

    @property
    def url(self) -> str:
        return self._remote.url

    @property
    def link(self) -> LinkStatus:
        """State of the link after the last request or probe."""
        return self._remote.link

    @property
    def is_local(self) -> bool:
        """True while the local model answers."""
        return bool(self._down_reason)

    @property
    def model_id(self) -> str:
        """Identifier of the model that answers now; "" while the server has not told its own."""
        local = self._local
        return local.model_id if self.is_local and local is not None else self._remote.model_id

    def warm_up(self) -> None:
        """Load the local model, and open the connection; a server that is away is no error.

        Raises:
            XSamError: the local model cannot be loaded, or the server refuses this client.
        """
        if self._load_local is not None and self._local is None:
            self._local = self._load_local()
            self._local.warm_up()
        try:
            self._remote.status()
        except SegmenterUnavailableError as error:
            self._switch_to_local(error)

    def close(self) -> None:
        """Close the connections and release the local model; later calls raise."""
        self._closed.set()
        self._remote.close()
        if self._local is not None:
            self._local.close()

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        """See `xsam.segmenter.Engine.segment`; results of the local model say so in their notes.

        Raises:
            LinkDownError: the server cannot be reached, and there is no local model.
        """
        local = self._local
        if local is None:
            return self._remote.segment(
                source,
                queries,
                deadline_s=deadline_s,
                on_stage=on_stage,
                on_text=on_text,
                keep_frame=keep_frame,
            )
        deadline = Deadline(deadline_s)
        if not self.is_local:
            try:
                return self._remote.segment(
                    source,
                    queries,
                    deadline_s=_REMOTE_SHARE * deadline.remaining_s,
                    on_stage=on_stage,
                    on_text=on_text,
                    keep_frame=keep_frame,
                )
            except (SegmenterUnavailableError, NotActiveError) as error:
                self._switch_to_local(error)
        reason = self._down_reason
        results = local.segment(
            source,
            queries,
            deadline_s=deadline.remaining_s,
            on_stage=on_stage,
            on_text=on_text,
            keep_frame=keep_frame,
        )
        note = f"answered by the local model {local.model_id}, because {self.url} is away: {reason}"
        return [result.with_notes((note,)) for result in results]

    def _switch_to_local(self, error: XSamError) -> None:
        with self._lock:
            if self._local is None or self._down_reason or self._closed.is_set():
                return
            self._down_reason = error.message
        threading.Thread(target=self._probe, name="xsam_probe", daemon=True).start()

    def _probe(self) -> None:
        """Ask for the status until the server has answered often enough in a row."""
        answers = 0
        while not self._closed.wait(self._probe_every_s):
            try:
                ready = self._remote.status(deadline_s=_PROBE_WITHIN_S).state == "ready"
            except XSamError:
                ready = False
            answers = answers + 1 if ready else 0
            if answers >= self._probes_to_return:
                self._down_reason = ""
                return
