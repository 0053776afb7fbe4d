"""The messages in the files of a bag, as bytes, in the order in which they were recorded.

Files are read from front to back. An index at their end is a convenience, so a bag that was cut off by a
crash gives everything that is in it. Nothing is decompressed to more than a fixed size.
"""

from __future__ import annotations

import io
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from xsam.errors import SourceError

MAX_MESSAGE_BYTES = 1 << 29
MAX_CHUNK_BYTES = 1 << 30
_MAX_METADATA_BYTES = 1 << 26
_SCANNED_MESSAGES = 5000  # of a file without an index, to learn its topics

_ZSTD = b"\x28\xb5\x2f\xfd"
_STORAGE_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic with one type; another type on the same topic is another one of these."""

    name: str
    type: str  # "sensor_msgs/msg/Image"
    definition: str = ""  # of the type, as the bag has it; "" = it has none
    is_idl: bool = False  # the language of the definition


@dataclass(frozen=True, slots=True, kw_only=True)
class RawMessage:
    """One message."""

    topic: Topic
    stamp_ns: int  # when it was recorded
    data: bytes  # CDR


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A part of a bag that cannot be read."""

    problem: str


Wanted = Callable[[Topic], bool]


def bag_files(path: Path) -> list[Path]:
    """Return the files of a bag: the file itself, or those of a folder in their order.

    Raises:
        SourceError: the folder is no bag, or it is a bag of ROS 1.
    """
    if not path.is_dir():
        if path.suffix == ".bag":
            raise SourceError(
                f"{path} is a bag of ROS 1",
                hint=f"convert it: rosbags-convert --src {path} --dst {path.with_suffix('')}",
            )
        return [path]
    listed = _listed_files(path / "metadata.yaml")
    found = sorted(
        (file for file in path.iterdir() if file.name.endswith(_STORAGE_SUFFIXES)), key=_split_order
    )
    files = [path / name for name in listed] or found
    if not files:
        raise SourceError(f"the folder {path} has no files of a bag in it")
    return files


def topics(file: Path) -> list[Topic]:
    """Return the topics of a file; of a file without an index, those at its beginning.

    Raises:
        SourceError: the file is no bag, or nothing in it can be read.
    """
    if _is_sqlite(file):
        with _sqlite(file) as connection:
            return list(_sqlite_topics(connection).values())
    if file.suffix == ".mcap":
        indexed = _indexed_topics(file)
        if indexed:
            return indexed
    found: dict[Topic, None] = {}
    for number, message in enumerate(messages(file, lambda _: True)):
        if isinstance(message, Damage):
            if not found:
                raise SourceError(f"{file}: {message.problem}")
            break
        found[message.topic] = None
        if number == _SCANNED_MESSAGES:
            break
    return list(found)


def count_messages(file: Path, topic: str) -> int | None:
    """Return how many messages a file has on a topic; None = it takes reading all of it to know."""
    try:
        if _is_sqlite(file):
            if file.suffix == ".zstd":
                return None
            with _sqlite(file) as connection:
                query = (
                    "SELECT COUNT(*) FROM messages WHERE topic_id IN (SELECT id FROM topics WHERE name = ?)"
                )
                return int(connection.execute(query, (topic,)).fetchone()[0])
        from mcap.reader import SeekingReader

        with file.open("rb") as stream:
            summary = SeekingReader(stream, record_size_limit=MAX_CHUNK_BYTES).get_summary()
        if summary is None or summary.statistics is None:
            return None
        counts = summary.statistics.channel_message_counts
        return sum(counts.get(number, 0) for number, item in summary.channels.items() if item.topic == topic)
    except Exception:  # cut off, or damaged at its end
        return None


def messages(file: Path, wanted: Wanted) -> Iterator[RawMessage | Damage]:
    """Yield the messages of a file; what cannot be read is yielded as damage, and what follows it goes on.

    Args:
        file: MCAP or SQLite, possibly compressed as a whole.
        wanted: tells which topics are read.

    Raises:
        SourceError: the file is missing, or of another kind.
    """
    found = _sqlite_messages(file, wanted) if _is_sqlite(file) else _mcap_messages(file, wanted)
    for message in found:
        if isinstance(message, RawMessage) and message.data[:4] == _ZSTD:  # compressed by itself
            try:
                message = replace(message, data=_unzip(message.data, MAX_MESSAGE_BYTES))
            except ValueError as error:
                yield Damage(problem=f"a message on {message.topic.name} cannot be decompressed: {error}")
                continue
        yield message


