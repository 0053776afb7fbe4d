"""Buffers of a camera, with a clock that only the test moves."""

from __future__ import annotations

import pytest

from tests.ros.camera_driver import BufferedCamera, FakeClock
from xsam_ros.cameras.camera import CameraTopics


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock.installed(monkeypatch)


@pytest.fixture
def camera(clock: FakeClock) -> BufferedCamera:
    return BufferedCamera(clock)


@pytest.fixture
def color_only(clock: FakeClock) -> BufferedCamera:
    return BufferedCamera(clock, CameraTopics(image="/front/image_raw"))
