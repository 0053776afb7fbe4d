"""LangChain's own test suites for tools, run with every tool."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from xsam_agent_tools.tools import BUILDERS

for _, _test in inspect.getmembers(ToolsIntegrationTests, inspect.iscoroutinefunction):
    pytest.mark.asyncio(_test)  # the suite leaves that to a setting of pytest-asyncio

# On a table with two mugs that were found before: f1/m1 and f1/m2. Fractions, for images of any size.
EXAMPLES: dict[str, dict[str, Any]] = {
    "segment_objects": {"queries": ["mug", "the plate"], "camera": "wrist", "max_objects": 3},
    "ask_scene": {"question": "what can i drink from?"},
    "inspect_object": {"object_id": "f1/m1"},
    "locate_objects_3d": {"object_ids": ["f1/m1", "f1/m2"]},
    "report_not_found": {"query": "unicorn", "tried": ["unicorn"], "reason": "not in view"},
    "segment_with_prompt": {"prompts": [{"type": "point", "x": 0.809, "y": 0.525}], "image_id": "f1"},
    "refine_object": {"object_id": "f1/m1", "remove": [{"type": "point", "x": 0.005, "y": 0.99}]},
    "filter_objects": {"image_id": "f1", "drop": ["2"]},
    "compare_objects": {"object_ids": ["f1/m1", "f1/m2"], "relation": "left_of"},
    "segment_everything": {"classes": ["mug", "book"]},
    "track_object": {"object_id": "f1/m1"},
    "perception_status": {},
}


class _OverTheTable:
    @pytest.fixture(autouse=True, params=list(BUILDERS))
    def _build(self, request: pytest.FixtureRequest, sim_tools, call) -> None:
        call(sim_tools["segment_objects"], queries=["mug", "unicorn"])
        self._tool = sim_tools[request.param]

    @property
    def tool_constructor(self) -> BaseTool:
        return self._tool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return EXAMPLES[self._tool.name]


class TestUnit(_OverTheTable, ToolsUnitTests):
    pass


class TestIntegration(_OverTheTable, ToolsIntegrationTests):
    pass


@pytest.mark.parametrize("name", BUILDERS)
def test_the_suites_run_over_calls_that_succeed(sim_tools, call, name: str) -> None:
    """The standard suite also passes with a tool that returns nothing but errors."""
    call(sim_tools["segment_objects"], queries=["mug", "unicorn"])
    result = call(sim_tools[name], **EXAMPLES[name])
    assert result.message.status == "success", result.json
    assert result["status"] == ("no_match" if name == "report_not_found" else "ok")
