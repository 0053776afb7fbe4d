"""One search with every camera at the same time: a camera that fails costs the others nothing."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from xsam.errors import DeadlineExceededError, XSamError
from xsam_agent_tools.runtime.serial_runner import GRACE_S

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


def on_each_camera(
    cameras: Sequence[str], work: Callable[[str], T], *, deadline_s: float
) -> dict[str, T | XSamError]:
    """Call `work(camera)` for all cameras at once; return its results, or the error of each that failed.

    Work that has not ended by the deadline goes on in its (daemon) thread and counts as failed.
    """
    futures: dict[str, Future[T]] = {}
    for camera in cameras:
        future: Future[T] = Future()
        futures[camera] = future
        context = contextvars.copy_context()
        arguments = (_run, work, camera, future)
        name = f"xsam-search-{camera}"
        threading.Thread(target=context.run, args=arguments, name=name, daemon=True).start()
    wait(futures.values(), timeout=deadline_s + 2 * GRACE_S)
    outcomes: dict[str, T | XSamError] = {}
    for camera, future in futures.items():
        outcome = _outcome(camera, future, deadline_s)
        outcomes[camera] = outcome
    return outcomes


def _run(work: Callable[[str], T], camera: str, future: Future[T]) -> None:
    try:
        future.set_result(work(camera))
    except BaseException as error:
        future.set_exception(error)


def _outcome(camera: str, future: Future[T], deadline_s: float) -> T | XSamError:
    if not future.done():
        return DeadlineExceededError(f"camera {camera!r} was not searched within {deadline_s:.3g} s")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, XSamError):
        return error
    _LOG.error("the search with camera %r failed", camera, exc_info=error)
    return XSamError(
        f"camera {camera!r} failed inside: {type(error).__name__}", hint="tell the user; see the log"
    )
