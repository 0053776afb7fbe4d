"""The model behind the server: loaded in the background, owned by one thread, closed at the end."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from enum import Enum

from xsam.errors import ModelError, NotActiveError, XSamError
from xsam.segmenter import Engine
from xsam.worker import ModelWorker

_LOAD_WITHIN_S = 3600.0
_HINT = "ask again in a while; /readyz tells when"


class ModelState(str, Enum):
    """Whether requests are accepted."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


class ServedModel:
    """An engine that is loaded and warmed up in the background; requests are refused until then."""

    def __init__(
        self,
        load: Callable[[], Engine],
        *,
        queue_size: int,
        log_error: Callable[[str], None],
        on_failed: Callable[[], None] | None = None,
    ) -> None:
        """Take note of how to load; `start` does so.

        Args:
            load: returns the engine; called in the model's thread.
            queue_size: requests that may wait.
            log_error: gets tracebacks.
            on_failed: called in a thread of its own when the model cannot be loaded; see `error`.
        """
        self._load = load
        self._log_error = log_error
        self._on_failed = on_failed
        self._engine: Engine | None = None
        self.state = ModelState.LOADING
        self.error: XSamError | None = None
        self._ended_loading = threading.Event()
        self.worker = ModelWorker(queue_size=queue_size, log_error=log_error, owner="the server")
        self.worker.refuse(NotActiveError("the model is being loaded", hint=_HINT))

    def start(self) -> None:
        """Load in the background."""
        threading.Thread(target=self._run, name="xsam_load", daemon=True).start()

    def wait_until_loaded(self) -> None:
        """Wait until the model is loaded, or cannot be: see `state`; within the deadline of loading."""
        self._ended_loading.wait()

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            NotActiveError: it is not loaded, or not any more.
        """
        if self._engine is None:
            raise self.error or NotActiveError(f"the model is {self.state.value}", hint=_HINT)
        return self._engine

    @property
    def model_id(self) -> str:
        """Identifier of the model; "" until it is loaded."""
        return "" if self._engine is None else self._engine.model_id

    def close(self, *, timeout_s: float) -> bool:
        """End all requests, let the running one reach the end of its stage, and release the memory.

        Returns:
            False if the running request did not stop in time; its thread is left behind.
        """
        self.stop_accepting()
        stopped = self.worker.close(timeout_s=timeout_s)
        if stopped and self._engine is not None:
            self._engine.close()
            self._engine = None
        return stopped

    def stop_accepting(self) -> None:
        """Refuse new requests, and end those that wait or run; the model is not loaded any more."""
        if self.state is not ModelState.FAILED:
            self.state = ModelState.CLOSED
        self.worker.refuse(NotActiveError("the server is shutting down", hint="ask again once it is back"))

    def _run(self) -> None:
        try:
            self._load_and_accept()
        finally:
            self._ended_loading.set()

    def _load_and_accept(self) -> None:
        def load() -> Engine:
            engine = self._load()
            engine.warm_up()
            return engine

        try:
            engine = self.worker.call(load, stage="loading", timeout_s=_LOAD_WITHIN_S)
        except XSamError as error:
            if self.state is ModelState.CLOSED:
                return
            self.error, self.state = error, ModelState.FAILED
        except Exception as error:  # whatever happens, nobody may wait for a model that will never come
            self._log_error(traceback.format_exc())
            self.error, self.state = ModelError(f"{type(error).__name__}: {error}"), ModelState.FAILED
        if self.error is not None:
            self.worker.refuse(self.error)
            if self._on_failed is not None:
                self._on_failed()
            return
        self._engine = engine
        if self.state is ModelState.LOADING:
            self.state = ModelState.READY
            self.worker.accept()
