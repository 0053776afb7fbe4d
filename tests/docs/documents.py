"""Helpers for the document tests: list the documents and read their contents."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN_MARK = "<!-- run -->"

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced code block in a document."""

    document: str
    line: int
    language: str
    code: str

    @property
    def id(self) -> str:
        return f"{self.document}:{self.line}"


def tracked_files() -> list[Path]:
    """List tracked and new, unignored files; without git, every file that looks like one of those."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        paths = [ROOT / name for name in sorted(set(output.split("\0")) - {""})]
    else:
        made = {"build", "install", "log", "dist", "demo_output", "runs", "site", "data", "__pycache__"}
        paths = [
            path
            for path in sorted(ROOT.rglob("*"))
            if not any(
                part in made or part.endswith(".egg-info") or (part.startswith(".") and part != ".ci")
                for part in path.relative_to(ROOT).parts[:-1]
            )
        ]
    return [path for path in paths if path.is_file()]


def documents() -> list[str]:
    """List the Markdown files, as paths relative to the root."""
    return [str(path.relative_to(ROOT)) for path in tracked_files() if path.suffix == ".md"]


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(*languages: str) -> list[Block]:
    """List every fenced block in any of the languages."""
    found = []
    for document in documents():
        text = read(document)
        for match in _FENCE.finditer(text):
            if match["language"] not in languages:
                continue
            indent = match["indent"]
            found.append(
                Block(
                    document=document,
                    line=text.count("\n", 0, match.start()) + 1,
                    language=match["language"],
                    code="\n".join(line.removeprefix(indent) for line in match["code"].splitlines()),
                )
            )
    return found


def prose(document: str) -> str:
    """Return a document without its fenced blocks."""
    return _FENCE.sub("", read(document))
