"""LangChain's own suites for tools."""

from __future__ import annotations

import inspect

import pytest
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

for _, _test in inspect.getmembers(ToolsIntegrationTests, inspect.iscoroutinefunction):
    pytest.mark.asyncio(_test)  # the suite leaves that to a setting of pytest-asyncio


class _OverTheFake:
    @pytest.fixture(autouse=True)
    def _build(self, make_toolkit) -> None:
        self._tool = make_toolkit().get_tools()[0]

    @property
    def tool_constructor(self) -> BaseTool:
        return self._tool

    @property
    def tool_invoke_params_example(self) -> dict[str, object]:
        return {"queries": ["mug", "the plate"], "camera": "wrist", "max_objects": 3}


class TestSegmentObjectsUnit(_OverTheFake, ToolsUnitTests):
    pass


class TestSegmentObjectsIntegration(_OverTheFake, ToolsIntegrationTests):
    pass


def test_the_suites_run_over_tools_that_find_something(make_toolkit, call) -> None:
    """The standard suite also passes with a tool that answers nothing but errors."""
    tool = make_toolkit().get_tools()[0]
    answer = call(tool, queries=["mug", "the plate"], camera="wrist", max_objects=3)
    assert answer.message.status == "success"
    assert len(answer["objects"]) == 3
