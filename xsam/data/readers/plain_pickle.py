"""Pickles of plain values: the form in which REFER published its phrases.

A file is parsed, not unpickled: only the opcodes that build dicts, lists, tuples, strings, and numbers are
known. Those that name a class, call a function, or refer to objects elsewhere are refused, so no file can run
code. The parser is the one of the `pickle` module that is written in Python: unlike the one in C, it takes no
memory for an index that a file claims.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO

from xsam.errors import DatasetError

_BASE: Any = pickle._Unpickler
_PLAIN = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
)
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


class _Handlers(dict[int, Any]):
    def __missing__(self, code: int) -> Any:
        name = _NAMES.get(code, f"0x{code:02x}")
        raise pickle.UnpicklingError(f"it has the opcode {name}; only plain values are allowed")


class _PlainParser(_BASE):
    dispatch = _Handlers(
        {code: handler for code, handler in _BASE.dispatch.items() if _NAMES.get(code) in _PLAIN}
    )


def load_plain_pickle(file: BinaryIO) -> Any:
    """Read a pickle of plain values, including those written by Python 2.

    Raises:
        pickle.UnpicklingError: the pickle holds anything else, or is damaged.
    """
    try:
        return _PlainParser(io.BytesIO(file.read()), encoding="utf-8").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


def read_plain_pickle(path: Path) -> Any:
    """Read a file with a pickle of plain values.

    Raises:
        DatasetError: the pickle holds anything else, or is damaged.
    """
    with path.open("rb") as file:
        try:
            return load_plain_pickle(file)
        except pickle.UnpicklingError as error:
            raise DatasetError(
                f"{path} cannot be read safely: {error}", hint="download it again, or provide it as .json"
            ) from error
