"""Score planners that use the tools: `python -m benchmarks.agent`. The last line is one JSON object.

make bench-agent                                       both scripted policies, oracle and tiny segmenter
python -m benchmarks.agent --model openai:gpt-5-mini --record runs/gpt.json     any chat model of LangChain
python -m benchmarks.agent --model replay:runs/gpt.json                         the same again, offline
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from benchmarks.agent.judge import metrics
from benchmarks.agent.models import policy_model, replay_model
from benchmarks.agent.policies import POLICIES
from benchmarks.agent.recording import Conversations, load_recording, model_messages, save_recording
from benchmarks.agent.run import run_tasks
from benchmarks.agent.tasks import AgentTask, load_tasks
from xsam.segmenter import Segmenter
from xsam.sim.oracle import SimulatedTable

RESULTS = Path(__file__).with_name("results")
ORACLE, TINY = "oracle", "tiny"
DEFAULT_RUNS = [(f"policy:{policy}", segmenter) for segmenter in (ORACLE, TINY) for policy in POLICIES]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, write one result file per run, and print and return the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="policy:naive, policy:hints, replay:FILE, or e.g. openai:gpt-5-mini")
    parser.add_argument("--segmenter", help="oracle, tiny, or a folder; default tiny, without --model both")
    parser.add_argument("--task", action="append", help="name or kind; repeatable; default all")
    parser.add_argument("--images", action="store_true", help="show overlays to models with vision")
    parser.add_argument("--record", type=Path, help="write the conversations to this file")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args(argv)
    tasks = [t for t in load_tasks() if not options.task or {t.name, t.kind} & set(options.task)]
    if not tasks:
        parser.error(f"no task has the name or kind {', '.join(options.task)}")
    runs = [(options.model, options.segmenter or TINY)] if options.model else DEFAULT_RUNS
    if options.segmenter and not options.model:
        runs = [(model, segmenter) for model, segmenter in runs if segmenter == options.segmenter]
    summary: dict[str, Any] = {"benchmark": "agent", "tasks": len(tasks), "runs": {}}
    engines: dict[str, Any] = {}
    for model, segmenter in runs:
        name = f"{_file_stem(model)}-{Path(segmenter).name}"
        print(f"[bench-agent] {name}: {len(tasks)} tasks", file=sys.stderr, flush=True)
        model_for, recorded = _make_models(model)
        segmenter_for, model_id = _make_segmenters(segmenter, engines)
        run = run_tasks(tasks, model_for, segmenter_for, recorded=recorded, images=options.images)
        numbers = metrics(run.outcomes, tasks)
        result = {
            "model": model,
            "segmenter": model_id,
            "metrics": numbers,
            "outcomes": [_without_defaults(asdict(outcome)) for outcome in run.outcomes],
        }
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.json").write_text(_to_json(result), encoding="utf-8")
        if options.record:
            save_recording(options.record, run.conversations, model=model, segmenter=model_id)
        summary["runs"][name] = {k: v for k, v in numbers.items() if k != "success_by_kind"}
    print(json.dumps(summary))
    return summary


def _make_models(name: str) -> tuple[Callable[[AgentTask], BaseChatModel], Conversations]:
    """Return a function from task to chat model, and the recorded conversations that are replayed."""
    kind, _, rest = name.partition(":")
    if kind == "policy":
        if rest not in POLICIES:
            sys.exit(f"no policy {rest!r}; there are: {', '.join(POLICIES)}")
        return (lambda task: policy_model(POLICIES[rest])), {}
    if kind == "replay":
        _, conversations = load_recording(Path(rest))
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
    main()
