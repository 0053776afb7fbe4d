"""The providers' own converters accept every tool; each test runs where its LangChain package is installed.

`test_schemas.py` checks the same limits by walking the schemas, everywhere. Nothing here opens a connection.
"""

from __future__ import annotations

from typing import Any

import pytest

from xsam_agent_tools.picture_places import PICTURE_PLACES, RESPONSES_API, picture_places
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


# ------------------------------------------------------------------------- places of pictures

JPEG = "/9j/4AAQSkZJRg=="
CALL = {"name": "segment_objects", "args": {"queries": ["mug"]}, "id": "abcdefghi"}


def _conversation(place: str) -> list[Any]:
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

    image = {"type": "image", "base64": JPEG, "mime_type": "image/jpeg"}
    text = {"type": "text", "text": "{}"}
    head = [HumanMessage("look"), AIMessage("", tool_calls=[CALL])]
    if place == "tool":
        return [*head, ToolMessage([text, image], tool_call_id=CALL["id"], name=CALL["name"])]
    bridge = [AIMessage("Let me see.")] if place == "bridged" else []
    return [
        *head,
        ToolMessage("{}", tool_call_id=CALL["id"], name=CALL["name"]),
        *bridge,
        HumanMessage([text, image]),
    ]


def test_openai_takes_pictures_from_the_user_and_in_tool_messages_of_the_responses_api() -> None:
    openai = pytest.importorskip("langchain_openai")
    chat = openai.ChatOpenAI(model="gpt-5-mini", api_key=KEY)
    assert not picture_places(chat).in_tool_message
    *_, shown = chat._get_request_payload(_conversation("user"))["messages"]
    assert (shown["role"], shown["content"][1]["image_url"]["url"][:23]) == (
        "user",
        "data:image/jpeg;base64,",
    )
    responses = openai.ChatOpenAI(model="gpt-5-mini", api_key=KEY, use_responses_api=True)
    assert picture_places(responses).in_tool_message
    *_, output = responses._get_request_payload(_conversation("tool"))["input"]
    assert (output["type"], output["output"][1]["type"]) == ("function_call_output", "input_image")


@pytest.mark.parametrize("place", ["tool", "user"])
def test_anthropic_takes_pictures_in_both_places(place: str) -> None:
    anthropic = pytest.importorskip("langchain_anthropic")
    model = anthropic.ChatAnthropic(model="claude-sonnet-4-5", api_key=KEY)
    assert picture_places(model).in_tool_message
    *_, last = model._get_request_payload(_conversation(place))["messages"]
    parts = last["content"][0]["content"] if place == "tool" else last["content"]
    (image,) = [part for part in parts if part["type"] == "image"]
    assert image["source"]["media_type"] == "image/jpeg"
    assert last["content"][0]["type"] == "tool_result"  # the user message joins the results: roles alternate


@pytest.mark.parametrize("place", ["tool", "user"])
def test_google_takes_pictures_in_both_places(place: str) -> None:
    google = pytest.importorskip("langchain_google_genai.chat_models")
    model = google.ChatGoogleGenerativeAI(model="gemini-2.5-flash", api_key=KEY)
    assert picture_places(model).in_tool_message
    contents = google._parse_chat_history(_conversation(place))[1]
    parts = [part for content in contents for part in content.parts]
    assert [part.inline_data.mime_type for part in parts if part.inline_data] == ["image/jpeg"]


@pytest.mark.parametrize("place", ["tool", "user"])
def test_ollama_takes_pictures_in_both_places(place: str) -> None:
    ollama = pytest.importorskip("langchain_ollama")
    model = ollama.ChatOllama(model="qwen3")
    assert picture_places(model).in_tool_message
    *_, last = model._convert_messages_to_ollama_messages(_conversation(place))
    assert (last["role"], last["images"]) == (place, [JPEG])


def test_mistral_takes_pictures_after_a_message_of_the_assistant_only() -> None:
    mistral = pytest.importorskip("langchain_mistralai")
    model = mistral.ChatMistralAI(model="mistral-medium-latest", api_key=KEY)
    places = picture_places(model)
    assert not places.in_tool_message
    assert not places.user_after_tool
    messages = model._create_message_dicts(_conversation("bridged"), None)[0]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert messages[-1]["content"][1]["type"] == "image_url"
    in_tool = model._create_message_dicts(_conversation("tool"), None)[0][-1]["content"][1]
    assert in_tool["type"] != "image_url"  # not converted: the API knows no other kind of picture


@pytest.mark.parametrize("place", ["tool", "user"])
def test_bedrock_takes_pictures_in_both_places(place: str) -> None:
    bedrock = pytest.importorskip("langchain_aws.chat_models.bedrock_converse")
    assert PICTURE_PLACES["amazon_bedrock_converse_chat"].in_tool_message
    *_, last = bedrock._messages_to_bedrock(_conversation(place))[0]
    parts = last["content"][0]["toolResult"]["content"] if place == "tool" else last["content"]
    assert [part["image"]["format"] for part in parts if "image" in part] == ["jpeg"]
    assert "toolResult" in last["content"][0]


def test_every_row_of_the_table_is_the_name_of_a_model_class() -> None:
    """A renamed `_llm_type` would silently fall out of the table."""
    openai = pytest.importorskip("langchain_openai")
    anthropic = pytest.importorskip("langchain_anthropic")
    google = pytest.importorskip("langchain_google_genai")
    ollama = pytest.importorskip("langchain_ollama")
    mistral = pytest.importorskip("langchain_mistralai")
    aws = pytest.importorskip("langchain_aws")
    classes = (
        openai.ChatOpenAI,
        openai.AzureChatOpenAI,
        anthropic.ChatAnthropic,
        google.ChatGoogleGenerativeAI,
        ollama.ChatOllama,
        mistral.ChatMistralAI,
        aws.ChatBedrockConverse,
    )
    kinds = {cls._llm_type.fget(None) for cls in classes}
    assert kinds == set(PICTURE_PLACES) - {RESPONSES_API}
