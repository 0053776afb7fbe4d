"""Score planners that use the tools: `python -m benchmarks.agent`. The last line is one JSON object.

Without options: both scripted policies, on the simulator's truth and on the tiny model, and probes and
planner tasks of the tiny model on scenes of the test range.

How far "ok" can be believed on other scenes, without the conversations: --scenes 2300000:60

The ten kinds of planner tasks on those scenes as well: --scenes 2300000:60 --planner

Any chat model of LangChain: --model openai:gpt-5-mini --record runs/gpt.json

The same again, offline: --model replay:runs/gpt.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from langchain_core.language_models import BaseChatModel

from benchmarks.agent.judge import metrics
from benchmarks.agent.models import policy_model, replay_model
from benchmarks.agent.planner_tasks import planner_tasks
from benchmarks.agent.policies import POLICIES
from benchmarks.agent.probes import by_kind, probe_metrics, run_probes
from benchmarks.agent.recording import Conversations, load_recording, model_messages, save_recording
from benchmarks.agent.run import BenchmarkRun, run_tasks
from benchmarks.agent.tasks import AgentTask, load_tasks
from xsam.eval.scenes import parse_seeds
from xsam.segmenter import Segmenter
from xsam.sim import TEST_SEEDS
from xsam.sim.oracle import SimulatedTable

RESULTS = Path(__file__).with_name("results")
ORACLE, TINY = "oracle", "tiny"
DEFAULT_PROBED, DEFAULT_PLANNED = TEST_SEEDS[1000:1030], TEST_SEEDS[1000:1010]
PROBE_METRICS = ("ok_precision", "false_ok", "unsure_of_right", "presence_mcc")
DEFAULT_RUNS = [(f"policy:{policy}", segmenter) for segmenter in (ORACLE, TINY) for policy in POLICIES]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    model: Annotated[
        str | None, typer.Option(help="policy:naive, policy:hints, replay:FILE, or e.g. openai:gpt-5-mini")
    ] = None,
    segmenter: Annotated[
        str | None, typer.Option(help="oracle, tiny, or a folder; default tiny, without --model both")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Name or kind; repeatable; default: all.")] = None,
    images: Annotated[bool, typer.Option("--images", help="Show overlays to models with vision.")] = False,
    record: Annotated[Path | None, typer.Option(help="Write the conversations to this file.")] = None,
    scenes: Annotated[
        str | None, typer.Option(metavar="START:COUNT", help="Only the probes, on scenes with these seeds.")
    ] = None,
    planner: Annotated[
        bool, typer.Option("--planner", help="With --scenes: the planner tasks of these scenes, too.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the result files.", show_default=False)] = RESULTS,
) -> dict[str, Any]:
    """Run the benchmark, write one result file per run, and print and return the summary."""
    tasks = [t for t in load_tasks() if not task or {t.name, t.kind} & set(task)]
    if not tasks:
        raise typer.BadParameter(f"no task has the name or kind {', '.join(task or ())}")
    if scenes and (task or images or record or (model and not planner)):
        raise typer.BadParameter(
            "--scenes takes no --task, --images or --record, and --model with --planner only"
        )
    if planner and not scenes:
        raise typer.BadParameter("--planner needs --scenes START:COUNT")
    engines: dict[str, Any] = {}
    if scenes:
        seeds = parse_seeds(scenes)
        found = {} if model else _probe(segmenter or TINY, seeds, engines, out)
        if planner:
            chats = [model] if model else [f"policy:{policy}" for policy in POLICIES]
            found |= {"planner": _plan(chats, segmenter or TINY, seeds, engines, out)}
        print(json.dumps(found))
        return found
    runs = [(model, segmenter or TINY)] if model else DEFAULT_RUNS
    if segmenter and not model:
        runs = [run for run in runs if run[1] == segmenter]
    summary: dict[str, Any] = {"benchmark": "agent", "tasks": len(tasks), "runs": {}}
    for chat, source in runs:
        name = f"{_file_stem(chat)}-{Path(source).name}"
        run, result = _run(name, chat, source, tasks, engines, out, images=images)
        if record:
            save_recording(record, run.conversations, model=chat, segmenter=result["segmenter"])
        summary["runs"][name] = {k: v for k, v in result["metrics"].items() if not k.endswith("by_kind")}
    if not model and not task and segmenter in (None, TINY):
        summary |= {k: v for k, v in _probe(TINY, DEFAULT_PROBED, engines, out).items() if k in PROBE_METRICS}
        summary["planner"] = _plan(
            [f"policy:{policy}" for policy in POLICIES], TINY, DEFAULT_PLANNED, engines, out
        )
    print(json.dumps(summary))
    return summary


def _run(
    name: str,
    chat: str,
    source: str,
    tasks: list[AgentTask],
    engines: dict[str, Any],
    out: Path,
    *,
    images: bool = False,
) -> tuple[BenchmarkRun, dict[str, Any]]:
    """Run some tasks, and return the run and the content of its result file."""
    print(f"[bench-agent] {name}: {len(tasks)} tasks", file=sys.stderr, flush=True)
    model_for, recorded = _make_models(chat)
    segmenter_for, model_id = _make_segmenters(source, engines)
    run = run_tasks(tasks, model_for, segmenter_for, recorded=recorded, images=images)
    result = {
        "model": chat,
        "segmenter": model_id,
        "metrics": metrics(run.outcomes, tasks),
        "outcomes": [_without_defaults(asdict(outcome)) for outcome in run.outcomes],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(_to_json(result), encoding="utf-8")
    return run, result


def _plan(
    chats: list[str], source: str, seeds: range, engines: dict[str, Any], out: Path
) -> dict[str, dict[str, Any]]:
    """Give the planner tasks of some scenes to some chat models, and return what came of them, by model."""
    tasks = [task for seed in seeds for task in planner_tasks(seed)]
    found = {}
    for chat in chats:
        stem = _file_stem(chat)
        _, result = _run(f"planner-{stem}-{Path(source).name}", chat, source, tasks, engines, out)
        found[stem] = {
            name: result["metrics"][name] for name in ("tasks", "success", "misled", "abstained", "by_kind")
        }
    return found


def _probe(segmenter: str, seeds: range, engines: dict[str, Any], out: Path) -> dict[str, Any]:
    """Ask the probes of some scenes, write what came of each kind, and return the metrics."""
    segmenter_for, model_id = _make_segmenters(segmenter, engines)

    def show(seed: int) -> None:
        print(f"[bench-agent] probes: scene {seed}", file=sys.stderr, flush=True)

    outcomes = run_probes(seeds, segmenter_for, on_scene=show)
    found = {
        "benchmark": "agent probes",
        "segmenter": model_id,
        "scenes": f"{seeds.start}:{len(seeds)}",
        **probe_metrics(outcomes),
    }
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**found, "kinds": by_kind(outcomes)}, indent=1) + "\n"
    (out / f"probes-{Path(segmenter).name}.json").write_text(text, encoding="utf-8")
    return found


def _make_models(name: str) -> tuple[Callable[[AgentTask], BaseChatModel], Conversations]:
    """Return a function from task to chat model, and the recorded conversations that are replayed."""
    kind, _, rest = name.partition(":")
    if kind == "policy":
        if rest not in POLICIES:
            raise typer.BadParameter(f"no policy {rest!r}; there are: {', '.join(POLICIES)}")
        return (lambda task: policy_model(POLICIES[rest])), {}
    if kind == "replay":
        try:
            _, conversations = load_recording(Path(rest))
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error
        return (lambda task: replay_model(model_messages(conversations.get(task.name, ())))), conversations
    from langchain.chat_models import init_chat_model

    chat = init_chat_model(name)
    return (lambda task: chat), {}


def _make_segmenters(name: str, engines: dict[str, Any]) -> tuple[Callable[[SimulatedTable], Segmenter], str]:
    """Return a function from table to segmenter, and the id of its model."""
    if name == ORACLE:
        return (lambda table: table), "truth"
    if name not in engines:
        from xsam import XSam

        engines[name] = XSam.load(name)
    return (lambda table: engines[name]), engines[name].model_id


def _file_stem(model: str) -> str:
    kind, _, rest = model.partition(":")
    name = Path(rest).stem if kind == "replay" else rest or kind
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _to_json(result: dict[str, Any]) -> str:
    """Serialize to JSON with one outcome per line, so that two results can be compared by eye."""
    outcomes = [json.dumps(outcome, ensure_ascii=False) for outcome in result["outcomes"]]
    head = json.dumps({**result, "outcomes": []}, indent=1, ensure_ascii=False)
    rows = ",\n  ".join(outcomes)
    return head.removesuffix("[]\n}") + f"[\n  {rows}\n ]\n}}\n"


def _without_defaults(outcome: dict[str, Any]) -> dict[str, Any]:
    """Remove the fields that are false, empty or 0."""
    return {key: value for key, value in outcome.items() if value not in (False, "", 0)}


if __name__ == "__main__":
    app()
