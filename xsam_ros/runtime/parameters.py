"""Tables of ROS parameters: dataclasses whose fields declare, document and validate them.

`parameter` makes a field: default, description, unit, range, and when it may change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name

from xsam.types.checks import frame_id_problem

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_MAX_REASON_CHARS = 300

Table = TypeVar("Table", bound="DataclassInstance")


class Change(str, Enum):
    """Time at which a parameter may change."""

    ANY_TIME = "any time"
    UNCONFIGURED = "while the node is unconfigured"
    NEVER = "never, only at start"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSpec:
    """Description and limits of one parameter."""

    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    topic: bool = False  # the name of a topic, or empty
    frame: bool = False  # the name of a coordinate frame, or empty
    change: Change = Change.UNCONFIGURED


def parameter(default: Any, description: str, **details: Any) -> Any:
    """Create a field of a table; `details` are further fields of `ParameterSpec`."""
    return field(default=default, metadata={"spec": ParameterSpec(description=description, **details)})


def declare(node: Node, table: type[DataclassInstance], prefix: str = "") -> None:
    """Declare the parameters of a table, with ranges and descriptions for `ros2 param describe`.

    Parameters that are already declared are skipped.

    Raises:
        rclpy.exceptions.InvalidParameterValueException: a value given at startup is not allowed.
    """
    for row in fields(table):
        spec: ParameterSpec = row.metadata["spec"]
        name = prefix + row.name
        if node.has_parameter(name):
            continue
        default = list(row.default) if isinstance(row.default, tuple) else row.default
        descriptor = ParameterDescriptor(
            description=f"{spec.description} [unit: {spec.unit}]" if spec.unit else spec.description,
            additional_constraints=_constraints(spec),
            read_only=spec.change is Change.NEVER,
            # In YAML, `timeout: 30` is an integer, which a statically typed double would reject, and `[]`
            # has no type at all; `off` is false. `validator` checks the types instead.
            dynamic_typing=isinstance(row.default, (float, tuple)) or "off" in spec.choices,
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
        values[row.name] = _chosen(row, value)
    return table(**values)


def invalid_value_reason(row: Field[Any], value: Any) -> str:
    """Return what is wrong with the value of a parameter that is not a list; "" if valid."""
    spec: ParameterSpec = row.metadata["spec"]
    value = _chosen(row, value)
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
            # With the name of some node: only the full name shows repeated slashes and what is too long.
            validate_full_topic_name(expand_topic_name(value, "node", "/"))
        except (InvalidTopicNameException, ValueError) as error:
            return " ".join(str(error).split())[:_MAX_REASON_CHARS]
    if spec.frame and (problem := frame_id_problem(value)):
        return f"the frame {problem}"
    if spec.minimum is not None and spec.maximum is not None and not spec.minimum <= value <= spec.maximum:
        return f"expected {spec.minimum} to {spec.maximum} {spec.unit}".rstrip() + f", got {value}"
    return ""


def _chosen(row: Field[Any], value: Any) -> Any:
    """Return the value, with the word "off" where YAML has read it as false."""
    return "off" if value is False and "off" in row.metadata["spec"].choices else value


def _constraints(spec: ParameterSpec) -> str:
    parts = [f"one of: {_listed(spec.choices)}"] if spec.choices else []
    return "; ".join([*parts, f"may change: {spec.change.value}"])


def _listed(choices: Sequence[str]) -> str:
    return ", ".join(choice or "'' (empty)" for choice in choices)
