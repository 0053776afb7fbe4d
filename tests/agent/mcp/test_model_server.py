"""The tools over a model server: `--server URL`, with an image of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("mcp")
pytest.importorskip("fastapi", reason="fastapi is not installed")

from langchain_core.tools import BaseTool

from support.model_server import FakeEngine, RunningServer, running_server
from xsam_agent_tools.mcp.options import ServerOptions, ToolMode, open_toolkit
from xsam_agent_tools.schemas import check_camera_names
from xsam_server.settings import Client, ServerSettings

MUG = np.zeros((60, 80), np.bool_)
MUG[10:30, 20:50] = True


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    settings = ServerSettings(clients=(Client(name="agent", token="secret-of-the-agent"),))
    with running_server(lambda: FakeEngine({"mug": [MUG]}), settings) as running:
        yield running


def _ask(folder: Path, url: str, token: str) -> dict[str, Any]:
    picture = folder / "view.png"
    cv2.imwrite(str(picture), np.full((60, 80, 3), 90, np.uint8))
    options = ServerOptions(
        ros=None,
        scene=None,
        image=picture,
        model="tiny",
        cameras=check_camera_names(("view",)),
        mode=ToolMode.CORE,
        no_images=True,
        deadline_s=5.0,
        http=None,
        server=url,
        server_token=token,
    )
    with open_toolkit(options) as toolkit:
        tool: BaseTool = toolkit.get_tools()[0]
        return json.loads(tool.invoke({"queries": ["mug"]}))


def test_objects_are_found_by_the_server(server: RunningServer, tmp_path: Path) -> None:
    answer = _ask(tmp_path, server.url, "secret-of-the-agent")
    assert answer["status"] == "ok", answer


def test_a_wrong_token_is_an_error_that_says_so(server: RunningServer, tmp_path: Path) -> None:
    answer = _ask(tmp_path, server.url, "secret-of-nobody")
    assert (answer["status"], answer["code"]) == ("error", "UNAUTHORIZED")


def test_a_server_that_is_away_is_an_error_that_can_be_retried(tmp_path: Path) -> None:
    answer = _ask(tmp_path, "http://127.0.0.1:9", "")
    assert (answer["status"], answer["code"], answer["retryable"]) == ("error", "LINK_DOWN", True)
