"""Middleware for `langchain.agents.create_agent`: shows the newest overlays to the model, and limits calls.

Needs the extra `langgraph`::

    from xsam_agent_tools.middleware import perception_middleware

    toolkit = XSamToolkit(segmenter, cameras=["front"], images="user", frame_source=…)
    agent = create_agent(model, toolkit.get_tools(), middleware=perception_middleware())
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, cast

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse, hook_config
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command

from xsam_agent_tools.errors import CallLimitError
from xsam_agent_tools.memory.pictures import find_picture, mime_type
from xsam_agent_tools.picture_places import picture_places
from xsam_agent_tools.text.content import error_payload, to_text
from xsam_agent_tools.tools import BUILDERS, PICTURE_BUILDERS

_SCHEMA_PREFIX = "xsam_agent_tools/"
_BRIDGE = "Let me see the pictures of these results."
_PERCEPTION_TOOLS = frozenset((*BUILDERS, *PICTURE_BUILDERS))

ImagePlacement = Literal["user", "tool"]


class OverlayMiddleware(AgentMiddleware):
    """Middleware that shows the images of the tools' artifacts to a model with vision, in a user message.

    The images are added to the request only: the conversation's state, and with it every checkpoint, stays
    unchanged. Only the newest `max_images` are shown; a line of text takes the place of older ones. A model
    whose profile does not promise `image_inputs` gets text only.
    """

    def __init__(
        self, *, max_images: int = 2, place: ImagePlacement = "user", sees: bool | None = None
    ) -> None:
        """Check the settings.

        Args:
            max_images: maximum number of images in one request.
            place: "user" puts them into a user message after the tool messages, and a short message of
                the assistant between the two where the provider demands it. "tool" puts them into the tool
                message itself where the provider accepts that, else it works like "user"; see
                `xsam_agent_tools.picture_places`.
            sees: whether the model accepts images; None = as its profile says.

        Raises:
            ValueError: a setting is out of range.
        """
        super().__init__()
        if max_images < 1:
            raise ValueError(f"max_images must be positive, got {max_images}")
        if place not in ("user", "tool"):
            raise ValueError(f"place must be 'user' or 'tool', got {place!r}")
        self._max_images = max_images
        self._place: ImagePlacement = place
        self._sees = sees

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Add the images to this request."""
        return handler(self._with_images(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Add the images to this request."""
        return await handler(self._with_images(request))

    def _with_images(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        profile = getattr(request.model, "profile", None) or {}
        sees = bool(profile.get("image_inputs")) if self._sees is None else self._sees
        if not sees:
            return request
        places = picture_places(request.model)
        messages = insert_images(
            request.messages,
            max_images=self._max_images,
            inline=self._place == "tool" and places.in_tool_message,
            bridged=not places.user_after_tool,
        )
        return request.override(messages=cast("list[AnyMessage]", messages))


class SearchLimitMiddleware(AgentMiddleware):
    """Middleware that limits how often the tools of this package are called since the last user message.

    The robot's own tools are neither counted nor refused. Nothing is added to the conversation's state: the
    calls are counted in its messages.
    """

    def __init__(self, *, tool_calls: int = 25, model_calls: int = 40) -> None:
        """Check the settings.

        Args:
            tool_calls: each further call gets an error, so that the model can still report what it knows.
            model_calls: after so many replies of the model that call these tools, the run ends.

        Raises:
            ValueError: a limit is not positive.
        """
        super().__init__()
        if min(tool_calls, model_calls) < 1:
            raise ValueError(f"limits must be positive, got {tool_calls=}, {model_calls=}")
        self._tool_calls = tool_calls
        self._model_calls = model_calls

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Refuse the call if it exceeds the limit."""
        return self._refusal(request) or handler(request)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Refuse the call if it exceeds the limit."""
        return self._refusal(request) or await handler(request)

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """End the run if the limit is reached."""
        searches = [calls for calls in _perception_calls(state["messages"]) if calls]
        if len(searches) < self._model_calls:
            return None
        text = f"Stopped: the cameras were searched in {len(searches)} steps without an end."
        return {"jump_to": "end", "messages": [AIMessage(text)]}

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """End the run if the limit is reached."""
        return self.before_model(state, runtime)

    def _refusal(self, request: ToolCallRequest) -> ToolMessage | None:
        name, call_id = request.tool_call["name"], request.tool_call["id"]
        messages = request.state["messages"] if isinstance(request.state, dict) else request.state
        *earlier, current = _perception_calls(messages) or [[]]
        number = sum(map(len, earlier)) + (current.index(call_id) + 1 if call_id in current else 0)
        if name not in _PERCEPTION_TOOLS or number <= self._tool_calls:
            return None
        error = CallLimitError(f"{self._tool_calls} calls of perception tools were made for this request")
        return ToolMessage(
            to_text(error_payload(error)), name=name, tool_call_id=call_id or "", status="error"
        )


def _perception_calls(messages: Sequence[BaseMessage]) -> list[list[str | None]]:
    """Return the ids of the calls of this package's tools, for each reply since the last user message."""
    replies: list[list[str | None]] = []
    for message in messages:
        if isinstance(message, HumanMessage):
            replies = []
        elif isinstance(message, AIMessage):
            replies.append([call["id"] for call in message.tool_calls if call["name"] in _PERCEPTION_TOOLS])
    return replies


def insert_images(
    messages: Sequence[BaseMessage], *, max_images: int, inline: bool = False, bridged: bool = False
) -> list[BaseMessage]:
    """Insert the newest images of these tools into the messages of a conversation.

    Args:
        messages: of the conversation; they are not changed.
        max_images: maximum number of images; the newest ones are shown.
        inline: put them into the tool message itself instead of a user message after the tool messages.
        bridged: put a message of the assistant between the tool messages and that user message.

    Returns:
        A new list.
    """
    remaining = max_images
    shown: dict[int, list[str]] = {}  # index of a tool message → those of its images that are shown
    for index in range(len(messages) - 1, -1, -1):
        images = artifact_images(messages[index])
        if images:
            kept = [image for image in images if image is not None]
            shown[index] = kept[: max(0, remaining)]
            remaining -= len(shown[index])
    result: list[BaseMessage] = []
    pending: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if not isinstance(message, ToolMessage):  # the tool messages after one AI message must stay together
            result += _user_message(pending, bridged=bridged)
            pending = []
        if index not in shown:
            result.append(message)
        elif inline and shown[index]:
            blocks = [_text_block(str(message.content)), *map(_image_block, shown[index])]
            result.append(message.model_copy(update={"content": blocks}))
        else:
            result.append(message)
            caption = _caption(cast(ToolMessage, message), expired=not shown[index])
            pending += [_text_block(caption), *map(_image_block, shown[index])]
    return result + _user_message(pending, bridged=bridged)


def artifact_images(message: BaseMessage) -> list[str | None]:
    """Return the pictures of a message of these tools, in base64; empty for any other message.

    A picture that the store has dropped, or an earlier process has drawn, is None.
    """
    artifact = message.artifact if isinstance(message, ToolMessage) else None
    if not isinstance(artifact, dict) or not str(artifact.get("schema", "")).startswith(_SCHEMA_PREFIX):
        return []
    inline: list[str | None] = [image for image in artifact.get("images", []) if isinstance(image, str)]
    return inline + [find_picture(str(reference)) for reference in artifact.get("pictures", [])]


def perception_middleware(
    *,
    max_images: int = 2,
    place: ImagePlacement = "user",
    sees: bool | None = None,
    tool_calls: int = 25,
    model_calls: int = 40,
) -> list[AgentMiddleware[Any, Any, Any]]:
    """Build middleware that shows overlays, and that stops an agent which would go on searching forever.

    The arguments are those of `OverlayMiddleware` and `SearchLimitMiddleware`.
    """
    return [
        OverlayMiddleware(max_images=max_images, place=place, sees=sees),
        SearchLimitMiddleware(tool_calls=tool_calls, model_calls=model_calls),
    ]


def _caption(message: ToolMessage, *, expired: bool) -> str:
    result = message.artifact["result"]
    entries = result.get("cameras", [])  # of several cameras, in the order of their pictures
    ids = [f"{entry['image_id']} of camera {entry['camera']}" for entry in entries if "image_id" in entry]
    ids = ids or sorted({str(item["id"]).partition("/")[0] for item in result.get("objects", [])})
    name = f"image {result.get('image_id') or ', then '.join(ids)} ({message.name or 'tool'})"
    if expired:
        return f"[Overlay of {name} is not shown any more.]"
    shown = f"[Overlay of {name}; the numbers are the objects' marks."
    if message.name in PICTURE_BUILDERS:
        shown = f"[Picture of {name}."
    if picture := result.get("picture"):
        width, height = picture["size"]
        shown += (
            f" {width}×{height} pixels show {picture['shows_xyxy']} of the image: give pixels of the image."
        )
    return f"{shown} It was made by a tool, not by the user.]"


def _user_message(blocks: list[dict[str, Any]], *, bridged: bool) -> list[BaseMessage]:
    if not blocks:
        return []
    shown = HumanMessage(content=cast("list[str | dict[str, Any]]", blocks))
    return [AIMessage(_BRIDGE), shown] if bridged else [shown]


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image_block(picture: str) -> dict[str, Any]:
    return {"type": "image", "base64": picture, "mime_type": mime_type(picture)}
