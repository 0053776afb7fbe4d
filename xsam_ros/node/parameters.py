"""The parameters of the segmenter node with their defaults, and the validation of these and of its cameras'.

`config/xsam.yaml` repeats the defaults for people to edit, and a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.runtime.parameters import Change, ParameterSpec, invalid_value_reason, parameter

_CAMERA_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParameters:
    """Parameters of the node."""

    model: str = parameter(
        "tiny", "Model to load: 'tiny' (in the package) or a folder with a converted checkpoint."
    )
    device: str = parameter("auto", "Device of the model: auto, cpu, cuda, cuda:1, ...")
    dtype: str = parameter(
        "auto",
        "Data type of the weights; auto = bfloat16 on CUDA, float32 on the CPU.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    llm_device: str = parameter("", "Device of the language model, if it differs; empty = device.")
    llm_weights: str = parameter(
        "as_loaded",
        "Storage of the language model's matrices: int8 takes a quarter of the memory of float32 and needs "
        "torchao; it is slower on a CPU. bfloat16 takes half, and is faster on processors that multiply it.",
        choices=("as_loaded", "int8", "bfloat16"),
    )
    compiled: bool = parameter(
        False,
        "Compile the encoders with torch.compile while configuring. This takes minutes and a C++ compiler, "
        "and saves a few percent on each new frame on a CPU.",
    )
    threads: int = parameter(
        0,
        "CPU threads of PyTorch during inference; 0 = one for each core that other programs leave free.",
        minimum=0,
        maximum=1024,
    )
    frame_cache_mib: int = parameter(
        256,
        "Memory for features of recent frames, which further queries on the same frame reuse; 0 = no cache. "
        "The newest frame stays even if it is larger; one of the full-size checkpoint takes about 1700 MiB.",
        unit="MiB",
        minimum=0,
        maximum=1_048_576,
    )
    autostart: bool = parameter(
        True,
        "Configure and activate at startup; false leaves that to a lifecycle manager.",
        change=Change.NEVER,
    )
    cameras: tuple[str, ...] = parameter(
        ("camera",),
        "Names of the cameras. They become part of topic names; each camera has parameters '<name>.*'. "
        "Empty = only images that are sent in requests.",
    )
    queue_size: int = parameter(
        8,
        "Number of requests that may wait for the model; further ones are refused with QUEUE_FULL.",
        minimum=1,
        maximum=1024,
    )
    max_frame_age_s: float = parameter(
        1.0,
        "Refuse a frame older than this, unless the request sets its own limit.",
        unit="s",
        minimum=0.01,
        maximum=3600.0,
        change=Change.ANY_TIME,
    )
    default_timeout_s: float = parameter(
        30.0,
        "Respond within this time, unless the request sets its own timeout.",
        unit="s",
        minimum=0.01,
        maximum=3600.0,
        change=Change.ANY_TIME,
    )
    max_timeout_s: float = parameter(
        600.0,
        "Longest timeout that a request can set.",
        unit="s",
        minimum=0.01,
        maximum=86400.0,
        change=Change.ANY_TIME,
    )
    max_image_side_px: int = parameter(
        4096,
        "Refuse images wider or higher than this.",
        unit="px",
        minimum=16,
        maximum=16384,
        change=Change.ANY_TIME,
    )
    max_queries: int = parameter(
        16, "Most queries in one request.", minimum=1, maximum=256, change=Change.ANY_TIME
    )
    target_frame: str = parameter(
        "",
        "Frame of the locations in results, by TF at the stamp of the image; empty = the frame of the image.",
        frame=True,
        change=Change.ANY_TIME,
    )
    tf_wait_s: float = parameter(
        0.1,
        "How long a result waits for the transform to target_frame, which often comes after the image.",
        unit="s",
        minimum=0.0,
        maximum=10.0,
        change=Change.ANY_TIME,
    )
    track_lost_s: float = parameter(
        2.0,
        "In streams, how long an object may be out of sight and keep its track id. A change applies to "
        "streams that start later.",
        unit="s",
        minimum=0.0,
        maximum=60.0,
        change=Change.ANY_TIME,
    )
    engine: str = parameter(
        "local",
        "local = the model runs in this process; remote = a model server is asked (xsam serve).",
        choices=("local", "remote"),
        change=Change.NEVER,  # whoever may set parameters must not be able to have images sent elsewhere
    )
    server_url: str = parameter(
        "", "Address of the model server: http://HOST:PORT or https://HOST:PORT.", change=Change.NEVER
    )
    token_file: str = parameter(
        "", "File whose only line is this node's token for the server; empty = none.", change=Change.NEVER
    )
    fallback: str = parameter(
        "none",
        "none = requests end with LINK_DOWN while the server is away; local = the model of the parameters "
        "answers meanwhile, and every result says so.",
        choices=("none", "local"),
        change=Change.NEVER,
    )
    memory: str = parameter(
        "auto",
        "Memory of earlier frames in streams: auto = queries have one if the model does (X2SAM); off = every "
        "frame is segmented for itself. A change applies to streams that start later.",
        choices=("auto", "off"),
        change=Change.ANY_TIME,
    )
    memory_refresh_frames: int = parameter(
        30,
        "The language model reads the queries of a stream again after so many frames; 0 = with the first one "
        "only. A change applies to streams that start later.",
        minimum=0,
        maximum=1_000_000,
        change=Change.ANY_TIME,
    )
    memory_mb: int = parameter(
        2048,
        "Most memory that the sessions of all streams may take together; a query for which none is left is "
        "segmented without, and its results say so. One of the full-size X2SAM takes up to 302 MB in "
        "bfloat16, twice as much in float32.",
        unit="MB",
        minimum=0,
        maximum=1_048_576,
        change=Change.ANY_TIME,
    )
    keyframe_frames: int = parameter(
        10,
        "In streams with propagate, the model segments one image in so many, and more if something changes.",
        minimum=1,
        maximum=100_000,
        change=Change.ANY_TIME,
    )
    load_timeout_s: float = parameter(
        900.0, "Configuring fails if loading the model takes longer.", unit="s", minimum=1.0, maximum=86400.0
    )
    stop_timeout_s: float = parameter(
        30.0,
        "How long cleanup waits for a running inference to reach the end of its stage.",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
        change=Change.ANY_TIME,
    )


def validator(is_unconfigured: Callable[[], bool]) -> Callable[[Sequence[Parameter]], SetParametersResult]:
    """Return a callback for `add_on_set_parameters_callback`; add it before declaring parameters."""
    declared: set[str] = set()

    def on_set(parameters: Sequence[Parameter]) -> SetParametersResult:
        for item in parameters:
            row = _find(item.name)
            if row is None:
                continue
            spec: ParameterSpec = row.metadata["spec"]
            first_time = item.name not in declared
            reason = invalid_reason(row.name, item.value)
            if not reason and spec.change is Change.UNCONFIGURED and not (first_time or is_unconfigured()):
                reason = "it can only change while the node is unconfigured; run cleanup first"
            if reason:
                return SetParametersResult(successful=False, reason=f"{item.name}: {reason}")
            declared.add(item.name)
        return SetParametersResult(successful=True)

    return on_set


def invalid_reason(name: str, value: Any) -> str:
    """Return what is wrong with a value of parameter `name` (without the camera's prefix); "" if valid."""
    row = next(
        row for table in (NodeParameters, CameraParameters) for row in fields(table) if row.name == name
    )
    if isinstance(row.default, tuple):
        return _invalid_cameras_reason(value)
    return invalid_value_reason(row, value)


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


def _find(name: str) -> Field[Any] | None:
    """Return the row of a full parameter name, or None."""
    camera, _, suffix = name.rpartition(".")
    table: type[NodeParameters | CameraParameters] = CameraParameters if camera else NodeParameters
    if camera and not _CAMERA_NAME.fullmatch(camera):
        return None
    return next((row for row in fields(table) if row.name == suffix), None)
