"""From what a user names (files, folders, patterns, lists, cameras, addresses) to one source of frames."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from xsam.errors import SourceError
from xsam.media.frames import Source, SourceFrame
from xsam.media.options import SourceOptions
from xsam.media.picture_files import PictureFiles, distinct_names, natural_order
from xsam.media.video_files import VideoFile

PICTURE_SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".bmp",
        ".tif",
        ".tiff",
        ".webp",
        ".gif",
        ".avif",
        ".jp2",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
        ".exr",
        ".hdr",
        ".ico",
        ".pcx",
    ]
)
VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".ts",
        ".m2ts",
        ".mts",
        ".3gp",
        ".flv",
        ".wmv",
        ".ogv",
        ".mjpeg",
        ".mjpg",
        ".h264",
        ".h265",
    ]
)
BAG_SUFFIXES = frozenset({".mcap", ".db3", ".bag"})
LIST_SUFFIX = ".txt"

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CAMERA = re.compile(r"\d{1,3}|/dev/video\d+")
_STARTS = (  # bytes at an offset near the start of a file → what it is
    (0, b"\x89MCAP0\r\n", "bag"),
    (0, b"SQLite format 3\0", "bag"),
    (0, b"#ROSBAG V", "bag"),
    (4, b"ftypavif", "picture"),
    (4, b"ftypavis", "picture"),
    (4, b"ftyphei", "picture"),
    (4, b"ftypmif1", "picture"),
    (4, b"ftyp", "video"),
    (0, b"\x1a\x45\xdf\xa3", "video"),
    (8, b"AVI ", "video"),
    (0, b"\0\0\1\xba", "video"),
    (0, b"FLV", "video"),
)
_MAX_LIST_BYTES = 1 << 28


def looks_like_source(text: str) -> bool:
    """Tell whether an argument is meant as a source, there or not; otherwise it is a query."""
    if _ADDRESS.match(text) or _CAMERA.fullmatch(text) or _exists(text):
        return True
    suffix = Path(text).suffix.lower()
    if suffix in PICTURE_SUFFIXES | VIDEO_SUFFIXES | BAG_SUFFIXES | {LIST_SUFFIX, ".zstd"}:
        return True
    return not re.search(r"\s", text) and ("/" in text or (glob.has_magic(text) and "?" not in text))


def single_picture(names: Sequence[str]) -> Path | None:
    """Return the path if one picture is named, by itself; it may not exist."""
    if len(names) != 1 or _ADDRESS.match(names[0]):
        return None
    path = Path(names[0]).expanduser()
    if not _exists(names[0]) and (glob.has_magic(names[0]) or _CAMERA.fullmatch(names[0])):
        return None
    if path.is_dir() or path.suffix.lower() == LIST_SUFFIX or _kind(path) != "picture":
        return None
    return path


def open_sources(names: Sequence[str], options: SourceOptions) -> Source:
    """Open what a user names, in this order; pictures next to each other become one sequence.

    Raises:
        SourceError: one of them does not exist, is empty, or is of an unknown kind.
        InvalidOptionError: an option does not fit.
    """
    sources: list[Source] = []
    pictures: list[Path] = []

    def add_pictures() -> None:
        if pictures:
            name = str(pictures[0]) if len(pictures) == 1 else f"{len(pictures)} pictures"
            sources.append(PictureFiles(name, tuple(pictures), rate_hz=options.rate_hz))
            pictures.clear()

    for name in names:
        for found in _open(name, options):
            if isinstance(found, Path):
                pictures.append(found)
            else:
                add_pictures()
                sources.append(found)
    add_pictures()
    return sources[0] if len(sources) == 1 else SourceList(sources)


class SourceList:
    """Several sources, one after the other. The names of their frames begin with that of the source."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        self._prefixes = distinct_names([Path(re.sub(r"\W+", "_", source.name)) for source in sources])
        self.name = f"{len(sources)} sources"

    @property
    def count(self) -> int | None:
        counts = [source.count for source in self._sources]
        return None if None in counts else sum(count or 0 for count in counts)

    def frames(self) -> Iterator[SourceFrame]:
        for source, prefix in zip(self._sources, self._prefixes, strict=True):
            for frame in source.frames():
                yield replace(frame, name=f"{prefix}/{frame.name}", sequence=f"{prefix}/{frame.sequence}")


