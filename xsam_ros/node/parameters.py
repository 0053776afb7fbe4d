"""The parameters of the segmenter node: one table that declares, documents and validates them.

Each field of `NodeParameters` and `CameraParameters` is a row: default, description, unit, range, and when it
may change. The defaults are defined only here; `config/xsam.yaml` repeats them for people to edit, and a test
compares the two.
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
    """Time at which a parameter may change."""

    ANY_TIME = "any time"
    UNCONFIGURED = "while the node is unconfigured"
    NEVER = "never, only at start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Description and limits of one parameter."""

    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    topic: bool = False  # the name of a topic, or empty
    change: Change = Change.UNCONFIGURED


def _parameter(default: Any, description: str, **details: Any) -> Any:
    return field(default=default, metadata={"spec": Spec(description=description, **details)})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParameters:
    """Parameters of the node."""

    model: str = _parameter(
        "tiny", "Model to load: 'tiny' (in the package) or a folder with a converted checkpoint."
    )
    device: str = _parameter("auto", "Device of the model: auto, cpu, cuda, cuda:1, ...")
    dtype: str = _parameter(
        "auto",
        "Data type of the weights; auto = bfloat16 on CUDA, float32 on the CPU.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    llm_device: str = _parameter("", "Device of the language model, if it differs; empty = device.")
    llm_weights: str = _parameter(
        "as_loaded",
        "Storage of the language model's matrices: int8 takes a quarter of the memory of float32 and needs "
        "torchao; it is slower on a CPU.",
        choices=("as_loaded", "int8"),
    )
    compiled: bool = _parameter(
        False,
        "Compile the encoders with torch.compile while configuring. This takes minutes and a C++ compiler, "
        "and saves a few percent on each new frame on a CPU.",
    )
    threads: int = _parameter(
        0, "CPU threads of PyTorch during inference; 0 = PyTorch's default.", minimum=0, maximum=1024
    )
    frame_cache_mib: int = _parameter(
        2048,
        "Memory for features of recent frames, which further queries on the same frame reuse; 0 = no cache.",
        unit="MiB",
        minimum=0,
        maximum=1_048_576,
    )
    autostart: bool = _parameter(
        True,
        "Configure and activate at startup; false leaves that to a lifecycle manager.",
        change=Change.NEVER,
    )
    cameras: tuple[str, ...] = _parameter(
        ("camera",),
        "Names of the cameras. They become part of topic names; each camera has parameters '<name>.*'. "
        "Empty = only images that are sent in requests.",
    )
    queue_size: int = _parameter(
        8,
        "Number of requests that may wait for the model; further ones are refused with QUEUE_FULL.",
        minimum=1,
        maximum=1024,
    )
    max_frame_age_s: float = _parameter(
        1.0,
        "Refuse a frame older than this, unless the request sets its own limit.",
        unit="s",
        minimum=0.01,
        maximum=3600.0,
        change=Change.ANY_TIME,
    )
    default_timeout_s: float = _parameter(
        30.0,
        "Respond within this time, unless the request sets its own timeout.",
        unit="s",
        minimum=0.01,
        maximum=3600.0,
        change=Change.ANY_TIME,
    )
    max_timeout_s: float = _parameter(
        600.0,
        "Longest timeout that a request can set.",
        unit="s",
        minimum=0.01,
        maximum=86400.0,
        change=Change.ANY_TIME,
    )
    max_image_side_px: int = _parameter(
        4096,
        "Refuse images wider or higher than this.",
        unit="px",
        minimum=16,
        maximum=16384,
        change=Change.ANY_TIME,
    )
    max_queries: int = _parameter(
        16, "Most queries in one request.", minimum=1, maximum=256, change=Change.ANY_TIME
    )
    target_frame: str = _parameter(
        "",
        "Frame of the locations in results, by TF at the stamp of the image; empty = the frame of the image.",
        change=Change.ANY_TIME,
    )
    track_lost_s: float = _parameter(
        1.0,
        "In streams, how long an object may be out of sight and keep its track id. A change applies to "
        "streams that start later.",
        unit="s",
        minimum=0.0,
        maximum=60.0,
        change=Change.ANY_TIME,
    )
    load_timeout_s: float = _parameter(
        900.0, "Configuring fails if loading the model takes longer.", unit="s", minimum=1.0, maximum=86400.0
    )
    stop_timeout_s: float = _parameter(
        30.0,
        "How long cleanup waits for a running inference to reach the end of its stage.",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
        change=Change.ANY_TIME,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraParameters:
    """Parameters of one camera, named '<camera>.<field>'."""

    image_topic: str = _parameter(
        "",
        "Topic of the color image; empty = '/<camera>/image_raw', followed by '/compressed' if compressed.",
        topic=True,
    )
    compressed: bool = _parameter(
        False, "The color topic is a sensor_msgs/CompressedImage (JPEG or PNG), not a sensor_msgs/Image."
    )
    depth_topic: str = _parameter(
        "",
        "Topic of the depth image, registered to the color image: 32FC1 in m or 16UC1 in mm; "
        "empty = no depth, and no 3D locations.",
        topic=True,
    )
    depth_compressed: bool = _parameter(
        False, "The depth topic is a sensor_msgs/CompressedImage of image transport compressedDepth."
    )
    info_topic: str = _parameter(
        "",
        "Topic of the color camera's sensor_msgs/CameraInfo; empty = 'camera_info' next to the color topic "
        "if there is a depth topic, else none.",
        topic=True,
    )
    rectified: bool = _parameter(
        False, "The color images are rectified: use matrix P of the camera info instead of K."
    )
    qos: str = _parameter(
        "sensor_data",
        "Reliability of the subscriptions: sensor_data (best effort, fits every driver) or reliable.",
        choices=("sensor_data", "reliable"),
    )
    image_qos: str = _parameter(
        "", "Reliability for the color topic alone; empty = qos.", choices=("", "sensor_data", "reliable")
    )
    depth_qos: str = _parameter(
        "", "Reliability for the depth topic alone; empty = qos.", choices=("", "sensor_data", "reliable")
    )
    info_qos: str = _parameter(
        "",
        "Reliability for the camera info alone; empty = qos. latched = reliable and transient local, for a "
        "driver that publishes it once.",
        choices=("", "sensor_data", "reliable", "latched"),
    )
    sync_tolerance_s: float = _parameter(
        0.02,
        "Pair color and depth whose stamps differ by no more than this.",
        unit="s",
        minimum=0.0,
        maximum=1.0,
        change=Change.ANY_TIME,
    )
    max_depth_lag_s: float = _parameter(
        0.2,
        "Depth often arrives later than color. If the newest frame has no depth yet, use one up to this much "
        "older that has; 0 = always the newest frame.",
        unit="s",
        minimum=0.0,
        maximum=2.0,
    )
    buffer_mb: int = _parameter(
        64,
        "Memory for frames that may still be paired with depth, for color and depth each; "
        "the newest message is always kept.",
        unit="MB",
        minimum=1,
        maximum=4096,
    )
    stream_text: str = _parameter(
        "",
        "Phrase or question of a stream that starts on activation; empty = none. SetStreamQuery can start, "
        "change and stop the same stream, also with several queries.",
    )
    stream_rate_hz: float = _parameter(
        0.0,
        "Highest rate of that stream; 0 = as fast as the model can.",
        unit="Hz",
        minimum=0.0,
        maximum=1000.0,
    )


Table = TypeVar("Table", NodeParameters, CameraParameters)


def declare(node: Node, table: type[Table], prefix: str = "") -> None:
    """Declare the parameters of a table, with ranges and descriptions for `ros2 param describe`.

    Parameters that are already declared are skipped.

    Raises:
        rclpy.exceptions.InvalidParameterValueException: a value given at startup is not allowed.
    """
    for row in fields(table):
        spec: Spec = row.metadata["spec"]
        name = prefix + row.name
        if node.has_parameter(name):
            continue
        default = list(row.default) if isinstance(row.default, tuple) else row.default
        descriptor = ParameterDescriptor(
            description=f"{spec.description} [unit: {spec.unit}]" if spec.unit else spec.description,
            additional_constraints=_constraints(spec),
            read_only=spec.change is Change.NEVER,
            # In YAML, `timeout: 30` is an integer, which a statically typed double would reject, and `[]`
            # has no type at all. `validator` checks the types instead.
            dynamic_typing=isinstance(row.default, (float, tuple)),
        )
        if isinstance(row.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=spec.minimum, to_value=spec.maximum, step=0.0)
            ]
        elif isinstance(row.default, int) and not isinstance(row.default, bool):
            descriptor.integer_range = [IntegerRange(from_value=spec.minimum, to_value=spec.maximum, step=1)]
        node.declare_parameter(name, default, descriptor)


def read(node: Node, table: type[Table], prefix: str = "") -> Table:
    """Return the current values."""
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
    """Return a callback for `add_on_set_parameters_callback`; add it before declaring parameters."""
    declared: set[str] = set()

    def on_set(parameters: Sequence[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            row = _find(parameter.name)
            if row is None:
                continue
            spec: Spec = row.metadata["spec"]
            first_time = parameter.name not in declared
            reason = invalid_reason(row.name, parameter.value)
            if not reason and spec.change is Change.UNCONFIGURED and not (first_time or is_unconfigured()):
                reason = "it can only change while the node is unconfigured; run cleanup first"
            if reason:
                return SetParametersResult(successful=False, reason=f"{parameter.name}: {reason}")
            declared.add(parameter.name)
        return SetParametersResult(successful=True)

    return on_set


def invalid_reason(name: str, value: Any) -> str:
    """Return what is wrong with a value of parameter `name` (without the camera's prefix); "" if valid."""
    row = next(
        row for table in (NodeParameters, CameraParameters) for row in fields(table) if row.name == name
    )
    spec: Spec = row.metadata["spec"]
    if isinstance(row.default, tuple):
        return _invalid_cameras_reason(value)
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
    if spec.minimum is not None and spec.maximum is not None and not spec.minimum <= value <= spec.maximum:
        return f"expected {spec.minimum} to {spec.maximum} {spec.unit}".rstrip() + f", got {value}"
    return ""


def _invalid_cameras_reason(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        return f"expected a list of names, got {value!r}"
    reserved = {row.name for row in fields(NodeParameters)} | {"use_sim_time", "qos_overrides"}
    for name in value:
        if not _CAMERA_NAME.fullmatch(name):
            return f"{name!r} is not a camera name: up to 32 lower-case letters, digits and _, a letter first"
        if name in reserved:
            return f"{name!r} is the name of a parameter; choose another"
    if len(set(value)) < len(value):
        return f"the same name is given twice in {list(value)}"
    return ""


def _find(name: str) -> Any:
    """Return the row of a full parameter name, or None."""
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
