"""Size of tool results in tokens.

No provider's tokenizer is installed with the project. The estimate was compared with four real ones on the
objects of five tools over six tables at 640×480; means per tool, and the longest object:

============================  ==========  =======
o200k_base, cl100k_base       54.5–56.7   58
DeepSeek                      57.9–60.0   62
Claude 2                      58.6–62.8   65
the estimate                  57.0–61.0   62
============================  ==========  =======
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest

from benchmarks.agent.tokens import estimate_tokens as _tokens
from tests.agent.sim_table import SwingingCameraTable
from tests.agent.table import RecordingSegmenter
from xsam import Frame, MaskRle
from xsam.sim import CATEGORIES
from xsam.types.location import Location3D
from xsam_agent_tools import SceneStore
from xsam_agent_tools.memory.scene_store import SceneObject
from xsam_agent_tools.spatial.gripping import GripWidth
from xsam_agent_tools.text.content import location_payload

LIMIT = 70  # tokens per object


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("label", ["mug", "small blue ceramic coffee mug"])
@pytest.mark.slow
def test_an_object_of_a_large_image_takes_at_most_70_tokens(make_toolkit, call, label: str) -> None:
    masks = [np.zeros((2160, 3840), np.bool_) for _ in range(10)]
    for i, mask in enumerate(masks):
        mask[1100 + 20 * i : 1900, 1100 + 250 * i : 1300 + 250 * i] = True
        mask[10, 10 : 12 + i] = True  # a speck, so that the number of pieces is given, too
    tool = make_toolkit(
        segmenter=RecordingSegmenter(masks, label=label),
        frame_source=_uhd_frame,
        store=SceneStore(run="kqztw"),  # as long as those of a real run
    ).get_tools()[0]
    for phrase, options in (
        (label, {}),
        ("cup", {"image_id": "f1kqztw"}),
    ):  # then all of them have same_as, too
        result = call(tool, queries=[phrase], **options)
        assert len(result["objects"]) == 10
        text = _compact(result["objects"])
        assert text in result.message.content
        assert _tokens(text) / 10 <= LIMIT
        frame_text = result.message.content.replace(text, "")
        assert _tokens(frame_text) <= 60


def _uhd_frame(camera: str) -> Frame:
    return Frame(rgb=np.zeros((2160, 3840, 3), np.uint8), camera=camera, stamp_ns=time.time_ns())


@pytest.fixture
def busy_table() -> SwingingCameraTable:
    """Return a table with many objects."""
    return max(
        (SwingingCameraTable(seed) for seed in range(2_000_000, 2_000_010)), key=lambda t: len(t.items)
    )


def test_an_object_of_every_tool_takes_at_most_70_tokens(make_tools, busy_table, call) -> None:
    tools = make_tools(
        segmenter=busy_table,
        frame_source=busy_table.frame,
        thing_classes=CATEGORIES,
        store=SceneStore(run="kqztw"),
    )
    names = sorted({a.category for a in busy_table.items})[:8]
    found = call(tools["segment_objects"], queries=names, max_objects=10)
    ids = [item["id"] for item in found["objects"]]
    assert len(ids) >= 6
    x_px, y_px = found["objects"][0]["center_xy"]
    spot = {"type": "point", "x": x_px, "y": y_px}
    results = {
        "segment_objects": found,
        "ask_scene": call(tools["ask_scene"], question="Describe the scene."),
        "locate_objects_3d": call(tools["locate_objects_3d"], object_ids=ids),
        "segment_everything": call(tools["segment_everything"]),
        "segment_with_prompt": call(tools["segment_with_prompt"], prompts=[spot], image_id="f1kqztw"),
        "refine_object": call(tools["refine_object"], object_id=ids[0], add=[spot]),
        "track_object": call(tools["track_object"], object_id=ids[0]),
        "inspect_object": call(tools["inspect_object"], object_id=ids[0]),
    }
    for name, result in results.items():
        assert result["status"] == "ok", name
        for item in result["objects"]:
            assert _tokens(_compact(item)) <= LIMIT, (name, item)
    for name in ("segment_objects", "locate_objects_3d", "segment_everything"):  # and all around them
        result = results[name]
        assert _tokens(result.message.content) <= 60 + LIMIT * len(result["objects"]), name
    for name in ("inspect_object", "refine_object", "track_object", "segment_with_prompt"):
        assert _tokens(results[name].message.content) <= 220, name


def test_short_results_are_short(make_tools, busy_table, call) -> None:
    tools = make_tools(segmenter=busy_table, frame_source=busy_table.frame)
    names = sorted({a.category for a in busy_table.items})[:8]
    ids = [item["id"] for item in call(tools["segment_objects"], queries=names)["objects"]]
    compared = call(tools["compare_objects"], object_ids=ids, relation="leftmost")
    assert _tokens(compared.message.content) <= 60 + 25 * len(ids)
    kept = call(tools["filter_objects"], image_id="f1", keep=ids[:4])
    assert _tokens(kept.message.content) <= 50 + 25 * len(ids)
    call(tools["segment_objects"], queries=["unicorn"])
    report = call(tools["report_not_found"], query="unicorn", tried=["unicorn"], reason="not in view")
    status = call(tools["perception_status"])
    refusal = call(tools["segment_objects"], queries=["unicorn"])
    for result in (report, status, refusal):
        assert _tokens(result.message.content) <= 150


def test_the_longest_possible_location_stays_within_the_limit() -> None:
    item = SceneObject(
        object_id="f123kqztw/m45",
        query="mug",
        label="small blue ceramic coffee mug",
        score=None,
        box_xyxy=(0, 0, 4, 4),
        center_xy=(2, 2),
        mask=MaskRle.encode(np.ones((4, 4), np.bool_)),
    )
    location = Location3D(
        position_m=(-1.2344, -0.1234, 12.3456),
        center_m=(-1.2, -0.1, 12.3),
        size_m=(1.14, 1.12, 1.09),
        orientation_xyzw=(-0.5, 0.5, -0.5, 0.5),
        distance_m=12.351,
        depth_valid_ratio=0.95,
    )
    assert (
        _tokens(_compact(location_payload(item, location, grip=GripWidth(width_m=1.123, at_least=True))))
        <= LIMIT
    )
