"""The documents tell the truth: code compiles and runs, and what they name exists."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, Block, blocks, documents, prose, read

PYTHON_BLOCKS = blocks("python")
SHELL_BLOCKS = blocks("bash", "sh", "shell", "console")
FILE_SUFFIXES = "cfg|cmake|ini|ipynb|jpg|json|lock|md|msg|png|py|sh|srv|action|toml|txt|xml|yaml|yml"
# What the commands make, and what lies in the reader's own folders.
MADE_BY_COMMANDS = ("build/", "demo_output/", "dist/", "install/", "log/", "runs/", ".venv/", "/", "~")


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: block.id)
def test_python_block_compiles(block: Block) -> None:
    compile(block.code, block.id, "exec")


@pytest.mark.parametrize("block", [b for b in PYTHON_BLOCKS if b.runnable], ids=lambda block: block.id)
def test_runnable_python_block_runs(block: Block, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", block.code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", documents())
def test_make_targets_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    shell = "\n".join(block.code for block in SHELL_BLOCKS if block.document == document)
    quoted = re.findall(r"`([^`\n]*)`", prose(document))
    named = {
        name
        for text in [*shell.splitlines(), *quoted]
        for name in re.findall(r"(?:^|[;&|$]\s*)make ((?:[a-z][a-z-]* ?)+)", text.strip())
    }
    assert {target for name in named for target in name.split()} <= targets


@pytest.mark.parametrize("document", documents())
def test_modules_exist(document: str) -> None:
    modules = set(re.findall(r"\bpython3? -m ((?:xsam|xsam_ros|xsam_agent_tools)\b[\w.]*)", read(document)))
    missing = []
    for module in sorted(modules):
        if importlib.util.find_spec(module) is None:
            missing.append(module)
    assert not missing


@pytest.mark.parametrize("document", documents())
def test_linked_files_exist(document: str) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    targets += re.findall(r"<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"", prose(document))
    relative = [target.split("#")[0] for target in targets if not re.match(r"\w+:", target)]
    missing = [
        target for target in relative if target and not (ROOT / document).parent.joinpath(target).exists()
    ]
    assert not missing


@pytest.mark.parametrize("document", documents())
def test_named_files_exist(document: str) -> None:
    """A path in backticks that has a folder and a known suffix is a file of the repository."""
    named = re.findall(rf"`([\w./-]+/[\w.-]+\.(?:{FILE_SUFFIXES}))`", prose(document))
    missing = [
        name
        for name in named
        if not name.startswith(MADE_BY_COMMANDS)
        and not (ROOT / name).exists()
        and not (ROOT / document).parent.joinpath(name).exists()
    ]
    assert not missing


def test_readme_shows_code_that_is_run() -> None:
    assert any(block.runnable for block in PYTHON_BLOCKS if block.document == "README.md")
