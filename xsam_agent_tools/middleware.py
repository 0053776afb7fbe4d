"""For `langchain.agents.create_agent`: the model sees the newest overlays, and calls are limited.

Needs the extra `langgraph`::

    from xsam_agent_tools.middleware import perception_middleware

    toolkit = XSamToolkit(segmenter, cameras=["front"], images="user", frame_source=…)
    agent = create_agent(model, toolkit.get_tools(), middleware=perception_middleware())
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, cast

from langchain.agents.middleware import (
    AgentMiddleware,
    ModelCallLimitMiddleware,
    ModelRequest,
    ModelResponse,
    ToolCallLimitMiddleware,
)
from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage, ToolMessage

_SCHEMA_PREFIX = "xsam_agent_tools/"

Place = Literal["user", "tool"]


class OverlayMiddleware(AgentMiddleware):
    """Shows the pictures in the tools' artifacts to a model that can see, in a user message.

    The pictures are added to the request only: the conversation's state, and so every checkpoint, stays as
    it is. Only the newest `max_images` are shown; where older ones were, a line of text says so. A model
    whose profile does not promise `image_inputs` gets text only.
    """

    def __init__(self, *, max_images: int = 2, place: Place = "user", sees: bool | None = None) -> None:
        """Check the settings.

        Args:
            max_images: at most so many pictures in one request.
            place: "user" puts them into a user message behind the tools' answers, which every provider
                takes. "tool" puts them into the tool message itself when the model's profile has
                `image_tool_message`, else it does as "user".
            sees: whether the model takes images; None = its profile says so.

        Raises:
            ValueError: a setting is out of range.
        """
        super().__init__()
        if max_images < 1:
            raise ValueError(f"max_images must be positive, got {max_images}")
        if place not in ("user", "tool"):
            raise ValueError(f"place must be 'user' or 'tool', got {place!r}")
        self._max_images = max_images
        self._place: Place = place
        self._sees = sees

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Add the pictures to this request."""
        return handler(self._with_pictures(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Add the pictures to this request."""
        return await handler(self._with_pictures(request))

    def _with_pictures(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        profile = getattr(request.model, "profile", None) or {}
        sees = bool(profile.get("image_inputs")) if self._sees is None else self._sees
        if not sees:
            return request
        inline = self._place == "tool" and bool(profile.get("image_tool_message"))
        messages = show_pictures(request.messages, max_images=self._max_images, inline=inline)
        return request.override(messages=cast("list[AnyMessage]", messages))


def show_pictures(
    messages: Sequence[BaseMessage], *, max_images: int, inline: bool = False
) -> list[BaseMessage]:
    """The messages with the newest pictures of these tools in them.

    Args:
        messages: of the conversation; they are not changed.
        max_images: at most so many pictures, the newest ones.
        inline: into the tool message itself instead of a user message behind it and its neighbors.

    Returns:
        A new list.
    """
    left = max_images
    shown: dict[int, list[str]] = {}  # index of a tool message → its pictures that are shown
    for index in range(len(messages) - 1, -1, -1):
        own = pictures_of(messages[index])
        if own:
            shown[index] = own[: max(0, left)]
            left -= len(shown[index])
    result: list[BaseMessage] = []
    waiting: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if not isinstance(message, ToolMessage):  # answers to one AI message must not be torn apart
            result += _user_message(waiting)
            waiting = []
        if index not in shown:
            result.append(message)
        elif inline and shown[index]:
            blocks = [_text(str(message.content)), *map(_image, shown[index])]
            result.append(message.model_copy(update={"content": blocks}))
        else:
            result.append(message)
            caption = _caption(cast(ToolMessage, message), gone=not shown[index])
            waiting += [_text(caption), *map(_image, shown[index])]
    return result + _user_message(waiting)


def pictures_of(message: BaseMessage) -> list[str]:
    """The base64 PNGs in the artifact of a message of these tools; empty for any other message."""
    artifact = message.artifact if isinstance(message, ToolMessage) else None
    if not isinstance(artifact, dict) or not str(artifact.get("schema", "")).startswith(_SCHEMA_PREFIX):
        return []
    return [image for image in artifact.get("images", []) if isinstance(image, str)]


def perception_middleware(
    *,
    max_images: int = 2,
    place: Place = "user",
    sees: bool | None = None,
    tool_calls: int = 25,
    model_calls: int = 40,
) -> list[AgentMiddleware[Any, Any, Any]]:
    """Pictures, and limits that end an agent which looks for ever.

    Beyond `tool_calls` of one run each further call is answered with an error, so that the model can still
    say what it knows; after `model_calls` the run ends.
    """
    return [
        OverlayMiddleware(max_images=max_images, place=place, sees=sees),
        ToolCallLimitMiddleware(run_limit=tool_calls, exit_behavior="continue"),
        ModelCallLimitMiddleware(run_limit=model_calls, exit_behavior="end"),
    ]


def _caption(message: ToolMessage, *, gone: bool) -> str:
    result = message.artifact["result"]
    image_id = result.get("image_id") or ", ".join(
        sorted({str(item["id"]).partition("/")[0] for item in result.get("objects", [])})
    )
    name = f"image {image_id} ({message.name or 'tool'})"
    if gone:
        return f"[Overlay of {name} is not shown any more: newer ones follow. Its ids stay valid.]"
    return f"[Overlay of {name}; the numbers are the objects' marks. It was made by a tool, not by the user.]"


def _user_message(blocks: list[dict[str, Any]]) -> list[BaseMessage]:
    return [HumanMessage(content=cast("list[str | dict[str, Any]]", blocks))] if blocks else []


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image(base64_png: str) -> dict[str, Any]:
    return {"type": "image", "base64": base64_png, "mime_type": "image/png"}
