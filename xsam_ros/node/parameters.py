"""The parameters of the segmenter node: one table that declares, documents and validates them.

Each field of `NodeParameters` and `CameraParameters` is a row: default, meaning, unit, range, and when
it may change. Nothing else in the package has defaults; `config/xsam.yaml` repeats them for people to
edit, and a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name

_CAMERA_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Change(str, Enum):
    """When a parameter may change."""

    ANY_TIME = "any time"
    UNCONFIGURED = "while the node is unconfigured"
    NEVER = "never, only at start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One row of the table."""

    text: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    topic: bool = False  # the name of a topic, or empty
    change: Change = Change.UNCONFIGURED


def _row(default: Any, text: str, **details: Any) -> Any:
    return field(default=default, metadata={"spec": Spec(text=text, **details)})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParameters:
    """Parameters of the node."""

    model: str = _row(
        "tiny", "Which weights to load: 'tiny' (in the package) or a folder with a converted checkpoint."
    )
    device: str = _row("auto", "Where the model runs: auto, cpu, cuda, cuda:1, ...")
    dtype: str = _row(
        "auto", "Number format of the weights.", choices=("auto", "float32", "bfloat16", "float16")
    )
    autostart: bool = _row(
        True,
        "Configure and activate at start; false leaves that to a lifecycle manager.",
        change=Change.NEVER,
    )
    cameras: tuple[str, ...] = _row(
        ("camera",),
        "Names of the cameras. They become part of topics; each has parameters '<name>.*'. "
        "Empty = only images that are sent with the request.",
    )
    queue_size: int = _row(
        8, "How many requests may wait for the model; more are refused with QUEUE_FULL.", least=1, most=1024
    )
    max_frame_age_s: float = _row(
        1.0,
        "Refuse a frame older than this, unless the request says otherwise.",
        unit="s",
        least=0.01,
        most=3600.0,
        change=Change.ANY_TIME,
    )
    default_timeout_s: float = _row(
        30.0,
        "Answer or refuse within this time, unless the request says otherwise.",
        unit="s",
        least=0.01,
        most=3600.0,
        change=Change.ANY_TIME,
    )
    max_timeout_s: float = _row(
        600.0,
        "Longest time a request may ask for.",
        unit="s",
        least=0.01,
        most=86400.0,
        change=Change.ANY_TIME,
    )
    max_image_side_px: int = _row(
        4096,
        "Refuse images wider or higher than this.",
        unit="px",
        least=16,
        most=16384,
        change=Change.ANY_TIME,
    )
    max_queries: int = _row(16, "Most queries of one request.", least=1, most=256, change=Change.ANY_TIME)
    target_frame: str = _row(
        "",
        "Frame in which places are given, through TF at the stamp of the image; empty = that of the image.",
        change=Change.ANY_TIME,
    )
    track_lost_s: float = _row(
        1.0,
        "In streams, how long an object may be out of sight and keep its track id; from the next start on.",
        unit="s",
        least=0.0,
        most=60.0,
        change=Change.ANY_TIME,
    )
    load_timeout_s: float = _row(
        900.0, "Configuring fails when loading takes longer.", unit="s", least=1.0, most=86400.0
    )
    stop_timeout_s: float = _row(
        30.0,
        "How long cleanup waits for a running inference to reach the end of its stage.",
        unit="s",
        least=0.1,
        most=3600.0,
        change=Change.ANY_TIME,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraParameters:
    """Parameters of one camera, named '<camera>.<field>'."""

    image_topic: str = _row(
        "",
        "Topic of the color image; empty = '/<camera>/image_raw', plus '/compressed' if compressed.",
        topic=True,
    )
    compressed: bool = _row(
        False, "The color topic is a sensor_msgs/CompressedImage (JPEG or PNG), not a sensor_msgs/Image."
    )
    depth_topic: str = _row(
        "",
        "Topic of the depth image, registered to the color image: 32FC1 in m or 16UC1 in mm; "
        "empty = no depth, and no 3D.",
        topic=True,
    )
    depth_compressed: bool = _row(
        False, "The depth topic is a sensor_msgs/CompressedImage of image transport compressedDepth."
    )
    info_topic: str = _row(
        "",
        "Topic of the color camera's sensor_msgs/CameraInfo; empty = 'camera_info' beside the color topic "
        "when there is a depth topic, else none.",
        topic=True,
    )
    rectified: bool = _row(False, "The color images are rectified: use matrix P of the camera info, not K.")
    qos: str = _row(
        "sensor_data",
        "Reliability asked of the driver: sensor_data (best effort, fits every driver) or reliable.",
        choices=("sensor_data", "reliable"),
    )
    image_qos: str = _row(
        "", "The same for the color topic alone; empty = as qos.", choices=("", "sensor_data", "reliable")
    )
    depth_qos: str = _row(
        "", "The same for the depth topic alone; empty = as qos.", choices=("", "sensor_data", "reliable")
    )
    info_qos: str = _row(
        "",
        "The same for the camera info alone; empty = as qos. latched = reliable and transient local, for a "
        "driver that publishes it once.",
        choices=("", "sensor_data", "reliable", "latched"),
    )
    sync_tolerance_s: float = _row(
        0.02,
        "Color and depth belong together when their stamps differ by no more than this.",
        unit="s",
        least=0.0,
        most=1.0,
        change=Change.ANY_TIME,
    )
    max_depth_lag_s: float = _row(
        0.2,
        "Depth often arrives later than color: take a frame up to this much older than the newest when its "
        "depth is there and that of the newest is not; 0 = always the newest frame.",
        unit="s",
        least=0.0,
        most=2.0,
    )
    buffer_mb: int = _row(
        64,
        "Memory for the frames that may still be paired with depth, color and depth each; "
        "the newest message is always kept.",
        unit="MB",
        least=1,
        most=4096,
    )
    stream_text: str = _row(
        "",
        "Phrase or question that is asked continuously from activation on; empty = none. SetStreamQuery can "
        "start, change and stop the same stream, also with several queries.",
    )
    stream_rate_hz: float = _row(
        0.0, "Its answers a second, at most; 0 = as many as the model can.", unit="Hz", least=0.0, most=1000.0
    )


Table = TypeVar("Table", NodeParameters, CameraParameters)


def declare(node: Node, table: type[Table], prefix: str = "") -> None:
    """Declare what is not declared yet, with ranges and descriptions for `ros2 param describe`.

    Raises:
        rclpy.exceptions.InvalidParameterValueException: a value given at start is not allowed.
    """
    for row in fields(table):
        spec: Spec = row.metadata["spec"]
        name = prefix + row.name
        if node.has_parameter(name):
            continue
        default = list(row.default) if isinstance(row.default, tuple) else row.default
        descriptor = ParameterDescriptor(
            description=f"{spec.text} [unit: {spec.unit}]" if spec.unit else spec.text,
            additional_constraints=_constraints(spec),
            read_only=spec.change is Change.NEVER,
            # YAML makes an integer of `timeout: 30`, which a statically typed double would reject.
            dynamic_typing=isinstance(row.default, float),
        )
        if isinstance(row.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=spec.least, to_value=spec.most, step=0.0)
            ]
        elif isinstance(row.default, int) and not isinstance(row.default, bool):
            descriptor.integer_range = [IntegerRange(from_value=spec.least, to_value=spec.most, step=1)]
        node.declare_parameter(name, default, descriptor)


