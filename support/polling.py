"""Wait for a condition with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll_until(
    condition: Callable[[], T], description: str, *, timeout_s: float, interval_s: float = 0.01
) -> T:
    """Poll until the condition is true, and return its value.

    Args:
        description: what is waited for, for the error message.

    Raises:
        TimeoutError: the condition was not true in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() >= deadline_s:
            raise TimeoutError(f"{description}: not within {timeout_s:g} s")
        time.sleep(interval_s)
    return value
