"""A reviewer's decisions: read, checked against the run, and kept in its folder.

The file that the contact sheet saves, and the one in the folder, are of the same form::

    {"format": "xsam-label-decisions/1", "run": "3f…", "decisions": {"clip_000012:0:1a2b3c4d": "accept"}}

A decision is `accept`, `reject` (it is not there), `ignore` (it is there, and the mask is not right), or
`undecided`, which takes an earlier one back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from xsam.errors import SourceError
from xsam.label.items import DECISIONS, UNDECIDED, Line, itemized
from xsam.weights.files import replace_file

FILE = "decisions.json"
FORMAT = "xsam-label-decisions/1"
_MAX_BYTES = 1 << 26


def run_id(run: Mapping[str, Any], entries: Iterable[Line]) -> str:
    """Return what identifies a run: its options, and what it found first."""
    first: Line = next((entry for entry, labels in itemized(entries) if labels), {})
    start = {key: first[key] for key in ("source", "frame", "stamp_ns") if key in first}
    masks = [segment["mask"] for result in first.get("results", ()) for segment in result["segments"]]
    return hashlib.sha256(json.dumps([dict(run), start, masks], sort_keys=True).encode()).hexdigest()[:32]


def read_decisions(path: Path, run: str) -> dict[str, str]:
    """Read decisions about a run.

    Raises:
        SourceError: it is no such file, or about another run.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SourceError(f"{path} has {path.stat().st_size} bytes, at most {_MAX_BYTES} are allowed")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repetition)
    except OSError as error:
        raise SourceError(f"cannot read the decisions {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{path} is not the JSON of decisions: {str(error) or type(error).__name__}", hint=_HINT
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SourceError(f"{path} has no decisions in it: its format is not {FORMAT}", hint=_HINT)
    if content.get("run") != run:
        raise SourceError(
            f"{path} is about another run, {str(content.get('run'))[:40]!r}; this one is {run!r}",
            hint="give the --out folder whose review.html the decisions were made in",
        )
    decisions = content.get("decisions")
    if not isinstance(decisions, dict):
        raise SourceError(f"{path} has no decisions in it", hint=_HINT)
    for item, decision in decisions.items():
        if decision not in (*DECISIONS, UNDECIDED):
            raise SourceError(
                f"{path}: the decision about {item!r:.80} is {decision!r:.40}",
                hint=f"known: {', '.join((*DECISIONS, UNDECIDED))}",
            )
    return decisions


def check_items(path: Path, decisions: Mapping[str, str], entries: Iterable[Line]) -> None:
    """Check that every decision is about an item of the run.

    Raises:
        SourceError: some are not; nothing of the file is applied then.
    """
    unknown = dict.fromkeys(decisions)
    for _, labels in itemized(entries):
        for item, _ in labels:
            unknown.pop(item, None)
    if unknown:
        raise SourceError(
            f"{path}: {len(unknown)} of {len(decisions)} decisions are about labels that the run does not "
            f"have, the first about {next(iter(unknown))!r:.80}; none was applied",
            hint="was the run made again since? Then review it again",
        )


def merged(earlier: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Return all decisions, sorted; new ones replace earlier ones."""
    both = {**earlier, **new}
    return {item: both[item] for item in sorted(both) if both[item] != UNDECIDED}


def kept_decisions(folder: Path, run: str, entries: Callable[[], Iterable[Line]]) -> dict[str, str]:
    """Read the decisions that were applied to a run before; none if there are none.

    Raises:
        SourceError: see `read_decisions` and `check_items`.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    decisions = read_decisions(path, run)
    check_items(path, decisions, entries())
    return decisions


def keep(folder: Path, run: str, decisions: Mapping[str, str]) -> None:
    """Write the decisions into the folder of the run."""
    content = {"format": FORMAT, "run": run, "decisions": decisions}
    replace_file(folder / FILE, (json.dumps(content, indent=1) + "\n").encode())


_HINT = "give the file that review.html saves"


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
