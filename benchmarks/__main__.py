"""Run the benchmarks: `python -m benchmarks --size tiny mid node`.

Progress goes to stderr; the last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from benchmarks.sizes import size
from benchmarks.speed import measure

SIZES = ("tiny", "mid", "full", "node")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["tiny", "mid", "node"])
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/bench"), help="folder for generated checkpoints"
    )
    parser.add_argument("--threads", type=int, help="PyTorch threads; default: all cores")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time, for a shared machine; needs --threads 1",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="one repetition without warm-up; eight plain prompts are estimated as eight times one",
    )
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.clock == "cpu" and torch.get_num_threads() != 1:
        parser.error("--clock cpu adds up the threads: give --threads 1")
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    began = time.perf_counter()

    def log(message: str) -> None:
        print(f"[bench {time.perf_counter() - began:6.1f} s] {message}", file=sys.stderr, flush=True)

    report: dict[str, Any] = {"machine": {**describe(clock), "clock": arguments.clock}}
    for name in arguments.size:
        if name == "node":
            from benchmarks.node import measure_node

            report[name] = measure_node(log)
        else:
            report[name] = measure(size(name, arguments.cache, once=arguments.once), clock, log)
            for line in roofline(report[name]):
                log(f"{name}: {line}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report))


def roofline(figures: dict[str, Any]) -> list[str]:
    """Compare each stage's speed with that of a large matrix product."""
    limit = figures["matrix_gflop_per_s"]
    lines = []
    for kind in ("first", "next"):
        for stage, gflop in figures["gflop"].get(kind, {}).items():
            seconds = figures["stages"][kind].get(stage, figures[f"{kind}_prompt_s"])
            if gflop >= 0.01:
                share = gflop / limit / seconds
                lines.append(
                    f"{kind} {stage}: {gflop:.1f} GFLOP in {seconds:.3f} s = {gflop / seconds:.1f} GFLOP/s, "
                    f"{share:.0%} of {limit:.0f}"
                )
    return lines


if __name__ == "__main__":
    main()
