"""What the tests of the documents share: which documents there are and what is in them."""

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
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    code: str

    @property
    def id(self) -> str:
        return f"{self.document}:{self.line}"


def tracked_files() -> list[Path]:
    """Files that git tracks, and new ones that it does not ignore; without git, all that look like it."""
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
    """Markdown files, by their path from the root."""
    return [str(path.relative_to(ROOT)) for path in tracked_files() if path.suffix == ".md"]


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(*languages: str) -> list[Block]:
    """Every fenced block in one of the languages."""
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
    """A document without its fenced blocks."""
    return _FENCE.sub("", read(document))
