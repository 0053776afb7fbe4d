"""Past searches, one conversation at a time: they end loops and are the evidence that something is absent."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.types.requests import Frame
from xsam_agent_tools.errors import RepeatedQueryError

SAME_VIEW_LEVELS = 6.0
"""Two frames show the same when no block's mean differs by more than this many of 255 gray levels."""

_BLOCKS_WH = (40, 30)
_MAX_CONVERSATIONS = 64
_MAX_SEARCHES = 64  # of one conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationId:
    """Whom a tool call belongs to.

    Attributes:
        name: unique name; empty = not known, then nothing is remembered, as it could be of another user.
        turn: the user's request that is being answered; empty = not known.
    """

    name: str = ""
    turn: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PastSearch:
    """One tool call that searched for phrases."""

    turn: str
    tool: str
    camera: str
    image_id: str
    phrases: tuple[str, ...]
    absent: tuple[str, ...]  # the phrases without a match
    found: tuple[tuple[str, str], ...]  # (phrase, object id); "" for objects that were not listed
    truncated: int  # number of objects that were found and not listed
    signature: NDArray[np.float32] | None  # of the frame; None = the pixels are not known
    time_s: float  # monotonic


class History:
    """Bounded, thread-safe memory of past searches; conversations do not see each other's."""

    def __init__(
        self, *, repeat_within_s: float = 60.0, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Start empty.

        Args:
            repeat_within_s: how long a query that found nothing is refused on the same view; 0 = never.
            clock_s: monotonic time in seconds.
        """
        if not repeat_within_s >= 0:
            raise ValueError(f"repeat_within_s must not be negative, got {repeat_within_s}")
        self._repeat_within_s = repeat_within_s
        self._clock_s = clock_s
        self._searches: OrderedDict[str, deque[PastSearch]] = OrderedDict()
        self._refused: dict[str, PastSearch] = {}  # conversation → the search that its last refusal repeated
        self._lock = threading.Lock()

    def add(
        self,
        conversation: ConversationId,
        *,
        tool: str,
        camera: str,
        image_id: str,
        phrases: Sequence[str],
        absent: Sequence[str],
        found: Sequence[tuple[str, str]],
        frame: Frame | None,
        truncated: int = 0,
    ) -> None:
        """Record a search of a conversation; `frame` is None where the pixels are not known."""
        if not conversation.name:
            return
        search = PastSearch(
            turn=conversation.turn,
            tool=tool,
            camera=camera,
            image_id=image_id,
            phrases=tuple(phrases),
            absent=tuple(absent),
            found=tuple(found),
            truncated=truncated,
            signature=frame_signature(frame),
            time_s=self._clock_s(),
        )
        with self._lock:
            self._searches.setdefault(conversation.name, deque(maxlen=_MAX_SEARCHES)).append(search)
            self._searches.move_to_end(conversation.name)
            self._refused.pop(conversation.name, None)
            while len(self._searches) > _MAX_CONVERSATIONS:
                name, _ = self._searches.popitem(last=False)
                self._refused.pop(name, None)

    def searches(self, conversation: ConversationId) -> tuple[PastSearch, ...]:
        """Return the conversation's searches, oldest first; none where it is not known."""
        with self._lock:
            return tuple(self._searches.get(conversation.name, ()))

    def tried(self, conversation: ConversationId, camera: str) -> list[str]:
        """Return every phrase that the conversation has searched for with a camera, oldest first."""
        return _phrases_of([search for search in self.searches(conversation) if search.camera == camera])

    def refuse_repeat_on_image(
        self, conversation: ConversationId, tool: str, image_id: str, phrases: Sequence[str]
    ) -> None:
        """Raise if all phrases were already searched for on this very image: the result cannot differ.

        A search that could not list everything it found may be repeated, with a larger number of objects.

        Raises:
            RepeatedQueryError: with the ids that were found, and everything tried on the image.
        """
        if self._repeat_within_s == 0:
            return
        past = [
            search
            for search in self.searches(conversation)
            if search.image_id == image_id and search.tool == tool and not search.truncated
        ]
        if not _covered(phrases, [phrase for search in past for phrase in search.phrases]):
            return
        wanted = {_normalized(phrase) for phrase in phrases}
        ids = [
            object_id
            for search in past
            for phrase, object_id in search.found
            if _normalized(phrase) in wanted and object_id
        ]
        known = f"it found {', '.join(ids[:10])}" if ids else "nothing was found"
        raise RepeatedQueryError(
            f"asked before about image {image_id}: {known}",
            tried=_phrases_of(past),
            hint="use those ids" if ids else None,
        )

    def refuse_repeat(
        self,
        conversation: ConversationId,
        tool: str,
        camera: str,
        phrases: Sequence[str],
        frame: Frame | None,
    ) -> None:
        """Raise if all phrases were searched for in vain a moment ago and the view has not changed.

        Searching again for something that was found is always allowed: its position may have to be fresh. So
        is searching again when the user asks to: in another turn or, where turns are not known, by repeating
        the call that was refused.

        Args:
            conversation: the conversation and its turn.
            tool: name of the calling tool.
            camera: name of the camera that is about to be searched.
            phrases: phrases to search for.
            frame: newest frame of that camera; None = not known, then the time alone decides.

        Raises:
            RepeatedQueryError: with everything tried on this view.
        """
        now_s, signature = self._clock_s(), frame_signature(frame)
        same_view = [
            search
            for search in self.searches(conversation)
            if search.tool == tool
            and search.camera == camera
            and search.turn == conversation.turn
            and search.time_s > now_s - self._repeat_within_s
            and show_same_view(search.signature, signature)
        ]
        if not _covered(phrases, [phrase for search in same_view for phrase in search.absent]):
            return
        last = same_view[-1]
        hint = None
        if not conversation.turn:
            with self._lock:
                repeated = self._refused.get(conversation.name) is last
                self._refused[conversation.name] = last
            if repeated:
                return
            hint = (
                f"{RepeatedQueryError.default_hint}; only if the user wants it checked again, repeat the call"
            )
        reason = "by the same camera" if signature is None else "and the picture has not changed"
        raise RepeatedQueryError(
            f"nothing was found {now_s - last.time_s:.0f} s ago on {last.image_id} {reason}",
            tried=_phrases_of(same_view),
            hint=hint,
        )


def frame_signature(frame: Frame | None) -> NDArray[np.float32] | None:
    """Return the mean colors of a grid of blocks, (30, 40, 3): enough to see that the view has changed.

    A block of a 640×480 image has 16×16 pixels: sensor noise averages out, a fork does not.
    """
    if frame is None:
        return None
    import cv2

    means: Any = cv2.resize(frame.rgb, _BLOCKS_WH, interpolation=cv2.INTER_AREA)
    return np.asarray(means, np.float32)


def show_same_view(first: NDArray[np.float32] | None, second: NDArray[np.float32] | None) -> bool:
    """Return whether two signatures are of frames that show the same; unknown frames equal each other."""
    if first is None or second is None:
        return first is second
    return bool(np.abs(first - second).max() <= SAME_VIEW_LEVELS)


def _covered(phrases: Sequence[str], earlier: Sequence[str]) -> bool:
    return {_normalized(phrase) for phrase in phrases} <= {_normalized(phrase) for phrase in earlier}


def _phrases_of(searches: Sequence[PastSearch]) -> list[str]:
    return list(dict.fromkeys(phrase for search in searches for phrase in search.phrases))


def _normalized(phrase: str) -> str:
    return " ".join(phrase.lower().split())
