"""Cut requests that are too long, before rclpy makes Python objects of them.

rclpy deserializes a request into a structure of C, in fractions of a second, and turns that into Python
objects, one for each element of a list: a minute for ten million prompt points, in which nothing else gets
far. Bounds in the message definitions do not help: senders check them, receivers do not. Here, the lists of
the structure are cut on the way between the two; whoever handles the request refuses the element too much.

Like `rclpy_workarounds`, this depends on how rclpy 7.1 (ROS 2 Jazzy) works inside: it converts a message with
the function that its metaclass names. Remove it when receivers check the bounds of sequences.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rclpy.action.server import ActionServer
from rclpy.logging import get_logger
from rclpy.service import Service
from rosidl_parser.definition import (
    AbstractSequence,
    AbstractString,
    AbstractWString,
    Array,
    BasicType,
    NamespacedType,
)

_BASIC_TYPES = {
    "boolean": ctypes.c_bool,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    **dict.fromkeys(("octet", "char", "uint8"), ctypes.c_uint8),
    **{
        f"{sign}int{bits}": getattr(ctypes, f"c_{sign}int{bits}")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


class _Sequence(ctypes.Structure):
    """A sequence of anything, or a string."""

    _fields_: ClassVar = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("capacity", ctypes.c_size_t)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The structure of C of a message."""

    structure: type[ctypes.Structure]
    messages: dict[str, _Layout] = field(default_factory=dict)  # fields that are messages
    lists: dict[str, _Layout | None] = field(
        default_factory=dict
    )  # … that are lists of strings (None) or messages

    @classmethod
    def of(cls, message: Any) -> _Layout:
        """Return the layout of a class of messages.

        Raises:
            TypeError: it has a field that does not occur in the requests of this package.
        """
        fields: list[tuple[str, Any]] = []
        messages: dict[str, _Layout] = {}
        lists: dict[str, _Layout | None] = {}
        example = message()
        for name, kind in zip(message.get_fields_and_field_types(), message.SLOT_TYPES, strict=True):
            if isinstance(kind, NamespacedType):
                messages[name] = cls.of(type(getattr(example, name)))
                fields.append((name, messages[name].structure))
            elif isinstance(kind, BasicType):
                fields.append((name, _BASIC_TYPES[kind.typename]))
            elif isinstance(kind, Array) and isinstance(kind.value_type, BasicType):
                fields.append((name, _BASIC_TYPES[kind.value_type.typename] * kind.size))
            elif isinstance(kind, (AbstractSequence, AbstractString)):
                fields.append((name, _Sequence))
                if isinstance(kind, AbstractSequence) and not isinstance(kind.value_type, BasicType):
                    lists[name] = _element_layout(kind.value_type)
            else:
                raise TypeError(f"{name} of {message.__name__} is {kind!r}")
        structure = type(message.__name__, (ctypes.Structure,), {"_fields_": fields})
        return cls(structure=structure, messages=messages, lists=lists)

    @contextmanager
    def cut(self, address: int, room: int) -> Iterator[None]:
        """Let a message have no more than `room` elements in all of its lists together, meanwhile."""
        cuts: list[tuple[_Sequence, int]] = []
        try:
            self._cut(address, room, cuts)
            yield
        finally:
            for sequence, size in cuts:  # all of it has to be freed
                sequence.size = size

    def _cut(self, address: int, room: int, cuts: list[tuple[_Sequence, int]]) -> int:
        message = self.structure.from_address(address)
        for name, inner in self.messages.items():
            room = inner._cut(ctypes.addressof(getattr(message, name)), room, cuts)
        for name, element in self.lists.items():
            sequence = getattr(message, name)
            if sequence.size > room:
                cuts.append((sequence, sequence.size))
                sequence.size = room
            room -= sequence.size
            if element is not None and (element.lists or element.messages):
                size = ctypes.sizeof(element.structure)
                for index in range(sequence.size):
                    room = element._cut(sequence.data + index * size, room, cuts)
        return room

    def fits(self, address: int, message: Any) -> bool:
        """Tell whether the structure at an address is that of a message.

        Pointers are followed only after the numbers around them were found in their places.
        """
        structure = self.structure.from_address(address)
        for name in message.get_fields_and_field_types():
            here, value = getattr(structure, name), getattr(message, name)
            if isinstance(here, _Sequence) and here.size != len(value):
                return False
            if isinstance(here, (bool, int, float)) and here != value:
                return False
        inner = [(ctypes.addressof(getattr(structure, name)), name) for name in self.messages]
        if not all(self.messages[name].fits(where, getattr(message, name)) for where, name in inner):
            return False
        for name, element in self.lists.items():
            if element is not None:
                start, size = getattr(structure, name).data, ctypes.sizeof(element.structure)
                values = enumerate(getattr(message, name))
                if not all(element.fits(start + index * size, value) for index, value in values):
                    return False
        return True


