"""The pixels behind an `image_id` are those of the capture, whatever the caller's buffer holds later."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.agent.table import MASKS, RecordingSegmenter, ToolCallResult
from xsam import Frame
from xsam_agent_tools import XSamToolkit


def test_a_camera_may_use_its_buffer_again(call: Callable[..., ToolCallResult]) -> None:
    """A question about an earlier image was answered with the pixels that came later."""
    buffer = np.full((480, 640, 3), 200, np.uint8)
    segmenter = RecordingSegmenter(MASKS["plate"])
    toolkit = XSamToolkit(segmenter, ["camera"], frame_source=lambda camera: Frame(rgb=buffer, camera=camera))
    tool = next(tool for tool in toolkit.get_tools() if tool.name == "segment_objects")
    image_id = call(tool, queries=["plate"]).json["image_id"]
    buffer[:] = 7
    call(tool, queries=["bowl"], image_id=image_id)
    frames = [source for source, _, _ in segmenter.requests]
    assert len(frames) == 2
    assert all(isinstance(frame, Frame) and (frame.rgb == 200).all() for frame in frames)
