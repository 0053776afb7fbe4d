"""The JSON of a run → whether it passed, goals, and a page for people. Reads nothing but the JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Name, part, path to the figure, limit, whether the figure must be at least the limit, unit. They are for the
# full size on a GPU of the H100's class.
GOALS = (
    ("first prompt, 640×480", "speed", ("480p", "first_ms"), 90.0, False, "ms"),
    ("next prompt, 640×480", "speed", ("480p", "next_ms"), 12.0, False, "ms"),
    ("eight prompts, 640×480", "speed", ("480p", "eight_ms"), 150.0, False, "ms"),
    ("memory", "speed", ("memory_gb", "reserved"), 14.0, False, "GB"),
    ("next prompt against the plain way", "", ("next_ratio",), 10.0, True, "×"),
    ("node: overhead, median", "node", ("overhead_p50_ms",), 3.0, False, "ms"),
)
_GOOD = ("passed", "skipped")


def judge(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what follows from the figures: ratios, floors by stage, goals, and whether all parts passed.

    A part that was skipped does not fail the run, a goal that is missed neither.
    """
    parts = report["parts"]
    derived = {**_ratios(parts), "floors_ms": _floors(parts)}
    goals = []
    for name, part, path, limit, at_least, unit in GOALS:
        value = _figure(parts, part, path) if part else derived.get(path[0])
        applies = report["size"] == "full" and str(report["device"]).startswith("cuda")
        met = None
        if value is not None and applies:
            met = value >= limit if at_least else value <= limit
        goals.append({"name": name, "value": value, "goal": limit, "unit": unit, "met": met})
    passed = bool(parts) and all(p["status"] in _GOOD for p in parts.values()) and "stopped" not in report
    return {"derived": derived, "goals": goals, "passed": passed}


def _figure(parts: Mapping[str, Any], part: str, path: Sequence[str]) -> Any:
    value: Any = parts.get(part, {}).get("figures", {})
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _ratios(parts: Mapping[str, Any]) -> dict[str, float]:
    plain = _figure(parts, "plain", ("prompt_ms",))
    ratios = {}
    for kind in ("first", "next"):
        fast = _figure(parts, "speed", ("480p", f"{kind}_ms"))
        if plain and fast:
            ratios[f"{kind}_ratio"] = round(plain / fast, 2)
    return ratios


def _floors(parts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the least milliseconds of each stage.

    That is the longer of two: its operations at the speed of a large matrix product, and its weights read at
    the speed of a copy.
    """
    speed = parts.get("speed", {}).get("figures", {})
    machine = parts.get("machine", {}).get("figures", {})
    peak = machine.get(f"{speed.get('dtype')}_tflop_per_s")
    copy = machine.get("copy_gb_per_s")
    if not peak or not copy:
        return {}
    floors: dict[str, dict[str, float]] = {}
    for kind, stages in speed.get("gflop", {}).items():
        for stage, gflop in stages.items():
            if stage in ("encode", "language", "decode"):
                read = 0.0 if gflop < 0.001 else speed.get("weights_gb", {}).get(stage, 0.0)
                least = max(gflop / peak / 1e3, read / copy) * 1e3
                floors.setdefault(kind, {})[stage] = round(least, 4)
    return floors


def page_name(report: Mapping[str, Any]) -> str:
    """Return the file name of a device's page."""
    name = _figure(report["parts"], "machine", ("name",)) or report["device"]
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-") + ".md"


def render(report: Mapping[str, Any]) -> str:
    """Return the page: what passed, goals, times by stage against their floors, and all other figures."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    parts = report["parts"]
    machine = parts.get("machine", {}).get("figures", {})
    yield f"# {machine.get('name', report['device'])}"
    yield ""
    yield (
        f"Written by `python -m benchmarks.gpu --device {report['device']} --size {report['size']}` in "
        f"{report.get('seconds', 0):.0f} s, with PyTorch {machine.get('torch', '(unknown)')}."
    )
    if "stopped" in report:
        yield f"**It was ended by {report['stopped']}; what follows is what was done until then.**"
    yield ""
    yield from _table(
        ("part", "outcome", "seconds", ""),
        ((name, p["status"], p["seconds"], p["error"]) for name, p in parts.items()),
    )
    yield "## Goals"
    yield ""
    if report["size"] != "full" or not str(report["device"]).startswith("cuda"):
        yield "They are for the full size on a GPU; this run does not decide them."
        yield ""
    yield from _table(
        ("", "measured", "goal", "met"),
        (
            (
                g["name"],
                _shown(g["value"], g["unit"]),
                _shown(g["goal"], g["unit"]),
                {None: "", True: "yes", False: "**no**"}[g["met"]],
            )
            for g in report["goals"]
        ),
    )
    yield from _stage_tables(report)
    for name in parts:
        if name not in ("machine", "speed"):
            yield from _figures_table(name, parts[name].get("figures", {}))
    yield from _figures_table("machine", machine)


def _stage_tables(report: Mapping[str, Any]) -> Iterator[str]:
    parts, floors = report["parts"], report["derived"]["floors_ms"]
    speed = parts.get("speed", {}).get("figures", {})
    if not speed:
        return
    yield "## Times"
    yield ""
    sizes = [key.removesuffix("_stages_ms") for key in speed if key.endswith("_stages_ms")]
    yield from _table(
        ("milliseconds", "first", "next", "eight"),
        (
            (size, *(_shown(speed.get(size, {}).get(f"{kind}_ms")) for kind in ("first", "next", "eight")))
            for size in sizes
        ),
    )
    yield "By stage, with the device idle in between. Floor: a large matrix product or a copy on this device."
    yield ""
    plain = _figure(parts, "plain", ("stages_ms",)) or {}
    rows = []
    for kind in ("first", "next"):
        stages = speed.get(f"{sizes[0]}_stages_ms", {}).get(kind, {}) if sizes else {}
        for stage, spent in stages.items():
            floor = floors.get(kind, {}).get(stage)
            share = f"{floor / spent:.0%}" if floor and spent else ""
            rows.append((f"{kind}: {stage}", _shown(spent), _shown(floor), share, _shown(plain.get(stage))))
    yield from _table(("stage", "ms", "floor, ms", "share", "plain, ms"), rows)
    others = ("parameters_m", "dtype", "tokens_per_s", "same_twice", "memory_gb", "weights_gb", "gflop")
    yield from _figures_table("speed", {key: speed[key] for key in others if key in speed})


def _figures_table(name: str, figures: Mapping[str, Any]) -> Iterator[str]:
    if figures:
        yield f"## Part `{name}`"
        yield ""
        yield from _table(("", ""), _flat(figures))


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in figures.items():
        label = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}: ")
        else:
            yield label.replace("_", " "), _shown(value)


def _shown(value: Any, unit: str = "") -> str:
    if value is None:
        return ""
    text = f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1e4 else str(value)
    return f"{text}{unit if unit == '×' else f' {unit}'}" if unit else text


def _table(head: Sequence[str], rows: Any) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
    yield ""