def _open(name: str, options: SourceOptions) -> Iterator[Path | Source]:
    """Yield the paths of pictures, and other sources."""
    if _ADDRESS.match(name) or (_CAMERA.fullmatch(name) and not Path(name).is_file()):
        if _ADDRESS.match(name) and not options.allow_network:
            raise SourceError(
                "addresses are opened with --network only", hint="the address is yours to trust"
            )
        from xsam.media.live import open_live

        yield open_live(name)
        return
    path = Path(name).expanduser()
    if not _exists(str(path)) and glob.has_magic(name):
        matches = sorted(map(Path, glob.glob(str(path), recursive=True)), key=natural_order)
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise SourceError(f"no file matches {name!r}")
        for match in matches:
            yield from _open_path(match, options)
        return
    if path.is_dir():
        yield from _open_folder(path, options)
    elif path.suffix.lower() == LIST_SUFFIX:
        for entry in _listed(path):
            yield from _open_path(entry, options)
    else:
        yield from _open_path(path, options)


def _open_path(path: Path, options: SourceOptions) -> Iterator[Path | Source]:
    kind = _kind(path)
    if kind == "video":
        yield VideoFile(str(path), path)
    elif kind == "bag":
        yield _bag(path, options)
    else:
        yield path


def _open_folder(folder: Path, options: SourceOptions) -> Iterator[Path | Source]:
    known = PICTURE_SUFFIXES | VIDEO_SUFFIXES | BAG_SUFFIXES
    if (folder / "metadata.yaml").is_file() or _has_bag_only(folder):
        yield _bag(folder, options)
        return
    try:
        files = sorted((path for path in folder.iterdir() if path.is_file()), key=natural_order)
    except OSError as error:
        raise SourceError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    chosen = [path for path in files if path.suffix.lower() in known and not path.name.startswith(".")]
    if not chosen:
        raise SourceError(
            f"the folder {folder} has no pictures, videos or bags in it",
            hint=f"for files in folders below it, give a pattern: '{folder}/**/*.jpg'",
        )
    for path in chosen:
        yield from _open_path(path, options)


def _bag(path: Path, options: SourceOptions) -> Source:
    from xsam.media.bags.bag import BagSource  # imports OpenCV

    return BagSource(str(path), path, options.bag)


def _has_bag_only(folder: Path) -> bool:
    """Tell whether a folder has the files of a bag, whose metadata is missing, and no pictures."""
    names = [path.name.lower() for path in folder.iterdir() if path.is_file()]
    bags = [name for name in names if name.removesuffix(".zstd").endswith((".mcap", ".db3"))]
    others = {Path(name).suffix for name in names} & (PICTURE_SUFFIXES | VIDEO_SUFFIXES)
    return bool(bags) and not others


def _listed(path: Path) -> Iterator[Path]:
    """Yield the paths in a list file: one a line, relative to the folder of the list."""
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise SourceError(f"{path} is too large for a list of files")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"cannot read the list {path}: {getattr(error, 'strerror', '') or error}"
        ) from error
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not entries:
        raise SourceError(f"the list {path} names no files")
    for entry in entries:
        if _ADDRESS.match(entry):
            raise SourceError(f"{path} names an address, {entry!r:.80}; lists are for files")
        yield path.parent / Path(entry).expanduser()


def _kind(path: Path) -> str:
    """Return "picture", "video" or "bag", by content where that tells, else by suffix."""
    try:
        with path.open("rb") as stream:
            start = stream.read(64) if path.is_file() else b""
    except OSError:
        start = b""
    for offset, magic, kind in _STARTS:
        if start.startswith(magic, offset):
            return kind
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    suffix = suffixes[0] if suffixes[1:] == [".zstd"] else "".join(suffixes[-1:])
    return "bag" if suffix in BAG_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else "picture"


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long for a path, a null byte, an unknown user
        return False
