"""Reading of small JSON files from strangers: bounded in size and depth, strict in syntax."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xsam.errors import CheckpointError

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_BYTES = 1 << 20
MAX_DEPTH = 16


class JsonConfig:
    """Base of a model configuration: reads and writes `config.json`."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert to the content of `config.json`."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from the content of `config.json`.

        Raises:
            CheckpointError: a section is missing, or settings are unknown, out of range, or do not fit
                together.
        """
        raise NotImplementedError

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `config.json`.

        Raises:
            CheckpointError: the file is missing, damaged, or not a configuration of this kind. The message
                names the settings that are unknown, out of range, or do not fit together.
        """
        data = read_json(path)
        try:
            return cls.from_dict(data)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error

    def write(self, path: Path) -> None:
        """Write a `config.json`."""
        path.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: the file is missing, too large, nested too deeply, or not JSON; or a key is repeated
            or a number is NaN or infinite, which other programs read in different ways.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise CheckpointError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise CheckpointError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_BYTES:
        raise CheckpointError(
            f"cannot read {path}: it has more than {MAX_BYTES >> 20} MiB",
            hint="a configuration has a few kB; this file is something else",
        )
    try:
        data = json.loads(
            content.decode("utf-8-sig"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise CheckpointError(f"cannot read {path}: it is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise CheckpointError(f"cannot read {path}: {str(error)[:200]}") from error
    if _depth(data) > MAX_DEPTH:
        raise CheckpointError(f"cannot read {path}: it is nested more than {MAX_DEPTH} levels deep")
    return data


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)[:60]!r} is given twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _depth(data: Any) -> int:
    """Return how many levels of lists and objects there are, without recursion; stops above the limit."""
    level, depth = [data], 0
    while depth <= MAX_DEPTH:
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            break
        depth += 1
    return depth
