"""Documents are accurate: their code compiles and runs, and everything they name exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from pytest_examples import CodeExample, EvalExample, find_examples

from tests.docs.documents import ROOT, RUN_MARK, blocks, documents, prose, read
from xsam.sim import sample_scene

PYTHON_BLOCKS = list(find_examples(*(str(ROOT / document) for document in documents())))
SHELL_BLOCKS = blocks("bash", "sh", "shell", "console")
FILE_SUFFIXES = "cfg|cmake|ini|ipynb|jpg|json|lock|md|msg|png|py|sh|srv|action|toml|txt|xml|yaml|yml"
# Outputs of the commands, and paths in the reader's own folders.
MADE_BY_COMMANDS = (
    *("build/", "demo_output/", "dist/", "install/", "log/", "runs/", ".venv/", "/", "~"),
    *("annotations/", "ignore/", "labels/", "masks/", "overlays/"),  # outputs of `xsam segment` and `label`
)


def runnable(example: CodeExample) -> bool:
    """True if the line above the block is the mark."""
    return example.path.read_text(encoding="utf-8").splitlines()[example.start_line - 2] == RUN_MARK


def name_of(example: CodeExample) -> str:
    return f"{example.path.relative_to(ROOT)}:{example.start_line}"


@pytest.mark.parametrize("example", PYTHON_BLOCKS, ids=name_of)
def test_python_block_compiles(example: CodeExample) -> None:
    compile(example.source, name_of(example), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("example", [*filter(runnable, PYTHON_BLOCKS)], ids=name_of)
def test_runnable_python_block_runs(
    example: CodeExample, eval_example: EvalExample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    eval_example.run(example)


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
    modules = set(
        re.findall(r"\bpython3? -m ((?:xsam|xsam_ros|xsam_agent_tools|xsam_server)\b[\w.]*)", read(document))
    )
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
    """A path in backticks with a folder and a known suffix must exist in the repository."""
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
    assert any(runnable(example) for example in PYTHON_BLOCKS if example.path == ROOT / "README.md")


def test_the_first_requests_ask_for_what_the_demo_shows() -> None:
    """The README asked for a mug where none was: the first impression was NOT_FOUND."""
    section = read("README.md").partition("\n## ROS 2\n")[2].partition("\n## ")[0]
    texts = re.findall(r"text: ([\w ]+)\}", section) + re.findall(r'text="([\w ]+)"', section)
    names = re.findall(r"thing_classes: \[([\w, ]+)\]", section)
    names += re.findall(r"thing_classes=\(([^)]+)\)", section)
    demo = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text(encoding="utf-8"))
    sections = {key: value["ros__parameters"] for key, value in demo.items()}
    seeds = {parameters["seed"] for parameters in sections.values() if "seed" in parameters}
    texts.append(sections["/**/xsam"]["moving"]["stream_text"])
    assert len(seeds) == 1, "both cameras show one table"
    shown = sample_scene(seeds.pop()).objects
    known = {name for item in shown for name in (item.category, f"{item.color} {item.category}")}
    assert len(texts) >= 4
    assert {text.removeprefix("the ") for text in texts} <= known
    assert len(names) == 2
    assert {name.strip(' "') for line in names for name in line.split(",")} <= known
