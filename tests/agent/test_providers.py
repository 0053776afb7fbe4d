"""The providers' own converters accept every tool; each test runs where its LangChain package is installed.

`test_schemas.py` checks the same limits by walking the schemas, everywhere. Nothing here opens a connection.
"""

from __future__ import annotations

from typing import Any

import pytest

from xsam_agent_tools.tools import BUILDERS

pytestmark = pytest.mark.filterwarnings("ignore")
KEY: Any = "no-key"


def _bound(model: Any, tools: dict[str, Any]) -> list[Any]:
    given: list[Any] = model.bind_tools(list(tools.values())).kwargs["tools"]
    return given


def test_openai(tools) -> None:
    openai = pytest.importorskip("langchain_openai")
    given = _bound(openai.ChatOpenAI(model="gpt-5-mini", api_key=KEY), tools)
    assert [tool["function"]["name"] for tool in given] == list(BUILDERS)
    queries = given[0]["function"]["parameters"]["properties"]["queries"]
    assert (queries["type"], queries["items"]["type"]) == ("array", "string")


def test_anthropic(tools) -> None:
    anthropic = pytest.importorskip("langchain_anthropic")
    given = _bound(anthropic.ChatAnthropic(model="claude-sonnet-4-5", api_key=KEY), tools)
    assert [tool["name"] for tool in given] == list(BUILDERS)
    for tool in given:
        assert tool["input_schema"]["type"] == "object"
        assert tool["input_schema"]["properties"]


def test_google(tools) -> None:
    """Google's converter is the strictest: it builds a typed `Schema` of each argument."""
    convert = pytest.importorskip("langchain_google_genai._function_utils")
    given = convert.convert_to_genai_function_declarations(list(tools.values()))
    declared = [f for tool in given for f in _field(tool, "function_declarations")]
    assert [_field(f, "name") for f in declared] == list(BUILDERS)
    by_name = dict(zip(BUILDERS, declared, strict=True))
    for function in declared:
        assert _properties(function), _field(function, "name")
    prompts = _properties(by_name["segment_with_prompt"])["prompts"]
    assert {"type", "x", "y", "label"} <= set(_field(_field(prompts, "items"), "properties"))
    relation = _properties(by_name["compare_objects"])["relation"]
    assert "left_of" in _field(relation, "enum")


def test_ollama(tools) -> None:
    ollama = pytest.importorskip("langchain_ollama")
    from ollama import Tool

    given = _bound(ollama.ChatOllama(model="qwen3"), tools)
    taken = [Tool.model_validate(tool) for tool in given]
    assert [tool.function.name for tool in taken] == list(BUILDERS)
    for tool in taken:
        assert tool.function.parameters.properties


def _field(thing: Any, name: str) -> Any:
    return thing[name] if isinstance(thing, dict) else getattr(thing, name)


def _properties(function: Any) -> Any:
    parameters = _field(function, "parameters") or _field(function, "parameters_json_schema")
    return _field(parameters, "properties")
