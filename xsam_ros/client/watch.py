"""Whether the node still has a request that it was sent, or has vanished or restarted meanwhile."""

from __future__ import annotations

import time
from typing import Any

from rclpy.client import Client

from xsam.errors import SegmenterUnavailableError
from xsam_ros.srv import GetStatus

_PERIOD_S = 1.0
_RESPONSE_S = 3.0
_ABSENT_S = 1.0
_IDLE_REPORTS = 3
"""A node that has no request in so many reports in a row does not have this one."""


class NodeWatch:
    """Asks the node for its status now and then while a request is pending. Not thread-safe."""

    def __init__(self, get_status: Client, node: str) -> None:
        self._get_status = get_status
        self._node = node
        self._future: Any = None
        self._requested_s = self._present_s = time.monotonic()
        self._idle_reports = 0
        self._ended = 0  # requests that the node has ended since it was started

    def lost(self) -> bool:
        """Return whether the node has lost the request: it was restarted, or its response did not arrive.

        Raises:
            SegmenterUnavailableError: the node has left ROS.
        """
        now_s = time.monotonic()
        if self._get_status.service_is_ready():
            self._present_s = now_s
        elif now_s - self._present_s > _ABSENT_S:
            raise SegmenterUnavailableError(
                f"node {self._node!r} vanished while it had the request",
                hint="look at its log, and send the request again once it runs",
            )
        if self._future is None:
            if now_s - self._requested_s >= _PERIOD_S:
                self._future, self._requested_s = self._get_status.call_async(GetStatus.Request()), now_s
            return False
        if self._future.done():
            report, self._future = self._future.result(), None
            return self._is_lost(report)
        if now_s - self._requested_s >= _RESPONSE_S:
            self.close()
        return False

    def close(self) -> None:
        """Forget a report that has not arrived."""
        if self._future is not None:
            self._get_status.remove_pending_request(self._future)
            self._future = None

    def _is_lost(self, report: GetStatus.Response) -> bool:
        ended = int(report.answered + report.refused + report.failed)
        restarted, self._ended = ended < self._ended, ended
        idle = not report.busy and report.waiting == 0
        self._idle_reports = self._idle_reports + 1 if idle else 0
        return restarted or self._idle_reports >= _IDLE_REPORTS
