"""How streams end, as in `StreamStatus` messages."""

from __future__ import annotations

from enum import IntEnum

from xsam_ros.msg import StreamStatus


class StreamEnd(IntEnum):
    """Why a stream has ended; the values are those of `StreamStatus.END_*`."""

    NONE = StreamStatus.END_NONE
    STOPPED = StreamStatus.END_STOPPED
    REPLACED = StreamStatus.END_REPLACED
    LEASE_EXPIRED = StreamStatus.END_LEASE_EXPIRED
    DEACTIVATED = StreamStatus.END_DEACTIVATED
    FAILED = StreamStatus.END_FAILED
    NODE_LOST = StreamStatus.END_NODE_LOST

    @classmethod
    def of(cls, status: StreamStatus) -> StreamEnd:
        """Return the end in a message; `FAILED` for one that this version does not know."""
        return cls(status.end) if status.end in set(cls) else cls.FAILED
