"""A `Segmenter` that uses a running node: its services, its action and its streams."""

from xsam_ros.client.goal import Progress
from xsam_ros.client.segmenter import RosSegmenter
from xsam_ros.client.stream import ResultStream

__all__ = ["Progress", "ResultStream", "RosSegmenter"]
