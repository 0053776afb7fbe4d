"""Parts in processes of their own: one that fails, hangs or crashes ends alone, and what it measured stays.

A device error of CUDA makes every later call of the process fail, and nothing interrupts a compilation; so a
part gets a process and a limit. They are forked from a server that has imported everything and never touched
the GPU, which saves the seconds of the imports. This module imports neither PyTorch nor the package.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

Record: TypeAlias = Callable[[str, Any], None]
"""Takes the name of a figure and its value for the JSON; what was recorded survives whatever follows."""

_JOIN_S = 5.0


class SkippedPart(Exception):
    """This machine cannot run a part; says why."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every part is told."""

    device: str  # cpu, cuda, cuda:1 …
    size: str  # tiny, mid or full

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")


@dataclass(frozen=True, kw_only=True)
class CheckPart:
    """One part: a function `(settings, record)` in a module."""

    name: str
    target: str  # module:function
    budget_s: float
    about: str


def run_part(
    part: CheckPart, settings: Settings, *, limit_s: float, preload: Sequence[str] = ()
) -> dict[str, Any]:
    """Run a part to its end or its limit.

    Returns:
        status ("passed", "failed", "timed out" or "skipped"), seconds, error, and figures recorded so far.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(part.target, settings, sender), name=part.name)
    began = time.monotonic()
    process.start()
    sender.close()
    figures: dict[str, Any] = {}
    status, error = "", ""
    try:
        for message in _messages(receiver, began + limit_s):
            if message is None:
                status, error = "timed out", f"not done after {limit_s:.0f} s"
                break
            figures.update(message.get("figures", {}))
            status, error = message.get("status", status), message.get("error", error)
    finally:
        if status != "timed out":
            process.join(_JOIN_S)
        _kill(process.pid)
        process.join(_JOIN_S)
        receiver.close()
    if not status:
        status, error = "failed", _cause_of_death(process.exitcode)
    return {
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "error": error,
        "figures": figures,
    }


def _messages(receiver: Connection, end_s: float) -> Iterator[dict[str, Any] | None]:
    """Yield what the child sends until it closes the connection; None when the time is up."""
    while True:
        if not receiver.poll(max(0.0, end_s - time.monotonic())):
            yield None
            return
        try:
            yield json.loads(receiver.recv_bytes())
        except EOFError:
            return


def _kill(pid: int | None) -> None:
    """Kill what is left of a child's session, such as workers of the compiler."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"the process was ended by {signal.Signals(-exit_code).name}"
    return f"the process ended without a word, exit code {exit_code}"


def _in_child(target: str, settings: Settings, sender: Connection) -> None:
    os.setsid()
    os.dup2(2, 1)  # stdout is for the JSON of the whole run

    def send(**message: Any) -> None:
        sender.send_bytes(json.dumps(message).encode())

    def record(name: str, value: Any) -> None:
        send(figures={name: value})

    try:
        module, _, function = target.partition(":")
        getattr(importlib.import_module(module), function)(settings, record)
        send(status="passed")
    except SkippedPart as reason:
        send(status="skipped", error=str(reason))
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        lines = str(error).strip().splitlines()
        send(status="failed", error=f"{type(error).__name__}: {lines[0] if lines else ''}"[:500])
    finally:
        sys.stderr.flush()
        sender.close()
        os._exit(0)  # no tidying up: a broken CUDA context may hang in it
