"""Check and measure everything that needs a GPU, unattended, in at most nine minutes.

The last line on stdout is JSON, also after a failure, at the deadline and after a signal; progress goes to
stderr. On a GPU a page is written to docs/gpu/. On a CPU (`--device cpu --size tiny`) the same parts run at
small size.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from benchmarks.gpu.report import judge, page_name, render
from benchmarks.gpu.runner import CheckPart, Settings, run_part

_HERE = "benchmarks.gpu"
PARTS = (
    CheckPart(
        name="machine", target=f"{_HERE}.machine:run", budget_s=90, about="the device, and its roofline"
    ),
    CheckPart(name="golden", target=f"{_HERE}.golden:run", budget_s=60, about="parity with the reference"),
    CheckPart(name="speed", target=f"{_HERE}.speed:run", budget_s=120, about="seconds and memory by stage"),
    CheckPart(name="plain", target=f"{_HERE}.plain:run", budget_s=90, about="the same, the plain way"),
    CheckPart(name="waits", target=f"{_HERE}.waits:run", budget_s=60, about="waits of Python for the device"),
    CheckPart(name="memory", target=f"{_HERE}.memory:run", budget_s=60, about="recovery after out of memory"),
    CheckPart(
        name="weights", target=f"{_HERE}.weights:run", budget_s=120, about="int8 and int4 language model"
    ),
    CheckPart(name="graphs", target=f"{_HERE}.options:run_graphs", budget_s=60, about="CUDA graphs"),
    CheckPart(
        name="attention", target=f"{_HERE}.options:run_attention", budget_s=90, about="attention backends"
    ),
    CheckPart(name="batch", target=f"{_HERE}.options:run_batch", budget_s=90, about="several frames at once"),
    CheckPart(name="node", target=f"{_HERE}.node:run", budget_s=90, about="what the ROS node adds"),
    CheckPart(name="compile", target=f"{_HERE}.options:run_compile", budget_s=150, about="torch.compile"),
)
_PRELOAD = tuple(dict.fromkeys(part.target.partition(":")[0] for part in PARTS if part.name != "node"))
_LEAST_S = 10.0  # a part is not begun with less

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class DeviceSize(str, Enum):
    """The network: the shipped one, or random weights of that size."""

    TINY = "tiny"
    MID = "mid"
    FULL = "full"


class StoppedError(Exception):
    """A signal ended the run."""


def _stop(number: int, _: Any) -> NoReturn:
    raise StoppedError(signal.Signals(number).name)


@app.command(help=__doc__)
def main(
    device: Annotated[str, typer.Option(help="cuda, cuda:1 … or cpu.")] = "cuda",
    size: Annotated[DeviceSize, typer.Option(help="Network to measure.")] = DeviceSize.FULL,
    deadline_s: Annotated[float, typer.Option(min=1.0, help="For everything.")] = 530.0,
    part: Annotated[list[str] | None, typer.Option(help="Only this part; repeatable.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Not this part; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    pages: Annotated[
        Path | None, typer.Option(help="Folder for the page of the device; on a GPU docs/gpu.")
    ] = None,
) -> None:
    names = [known.name for known in PARTS]
    for option, given in (("--part", part), ("--without", without)):
        if unknown := sorted(set(given or ()) - set(names)):
            raise typer.BadParameter(
                f"there is no part {unknown[0]!r}, but {', '.join(names)}", param_hint=option
            )
    chosen = [p for p in PARTS if p.name in (part or names) and p.name not in (without or ())]
    settings = Settings(device=device, size=size.value)
    began = time.monotonic()
    report: dict[str, Any] = {"device": device, "size": size.value, "deadline_s": deadline_s, "parts": {}}
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        for each in chosen:
            left_s = deadline_s - (time.monotonic() - began)
            if left_s < _LEAST_S:
                report["parts"][each.name] = {
                    "status": "timed out",
                    "seconds": 0.0,
                    "error": "the deadline came first",
                    "figures": {},
                }
                continue
            outcome = run_part(each, settings, limit_s=min(each.budget_s, left_s), preload=_PRELOAD)
            report["parts"][each.name] = outcome
            say(
                began,
                f"{each.name}: {outcome['status']} in {outcome['seconds']} s {outcome['error']}".rstrip(),
            )
    except StoppedError as signal_name:
        report["stopped"] = str(signal_name)
    report["seconds"] = round(time.monotonic() - began, 1)
    report |= judge(report)
    known = "name" in report["parts"].get("machine", {}).get("figures", {})
    if pages is None and settings.on_gpu and known:  # not without a GPU, or of some parts
        pages = Path("docs/gpu")
    if pages is not None:
        write(pages / page_name(report), render(report))
    if out is not None:
        write(out, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report), flush=True)
    raise typer.Exit(0 if report["passed"] else 1)


def say(began: float, message: str) -> None:
    print(f"[gpu {time.monotonic() - began:5.1f} s] {message}", file=sys.stderr, flush=True)


def write(path: Path, text: str) -> None:
    """Write a file; what cannot be written must not cost the JSON on stdout."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"[gpu] cannot write {path}: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