# ---------------------------------------------------------------------------------------- MCAP


def _indexed_topics(file: Path) -> list[Topic]:
    from mcap.reader import SeekingReader

    try:
        with file.open("rb") as stream:
            summary = SeekingReader(stream, record_size_limit=MAX_CHUNK_BYTES).get_summary()
            if summary is None:
                return []
            return [
                _mcap_topic(channel, summary.schemas)
                for channel in summary.channels.values()
                if channel.message_encoding == "cdr"
            ]
    except Exception:  # cut off, or damaged at its end: it is read from the front
        return []


def _mcap_topic(channel: Any, schemas: dict[int, Any]) -> Topic:
    schema = schemas.get(channel.schema_id)
    if schema is None:
        return Topic(channel.topic, "")
    definition = schema.data.decode("utf-8", "replace")
    return Topic(channel.topic, schema.name, definition, schema.encoding == "ros2idl")


def _mcap_messages(file: Path, wanted: Wanted) -> Iterator[RawMessage | Damage]:
    from mcap.exceptions import McapError
    from mcap.records import Channel, Chunk, Message, Schema
    from mcap.stream_reader import StreamReader, breakup_chunk
    from zstandard import ZstdError

    schemas: dict[int, Any] = {}
    channels: dict[int, Topic | None] = {}
    with ExitStack() as stack:
        try:
            stream = _opened(file, stack)
            reader = StreamReader(stream, emit_chunks=True, record_size_limit=MAX_CHUNK_BYTES)
        except OSError as error:
            raise SourceError(f"cannot read {file}: {error.strerror or error}") from error
        records = reader.records
        while True:
            try:
                record = next(records, None)
            except (McapError, ZstdError, OSError, ValueError, EOFError, KeyError, struct.error) as error:
                yield Damage(problem=_mcap_problem(file, error))
                return
            if record is None:
                return
            parts: list[Any] = [record]
            if isinstance(record, Chunk):
                try:
                    parts = breakup_chunk(_unpacked(record), validate_crc=True)
                except Exception as error:  # whatever is raised for bytes that are no records
                    yield Damage(problem=f"{file.name}: a chunk is damaged: {_reason(error)}")
                    continue
            for part in parts:
                if isinstance(part, Schema):
                    schemas[part.id] = part
                elif isinstance(part, Channel):
                    topic = _mcap_topic(part, schemas)
                    used = part.message_encoding == "cdr" and wanted(topic)
                    channels[part.id] = topic if used else None
                elif isinstance(part, Message) and (known := channels.get(part.channel_id)) is not None:
                    yield RawMessage(topic=known, stamp_ns=part.log_time, data=part.data)


def _unpacked(chunk: Any) -> Any:
    """Return a chunk without compression, of a bounded size."""
    if chunk.uncompressed_size > MAX_CHUNK_BYTES:
        raise ValueError(f"it claims {chunk.uncompressed_size} bytes")
    if not chunk.compression:
        return chunk
    if chunk.compression == "zstd":
        data = _unzip(chunk.data, MAX_CHUNK_BYTES)
    elif chunk.compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor

        data = LZ4FrameDecompressor().decompress(chunk.data, max_length=chunk.uncompressed_size)
    else:
        raise ValueError(f"unknown compression {chunk.compression!r:.20}")
    return replace(chunk, compression="", data=data)


def _mcap_problem(file: Path, error: Exception) -> str:
    name = type(error).__name__
    if name in ("EndOfFile", "EOFError", "error"):  # the last is that of struct
        return f"{file.name} is cut off: it has no end"
    if name == "InvalidMagic":
        return f"{file.name} is no MCAP file, or its end is damaged"
    return f"{file.name} cannot be read any further: {_reason(error)}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


# -------------------------------------------------------------------------------------- SQLite


