"""What is known of a result that was carried over from an earlier frame."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Masks that the model segmented in a keyframe, moved along with the image since.

    Attributes:
        keyframe_ns: stamp of that frame.
        age_s: seconds from its stamp to that of this frame; 0 if the frames have no stamps.
        frames: frames since the keyframe; 0 = not known, as over ROS.
        confidence: from 0 to 1; falls with drift, with time, and where objects no longer look as they did.
    """

    keyframe_ns: int
    age_s: float
    frames: int
    confidence: float
