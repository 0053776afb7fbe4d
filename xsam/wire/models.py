"""The JSON, defined once. Units and coordinates are those of `xsam.types.requests`."""

from __future__ import annotations

from operator import not_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import models_json_schema

from xsam.types.requests import PromptKind, Status, Task

FRAME_ID = r"^[0-9a-f]{64}$"
MAX_QUERIES = 32
"""Queries in one request; they are answered in passes of eight."""


def raw_rgb_header(width: int, height: int) -> bytes:
    """Return what the id of raw RGB counts before the pixels: the header of the PPM file of them.

    The same bytes with another width are another image.
    """
    return f"P6\n{width} {height}\n255\n".encode("ascii")


class _Body(BaseModel):
    # Unknown fields are errors in requests: a misspelled option must not be left out silently.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Answer(BaseModel):
    # A newer server may answer with more fields.
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class SizeBody(_Body):
    """Size of an image in pixels."""

    width: int = Field(ge=1)
    height: int = Field(ge=1)


class MaskBody(_Body):
    """A mask as COCO compressed run-length code, as `pycocotools.mask.decode` reads it."""

    size: tuple[int, int] = Field(description="height, width")
    counts: str


class PromptBody(_Body):
    """A point, box, scribble or mask in pixels of the image."""

    kind: PromptKind
    points_xy: list[tuple[float, float]] | None = Field(
        None, description="one for a point, two or more for a scribble"
    )
    box_xyxy: tuple[float, float, float, float] | None = Field(None, description="max exclusive")
    mask: MaskBody | None = None
    positive: bool = True


class QueryBody(_Body):
    """One thing to segment: text, categories, or visual prompts."""

    text: str = ""
    task: Task = Task.AUTO
    thing_classes: list[str] = Field(default_factory=list, description="countable objects: one segment each")
    stuff_classes: list[str] = Field(default_factory=list, description="surfaces: one segment per class")
    prompts: list[PromptBody] = Field(default_factory=list)
    score_threshold: float | None = Field(None, description="lowest score; null = the model's own")
    max_instances: int = 100
    explain: bool = False


class RequestBody(_Body):
    """Queries about one image, which comes beside this JSON, or is one that the server has."""

    queries: list[QueryBody]
    frame: str | None = Field(None, pattern=FRAME_ID, description="id of a frame that the server has")
    image: SizeBody | None = Field(None, description="size of an image that is sent as raw RGB")
    deadline_s: float | None = Field(None, description="seconds left until the caller gives up")
    model: str | None = Field(None, description="refuse the request unless the server holds this model")
    keep_frame: bool = Field(True, description="whether further requests for the frame are likely")


class LocationBody(_Answer):
    """Where the visible surface of an object is, in meters, or why that is unknown; see `Location3D`."""

    frame_id: str = Field("", exclude_if=not_, description="left out: the frame of the image")
    position_m: tuple[float, float, float] | None = Field(None, exclude_if=not_)
    center_m: tuple[float, float, float] | None = Field(None, exclude_if=not_)
    size_m: tuple[float, float, float] | None = Field(None, exclude_if=not_)
    orientation_xyzw: tuple[float, float, float, float] | None = Field(None, exclude_if=not_)
    distance_m: float | None = Field(None, exclude_if=not_)
    depth_valid_ratio: float
    reason: str = Field("", exclude_if=not_, description="why it is unknown; left out: it is known")


class InstanceBody(_Answer):
    """One mask with label, score and box."""

    label: str
    label_index: int = Field(description="place of the label among what was asked for")
    score: float
    doubt: str = Field("", exclude_if=not_, description="what speaks against it; left out: nothing does")
    chance: float | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="how often such answers of the model are right; left out: not measured",
    )
    track_id: int = Field(0, exclude_if=not_, description="of the same object in all frames; left out: none")
    box_xyxy: tuple[float, float, float, float]
    area_px: int
    location: LocationBody | None = Field(None, exclude_if=not_, description="left out: depth was not asked")
    mask: MaskBody


class CarriedBody(_Answer):
    """The masks are those of an earlier frame, carried along with the image since; see `Carried`."""

    keyframe_ns: int = Field(description="stamp of that frame")
    age_s: float
    frames: int = Field(description="frames since")
    confidence: float = Field(description="0 to 1; falls with time, drift and change")


class ResultBody(_Answer):
    """The result of one query."""

    status: Status
    message: str
    code: str
    hint: str
    notes: list[str] = Field(default_factory=list, exclude_if=not_)
    model: str
    task: Task
    text: str
    phrases: list[str] = Field(
        default_factory=list,
        exclude_if=not_,
        description="grounded conversation: the phrase of each label index",
    )
    image: SizeBody
    segments: list[InstanceBody]
    timing_s: dict[str, float]
    carried: CarriedBody | None = Field(
        None, exclude_if=not_, description="left out: the model segmented this very frame"
    )


class ResponseBody(_Answer):
    """The results of a request, one per query and in its order."""

    frame: str = Field(description="id of the frame: sha256 of the image as it was sent")
    results: list[ResultBody]


class ErrorBody(_Answer):
    """Why a whole request was refused or failed."""

    status: Literal[Status.REFUSED, Status.FAILED]
    code: str
    message: str
    hint: str = ""


class LimitsBody(_Answer):
    """What a server takes."""

    queries: int
    queue: int
    body_bytes: int
    pixels: int
    deadline_s: float
    frames_bytes: int
    frames_age_s: float


class StatusBody(_Answer):
    """The model of a server and its state."""

    version: str
    state: Literal["loading", "ready", "failed", "closed"]
    model: str = Field(description="empty until it is loaded")
    last_error: str = Field("", description="why it could not be loaded")
    waiting: int = Field(description="requests in the queue")
    node: str = Field("", exclude_if=not_, description="ROS node that answers; left out: none")
    cameras: list[str] = Field(
        default_factory=list, exclude_if=not_, description="see /v1/cameras/NAME; left out: it has none"
    )
    limits: LimitsBody


class QueueEvent(_Answer):
    """How many requests are ahead of this one."""

    event: Literal["queue"] = "queue"
    ahead: int


class StageEvent(_Answer):
    """A stage begins, or still lasts."""

    event: Literal["stage"] = "stage"
    stage: str


class TextEvent(_Answer):
    """The text so far of one query."""

    event: Literal["text"] = "text"
    query: int
    text: str


class ResponseEvent(ResponseBody):
    """The end: the results."""

    event: Literal["response"] = "response"


class ErrorEvent(ErrorBody):
    """The end: the whole request was refused or failed."""

    event: Literal["error"] = "error"


Event = Annotated[
    QueueEvent | StageEvent | TextEvent | ResponseEvent | ErrorEvent, Field(discriminator="event")
]
EVENTS: TypeAdapter[Event] = TypeAdapter(Event)

_PUBLISHED: tuple[type[BaseModel], ...] = (
    RequestBody,
    ResponseBody,
    ErrorBody,
    StatusBody,
    QueueEvent,
    StageEvent,
    TextEvent,
    ResponseEvent,
    ErrorEvent,
)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of everything that goes over the wire, by name under `$defs`."""
    _, schema = models_json_schema([(model, "validation") for model in _PUBLISHED], title="xsam")
    return schema
