"""Questions about scenes that show whether an answer can be believed: one tool call each, judged by masks.

A planner that reads `status: "ok"` acts. Every probe asks for something that is there, absent, or unknown to
the model, and the answer is compared with the simulator:

    python -m benchmarks.agent --scenes 2000000:60

* `ok_precision`: of the answers with "ok", the share in which every object has an IoU of at least 0.5 with
  something that was asked for.
* `false_ok`: of the questions about absent or unknown things, the share answered "ok" or "ambiguous".
* `unsure_of_right`: of the answers whose objects are right, the share with "unsure".
* `presence_mcc`: correlation (Matthews) of "ok" or "ambiguous" with presence, over the questions for nouns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.agent.tasks import IMAGE_HW
from xsam.segmenter import Segmenter
from xsam.sim import CATEGORIES, ObjectAnnotation
from xsam.sim.language import absent_expressions, reasoning_questions, referring_expressions
from xsam.sim.oracle import SimulatedTable
from xsam.types.masks import BoolMask, mask_iou
from xsam_agent_tools import SceneStore, XSamToolkit

MIN_IOU = 0.5
UNKNOWN_NOUNS = (
    *("fork", "wine glass", "laptop", "cat", "scissors", "keyboard", "candle", "toothbrush", "stapler"),
    *("wallet", "remote control", "stop sign"),
)
UNKNOWN_QUESTIONS = (
    "What can I staple paper with?",
    "Which object do I need to brush my teeth?",
    "What keeps the rain off?",
    "Where can I sit down?",
)
PRESENCE_KINDS = ("category", "absent category", "unknown")


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """One tool call about the front camera's view.

    Attributes:
        kind: what is asked for; see `probes_of`.
        tool: name of the tool.
        arguments: of the call.
        wanted: masks of everything that is a right answer, bool (H, W); empty = it is not there.
    """

    kind: str
    tool: str
    arguments: dict[str, Any]
    wanted: tuple[BoolMask, ...]


@dataclass(frozen=True, kw_only=True)
class ProbeOutcome:
    """What a tool answered to a probe.

    Attributes:
        kind: the probe's.
        asked: the phrase or question.
        status: of the answer.
        present: something that was asked for is there.
        right: the answer holds objects, and each of them is one that was asked for.
    """

    kind: str
    asked: str
    status: str
    present: bool
    right: bool


def probes_of(table: SimulatedTable) -> Iterator[Probe]:
    """Yield the probes of a scene, drawn by its seed; the same on every machine."""
    items = table.visible("front")
    rng = np.random.default_rng([table.seed, 101])

    def draw(options: Sequence[Any], count: int) -> list[Any]:
        return [options[i] for i in rng.permutation(len(options))[:count]]

    def masks(wanted: Sequence[ObjectAnnotation]) -> tuple[BoolMask, ...]:
        return tuple(table.mask(item.instance_id, "front") for item in wanted)

    def search(kind: str, phrase: str, wanted: Sequence[ObjectAnnotation] = ()) -> Probe:
        return Probe(kind=kind, tool="segment_objects", arguments={"queries": [phrase]}, wanted=masks(wanted))

    def ask(kind: str, question: str, wanted: Sequence[ObjectAnnotation] = ()) -> Probe:
        return Probe(kind=kind, tool="ask_scene", arguments={"question": question}, wanted=masks(wanted))

    seen = {item.category for item in items}
    clear = sorted({item.category for item in items if item.labeled})
    for name in draw(clear, 3):
        yield search("category", name, [item for item in items if item.category == name])
    for color, name in draw(sorted({(i.color, i.category) for i in items if i.labeled}), 1):
        same = [item for item in items if (item.color, item.category) == (color, name)]
        yield search("color category", f"{color} {name}", same)
    for expression in draw(referring_expressions(items, table.image_hw[1]), 5):
        named = [item for item in items if item.instance_id in expression.instance_ids]
        yield search(expression.kind, expression.text, named)
    for number, name in enumerate(draw([name for name in CATEGORIES if name not in seen], 3)):
        yield search("absent category", f"the {name}" if number else name)
    for expression in absent_expressions(items, rng, count_per_kind=1):
        if expression.kind == "absent_reasoning":
            yield ask("absent use", expression.text)
        elif expression.kind != "absent_category":
            yield search("absent color", expression.text)
    for number, name in enumerate(draw(UNKNOWN_NOUNS, 3)):
        yield search("unknown", f"the {name}" if number == 2 else name)
    for expression in draw(reasoning_questions(items), 1):
        yield ask("use", expression.text, [i for i in items if i.instance_id in expression.instance_ids])
    yield ask("unknown use", draw(UNKNOWN_QUESTIONS, 1)[0])


def run_probes(
    seeds: range,
    segmenter_for: Callable[[SimulatedTable], Segmenter],
    *,
    on_scene: Callable[[int], None] = lambda seed: None,
) -> list[ProbeOutcome]:
    """Ask every probe of every scene.

    Args:
        seeds: of the scenes.
        segmenter_for: returns the segmenter for a table.
        on_scene: called with the seed of each finished scene.
    """
    outcomes: list[ProbeOutcome] = []
    for seed in seeds:
        table = SimulatedTable(seed, image_hw=IMAGE_HW)
        toolkit = XSamToolkit(
            segmenter_for(table), ["front"], mode="full", frame_source=table.frame, deadline_s=120.0
        )
        tools = {tool.name: tool for tool in toolkit.get_tools()}
        for probe in probes_of(table):
            payload = json.loads(tools[probe.tool].invoke(probe.arguments))
            outcomes.append(_judge(probe, payload, toolkit.store))
        everything = json.loads(tools["segment_everything"].invoke({}))
        outcomes.extend(_judge_list(table, everything, toolkit.store))
        on_scene(seed)
    return outcomes


def _judge(probe: Probe, payload: dict[str, Any], store: SceneStore) -> ProbeOutcome:
    masks = [store.object(item["id"])[1].mask.decode() for item in payload.get("objects", ())]
    right = bool(masks) and all(any(mask_iou(m, w) >= MIN_IOU for w in probe.wanted) for m in masks)
    (asked,) = probe.arguments.values()
    return ProbeOutcome(
        kind=probe.kind,
        asked=asked if isinstance(asked, str) else asked[0],
        status=payload["status"],
        present=bool(probe.wanted),
        right=right,
    )


def _judge_list(table: SimulatedTable, payload: dict[str, Any], store: SceneStore) -> Iterator[ProbeOutcome]:
    """Judge every object of `segment_everything` by itself; those on unlabeled ones count neither way."""
    items = table.visible("front")
    truths = {item.instance_id: table.mask(item.instance_id, "front") for item in items}
    for listed in payload.get("objects", ()):
        mask = store.object(listed["id"])[1].mask.decode()
        best = max(items, key=lambda item: mask_iou(mask, truths[item.instance_id]), default=None)
        if best is not None and not best.labeled and (mask & truths[best.instance_id]).any():
            continue
        hit = best is not None and mask_iou(mask, truths[best.instance_id]) >= MIN_IOU
        right = hit and best is not None and best.category == listed["label"]
        status = "unsure" if "unsure" in listed else payload["status"]
        yield ProbeOutcome(kind="everything", asked=listed["label"], status=status, present=True, right=right)


def probe_metrics(outcomes: Sequence[ProbeOutcome]) -> dict[str, Any]:
    """Compute the metrics of the module's docstring; None where there is nothing to count."""
    certain = [o for o in outcomes if o.status == "ok"]
    absent = [o for o in outcomes if not o.present]
    right = [o for o in outcomes if o.right and o.status in ("ok", "unsure")]
    nouns = [(o.present, o.status in ("ok", "ambiguous")) for o in outcomes if o.kind in PRESENCE_KINDS]
    return {
        "probes": len(outcomes),
        "ok_precision": _share([o.right for o in certain]),
        "false_ok": _share([o.status in ("ok", "ambiguous") for o in absent]),
        "unsure_of_right": _share([o.status == "unsure" for o in right]),
        "presence_mcc": matthews(nouns),
    }


def by_kind(outcomes: Sequence[ProbeOutcome]) -> dict[str, dict[str, int]]:
    """Count, for each kind of probe, the right and wrong answers with "ok", and the other statuses."""
    table: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        row = table.setdefault(outcome.kind, {})
        name = outcome.status
        if name in ("ok", "unsure"):
            name = f"{name}, {'right' if outcome.right else 'wrong'}"
        row[name] = row.get(name, 0) + 1
    return table


def matthews(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Return Matthews' correlation of (truth, claim) pairs, in [−1, 1]; None if one never varies."""
    truth, claim = (np.array([pair[k] for pair in pairs], np.float64) for k in (0, 1))
    if not len(pairs) or truth.std() == 0 or claim.std() == 0:
        return None
    value = float(((truth - truth.mean()) * (claim - claim.mean())).mean() / (truth.std() * claim.std()))
    return round(value, 3) if math.isfinite(value) else None


def _share(flags: Sequence[bool]) -> float | None:
    return round(float(np.mean(flags)), 3) if flags else None
