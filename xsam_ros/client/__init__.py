"""A `Segmenter` that asks a running node: services, the action and streams."""

from xsam_ros.client.goal import Progress
from xsam_ros.client.segmenter import RosSegmenter
from xsam_ros.client.stream import ResultStream

__all__ = ["Progress", "ResultStream", "RosSegmenter"]
