"""The tools over a fake segmenter that sees the table, and ways to call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.tools import BaseTool

from tests.agent.table import MASKS, Called, as_call, new_frame
from xsam import FakeSegmenter
from xsam_agent_tools import XSamToolkit


@pytest.fixture
def segmenter() -> FakeSegmenter:
    return FakeSegmenter(MASKS, frames={"front": new_frame("front"), "wrist": new_frame("wrist")})


@pytest.fixture
def make_toolkit(segmenter: FakeSegmenter) -> Callable[..., XSamToolkit]:
    """A toolkit with cameras "front" and "wrist" and their frames; keywords replace settings."""

    def make(**settings: Any) -> XSamToolkit:
        settings.setdefault("segmenter", segmenter)
        settings.setdefault("cameras", ["front", "wrist"])
        settings.setdefault("frame_source", new_frame)
        return XSamToolkit(**settings)

    return make


@pytest.fixture
def tool(make_toolkit: Callable[..., XSamToolkit]) -> BaseTool:
    return make_toolkit().get_tools()[0]


@pytest.fixture
def call() -> Callable[..., Called]:
    return lambda tool, **args: Called(tool.invoke(as_call(tool, args)))


@pytest.fixture
def acall() -> Callable[..., Any]:
    async def run(tool: BaseTool, **args: Any) -> Called:
        return Called(await tool.ainvoke(as_call(tool, args)))

    return run
