"""What X-AnyLabeling sends to a remote server and expects of it; see docs/annotate-x-anylabeling.md."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xsam.errors import InvalidQueryError
from xsam.types.deadline import Deadline
from xsam.types.masks import MaskRle
from xsam.types.requests import Query, SegmentationResult, Task, VisualPrompt
from xsam.wire.conversion import validation_message
from xsam.wire.models import ResponseBody
from xsam_server.dialects.base import DialectRequest, ImageQuestion, TakeMemory, embedded_image
from xsam_server.dialects.outlines import outlines_of

_OPEN_LABEL = "AUTOLABEL_OBJECT"
"""Label of a shape that the annotator names once it is right, and that further marks replace."""

_Task = Literal["phrase", "categories", "marks", "similar"]
_FINENESS = 10  # of the slider; 0.001 of the perimeter
_FINEST_PX = 0.5  # below it, polygons would show the stairs of pixels
_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Body(BaseModel):
    # The tool sends the settings of all its models, whether or not this one has them.
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class _Mark(_Body):
    type: Literal["point", "rectangle"]
    data: list[_Number] = Field(max_length=4)
    label: Literal[0, 1] = 1


class _Params(_Body):
    text_prompt: str = ""
    marks: list[_Mark] = Field(default_factory=list)
    current_task: _Task | None = None
    conf_threshold: float = 0.0  # 0 = the model's own
    epsilon_factor: float = Field(0.001, ge=0.0, le=0.1)
    filter_classes: list[str] | None = None


class _Request(_Body):
    model: str
    image: str
    params: _Params = Field(default_factory=lambda: _Params.model_validate({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParsedPrediction(DialectRequest):
    params: _Params


@dataclass(frozen=True, slots=True, kw_only=True)
class XAnyLabelingDialect:
    """One image in base64, and a text or marks; polygons come back."""

    def parse(self, content: bytes, take_memory: TakeMemory, deadline: Deadline) -> DialectRequest:
        """See `Dialect.parse`."""
        try:
            body = _Request.model_validate_json(content)
        except ValidationError as error:
            raise InvalidQueryError(f"the request is not understood: {validation_message(error)}") from None
        question = ImageQuestion(query=_query(body.params), image=embedded_image(body.image, take_memory))
        return _ParsedPrediction(questions=(question,), model=body.model, params=body.params)

    def write(self, parsed: DialectRequest, responses: Sequence[ResponseBody]) -> bytes:
        """See `Dialect.write`."""
        assert isinstance(parsed, _ParsedPrediction)
        (question,), (response,) = parsed.questions, responses
        marks = question.query.prompts
        if marks and not any(mark.positive for mark in marks):
            # At an error, the tool would take away what the annotator has drawn.
            (refused,) = response.results
            status, message = refused.status.value, refused.message
            return _success({"shapes": [], "replace": False, "status": status, "message": message})
        result = question.result(response)
        data: dict[str, Any] = {
            "shapes": _shapes(result, parsed.params.epsilon_factor, _OPEN_LABEL if marks else None),
            "description": result.text,
            # What the annotator has drawn must not go because nothing was found.
            "replace": False if marks or not len(result.segments) else None,
            "status": result.status.value,
            "message": result.message,
            "notes": list(result.notes),
        }
        data = {name: value for name, value in data.items() if value is not None}
        return _success(data)


def _success(data: Mapping[str, Any]) -> bytes:
    return json.dumps({"success": True, "data": data}).encode()


def models_body(model_id: str) -> dict[str, Any]:
    """Return the answer of `GET /v1/models`: the one model, its tasks, and what the tool shows for each."""
    settings = ("mask_fineness_slider", "mask_fineness_value_label")
    threshold = ("input_conf", "edit_conf", "toggle_preserve_existing_annotations")
    text = ("edit_text", "button_send", *threshold, *settings)
    marks = (
        *("button_add_point", "button_remove_point", "button_add_rect", "button_clear"),
        *("button_finish_object", "input_conf", "edit_conf", *settings),
    )
    tasks = [
        _task("phrase", "A phrase or question", text, "the red mug left of the bowl", batch="text_prompt"),
        _task("categories", "Categories", text, "mug, bowl, spoon", batch="text_prompt"),
        _task("marks", "What I mark", marks),
        _task("similar", "All like what I mark", marks),
    ]
    values: dict[str, Any] = {"edit_conf": 0.0, "mask_fineness_slider": _FINENESS}
    names = dict.fromkeys((*text, *marks))
    info = {
        "display_name": f"X-SAM ({model_id})",
        "widgets": [{"name": name, "value": values.get(name)} for name in names],
        "params": {},
        "capabilities": {},
        "batch_processing_mode": "text_prompt",
        "available_tasks": tasks,
    }
    return {"success": True, "data": {model_id: info}}


def _task(
    name: _Task, title: str, widgets: Sequence[str], placeholder: str = "", batch: str | None = None
) -> dict[str, Any]:
    shown: dict[str, Mapping[str, str]] = {widget: {} for widget in widgets}
    if placeholder:
        shown["edit_text"] = {"placeholder": placeholder}
    return {"id": name, "name": title, "active_widgets": shown, "batch_processing_mode": batch}


def _query(params: _Params) -> Query:
    if params.filter_classes:
        raise InvalidQueryError(
            "filter_classes: this model has no fixed classes", hint="send the names as text_prompt"
        )
    threshold = params.conf_threshold or None
    text = params.text_prompt.strip()
    task = params.current_task or _task_of(params)
    if task in ("marks", "similar"):
        kind = Task.INTERACTIVE if task == "marks" else Task.VISUAL_GROUNDED
        prompts = tuple(_prompt(mark) for mark in params.marks)
        return Query(task=kind, prompts=prompts, score_threshold=threshold)
    if task == "categories":
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        return Query(task=Task.OPEN_VOCABULARY, thing_classes=names, score_threshold=threshold)
    return Query(text=text, score_threshold=threshold)


def _task_of(params: _Params) -> _Task:
    """Return the task of a request without one, as older clients send it."""
    if params.marks:
        return "marks"
    text = params.text_prompt.strip()
    return "categories" if "," in text and not text.endswith("?") else "phrase"


def _prompt(mark: _Mark) -> VisualPrompt:
    positive = mark.label == 1
    if len(mark.data) != (2 if mark.type == "point" else 4):
        raise InvalidQueryError(f"a mark of the type {mark.type} with {len(mark.data)} numbers")
    if mark.type == "point":
        return VisualPrompt.point(mark.data[0], mark.data[1], positive=positive)
    x0, y0, x1, y1 = mark.data  # drawn from any of its corners
    return VisualPrompt.box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1), positive=positive)


def _shapes(result: SegmentationResult, epsilon: float, label: str | None) -> list[dict[str, Any]]:
    found = result.segments
    shapes = []
    for mask, name, score, doubt in zip(found.masks, found.labels, found.scores, found.doubts, strict=True):
        outlines = outlines_of(mask, lambda perimeter: max(_FINEST_PX, epsilon * perimeter))
        group = _group_id(mask) if len(outlines.polygons_xy) > 1 else None
        for polygon in outlines.polygons_xy:
            points = polygon.round(2).tolist()
            shapes.append(
                {
                    "label": label or name or _OPEN_LABEL,
                    "shape_type": "polygon",
                    "points": [*points, points[0]],
                    "score": round(float(score), 4),
                    "description": "; ".join(filter(None, (doubt, outlines.missing))),
                    "difficult": bool(doubt),
                    "group_id": group,
                    "attributes": {},
                    "flags": {},
                    "kie_linking": [],
                }
            )
    return shapes


def _group_id(mask: MaskRle) -> int:
    """Return a number for the parts of one object, that the groups of an annotator hardly have."""
    return 1_000 + zlib.crc32(mask.counts) % 1_000_000
