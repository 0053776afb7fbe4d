"""Cache of what was computed from a frame alone, for further queries on the same frame."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from xsam.inference.census import Census
from xsam.model.language import PrefixCache
from xsam.model.mask_decoder import DecoderMemory


@dataclass(slots=True, kw_only=True)
class EncodedFrame:
    """Everything that depends on the frame and on no query."""

    image_tokens: Tensor | None  # (1, T, D); dropped once the language model has read them
    region_map: Tensor  # (1, D, h, w) for the region sampler; X2SAM: (1, h, w, C), still to be projected
    memory: DecoderMemory
    deepstack: tuple[Tensor, ...] = ()  # (T, D) each, of X2SAM; dropped with the image tokens
    prefix: PrefixCache | None = None  # the language model's keys and values up to the last image token
    census: Census | None = None  # where the known categories are

    @property
    def nbytes(self) -> int:
        """Memory of all tensors, bytes."""
        tensors = [self.region_map, *self.memory.tensors, *self.deepstack]
        if self.image_tokens is not None:
            tensors.append(self.image_tokens)
        own = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(own.values()) + (self.prefix.nbytes if self.prefix is not None else 0)


class FrameCache:
    """Least-recently-used cache of encoded frames, bounded by bytes.

    The newest frame stays even if it alone is over the bound: else a large model with a small bound would
    encode every frame again for every request. It is dropped before the next one is computed, so the peak
    is that of one frame. A bound of 0 keeps nothing.

    A frame that is not to be kept, as in streams, stays until another one is computed, and is the first to be
    dropped: a stream takes the memory of one frame, and requests for its newest frame still find it.

    A frame is identified by its pixels, not by its stamp or by the array that holds them: a driver may
    overwrite the array with its next image. See `Frame.pixels_id`.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._frames: OrderedDict[bytes, EncodedFrame] = OrderedDict()  # the first is dropped first
        self._passing: bytes | None = None  # key of the one that is not to be kept

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def nbytes(self) -> int:
        """Memory of the cached frames, bytes."""
        return sum(frame.nbytes for frame in self._frames.values())

    def get(self, key: bytes) -> EncodedFrame | None:
        """Return the frame of a key and mark it as used, or None."""
        frame = self._frames.get(key)
        if frame is not None and key != self._passing:
            self._frames.move_to_end(key)
        return frame

    def make_room(self) -> None:
        """Drop the oldest frames until another of the largest size fits; called before one is computed."""
        self._drop_passing()
        while self._frames:
            largest = max(frame.nbytes for frame in self._frames.values())
            if self.nbytes + largest <= self.limit_bytes:
                return
            self.drop(next(iter(self._frames)))

    def put(self, key: bytes, frame: EncodedFrame, *, keep: bool = True) -> None:
        """Store a frame, or its new size; drop the oldest until all fit or this one alone is left.

        Args:
            key: of the frame.
            frame: what was computed from it.
            keep: False = it is the first to be dropped, unless it is kept already.
        """
        if self.limit_bytes <= 0:
            return
        if keep and key == self._passing:
            self._passing = None
        elif not keep and key not in self._frames:
            self._drop_passing()
            self._passing = key
        self._frames[key] = frame
        self._frames.move_to_end(key, last=key != self._passing)
        while len(self._frames) > 1 and self.nbytes > self.limit_bytes:
            self.drop(next(iter(self._frames)))

    def drop(self, key: bytes) -> None:
        """Forget a frame, if it is here."""
        self._frames.pop(key, None)
        if key == self._passing:
            self._passing = None

    def clear(self) -> None:
        """Drop all frames."""
        self._frames.clear()
        self._passing = None

    def _drop_passing(self) -> None:
        if self._passing is not None:
            self.drop(self._passing)