def read(node: Node, table: type[Table], prefix: str = "") -> Table:
    """The present values."""
    values = {}
    for row in fields(table):
        value = node.get_parameter(prefix + row.name).value
        if isinstance(row.default, float):
            value = float(value)
        elif isinstance(row.default, tuple):
            value = tuple(value or ())  # `[]` in YAML arrives as None
        values[row.name] = value
    return table(**values)


def validator(is_unconfigured: Callable[[], bool]) -> Callable[[Sequence[Parameter]], SetParametersResult]:
    """The callback for `add_on_set_parameters_callback`; add it before declaring, so that it sees it all."""
    declared: set[str] = set()

    def on_set(parameters: Sequence[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            row = _find(parameter.name)
            if row is None:
                continue
            spec: Spec = row.metadata["spec"]
            first_time = parameter.name not in declared
            reason = why_invalid(row.name, parameter.value)
            if not reason and spec.change is Change.UNCONFIGURED and not (first_time or is_unconfigured()):
                reason = "it can only change while the node is unconfigured; clean up first"
            if reason:
                return SetParametersResult(successful=False, reason=f"{parameter.name}: {reason}")
            declared.add(parameter.name)
        return SetParametersResult(successful=True)

    return on_set


def why_invalid(name: str, value: Any) -> str:
    """What is wrong with a value of the parameter `name` (without the camera's prefix); "" = nothing."""
    row = next(
        row for table in (NodeParameters, CameraParameters) for row in fields(table) if row.name == name
    )
    spec: Spec = row.metadata["spec"]
    if isinstance(row.default, tuple):
        return _why_invalid_cameras(value)
    if isinstance(row.default, float):
        right_type = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        right_type = type(value) is type(row.default)
    if not right_type:
        return f"expected {type(row.default).__name__}, got {value!r}"
    if spec.choices and value not in spec.choices:
        return f"expected one of {_listed(spec.choices)}, got {value!r}"
    if spec.topic and value:
        try:
            validate_topic_name(value)
        except InvalidTopicNameException as error:
            return " ".join(str(error).split())
    if spec.least is not None and spec.most is not None and not spec.least <= value <= spec.most:
        return f"expected {spec.least} to {spec.most} {spec.unit}".rstrip() + f", got {value}"
    return ""


def _why_invalid_cameras(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        return f"expected a list of names, got {value!r}"
    reserved = {row.name for row in fields(NodeParameters)} | {"use_sim_time", "qos_overrides"}
    for name in value:
        if not _CAMERA_NAME.fullmatch(name):
            return f"{name!r} is no camera name: lower-case letters, digits and _, up to 32, a letter first"
        if name in reserved:
            return f"{name!r} is the name of a parameter"
    if len(set(value)) < len(value):
        return f"a name is given twice in {list(value)}"
    return ""


def _find(name: str) -> Any:
    """The row that a full parameter name belongs to, or None."""
    camera, _, suffix = name.rpartition(".")
    table: type[NodeParameters | CameraParameters] = CameraParameters if camera else NodeParameters
    if camera and not _CAMERA_NAME.fullmatch(camera):
        return None
    return next((row for row in fields(table) if row.name == suffix), None)


def _constraints(spec: Spec) -> str:
    parts = [f"one of: {_listed(spec.choices)}"] if spec.choices else []
    return "; ".join([*parts, f"may change: {spec.change.value}"])


def _listed(choices: Sequence[str]) -> str:
    return ", ".join(choice or "'' (empty)" for choice in choices)
