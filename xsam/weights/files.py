"""Hashes of files, and files that appear whole or not at all. Without PyTorch."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from xsam.errors import CheckpointError


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file's content in hex, without reading it into memory at once."""
    digest = hashlib.sha256()  # `hashlib.file_digest` needs Python 3.11
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


_CARD = "README.md"
_CARD_HASH = re.compile(r"`([\w.-]+)`[^`\n]*sha256 `([0-9a-f]{64})`")


def card_hashes(folder: Path) -> dict[str, str]:
    """Return file → sha256 as the model card of a folder gives them; empty without a card."""
    try:
        return dict(_CARD_HASH.findall((folder / _CARD).read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return {}


def check_card(file: Path) -> None:
    """Compare a weight file with the sha256 on the model card beside it, if there is one.

    Raises:
        CheckpointError: it is another file.
    """
    expected = card_hashes(file.parent).get(file.name)
    if expected is not None and (found := sha256_of_file(file)) != expected:
        raise CheckpointError(
            f"{file} is not the file of the model card: its sha256 is {found}, in {_CARD} it is {expected}",
            hint="the file is damaged or was replaced: get it again, or remove the line from the card",
        )


def set_card_aside(folder: Path) -> None:
    """Rename the model card of a folder whose weights are being replaced, if it has their sha256."""
    if card_hashes(folder):
        (folder / _CARD).replace(folder / "README.old.md")


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


_DRAFT = re.compile(r"\..+\.\w+\.[a-z0-9_]{8}")


def remove_drafts(folder: Path) -> None:
    """Remove what `replace_file` left in a folder and those below it when the process was killed."""
    for path in folder.rglob(".*"):
        if _DRAFT.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    On a full disk the old file stays, or there is none; a half-written one never has the final name.

    Raises:
        OSError: the file cannot be written; `filename` is the final name.
    """
    umask = os.umask(0)
    os.umask(umask)
    draft = ""
    try:
        handle, draft = tempfile.mkstemp(prefix=f".{path.name[:80]}.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(draft, 0o666 & ~umask)
        os.replace(draft, path)
    except OSError as error:
        if draft:
            with suppress(OSError):
                os.unlink(draft)
        raise OSError(error.errno, error.strerror, str(path)) from error
