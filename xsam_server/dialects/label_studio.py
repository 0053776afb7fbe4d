"""What Label Studio sends to an ML backend and expects of it; see docs/annotate-label-studio.md."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xsam.errors import InvalidImageError, InvalidQueryError, RequestTooLargeError, XSamError, error_for_code
from xsam.types.deadline import Deadline
from xsam.types.masks import MaskRle
from xsam.types.requests import Query, SegmentationResult, Task, VisualPrompt
from xsam.wire.conversion import validation_message
from xsam.wire.models import MAX_QUERIES, ResponseBody
from xsam_server.dialects.base import DialectRequest, ImageQuestion, TakeMemory, embedded_image
from xsam_server.dialects.brush import brush_code
from xsam_server.dialects.label_config import LabelConfig, read_label_config
from xsam_server.dialects.outlines import outlines_of

FetchImage = Callable[[str, TakeMemory, Deadline], bytes]
"""Reference in a task, memory, deadline → image file; raises an `XSamError`."""

_TOLERANCE_PX = 0.75  # removes the stairs of pixels


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Region(_Body):
    type: str
    value: dict[str, Any]
    original_width: int = Field(ge=1)
    original_height: int = Field(ge=1)
    image_rotation: float = 0
    is_positive: bool = True


class _Context(_Body):
    result: list[_Region] = Field(default_factory=list)


class _Params(_Body):
    context: _Context | None = None


class _Task(_Body):
    id: int | str | None = None
    data: dict[str, Any]


class _Prediction(_Body):
    tasks: list[_Task]
    label_config: str
    params: _Params | None = None


class _Setup(_Body):
    """What Label Studio tells an ML backend; its address and its access token are not read."""

    label_config: str = Field(alias="schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParsedTasks(DialectRequest):
    config: LabelConfig
    label: str | None  # of what the annotator has marked; None = nothing is marked


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelStudioDialect:
    """Tasks with an image each: all labels are asked for, or what the annotator has marked on one."""

    fetch: FetchImage | None = None  # None = only images that tasks contain

    def parse(self, content: bytes, take_memory: TakeMemory, deadline: Deadline) -> DialectRequest:
        """See `Dialect.parse`."""
        body = _validated(_Prediction, content)
        if not 1 <= len(body.tasks) <= MAX_QUERIES:
            raise RequestTooLargeError(
                f"{len(body.tasks)} tasks, from 1 to {MAX_QUERIES} are allowed in one request"
            )
        config = read_label_config(body.label_config)
        context = body.params.context if body.params is not None else None
        label, image_hw = None, None
        if context is not None and context.result:
            if len(body.tasks) != 1:
                raise InvalidQueryError(f"marks on {len(body.tasks)} tasks at once")
            label, image_hw, query = _marked(context.result, config)
        else:
            query = Query(task=Task.OPEN_VOCABULARY, thing_classes=tuple(config.phrases))
        questions = []
        for index, task in enumerate(body.tasks):
            try:
                image = self._image(task.data.get(config.image_key), config, take_memory, deadline)
            except XSamError as error:
                name = task.id if task.id is not None else f"number {index + 1}"
                raise error_for_code(error.code, f"task {name}: {error.message}", hint=error.hint) from error
            questions.append(ImageQuestion(query=query, image=image, image_hw=image_hw))
        return _ParsedTasks(questions=questions, keep_frames=label is not None, config=config, label=label)

    def write(self, parsed: DialectRequest, responses: Sequence[ResponseBody]) -> bytes:
        """See `Dialect.write`."""
        assert isinstance(parsed, _ParsedTasks)
        predictions = []
        for question, response in zip(parsed.questions, responses, strict=True):
            result = question.result(response)
            regions = _regions(result, parsed.config, parsed.label)
            scores = [region["score"] for region in regions]
            predictions.append(
                {
                    "result": regions,
                    "score": round(sum(scores) / len(scores), 4) if scores else 0.0,
                    "model_version": result.model_id,
                }
            )
        return json.dumps({"results": predictions}).encode()

    def _image(
        self, reference: object, config: LabelConfig, take_memory: TakeMemory, deadline: Deadline
    ) -> bytes:
        if not isinstance(reference, str) or not reference:
            raise InvalidImageError(f"its data has no image under {config.image_key!r:.40}")
        if reference[:5].lower() == "data:":
            return embedded_image(reference, take_memory)
        if self.fetch is None:
            raise InvalidImageError(
                f"its image is not part of the request: {reference!r:.60}",
                hint="start the server with --label-studio-url, or put images into the tasks as data:image/…",
            )
        return self.fetch(reference, take_memory, deadline)


def check_setup(content: bytes) -> None:
    """Refuse a project whose labeling interface has no place for masks.

    Raises:
        InvalidQueryError: says what is missing.
    """
    read_label_config(_validated(_Setup, content).label_config)


def _validated(kind: type[Any], content: bytes) -> Any:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise InvalidQueryError(f"the request is not understood: {validation_message(error)}") from None


def _marked(regions: Sequence[_Region], config: LabelConfig) -> tuple[str, tuple[int, int], Query]:
    """Return the label, the size of the image, and the query of what an annotator has marked."""
    sizes = {(region.original_height, region.original_width) for region in regions}
    labels = {_label_of(region) for region in regions}
    if len(sizes) != 1 or len(labels) != 1:
        raise InvalidQueryError("the marks differ in their label or in the size of the image")
    (label,), (image_hw,) = labels, sizes
    if label not in config.labels:
        raise InvalidQueryError(
            f"{config.output_name!r:.40} has no label {label!r:.40}",
            hint="give the tags of the marks and of the masks the same labels",
        )
    prompts = tuple(_prompt(region) for region in regions)
    return label, image_hw, Query(task=Task.INTERACTIVE, prompts=prompts)


def _label_of(region: _Region) -> str:
    labels = region.value.get(region.type, region.value.get("labels"))
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
        raise InvalidQueryError(f"a mark of the type {region.type!r:.40} without one label")
    return labels[0]


def _prompt(region: _Region) -> VisualPrompt:
    """Convert a mark from percent to pixels."""
    if region.image_rotation or region.value.get("rotation"):
        raise InvalidQueryError("marks that are turned are not supported", hint="turn the image back")
    width, height, positive = region.original_width, region.original_height, region.is_positive

    def number(name: str, size_px: int) -> float:
        value = region.value.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= 1e6:
            raise InvalidQueryError(f"a mark with {name}={value!r:.40}, which is no percentage")
        return value * size_px / 100

    x_px, y_px = number("x", width), number("y", height)
    if region.type == "keypointlabels":  # 100 % is the border of the last pixel
        x_px, y_px = (min(value, size - 0.5) for value, size in ((x_px, width), (y_px, height)))
        return VisualPrompt.point(x_px, y_px, positive=positive)
    if region.type == "rectanglelabels":
        right, bottom = x_px + number("width", width), y_px + number("height", height)
        return VisualPrompt.box(x_px, y_px, right, bottom, positive=positive)
    raise InvalidQueryError(
        f"marks of the type {region.type!r:.40} are not supported",
        hint='mark with <KeyPointLabels smart="true"> or <RectangleLabels smart="true">',
    )


def _regions(result: SegmentationResult, config: LabelConfig, label: str | None) -> list[dict[str, Any]]:
    found = result.segments
    height, width = found.image_hw
    regions: list[dict[str, Any]] = []
    for mask, name, score, doubt in zip(found.masks, found.labels, found.scores, found.doubts, strict=True):
        own = label or config.phrases.get(name)
        if own is None:
            raise InvalidQueryError(f"the model found {name!r:.40}, which is no label of the project")
        values, missing = _values(mask, config.output_type)
        words = list(filter(None, (doubt, missing)))
        regions += [
            {
                "id": uuid.uuid4().hex[:10],
                "from_name": config.output_name,
                "to_name": config.image_name,
                "type": config.output_type,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**value, config.output_type: [own]},
                "score": round(float(score), 4),
                "readonly": False,
                **({"meta": {"text": words}} if words else {}),
            }
            for value in values
        ]
    return regions


def _values(mask: MaskRle, output_type: str) -> tuple[list[Mapping[str, Any]], str]:
    """Return a mask as values of regions, and in words what they do not show."""
    if output_type == "brushlabels":
        return [{"format": "rle", "rle": brush_code(mask)}], ""
    percent = (100 / mask.width, 100 / mask.height)
    if output_type == "polygonlabels":
        outlines = outlines_of(mask, lambda _: _TOLERANCE_PX)
        points = [(polygon * percent).round(4).tolist() for polygon in outlines.polygons_xy]
        return [{"points": polygon, "closed": True} for polygon in points], outlines.missing
    left, top, right, bottom = mask.crop().box_xyxy
    (x_scale, y_scale) = percent
    box = {"x": left * x_scale, "y": top * y_scale}
    size = {"width": (right - left) * x_scale, "height": (bottom - top) * y_scale, "rotation": 0}
    return [{**box, **size}], ""