class _sqlite(ExitStack):  # used as a function
    """Open a database for reading; one that is compressed is unpacked to a temporary file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def __enter__(self) -> sqlite3.Connection:  # type: ignore[override]
        try:
            path = self._file
            if path.suffix == ".zstd":
                path = self._unpacked()
            for options in ("mode=ro", "mode=ro&immutable=1"):  # a log that was left needs a writable folder
                try:
                    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True)
                    self.enter_context(closing(connection))
                    connection.execute("SELECT name FROM sqlite_master").fetchone()
                    return connection
                except sqlite3.OperationalError:
                    continue
            raise SourceError(f"cannot read {self._file}")
        except (OSError, sqlite3.Error, ValueError) as error:
            self.close()
            raise SourceError(f"{self._file} cannot be read as a bag: {error}") from error

    def _unpacked(self) -> Path:
        target = self.enter_context(tempfile.NamedTemporaryFile(suffix=".db3"))  # noqa: SIM115
        free = shutil.disk_usage(target.name).free
        with self._file.open("rb") as packed, _zstd_reader(packed) as source:
            while block := source.read(1 << 20):
                free -= len(block)
                if free < MAX_CHUNK_BYTES:
                    raise SourceError(
                        f"{self._file} does not fit into {tempfile.gettempdir()} when it is unpacked",
                        hint="set TMPDIR to a folder with more space",
                    )
                target.write(block)
        target.flush()
        return Path(target.name)


def _is_sqlite(file: Path) -> bool:
    name = file.name.removesuffix(".zstd")
    if file.suffix == ".zstd" or not file.is_file():
        return name.endswith(".db3")
    with file.open("rb") as stream:
        return stream.read(15) == b"SQLite format 3" or name.endswith(".db3")


def _sqlite_topics(connection: sqlite3.Connection) -> dict[int, Topic]:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    if not {"topics", "messages"} <= tables:
        raise SourceError("the database is no bag: it has no topics and messages")
    definitions: dict[str, tuple[str, bool]] = {}
    if "message_definitions" in tables:
        rows = connection.execute(
            "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        )
        definitions = {name: (str(text or ""), encoding == "ros2idl") for name, encoding, text in rows}
    rows = connection.execute("SELECT id, name, type, serialization_format FROM topics")
    return {
        number: Topic(name, kind, *definitions.get(kind, ("", False)))
        for number, name, kind, encoding in rows
        if encoding == "cdr"
    }


def _sqlite_messages(file: Path, wanted: Wanted) -> Iterator[RawMessage | Damage]:
    with _sqlite(file) as connection:
        try:
            used = {number: topic for number, topic in _sqlite_topics(connection).items() if wanted(topic)}
            marks = ",".join("?" * len(used))
            rows = connection.execute(
                f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}) "
                "ORDER BY timestamp",
                tuple(used),
            )
            for number, stamp_ns, data in rows:
                yield RawMessage(topic=used[number], stamp_ns=int(stamp_ns), data=bytes(data))
        except sqlite3.Error as error:
            yield Damage(problem=f"{file.name} cannot be read any further: {error}")


# --------------------------------------------------------------------------------------- files


def _listed_files(metadata: Path) -> list[str]:
    """Return the names of the files that the metadata of a bag lists; none if it cannot be read."""
    import yaml

    try:
        if metadata.stat().st_size > _MAX_METADATA_BYTES:
            return []
        content = yaml.safe_load(metadata.read_text(encoding="utf-8"))
        paths = content["rosbag2_bagfile_information"]["relative_file_paths"]
        return [Path(str(path)).name for path in paths]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return []


def _split_order(file: Path) -> tuple[int, str]:
    digits = file.name.split(".")[0].rpartition("_")[2]
    return (int(digits) if digits.isdecimal() else 0, file.name)


def _opened(file: Path, stack: ExitStack) -> IO[bytes]:
    stream: IO[bytes] = stack.enter_context(file.open("rb"))
    if file.suffix != ".zstd":
        return stream
    return io.BufferedReader(stack.enter_context(_zstd_reader(stream)))


def _zstd_reader(stream: IO[bytes]) -> Any:
    from zstandard import ZstdDecompressor

    return ZstdDecompressor().stream_reader(stream)


def _unzip(data: bytes, most: int) -> bytes:
    """Decompress at most `most` bytes.

    Raises:
        ValueError: there are more, or the data is damaged.
    """
    from zstandard import ZstdDecompressor, ZstdError

    try:
        with ZstdDecompressor().stream_reader(io.BytesIO(data)) as reader:
            content: bytes = reader.read(most + 1)
    except ZstdError as error:
        raise ValueError(str(error)) from error
    if len(content) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return content
