"""Fixtures: the tools over a fake segmenter that sees the table, and functions to call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.tools import BaseTool

from tests.agent.sim_table import SwingingCameraTable
from tests.agent.table import MASKS, ToolCallResult, as_call, new_frame
from xsam import FakeSegmenter
from xsam.sim import CATEGORIES
from xsam_agent_tools import SceneStore, XSamToolkit

IN_A_THREAD: Any = {"configurable": {"thread_id": "one"}}


@pytest.fixture
def segmenter() -> FakeSegmenter:
    return FakeSegmenter(MASKS, frames={"front": new_frame("front"), "wrist": new_frame("wrist")})


@pytest.fixture
def make_toolkit(segmenter: FakeSegmenter) -> Callable[..., XSamToolkit]:
    """Return a function that makes a toolkit with two cameras and their frames; keywords replace settings."""

    def make(**settings: Any) -> XSamToolkit:
        settings.setdefault("segmenter", segmenter)
        settings.setdefault("cameras", ["front", "wrist"])
        settings.setdefault("frame_source", new_frame)
        settings.setdefault("store", SceneStore(run=""))  # so that the first image is "f1"
        return XSamToolkit(**settings)

    return make


@pytest.fixture
def tool(make_toolkit: Callable[..., XSamToolkit]) -> BaseTool:
    """Return `segment_objects`, the first tool."""
    return make_toolkit().get_tools()[0]


@pytest.fixture
def make_tools(make_toolkit: Callable[..., XSamToolkit]) -> Callable[..., dict[str, BaseTool]]:
    """Return a function that makes all tools, by name; keywords replace settings."""

    def make(**settings: Any) -> dict[str, BaseTool]:
        return {tool.name: tool for tool in make_toolkit(mode="full", **settings).get_tools()}

    return make


@pytest.fixture
def tools(make_tools: Callable[..., dict[str, BaseTool]]) -> dict[str, BaseTool]:
    return make_tools()


@pytest.fixture
def table() -> SwingingCameraTable:
    return SwingingCameraTable()


@pytest.fixture
def sim_tools(
    make_tools: Callable[..., dict[str, BaseTool]], table: SwingingCameraTable
) -> dict[str, BaseTool]:
    """Make all tools over a simulated table with depth; every mask is perfect."""
    return make_tools(segmenter=table, frame_source=table.frame, thing_classes=CATEGORIES)


@pytest.fixture
def call() -> Callable[..., ToolCallResult]:
    return lambda tool, **args: ToolCallResult(tool.invoke(as_call(tool, args), IN_A_THREAD))


@pytest.fixture
def acall() -> Callable[..., Any]:
    async def run(tool: BaseTool, **args: Any) -> ToolCallResult:
        return ToolCallResult(await tool.ainvoke(as_call(tool, args), IN_A_THREAD))

    return run
