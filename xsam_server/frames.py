"""Frames that clients may ask about again by their id, and the memory of requests."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from xsam.errors import FrameNotKeptError, QueueFullError
from xsam.types.requests import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFrame:
    """A decoded image, and what is unusual about it."""

    id: str  # sha256 of the image as it was sent, hexadecimal
    frame: Frame
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        depth = self.frame.depth_m
        return int(self.frame.rgb.nbytes) + (0 if depth is None else int(depth.nbytes))


class FrameStore:
    """The frames of each client, least recently used first, bounded by memory and age. Thread-safe.

    A client finds its own frames only: else it could find out by an id what others have sent.
    """

    def __init__(
        self, *, limit_bytes: int, max_age_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make an empty store.

        Args:
            limit_bytes: pixels of each client; 0 keeps nothing.
            max_age_s: a frame that nobody has asked about for so long is dropped.
            clock: seconds.
        """
        self._limit_bytes = limit_bytes
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, OrderedDict[str, tuple[float, KeptFrame]]] = {}

    @property
    def nbytes(self) -> int:
        """Memory of all frames, bytes."""
        with self._lock:
            return sum(kept.nbytes for frames in self._kept.values() for _, kept in frames.values())

    def __len__(self) -> int:
        with self._lock:
            return sum(len(frames) for frames in self._kept.values())

    def find(self, client: str, frame_id: str) -> KeptFrame | None:
        """Return a frame of a client, which counts as used, or None."""
        with self._lock:
            self._drop_old()
            frames = self._kept.get(client)
            if frames is None or frame_id not in frames:
                return None
            kept = frames[frame_id][1]
            frames[frame_id] = (self._clock(), kept)
            frames.move_to_end(frame_id)
            return kept

    def get(self, client: str, frame_id: str) -> KeptFrame:
        """Return a frame of a client, which counts as used.

        Raises:
            FrameNotKeptError: it is not there, or not any more.
        """
        kept = self.find(client, frame_id)
        if kept is None:
            raise FrameNotKeptError(f"the server has no frame {frame_id[:12]}… of this client")
        return kept

    def put(self, client: str, kept: KeptFrame) -> None:
        """Keep a frame, and drop the oldest ones of the client until all fit."""
        with self._lock:
            self._drop_old()
            if kept.nbytes > self._limit_bytes:
                return
            frames = self._kept.setdefault(client, OrderedDict())
            frames[kept.id] = (self._clock(), kept)
            frames.move_to_end(kept.id)
            while sum(other.nbytes for _, other in frames.values()) > self._limit_bytes:
                frames.popitem(last=False)

    def drop_old(self) -> None:
        """Drop the frames that nobody has asked about for too long."""
        with self._lock:
            self._drop_old()

    def _drop_old(self) -> None:
        oldest_s = self._clock() - self._max_age_s
        for frames in self._kept.values():
            while frames and next(iter(frames.values()))[0] < oldest_s:
                frames.popitem(last=False)


class MemoryBudget:
    """Bytes that the requests being answered may take together. Thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes that are held."""
        return self._used

    def hold(self) -> HeldMemory:
        """Return the share of one request, still empty; a context that gives it back."""
        return HeldMemory(self)

    def take(self, nbytes: int) -> None:
        """Take bytes before they are allocated.

        Raises:
            QueueFullError: there is no room next to the other requests.
        """
        with self._lock:
            if self._used + nbytes > self._limit_bytes:
                raise QueueFullError(
                    f"the requests that are being answered hold {self._used >> 20} MiB, and {nbytes >> 20}"
                    f" more would exceed {self._limit_bytes >> 20}"
                )
            self._used += nbytes

    def give_back(self, nbytes: int) -> None:
        """Return bytes that were taken."""
        with self._lock:
            self._used -= nbytes


class HeldMemory:
    """The share of one request in a budget."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._held = 0

    def __enter__(self) -> HeldMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give_back(self._held)
        self._held = 0

    def take(self, nbytes: int) -> None:
        """Take more; see `MemoryBudget.take`."""
        self._budget.take(nbytes)
        self._held += nbytes
