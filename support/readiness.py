"""Wait for a segmenter node to be ready."""

from __future__ import annotations

import time
from collections.abc import Collection

from support.processes import NodeProcesses
from xsam.errors import XSamError
from xsam_ros.client import RosSegmenter


def wait_until_active(
    segmenter: RosSegmenter,
    *,
    cameras: Collection[str] = (),
    processes: NodeProcesses | None = None,
    timeout_s: float = 120.0,
) -> None:
    """Wait until the node is active and each of these cameras has delivered a frame.

    Args:
        processes: checked while waiting, so that a node that crashed is reported at once.

    Raises:
        RuntimeError: the node could not load its model, or one of `processes` has exited.
        TimeoutError: the node was not ready in time.
    """
    deadline_s = time.monotonic() + timeout_s
    state = "unreachable"
    while time.monotonic() < deadline_s:
        if processes is not None:
            processes.check()
        try:
            status = segmenter.status(deadline_s=2.0)
        except XSamError as error:
            state = error.message
        else:
            waiting = set(cameras) - {camera.name for camera in status.cameras if camera.frames}
            if status.state == "active" and not waiting:
                return
            if status.last_error:
                raise RuntimeError(f"the segmenter node failed to start: {status.last_error}")
            state = f"{status.state}, no frame from {sorted(waiting)}" if waiting else status.state
        time.sleep(0.1)
    raise TimeoutError(f"the segmenter node was not ready within {timeout_s:g} s: {state}")
