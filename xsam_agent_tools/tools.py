"""The tools themselves. Each is a `StructuredTool` with a sync and an async side.

What a tool raises on purpose reaches the model as JSON with code, message, hint and retryable; it
never ends the agent. Anything unexpected is logged with its traceback and reported as INTERNAL.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection
from typing import Any, Literal

from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel, ValidationError

from xsam.errors import XSamError
from xsam_agent_tools.answers import answer_from
from xsam_agent_tools.artifact import segmentation_artifact
from xsam_agent_tools.content import answer_payload, error_payload, invalid_arguments_payload, to_text
from xsam_agent_tools.perception import Perception
from xsam_agent_tools.phrases import query_for
from xsam_agent_tools.schemas import DEFAULT_OBJECTS, segment_objects_args

Images = Literal["none", "user", "tool"]
Output = tuple[str, dict[str, Any]]  # content for the model, artifact for the program

_LOG = logging.getLogger(__name__)

SEGMENT_OBJECTS = """\
Find objects in a robot camera's image by words; every object gets an id, a box and a center. \
All queries (1-8) are answered on the same image.
How a query is read: a noun without 'the' ('mug', 'red mug') finds every instance; 'the ...' \
('the mug left of the plate') means one object; ending in '?' ('What can I drink from?') is reasoned about.
Returns JSON. status: ok; no_match = not in view, repeating the query does not help; ambiguous = several \
fit 'the ...'; stale = image or id too old; error = see code, hint, retryable. box_xyxy and center_xy are \
pixels (x right, y down) of an image of `size` [width,height]; age_s is the image's age; same_as = the same \
object as that earlier id. Ids stay valid in later calls.\
"""


def segment_objects(perception: Perception, *, images: Images, tools: Collection[str]) -> StructuredTool:
    """Several phrases on one frame."""

    def run(
        queries: list[str],
        camera: str = perception.cameras[0],
        image_id: str = "",
        max_objects: int = DEFAULT_OBJECTS,
    ) -> Output:
        asked = [query_for(phrase) for phrase in queries]
        look = perception.look(asked, camera=camera, image_id=image_id)
        answer = answer_from(look, queries, camera, max_objects=max_objects, store=perception.store)
        age_s = perception.age_s(answer.scene.stamp_ns)
        payload = answer_payload(answer, age_s=age_s, cameras=perception.cameras, tools=tools)
        artifact = segmentation_artifact(
            answer.scene, answer.objects, payload, title=", ".join(queries), with_images=images != "none"
        )
        return to_text(payload), artifact

    args = segment_objects_args(perception.cameras, with_image_id=perception.keeps_frames)
    return make_tool("segment_objects", SEGMENT_OBJECTS, args, run)


def make_tool(
    name: str, description: str, args: type[BaseModel], run: Callable[..., Output]
) -> StructuredTool:
    """A tool from a blocking function; the async side runs it on a thread of its own."""

    @functools.wraps(run)
    def func(**kwargs: Any) -> Output:
        try:
            return run(**kwargs)
        except XSamError as error:
            raise ToolException(to_text(error_payload(error))) from error
        except Exception as error:
            _LOG.exception("tool %s failed", name)
            reason = XSamError(
                f"{name} failed inside: {type(error).__name__}", hint="tell the user; see the log"
            )
            raise ToolException(to_text({**error_payload(reason), "code": "INTERNAL"})) from error

    @functools.wraps(run)
    async def coroutine(**kwargs: Any) -> Output:
        return await asyncio.to_thread(func, **kwargs)

    return StructuredTool.from_function(
        func=func,
        coroutine=coroutine,
        name=name,
        description=description,
        args_schema=args,
        response_format="content_and_artifact",
        handle_tool_error=_tool_error_text,
        handle_validation_error=_validation_error_text,
    )


def _tool_error_text(error: ToolException) -> str:
    return str(error.args[0]) if error.args else to_text(error_payload(XSamError("the tool failed")))


def _validation_error_text(error: Any) -> str:
    if isinstance(error, ValidationError):
        return to_text(invalid_arguments_payload(error))
    return to_text({**error_payload(XSamError(str(error))), "code": "INVALID_ARGUMENTS"})
