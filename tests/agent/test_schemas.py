"""Argument schemas: one snapshot of each tool, and the limits of every provider's converter.

OpenAI's converter is LangChain's own and runs here; Anthropic's and Ollama's accept its output. What Google
does not accept is known and checked by walking the schema: its package is not installed with the project.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

from xsam_agent_tools.tools import BUILDERS, CORE_BUILDERS

SNAPSHOT = Path(__file__).with_name("schemas.json")

# Google's `Schema` is a subset of OpenAPI 3; its converter drops or refuses other keywords.
GOOGLE_WORDS = {
    *("type", "format", "title", "description", "nullable", "enum", "items", "properties", "required"),
    *("minItems", "maxItems", "minimum", "maximum", "minLength", "maxLength", "default"),
}
TYPES = {"object", "array", "string", "number", "integer", "boolean"}


def _parameters(tool: Any) -> dict[str, Any]:
    return convert_to_openai_tool(tool)["function"]["parameters"]  # type: ignore[no-any-return]


def _walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema in a schema, with its path."""
    yield path or "(top)", schema
    for name, part in schema.get("properties", {}).items():
        yield from _walk(part, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from _walk(schema["items"], f"{path}[]")


def test_the_tool_sets(make_toolkit) -> None:
    core = [tool.name for tool in make_toolkit(mode="core").get_tools()]
    full = [tool.name for tool in make_toolkit(mode="full").get_tools()]
    assert core == [
        "segment_objects",
        "ask_scene",
        "inspect_object",
        "locate_objects_3d",
        "report_not_found",
    ]
    assert sorted(full) == sorted(
        [
            *core,
            "segment_with_prompt",
            "refine_object",
            "filter_objects",
            "compare_objects",
            "segment_everything",
            "track_object",
            "perception_status",
        ]
    )
    assert (list(CORE_BUILDERS), list(BUILDERS)) == (core, full)


def test_schemas_are_those_of_the_snapshot(make_tools) -> None:
    """A changed schema is a changed interface. To accept one, write the printed text to schemas.json."""
    tools = make_tools(transforms=lambda *_: None)
    now = {name: _parameters(tool) for name, tool in tools.items()}
    text = json.dumps(now, indent=1, ensure_ascii=False) + "\n"
    assert json.loads(SNAPSHOT.read_text(encoding="utf-8")) == now, text


@pytest.mark.parametrize("name", BUILDERS)
def test_every_converter_takes_the_schema(tools, name: str) -> None:
    function = convert_to_openai_tool(tools[name])["function"]
    assert function["name"] == name
    assert 50 <= len(function["description"]) <= 1024  # the limit of the strictest provider
    parts = dict(_walk(function["parameters"]))
    for path, part in parts.items():
        words = set(part) - ({"additionalProperties"} if path == "(top)" else set())
        assert words <= GOOGLE_WORDS, path  # no anyOf, $ref, prefixItems, const, exclusiveMinimum …
        assert part["type"] in TYPES, path  # one type; Ollama and Google accept no lists of types
        if part["type"] == "array":
            assert isinstance(part["items"], dict), path  # a list without items is refused by OpenAI
        if part["type"] == "object":
            assert part["properties"], path  # Google: "should be non-empty for OBJECT type"
            assert set(part.get("required", [])) <= set(part["properties"]), path
        if "enum" in part:
            assert part["type"] == "string", path
            assert all(isinstance(value, str) and value for value in part["enum"]), path
            assert part.get("default", part["enum"][0]) in part["enum"], path
    for field, part in function["parameters"]["properties"].items():
        assert part["description"], field


@pytest.mark.parametrize("name", BUILDERS)
def test_the_schema_for_clients_without_a_converter(tools, name: str) -> None:
    """MCP clients get the arguments' JSON schema as pydantic writes it."""
    schema = tools[name].args_schema.model_json_schema()
    assert schema["additionalProperties"] is False
    text = json.dumps(schema)
    for word in ("$ref", "$defs", "prefixItems", "anyOf", "oneOf", '"const"'):
        assert word not in text, word
    assert convert_to_json_schema(tools[name])["properties"].keys() == schema["properties"].keys()


@pytest.mark.parametrize("name", BUILDERS)
def test_unknown_arguments_are_refused(tools, call, name: str) -> None:
    result = call(tools[name], topic="/camera/image_raw")
    assert result["code"] == "INVALID_ARGUMENTS"
    assert "topic: Extra inputs are not permitted" in result["message"]


def test_all_definitions_fit_into_a_small_context(tools) -> None:
    """Every request contains them; four characters per token is the common rule for English text."""
    core = [convert_to_openai_tool(tools[name]) for name in CORE_BUILDERS]
    every = [convert_to_openai_tool(tool) for tool in tools.values()]
    assert len(json.dumps(core)) / 4 < 1500
    assert len(json.dumps(every)) / 4 < 4000


def test_without_pixels_no_tool_asks_for_an_earlier_image(make_tools) -> None:
    tools = make_tools(frame_source=None)
    for name in ("segment_objects", "ask_scene", "segment_with_prompt"):
        assert "image_id" not in _parameters(tools[name])["properties"]


def test_tools_and_arguments_that_cannot_work_are_not_offered(make_tools) -> None:
    """Over ROS, `refine_object` and the `frame` of locate_objects_3d were offered and always failed."""
    bare = make_tools(frame_source=None)
    assert "refine_object" not in bare
    assert all("refine_object" not in tool.description for tool in bare.values())
    locate = bare["locate_objects_3d"]
    assert "frame" not in _parameters(locate)["properties"]
    assert "frame" not in locate.args_schema.model_json_schema()["properties"]
    assert "base_link" not in locate.description
    whole = make_tools(transforms=lambda *_: None)
    assert "refine_object" in whole
    assert "frame" in _parameters(whole["locate_objects_3d"])["properties"]
    assert "base_link" in whole["locate_objects_3d"].description


@pytest.mark.parametrize("camera", ["all", "same"])
def test_cameras_may_have_the_names_of_the_special_choices(make_tools, camera: str) -> None:
    tools = make_tools(cameras=[camera, "front"])
    for name in ("perception_status", "track_object"):
        choices = _parameters(tools[name])["properties"]["camera"]["enum"]
        assert len(choices) == len(set(choices))
        assert camera in choices