def bound_service(service: Service, elements: int) -> None:
    """Cut the requests of a service to `elements` list elements and one more, of all of their lists together.

    Elements of lists of numbers do not count: they are converted at once. If the structures of this ROS
    distribution are others than expected, nothing is cut, and a warning says so.
    """
    kind: Any = service.srv_type
    service.srv_type = type(kind)(
        kind.__name__, (kind,), {"Request": bounded_message(kind.Request, elements)}
    )


def bound_action(server: ActionServer, elements: int) -> None:
    """Cut the goals of an action server; see `bound_service`."""
    kind = server._action_type
    send = kind.Impl.SendGoalService
    bounded = type(send)(send.__name__, (send,), {"Request": bounded_message(send.Request, elements)})
    implementation = type(kind.Impl.__name__, (kind.Impl,), {"SendGoalService": bounded})
    server._action_type = type(kind)(kind.__name__, (kind,), {"Impl": implementation})


def bounded_message(message: Any, elements: int) -> Any:
    """Return what to give to rclpy in place of a class of messages, for messages of that class, but cut.

    Args:
        message: a class of messages.
        elements: see `bound_service`.
    """
    kind = type(message)
    if kind._TYPE_SUPPORT is None:
        kind.__import_type_support__()
    layout = _checked_layout(message)
    if layout is None:
        get_logger("xsam_ros").warning(
            f"{message.__name__} is not laid out as expected: long requests will hold up other calls"
        )
        return message
    convert = _function(kind._CONVERT_TO_PY, ctypes.py_object, ctypes.c_void_p)

    def convert_cut(address: int) -> Any:
        try:
            with layout.cut(address, elements + 1):
                return convert(address)
        except Exception as error:  # C cannot be told of it; an empty request is refused
            get_logger("xsam_ros").error(f"cannot read a request: {error}")
            return message()

    function = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)(convert_cut)
    pointer = ctypes.cast(function, ctypes.c_void_p)
    parts = {
        "_CONVERT_TO_PY": _new_capsule(pointer, None, None),
        "_function": function,
    }  # which it keeps alive
    return type(kind.__name__, (kind,), parts)(message.__name__, (), {})


def _checked_layout(message: Any) -> _Layout | None:
    """Return the layout of a class of messages; None if it is not that of a sample."""
    kind = type(message)
    try:
        layout = _Layout.of(message)
    except (TypeError, KeyError):
        return None
    sample = _sample(message)
    address = _function(kind._CREATE_ROS_MESSAGE, ctypes.c_void_p)()
    try:
        fill = _function(kind._CONVERT_FROM_PY, ctypes.c_bool, ctypes.py_object, ctypes.c_void_p)
        return layout if fill(sample, address) and layout.fits(address, sample) else None
    finally:
        _function(kind._DESTROY_ROS_MESSAGE, None, ctypes.c_void_p)(address)


def _sample(message: Any, seed: int = 1) -> Any:
    """Return a message with another value in each field, and lists of two elements."""
    sample = message()
    for name, kind in zip(message.get_fields_and_field_types(), message.SLOT_TYPES, strict=True):
        seed += 1
        if isinstance(kind, BasicType):
            setattr(sample, name, type(getattr(sample, name))(seed % 100))
        elif isinstance(kind, AbstractString):
            setattr(sample, name, "x" * seed)
        elif isinstance(kind, NamespacedType):
            setattr(sample, name, _sample(type(getattr(sample, name)), seed))
        elif isinstance(kind, AbstractSequence) and isinstance(kind.value_type, NamespacedType):
            setattr(sample, name, [_sample(_class_of(kind.value_type), seed + index) for index in (1, 2)])
        elif isinstance(kind, AbstractSequence) and isinstance(kind.value_type, AbstractString):
            setattr(sample, name, ["a", "b"])
    return sample


def _element_layout(kind: Any) -> _Layout | None:
    if isinstance(kind, NamespacedType):
        return _Layout.of(_class_of(kind))
    if isinstance(kind, (AbstractString, AbstractWString)):
        return None
    raise TypeError(f"a list of {kind!r}")


def _class_of(kind: NamespacedType) -> Any:
    return getattr(importlib.import_module(".".join(kind.namespaces)), kind.name)


def _function(capsule: Any, *signature: Any) -> Callable[..., Any]:
    """Return the function in a capsule; it is called with the interpreter's lock held."""
    pointer = _capsule_pointer(capsule, _capsule_name(capsule))
    function: Callable[..., Any] = ctypes.PYFUNCTYPE(*signature)(pointer)
    return function


_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype, _capsule_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
