"""Pictures that tools have drawn, by reference: messages and checkpoints carry the reference only."""

from __future__ import annotations

import secrets
import threading
import weakref
from collections import OrderedDict


class PictureStore:
    """Bounded, thread-safe memory of encoded pictures; the oldest ones make room.

    References are unique among all stores, whatever process they are in.
    """

    def __init__(self, *, max_pictures: int = 64, max_bytes: int = 32 * 1024**2) -> None:
        """Start empty.

        Raises:
            ValueError: a bound is not positive.
        """
        if min(max_pictures, max_bytes) < 1:
            raise ValueError(f"bounds must be positive, got {max_pictures=}, {max_bytes=}")
        self._max_pictures = max_pictures
        self._max_bytes = max_bytes
        self._name = secrets.token_hex(6)
        self._count = 0
        self._nbytes = 0
        self._pictures: OrderedDict[str, str] = OrderedDict()  # oldest first
        self._lock = threading.Lock()
        _STORES.add(self)

    def __len__(self) -> int:
        with self._lock:
            return len(self._pictures)

    def add(self, picture: str) -> str:
        """Keep a picture in base64 and return its reference."""
        with self._lock:
            self._count += 1
            reference = f"xsam-picture:{self._name}/{self._count}"
            self._pictures[reference] = picture
            self._nbytes += len(picture)
            while len(self._pictures) > self._max_pictures or self._nbytes > self._max_bytes:
                _, dropped = self._pictures.popitem(last=False)
                self._nbytes -= len(dropped)
            return reference

    def get(self, reference: str) -> str | None:
        """Return a picture in base64; None when it was dropped, or is not of this store."""
        with self._lock:
            return self._pictures.get(reference)


def find_picture(reference: str) -> str | None:
    """Return a picture of any store in this process, in base64; None when it is gone."""
    found = (store.get(reference) for store in list(_STORES))
    return next((picture for picture in found if picture is not None), None)


def mime_type(picture: str) -> str:
    """Return the media type of a picture in base64, by its first bytes."""
    return "image/jpeg" if picture.startswith("/9j/") else "image/png"


_STORES: weakref.WeakSet[PictureStore] = weakref.WeakSet()
