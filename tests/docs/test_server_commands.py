"""Every command in the documents of the server runs as it is printed, but for addresses of machines."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.docs.documents import read
from xsam import cli

pytest.importorskip("fastapi", reason="fastapi is not installed")

from support.model_server import FakeEngine, RunningServer, running_server
from xsam_server import serving
from xsam_server.settings import ServerSettings

DOCUMENTS = ("docs/server.md", "docs/annotate-x-anylabeling.md", "docs/annotate-label-studio.md")
ADDRESS = "http://127.0.0.1:8080"
HW = (480, 640)
MASK = np.zeros(HW, np.bool_)
MASK[200:240, 140:200] = True


def blocks(language: str, *names: str) -> list[str]:
    text = "".join(read(name) for name in names or DOCUMENTS)
    return [block.replace("\\\n", "") for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


SERVE = [
    line.partition("  #")[0].strip()
    for block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("xsam serve")
]
CURL = [block for block in blocks("bash") if block.startswith("curl")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the documents speak of; it becomes the working directory."""
    Image.fromarray(np.full((*HW, 3), 90, np.uint8)).save(tmp_path / "photo.jpg")
    token = tmp_path / "label-studio-token"
    token.write_text("a-token-of-a-user\n")
    token.chmod(0o600)
    (making,) = [block for block in blocks("bash") if "> tokens" in block]
    lines = [line for line in making.splitlines() if not line.startswith("xsam ")]
    subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=tmp_path, check=True, timeout=20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    names = ("the red mug", "mug", "bowl")
    with running_server(lambda: FakeEngine({name: [MASK] for name in names})) as running:
        yield running


@pytest.mark.parametrize("command", SERVE)
def test_servers_can_be_started(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[ServerSettings] = []
    monkeypatch.setattr(serving, "serve", lambda _, settings: started.append(settings))
    result = CliRunner().invoke(cli.app, command.split()[1:])
    assert result.exit_code == 0, result.output
    assert len(started) == 1


@pytest.mark.parametrize("block", CURL)
def test_curl_gets_an_answer(block: str, folder: Path, server: RunningServer) -> None:
    command = block.replace(ADDRESS, server.url)
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    assert "results" in answer or answer["success"], answer
    assert "mug" in done.stdout


def test_the_client_in_python(folder: Path, server: RunningServer) -> None:
    (block,) = [block for block in blocks("python", "docs/server.md") if "RemoteSegmenter(" in block]
    names: dict[str, Any] = {}
    exec(compile(block.replace(ADDRESS, server.url), "docs/server.md", "exec"), names)
    assert names["mug"].found
    assert names["clicked"].found


def test_all_kinds_of_commands_were_seen() -> None:
    assert len(SERVE) >= 5
    assert len(CURL) == 2
