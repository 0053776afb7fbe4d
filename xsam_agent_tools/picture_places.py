"""Where a provider accepts pictures in a conversation with tool calls.

The table is about the providers' own rules; `tests/agent/test_providers.py` runs their LangChain packages
and checks what those make of each place. A model that is not in the table gets pictures in a user message
after the tool messages, which all of them accept except Mistral.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePlaces:
    """Where pictures may stand.

    Attributes:
        in_tool_message: in the tool message itself.
        user_after_tool: in a user message right after the tool messages; otherwise a message of the assistant
            has to come between the two.
    """

    in_tool_message: bool
    user_after_tool: bool = True


RESPONSES_API = "openai responses"
PICTURE_PLACES: dict[str, PicturePlaces] = {
    # Chat Completions: "Image URLs are only allowed for messages with role 'user'".
    "openai-chat": PicturePlaces(in_tool_message=False),
    "azure-openai-chat": PicturePlaces(in_tool_message=False),
    RESPONSES_API: PicturePlaces(in_tool_message=True),
    "anthropic-chat": PicturePlaces(in_tool_message=True),
    "chat-google-generative-ai": PicturePlaces(in_tool_message=True),
    # "Unexpected role 'user' after role 'tool'"; its LangChain package converts no picture of a tool message.
    "mistralai-chat": PicturePlaces(in_tool_message=False, user_after_tool=False),
    "chat-ollama": PicturePlaces(in_tool_message=True),
    "amazon_bedrock_converse_chat": PicturePlaces(in_tool_message=True),
}
"""`_llm_type` of a LangChain chat model → where its provider accepts pictures."""

_MISTRAL_NAMES = re.compile(r"mi[sx]tral|ministral|codestral|devstral|magistral|pixtral", re.IGNORECASE)


def picture_places(model: Any) -> PicturePlaces:
    """Return where a LangChain chat model accepts pictures.

    A model of Mistral's behind another provider's interface is recognized by its name, because servers apply
    the rules of its chat template.
    """
    kind = str(getattr(model, "_llm_type", ""))
    if kind.endswith("openai-chat") and getattr(model, "use_responses_api", None):
        kind = RESPONSES_API
    places = PICTURE_PLACES.get(kind)
    if places is None:
        profile = getattr(model, "profile", None) or {}
        places = PicturePlaces(in_tool_message=bool(profile.get("image_tool_message")))
    names = (getattr(model, name, None) for name in ("model_name", "model", "model_id"))
    if any(isinstance(name, str) and _MISTRAL_NAMES.search(name) for name in names):
        places = PicturePlaces(in_tool_message=False, user_after_tool=False)
    return places
