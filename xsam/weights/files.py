"""Hashes of files, without PyTorch."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file's content in hex, without reading it into memory at once."""
    digest = hashlib.sha256()  # `hashlib.file_digest` needs Python 3.11
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
