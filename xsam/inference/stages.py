"""Stages of a request: their names, their times, and the deadline between them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

from xsam.errors import ModelError, OutOfMemoryError, XSamError
from xsam.inference.acceleration import is_out_of_memory
from xsam.types.deadline import Deadline, StageHook

_Arguments = ParamSpec("_Arguments")
REMINDER_S = 1.0
"""A stage that takes longer is announced again and again, because the hook may want to end the request."""


class HookRaisedError(Exception):
    """Carries the error of a hook past the conversion of PyTorch's errors; never leaves the engine."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def guarded(hook: Callable[_Arguments, None] | None) -> Callable[_Arguments, None] | None:
    """Return a hook of which the errors can be told from the network's.

    Raises:
        TypeError: `hook` is neither None nor callable.
    """
    if hook is None:
        return None
    if not callable(hook):
        raise TypeError(f"a hook must be callable, got {type(hook).__name__}")
    called = hook

    def call(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> None:
        try:
            called(*arguments, **options)
        except XSamError:
            raise
        except Exception as error:
            raise HookRaisedError(error) from error

    return call


class StageClock:
    """Announces and times the stages of one request, and checks its deadline between them."""

    def __init__(self, deadline: Deadline, on_stage: StageHook | None = None) -> None:
        self.deadline = deadline
        self._on_stage = guarded(on_stage)
        self._stage = ""
        self._began_s = 0.0
        self._announced_s = 0.0
        self._spent_s: dict[str, float] = {}

    def check(self) -> None:
        """Raise `DeadlineExceededError` if no time is left; let the hook end a stage that takes long."""
        self.deadline.check(self._stage)
        if self._on_stage is not None and time.monotonic() - self._announced_s >= REMINDER_S:
            self._announced_s = time.monotonic()
            self._on_stage(self._stage)

    def begin(self, stage: str) -> None:
        """End the current stage, check the deadline, and announce the next stage."""
        self._end()
        self.deadline.check(self._stage)
        if self._on_stage is not None:
            self._on_stage(stage)
        self._stage, self._began_s = stage, time.monotonic()
        self._announced_s = self._began_s

    def finish(self) -> dict[str, float]:
        """End the last stage and return the seconds spent in each."""
        self._end()
        self.deadline.check(self._stage)
        return self._spent_s

    def _end(self) -> None:
        if self._stage:
            spent_s = time.monotonic() - self._began_s
            self._spent_s[self._stage] = self._spent_s.get(self._stage, 0.0) + spent_s


@contextmanager
def model_errors(failed: str = "inference failed", default: type[XSamError] = ModelError) -> Iterator[None]:
    """Convert what PyTorch and others raise to the project's errors, with the cause attached."""
    try:
        yield
    except XSamError:
        raise
    except HookRaisedError as raised:
        raise raised.error from None
    except Exception as error:
        lines = str(error).strip().splitlines()
        if is_out_of_memory(error):
            # The frames of the traceback hold tensors for as long as anybody holds the error.
            traceback.clear_frames(error.__traceback__)
            raise OutOfMemoryError(lines[0] if lines else "out of memory") from error
        reason = f": {lines[0]}" if lines else ""
        raise default(f"{failed}: {type(error).__name__}{reason}") from error
