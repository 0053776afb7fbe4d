"""What was asked so far, a conversation at a time: ends loops, and shows what absence rests on."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsam_agent_tools.errors import RepeatedQueryError

_MAX_CONVERSATIONS = 64
_MAX_LOOKS = 64  # of one conversation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PastLook:
    """One call that asked for something by words."""

    tool: str
    camera: str
    image_id: str
    phrases: tuple[str, ...]
    absent: tuple[str, ...]  # those of them that nothing fitted
    found: tuple[tuple[str, str], ...]  # (phrase, object id)
    picture: NDArray[np.float32] | None  # signature; None = the pixels are not known
    at_s: float  # monotonic


class History:
    """Bounded, thread-safe memory of past looks; conversations do not see each other's."""

    def __init__(
        self, *, repeat_within_s: float = 60.0, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`repeat_within_s`: how long a query that found nothing may not be repeated; 0 = it may always."""
        if not repeat_within_s >= 0:
            raise ValueError(f"repeat_within_s must not be negative, got {repeat_within_s}")
        self._repeat_within_s = repeat_within_s
        self._clock_s = clock_s
        self._looks: OrderedDict[str, deque[PastLook]] = OrderedDict()
        self._lock = threading.Lock()

    def add(
        self,
        scope: str,
        *,
        tool: str,
        camera: str,
        image_id: str,
        phrases: Sequence[str],
        absent: Sequence[str],
        found: Sequence[tuple[str, str]],
        picture: NDArray[np.float32] | None,
    ) -> None:
        """Remember a look of the conversation `scope`."""
        look = PastLook(
            tool=tool,
            camera=camera,
            image_id=image_id,
            phrases=tuple(phrases),
            absent=tuple(absent),
            found=tuple(found),
            picture=picture,
            at_s=self._clock_s(),
        )
        with self._lock:
            self._looks.setdefault(scope, deque(maxlen=_MAX_LOOKS)).append(look)
            self._looks.move_to_end(scope)
            while len(self._looks) > _MAX_CONVERSATIONS:
                self._looks.popitem(last=False)

    def looks(self, scope: str) -> tuple[PastLook, ...]:
        """The conversation's looks, oldest first."""
        with self._lock:
            return tuple(self._looks.get(scope, ()))

    def tried(self, scope: str, camera: str) -> list[str]:
        """Every phrase that the conversation has looked for with a camera, oldest first."""
        return _tried([look for look in self.looks(scope) if look.camera == camera])

    def refuse_repeat_on_image(self, scope: str, tool: str, image_id: str, phrases: Sequence[str]) -> None:
        """Raise when all of this was asked about this very image: the answer cannot differ.

        Raises:
            RepeatedQueryError: with the ids that were found, and everything tried on the image.
        """
        if self._repeat_within_s == 0:
            return
        past = [look for look in self.looks(scope) if look.image_id == image_id and look.tool == tool]
        if not _covered(phrases, [phrase for look in past for phrase in look.phrases]):
            return
        wanted = {_key(phrase) for phrase in phrases}
        ids = [object_id for look in past for phrase, object_id in look.found if _key(phrase) in wanted]
        known = f"it found {', '.join(ids[:10])}" if ids else "nothing was found"
        raise RepeatedQueryError(
            f"asked before about image {image_id}: {known}",
            tried=_tried(past),
            hint="use those ids" if ids else None,
        )

    def refuse_repeat(
        self,
        scope: str,
        tool: str,
        camera: str,
        phrases: Sequence[str],
        picture: NDArray[np.float32] | None,
    ) -> None:
        """Raise when all of this was looked for in vain a moment ago and the picture is still the same.

        Looking again for what is there is always allowed: its position may have to be fresh.

        Args:
            scope: the conversation.
            tool: name of the tool that asks.
            camera: whose newest frame is about to be asked.
            phrases: what is to be looked for.
            picture: signature of that frame; None = not known, then the time alone decides.

        Raises:
            RepeatedQueryError: with everything tried on this view.
        """
        since_s = self._clock_s() - self._repeat_within_s
        same_view = [
            look
            for look in self.looks(scope)
            if look.tool == tool
            and look.camera == camera
            and look.at_s > since_s
            and _same_picture(look.picture, picture)
        ]
        if not _covered(phrases, [phrase for look in same_view for phrase in look.absent]):
            return
        age_s = self._clock_s() - same_view[-1].at_s
        still = "and the picture has not changed" if picture is not None else "by the same camera"
        raise RepeatedQueryError(
            f"nothing was found {age_s:.0f} s ago on {same_view[-1].image_id} {still}",
            tried=_tried(same_view),
        )


def _same_picture(first: NDArray[np.float32] | None, second: NDArray[np.float32] | None) -> bool:
    if first is None or second is None:
        return first is second
    from xsam_agent_tools.spatial.appearance import same_picture

    return same_picture(first, second)


def _covered(phrases: Sequence[str], earlier: Sequence[str]) -> bool:
    return {_key(phrase) for phrase in phrases} <= {_key(phrase) for phrase in earlier}


def _tried(looks: Sequence[PastLook]) -> list[str]:
    return list(dict.fromkeys(phrase for look in looks for phrase in look.phrases))


def _key(phrase: str) -> str:
    return " ".join(phrase.lower().split())
