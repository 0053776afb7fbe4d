"""Framework-independent definition of a tool, and its conversion to a LangChain tool.

An error that a tool raises on purpose reaches the model as JSON with code, message, hint and retryable; it
never ends the agent. Anything unexpected is logged with its traceback and reported as INTERNAL.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.runnables.config import ensure_config
from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel, ValidationError

from xsam.errors import XSamError
from xsam_agent_tools.memory.history import ConversationId
from xsam_agent_tools.memory.pictures import PictureStore
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.perception import Perception
from xsam_agent_tools.planner_hints import without_unavailable
from xsam_agent_tools.reading import Reading, merge_notes
from xsam_agent_tools.runtime.call_threads import CallThreads
from xsam_agent_tools.runtime.progress import current_run
from xsam_agent_tools.text.content import error_payload, invalid_arguments_payload, to_text
from xsam_agent_tools.text.pictures import Picture, PictureSettings, overlay_picture

Images = Literal["none", "user", "tool"]
Output = tuple[str, dict[str, Any]]  # content for the model, artifact for the program

_LOG = logging.getLogger(__name__)
_CONVERSATION: ContextVar[str] = ContextVar("xsam_conversation", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """The parts and settings that every tool of a toolkit is built from."""

    perception: Perception
    images: Images
    pictures: PictureSettings
    names: tuple[str, ...]  # of the tools that are offered; no other is ever suggested
    thing_classes: tuple[str, ...]  # default categories of `segment_everything`
    stuff_classes: tuple[str, ...]

    def overlays(self, scene: Scene, objects: Sequence[SceneObject], title: str) -> list[Picture] | None:
        """Draw the overlay for the artifact; None when images are off."""
        if self.images == "none":
            return None
        if scene.frame is None:
            return []
        return [overlay_picture(scene.frame, objects, title, self.pictures)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """One tool, independent of any framework: name, description, argument schema and function.

    No tool moves or changes anything in the world, so all of them are read-only to clients that care.
    """

    name: str
    description: str
    args: type[BaseModel]
    run: Callable[..., Output]  # blocking; takes the fields of `args` as keywords
    unavailable: frozenset[str] = frozenset()  # tools, arguments and cameras that no hint may mention

    def call(self, arguments: dict[str, Any]) -> Output:
        """Validate the arguments and run the tool.

        Raises:
            ToolException: its text is the JSON for the model: code, message, hint, retryable.
        """
        try:
            valid = self.args.model_validate(arguments)
        except ValidationError as error:
            raise ToolException(to_text(invalid_arguments_payload(error))) from error
        return self.run_safely(**{name: getattr(valid, name) for name in type(valid).model_fields})

    def run_safely(self, **arguments: Any) -> Output:
        """Run the tool with validated arguments; the answer says how they were read.

        Raises:
            ToolException: for every exception; its text is the JSON for the model.
        """
        readings = [value for value in arguments.values() if isinstance(value, Reading)]
        notes = merge_notes(readings)
        plain = {n: value.value if isinstance(value, Reading) else value for n, value in arguments.items()}
        try:
            return self._finished(self.run(**plain), notes)
        except XSamError as error:
            payload = self._with_possible_hint({**error_payload(error), **notes})
            raise ToolException(to_text(payload)) from error
        except Exception as error:
            _LOG.exception("tool %s failed", self.name)
            internal = XSamError(
                f"{self.name} failed inside: {type(error).__name__}", hint="tell the user; see the log"
            )
            raise ToolException(to_text({**error_payload(internal), "code": "INTERNAL"})) from error

    def _finished(self, output: Output, notes: dict[str, Any]) -> Output:
        """Add how the arguments were read, and what the picture shows if it is not the image as it is."""
        artifact = output[1]
        if (picture := artifact.get("picture")) and picture["shows_xyxy"] != [0, 0, *picture["size"]]:
            notes = {**notes, "picture": picture}
        result = self._with_possible_hint(artifact["result"])
        if not notes and result is artifact["result"]:
            return output
        for name, note in notes.items():
            result = {**result, name: {**note, **result.get(name, {})}}
        return to_text(result), {**artifact, "result": result}

    def _with_possible_hint(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return the payload, its hint without what the planner does not have."""
        hint = payload.get("hint", "")
        possible = without_unavailable(hint, self.unavailable)
        return payload if possible == hint else {**payload, "hint": possible}


def langchain_tool(
    spec: ToolSpec, *, threads: CallThreads, pictures: PictureStore | None = None
) -> StructuredTool:
    """Convert to a LangChain tool, whose async side runs the blocking function on one of the threads.

    With a picture store, pictures go there: the artifact has their references in `pictures`, not `images`.
    """

    @functools.wraps(spec.run)
    def func(**kwargs: Any) -> Output:
        content, artifact = spec.run_safely(**kwargs)
        if pictures is not None and "images" in artifact:
            artifact = {**artifact, "pictures": [pictures.add(image) for image in artifact["images"]]}
            del artifact["images"]
        return content, artifact

    @functools.wraps(spec.run)
    async def coroutine(**kwargs: Any) -> Output:
        try:
            return await threads.run(functools.partial(func, **kwargs))
        except XSamError as error:
            raise ToolException(to_text(error_payload(error))) from error

    return StructuredTool.from_function(
        func=func,
        coroutine=coroutine,
        name=spec.name,
        description=spec.description,
        args_schema=spec.args,
        response_format="content_and_artifact",
        handle_tool_error=_tool_error_text,
        handle_validation_error=_validation_error_text,
    )


def current_conversation() -> ConversationId:
    """Return the conversation of this call: that of `conversation_scope`, or LangGraph's thread or run.

    A run of a graph is one turn. Calls outside all of these have no name, because they may be anybody's.
    """
    if named := _CONVERSATION.get():
        return ConversationId(name=named)
    turn = current_run()
    thread_id = (ensure_config().get("configurable") or {}).get("thread_id")
    return ConversationId(name=f"thread {thread_id}" if thread_id else turn, turn=turn)


@contextmanager
def conversation_scope(name: str) -> Iterator[None]:
    """Assign the tool calls in this context to a conversation; for callers other than LangGraph."""
    token = _CONVERSATION.set(name)
    try:
        yield
    finally:
        _CONVERSATION.reset(token)


def _tool_error_text(error: ToolException) -> str:
    return str(error.args[0]) if error.args else to_text(error_payload(XSamError("the tool failed")))


def _validation_error_text(error: Any) -> str:
    if isinstance(error, ValidationError):
        return to_text(invalid_arguments_payload(error))
    return to_text({**error_payload(XSamError(str(error))), "code": "INVALID_ARGUMENTS"})
