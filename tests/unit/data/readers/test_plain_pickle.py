"""Pickles of plain values: nothing else is read, and no memory is taken for what a file only claims."""

from __future__ import annotations

import io
import pickle
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsam.data.readers.plain_pickle import load_plain_pickle

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner, inner, inner),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "content",
    [
        b"(S'true'\nios\nsystem\n.",  # INST
        b"cbuiltins\nlist\n.",  # even a harmless class
        b"\x80\x02cbuiltins\nlist\n)\x81.",  # NEWOBJ
        b"Psomething\n.",  # a persistent id
        b"\x82\x01.",  # a registered extension
        b"]}x.",  # not in the table
        b"\x80\x02](\x8f.",  # EMPTY_SET
        b"",
        b"(lp0\n",
        b"no pickle",
    ],
)
def test_only_plain_values_are_read(content: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load_plain_pickle(io.BytesIO(content))


def test_pickles_of_python_2_are_read() -> None:
    content = (
        b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsS'ids'\np4\n(I1\nL2L\ntp5\nsV\\u00e9\nF0.5\nsa."
    )
    assert load_plain_pickle(io.BytesIO(content)) == [{"sent": "café", "ids": (1, 2), "é": 0.5}]


@given(value=_VALUES, protocol=st.integers(0, 4))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    assert load_plain_pickle(io.BytesIO(pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # an index in the memo: the parser in C took 16 GiB for it
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f].",  # the length of a frame
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f].",  # the length of a string
        b"\x8b\xff\xff\xff\x7f.",  # the length of a number
    ],
)
def test_claimed_sizes_take_no_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(pickle.UnpicklingError):
            load_plain_pickle(io.BytesIO(content[:-1]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
