"""The results of a run, one line of JSON per frame, from which a run goes on after it was ended or killed.

The first line says what the run is: another run is never continued. A line is on the disk before the next
frame is begun, and all other outputs of a finished frame are written before its line. What follows the last
complete line is dropped when the run goes on, so no frame is in it twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from xsam.errors import SourceError
from xsam.media.frames import SourceFrame

RESULTS = "results.jsonl"
_FORMAT = 1
_MAX_HEADER_BYTES = 1 << 24


class Journal:
    """The file of a run's results; append-only."""

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        *,
        resume: bool = False,
        restart: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        """Create the file, or open that of the same run to go on with it.

        Args:
            folder: created if it does not exist.
            run: what identifies the run, as JSON: model, queries, sources, options.
            resume: go on with the results in the folder, if there are any.
            restart: tells of a line whether what follows depends on nothing before it. A run goes on from the
                last such line, which is made again, as if it had never been interrupted; None = from the end.

        Raises:
            SourceError: the folder has results and `resume` is False, they are of another run, or damaged.
            OSError: the file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / RESULTS
        self._restart = restart
        header = json.loads(json.dumps({"run": {"format": _FORMAT, **run}}))
        self.run: Mapping[str, Any] = header["run"]
        self._length = self._check(header, resume) if self.path.exists() and self.path.stat().st_size else 0
        self._stream = self.path.open("r+b" if self.path.exists() else "w+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._stream.close()
            raise SourceError(f"another run is writing {self.path}", hint="choose another folder") from error
        self._stream.truncate(self._length)
        self._stream.seek(self._length)
        if not self._length:
            self._write(header)

    @classmethod
    def reopen(cls, folder: Path) -> Journal:
        """Open the file of an earlier run, whatever run that is; see `run`.

        Raises:
            SourceError: there is none, another run is writing it, or it is damaged.
        """
        path = folder / RESULTS
        try:
            with path.open("rb") as stream:
                first = stream.readline(_MAX_HEADER_BYTES)
        except OSError as error:
            raise SourceError(
                f"there is no run in {folder}: {error.strerror or error}", hint="give the folder of the run"
            ) from error
        try:
            run = json.loads(first)["run"]
            run.pop("format")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SourceError(f"{path}, line 1 is damaged", hint="remove the file to start again") from error
        return cls(folder, run, resume=True)

    def earlier(self) -> Iterator[dict[str, Any]]:
        """Yield the lines that were there when the run went on, without the first."""
        yield from (entry for _, entry in _lines(self.path, self._length))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield all lines until now, without the first."""
        yield from (entry for _, entry in _lines(self.path, self._stream.tell()))

    def add(self, frame: SourceFrame, fields: Mapping[str, Any]) -> None:
        """Add the line of a frame; it is on the disk when this returns."""
        self._write({**identity(frame), **fields})

    def close(self) -> None:
        self._stream.close()

    def _check(self, header: Mapping[str, Any], resume: bool) -> int:
        """Return the length of the complete lines of the same run; 0 = there is nothing to go on with."""
        with self.path.open("rb") as stream:
            if stream.readline() and not stream.readline().endswith(b"\n"):
                return 0
        if not resume:
            raise SourceError(
                f"{self.path} exists",
                hint="go on with that run with --resume, or choose another folder with --out",
            )
        with self.path.open("rb") as stream:
            first = stream.readline()
            if not first.endswith(b"\n"):
                return 0
            try:
                found = json.loads(first)
            except ValueError:
                found = None
            if found != header:
                raise SourceError(
                    f"{self.path} is of another run{_difference(found, header)}",
                    hint="give the same sources and options, or choose another folder with --out",
                )
            length = begin = len(first)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                length += len(line)
        last = begin
        for start, entry in _lines(self.path, length):  # all of them can be read
            last = start if self._restart is not None and self._restart(entry) else last
        return length if self._restart is None else last

    def _write(self, line: Mapping[str, Any]) -> None:
        content = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        self._stream.write(content)
        self._stream.flush()
        os.fsync(self._stream.fileno())


def identity(frame: SourceFrame) -> dict[str, Any]:
    """Return the fields by which a frame is recognized."""
    return {
        "source": frame.source,
        "sequence": frame.sequence,
        "frame": frame.index,
        "name": frame.name,
        "stamp_ns": frame.stamp_ns,
    }


def _lines(path: Path, length: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield where each line begins, and what it holds; without the first."""
    with path.open("rb") as stream:
        stream.readline()
        number = 1
        while (start := stream.tell()) < length:
            number += 1
            try:
                entry = json.loads(stream.readline())
            except ValueError:
                entry = None
            if (
                not isinstance(entry, dict)
                or "name" not in entry
                or not ("results" in entry or "problem" in entry)
            ):
                raise SourceError(f"{path}, line {number} is damaged", hint="remove the file to start again")
            yield start, entry


def _difference(found: Any, header: Mapping[str, Any]) -> str:
    run = found.get("run") if isinstance(found, dict) else None
    if not isinstance(run, dict):
        return ""
    names = [name for name, value in header["run"].items() if run.get(name) != value]
    return f": {', '.join(f'{name} was {run.get(name)!r:.80}' for name in names)}" if names else ""
