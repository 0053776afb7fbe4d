"""Hashes of files, and files that appear whole or not at all. Without PyTorch."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file's content in hex, without reading it into memory at once."""
    digest = hashlib.sha256()  # `hashlib.file_digest` needs Python 3.11
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
