"""Wrong usage of the benchmarks and examples ends with exit code 2 and one line that names what is wrong."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from tests.docs.documents import ROOT

NEED_ROS = ["examples/agent_over_ros.py", "examples/demo.py"] + [
    f"benchmarks/ros/{name}.py" for name in ("fuzz", "memory", "responsiveness", "soak", "transport")
]
PROGRAMS = [
    "benchmarks/__main__.py",
    "benchmarks/agent/__main__.py",
    "benchmarks/fleet/__main__.py",
    "benchmarks/gpu/__main__.py",
    "benchmarks/growth.py",
    "benchmarks/labels/__main__.py",
    "benchmarks/plot.py",
    "benchmarks/server/__main__.py",
    "examples/agent_in_process.py",
    "examples/agent_robot_planner.py",
    *NEED_ROS,
]


def program(path: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if path in NEED_ROS:
        pytest.importorskip("rclpy", reason="no ROS environment")
    monkeypatch.syspath_prepend(str((ROOT / path).parent))  # examples import their neighbors
    if path.startswith("benchmarks"):
        return importlib.import_module(path.removesuffix(".py").replace("/", "."))
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_program_is_listed() -> None:
    programs = {
        str(path.relative_to(ROOT))
        for folder in ("benchmarks", "examples")
        for path in (ROOT / folder).rglob("*.py")
        if "typer.Typer(" in path.read_text(encoding="utf-8")
    }
    assert programs == set(PROGRAMS)


@pytest.mark.parametrize("path", PROGRAMS)
def test_wrong_usage(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = program(path, monkeypatch).app
    for arguments, named in ((["--no-such-option"], "--no-such-option"), (["--out"], "--out")):
        if named == "--out" and "agent_" in path:
            continue  # they write nothing
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert named in error
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0


@pytest.mark.parametrize("option", ["--part", "--without"])
def test_a_part_that_does_not_exist(option: str) -> None:
    result = CliRunner().invoke(importlib.import_module("benchmarks.gpu.__main__").app, [option, "sped"])
    assert result.exit_code == 2
    assert option in result.stderr
    assert "'sped'" in result.stderr
    assert "speed" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--size", "huge"], "'huge'"),
        (["--size", "tiny", "huge"], "'huge'"),
        (["--size", "tiny", "--threads", "0"], "--threads"),
        (["--size", "tiny", "--threads", "2", "--clock", "cpu"], "give --threads 1"),
    ],
)
def test_wrong_sizes_and_clocks(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(importlib.import_module("benchmarks.__main__").app, arguments)
    assert result.exit_code == 2
    assert named in result.stderr
