"""A replica: the engine with its queue and its frames, as `xsam serve` has them, without the HTTP around."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Callable

from xsam.errors import ModelError, XSamError
from xsam.segmenter import Engine
from xsam_server.answering import LocalAnswerer
from xsam_server.app import configure_logging
from xsam_server.events import Outcome
from xsam_server.fleet.lines import event_line, facts_line
from xsam_server.fleet.options import FleetOptions
from xsam_server.frames import MemoryBudget
from xsam_server.metrics import RequestRecord, log_bug
from xsam_server.model import ModelState
from xsam_server.reading import Incoming
from xsam_server.settings import ServerSettings


def load_engine(options: FleetOptions) -> Engine:
    """Load the model of a replica."""
    from xsam.engine import DEFAULT_FRAME_CACHE_MIB, XSam

    cache_mib = options.frame_cache_mib
    return XSam.load(
        options.model,
        device=options.device or ("cuda" if options.num_gpus else "cpu"),
        llm_weights=options.llm_weights,
        threads=options.threads,
        frame_cache_mib=DEFAULT_FRAME_CACHE_MIB if cache_mib is None else cache_mib,
    )


class EngineReplica:
    """Answers what the ingress passes on."""

    async def __init__(self, load: Callable[[], Engine], settings: ServerSettings) -> None:  # type: ignore[misc]
        """Load the model; Ray Serve sends requests when this has returned.

        Args:
            load: returns the engine.
            settings: the limits.

        Raises:
            XSamError: it cannot be loaded.
        """
        configure_logging()
        self._answerer = LocalAnswerer(load, settings)
        self._memory = MemoryBudget(settings.memory_bytes)
        self._answerer.start()
        await asyncio.to_thread(self._answerer.model.wait_until_loaded)
        if self._answerer.error is not None:
            raise self._answerer.error

    async def answer(
        self, client: str, request: bytes, image: bytes | None, elapsed_s: float, progress: bool
    ) -> AsyncIterator[bytes]:
        """Answer one request; a caller that goes away ends it at the model's next stage.

        Args:
            client: name of whoever asks.
            request: its JSON.
            image: its image, unless the request names a frame.
            elapsed_s: how long ago it arrived.
            progress: whether events are wanted besides the outcome.

        Yields:
            Lines of `xsam_server.fleet.lines`: facts when it is queued, events, facts, the outcome.
        """
        record = RequestRecord(client=client, began_s=time.monotonic() - elapsed_s)
        try:
            with self._memory.hold() as held:
                held.take(len(request) + len(image or b""))
                self._answerer.check_room()
                pending = await self._answerer.ask(
                    Incoming(request=request, image=image), record=record, held=held, progress=progress
                )
                try:
                    yield facts_line(record)
                    while True:
                        # Cancellation strikes here and nowhere else: the model's thread knows no `await`.
                        event = await pending.events.get()
                        if isinstance(event, Outcome):
                            yield facts_line(record)
                            yield event_line(event)
                            return
                        yield event_line(event)
                finally:
                    pending.end()
        except XSamError as error:
            yield event_line(error)
        except Exception as error:  # a bug must not look like a replica that has died
            log_bug(traceback.format_exc())
            yield event_line(
                ModelError(f"internal error: {type(error).__name__}", hint="see the log of the replica")
            )

    async def model_id(self) -> str:
        """Return the identifier of the model."""
        return self._answerer.model_id

    async def check_health(self) -> None:
        """Raise if the model is gone; Ray Serve then replaces the replica."""
        if self._answerer.state is not ModelState.READY:
            raise ModelError(f"the model is {self._answerer.state.value}")

    async def __del__(self) -> None:
        """Release the memory; Ray Serve awaits this when no request is left, or `drain_s` has passed."""
        if hasattr(self, "_answerer"):
            await self._answerer.close()
