"""Codes and classes correspond, and the tree in the docstring is the real one."""

from __future__ import annotations

import pickle
import re

import pytest

import xsam
from xsam import errors
from xsam.errors import REFUSAL_CODES, RequestRefusedError, XSamError, error_for_code

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, XSamError)
]
_LINE = re.compile(r"^ {4}(?P<branches>[│├└─ ]*)(?P<name>\w+Error)\s+(?P<code>[A-Z_]+)(?:\s|$)", re.MULTILINE)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_code_maps_back_to_its_class(cls: type[XSamError]) -> None:
    error = error_for_code(cls.code, "something happened", hint="what to do")
    assert type(error) is cls
    assert (error.message, error.hint) == ("something happened", "what to do")


def test_no_two_classes_share_a_code() -> None:
    assert len({cls.code for cls in CLASSES}) == len(CLASSES) > 10
    assert all("code" in vars(cls) for cls in CLASSES)


def test_an_unknown_code_is_still_an_error() -> None:
    error = error_for_code("NEWER_THAN_THIS_CLIENT", "something happened")
    assert type(error) is XSamError
    assert error.message == "something happened"


def test_refusal_codes_are_those_of_refused_errors() -> None:
    assert {cls.code for cls in CLASSES if issubclass(cls, RequestRefusedError)} == REFUSAL_CODES
    assert not REFUSAL_CODES & {"ERROR", "MODEL_ERROR", "OUT_OF_MEMORY", "CHECKPOINT", "DOWNLOAD"}


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for match in _LINE.finditer(errors.__doc__):
        depth = len(match["branches"]) // 4
        path[depth:] = [match["name"]]
        drawn[match["name"]] = (path[depth - 1] if depth else "Exception", match["code"])
    assert drawn == {cls.__name__: (cls.__bases__[0].__name__, cls.code) for cls in CLASSES}


def test_every_error_can_be_imported_from_the_package() -> None:
    for cls in CLASSES:
        assert getattr(xsam, cls.__name__) is cls
        assert cls.__name__ in xsam.__all__


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_can_be_pickled(cls: type[XSamError]) -> None:
    copy = pickle.loads(pickle.dumps(cls("something happened", hint="what to do")))
    assert type(copy) is cls
    assert (copy.message, copy.hint) == ("something happened", "what to do")
    assert str(copy) == "something happened (what to do)"


def test_a_hint_can_be_left_out() -> None:
    assert "QoS" in str(errors.NoFrameError("none yet"))
    assert str(errors.NoFrameError("none yet", hint="")) == "none yet"
    assert str(errors.InvalidQueryError("no text")) == "no text"


def test_only_transient_errors_are_retryable() -> None:
    retryable = {cls.__name__ for cls in CLASSES if cls.retryable}
    assert {"NoFrameError", "StaleFrameError", "QueueFullError", "DeadlineExceededError"} <= retryable
    assert not retryable & {"InvalidQueryError", "InvalidImageError", "UnknownCameraError", "CheckpointError"}
