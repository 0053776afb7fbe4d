"""The two nodes of the demo, started with `python -m`: simulated camera and tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from xsam import CameraRef, CheckpointError, Frame, Query, Status, VisualPrompt, XSam
from xsam.sim.render import render
from xsam.sim.scene import sample_scene
from xsam.weights.checkpoint import resolve_model
from xsam_ros.client import RosSegmenter


def _missing_reason() -> str:
    try:
        resolve_model("tiny")
    except CheckpointError as error:
        return str(error)
    return ""


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_missing_reason()), reason=_missing_reason() or "the tiny model is installed"),
]

_CAMERA = CameraRef(name="table", max_age_s=5.0)


@pytest.fixture(scope="module")
def segmenter(module_spawn: Callable[..., Any], eventually: Callable[..., Any]) -> Iterator[RosSegmenter]:
    for module in ("xsam_ros.camera_sim", "xsam_ros.segmenter_node"):
        module_spawn("-m", module, "--ros-args", "--params-file", "config/demo.yaml")
    with RosSegmenter("/xsam") as segmenter:

        def ready() -> bool:
            status = segmenter.status(deadline_s=20.0)
            assert not status.last_error
            return status.state == "active" and bool(status.cameras[0].frames)

        eventually(ready, "the active state and a frame", 60.0)
        yield segmenter


def test_results_equal_those_of_the_model_in_this_process(segmenter: RosSegmenter) -> None:
    """With the same weights and image, nothing may be lost or changed on the way through ROS."""
    scene = sample_scene(7)
    frame = Frame(rgb=render(scene, image_hw=(480, 640)).rgb)
    categories = tuple(dict.fromkeys(item.category for item in scene.objects))
    queries = [Query(thing_classes=categories, score_threshold=0.05), Query(text="the red cup")]
    engine = XSam.load("tiny", device="cpu")
    expected = engine.segment(frame, queries)
    engine.close()
    results = segmenter.segment(_CAMERA, queries, deadline_s=60.0)
    assert len(expected[0]) > 0
    for one, other in zip(results, expected, strict=True):
        assert (one.status, one.model_id) == (other.status, other.model_id)
        assert one.segments.labels == other.segments.labels
        np.testing.assert_array_equal(one.masks, other.masks)
        np.testing.assert_allclose(one.segments.scores, other.segments.scores, rtol=1e-4)
        assert (one.frame_id, one.camera) == ("table_optical_frame", "table")


def test_several_queries_on_one_frame(segmenter: RosSegmenter) -> None:
    truth = render(sample_scene(7), image_hw=(480, 640))
    rows, columns = np.nonzero(truth.instance_ids == 1)
    middle = VisualPrompt.point(float(np.median(columns)), float(np.median(rows)))
    queries = [Query(text="the red cup"), Query(prompts=(middle,)), Query(text="")]
    results = segmenter.segment(_CAMERA, queries, deadline_s=60.0)
    assert [result.query for result in results] == queries
    assert {result.stamp_ns for result in results} == {results[0].stamp_ns}
    assert results[2].status is Status.REFUSED
    for result in results[:2]:
        assert result.status in (Status.FOUND, Status.NOT_FOUND)
        assert {"encode", "decode"} <= set(result.timing.stages_s)
        assert result.masks.shape[1:] == (480, 640)
