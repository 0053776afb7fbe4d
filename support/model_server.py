"""A model server for tests and benchmarks: real uvicorn in a thread, on a free loopback port."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import uvicorn

from support.polling import poll_until
from xsam import CameraRef, FakeSegmenter, Frame, Query, SegmentationResult, Status
from xsam.errors import XSamError
from xsam.segmenter import Engine
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.masks import BoolMask
from xsam.web.listening import listen, url_of, uvicorn_server
from xsam_server.answering import LocalAnswerer
from xsam_server.app import ModelServer
from xsam_server.cameras import CameraSource, LiveCameras
from xsam_server.model import ModelState, ServedModel
from xsam_server.settings import ServerSettings

PATIENCE_S = 30.0


class FakeEngine(FakeSegmenter):
    """The fake segmenter as an engine that can be held up, and that says what it was asked."""

    def __init__(self, masks_by_label: Mapping[str, Sequence[BoolMask]], *, model_id: str = "fake") -> None:
        super().__init__(masks_by_label)
        self.model_id = model_id
        self.free = threading.Event()  # clear it, and calls wait in the stage "held"
        self.free.set()
        self.entered = threading.Event()  # set by each call
        self.error: XSamError | Exception | None = None  # raised by calls
        self.doubt = ""  # of every segment
        self.asked: list[tuple[Frame | CameraRef, Sequence[Query], bool]] = []
        self.ended_early: list[BaseException] = []
        self.closed = False

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
        """Segment, unless the test holds the engine up or wants an error."""
        self.asked.append((source, queries, keep_frame))
        self.entered.set()
        deadline = Deadline(deadline_s)
        if on_text is not None:
            on_text(0, "some")
            on_text(0, "some text")
        try:
            while not self.free.wait(0.005):
                if on_stage is not None:
                    on_stage("held")
            if self.error is not None:
                raise self.error
            results = super().segment(
                source, queries, deadline_s=deadline.remaining_s, on_stage=on_stage, keep_frame=keep_frame
            )
        except BaseException as error:
            self.ended_early.append(error)
            raise
        return [self._as_told(result) for result in results]

    def _as_told(self, result: SegmentationResult) -> SegmentationResult:
        result = replace(result, model_id=result.model_id and self.model_id)
        if not self.doubt or not result.found:
            return result
        doubts = (self.doubt,) * len(result.segments)
        return replace(result, status=Status.UNSURE, segments=replace(result.segments, doubts=doubts))

    def warm_up(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Take note."""
        self.closed = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that answers."""

    url: str
    port: int
    server: ModelServer
    model: ServedModel
    program: uvicorn.Server


@contextlib.contextmanager
def running_server(
    load: Callable[[], Engine],
    settings: ServerSettings | None = None,
    *,
    port: int = 0,
    wait_until_ready: bool = True,
    cameras: CameraSource | None = None,
) -> Iterator[RunningServer]:
    """Run a server in a thread, and end it with the context."""
    settings = settings or ServerSettings()
    answerer = LocalAnswerer(load, settings)
    seen = None if cameras is None else LiveCameras(source=cameras, keep=answerer.keep)
    server = ModelServer(answerer, settings, cameras=seen)
    with listen("127.0.0.1", port) as listener:
        program = uvicorn_server(
            server.app,
            request_within_s=settings.request_within_s,
            max_waiting=settings.max_waiting,
            on_ending=answerer.model.stop_accepting,
        )
        url, port = url_of(listener, "127.0.0.1"), listener.getsockname()[1]
        thread = threading.Thread(
            target=program.run, kwargs={"sockets": [listener]}, name="server", daemon=True
        )
        thread.start()
        poll_until(lambda: program.started, "the server to start", timeout_s=PATIENCE_S)
        if wait_until_ready:
            poll_until(
                lambda: answerer.model.state is not ModelState.LOADING, "the model", timeout_s=PATIENCE_S
            )
        try:
            yield RunningServer(url=url, port=port, server=server, model=answerer.model, program=program)
        finally:
            program.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the server did not end"
