"""Results of `segment_objects`: content, artifact, ids, staleness, bounds."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import cv2
import numpy as np
import pytest
from langchain_core.tools import StructuredTool
from pycocotools import mask as coco_mask

from tests.agent.table import MASKS, RecordingSegmenter, assert_plain, new_frame, rectangle
from xsam import CameraRef, FakeSegmenter, Frame, Task
from xsam_agent_tools import SceneStore
from xsam_agent_tools.text.content import image_region


def test_content_is_the_agreed_json(tool, call) -> None:
    result = call(tool, queries=["mug"])
    age_s = result.json.pop("age_s")
    assert 0.1 <= age_s < 5
    assert result.json == {
        "status": "ok",
        "image_id": "f1",
        "camera": "front",
        "size": [640, 480],
        "objects": [
            {
                "id": "f1/m1",
                "mark": 1,
                "label": "mug",
                "score": 0.9,
                "box_xyxy": [100, 100, 200, 240],
                "center_xy": [150, 170],
                "area_pct": 4.6,
                "where": "left, middle",
            },
            {
                "id": "f1/m2",
                "mark": 2,
                "label": "mug",
                "score": 0.9,
                "box_xyxy": [500, 20, 560, 110],
                "center_xy": [530, 64],
                "area_pct": 1.8,
                "where": "right, top",
            },
        ],
        "truncated": 0,
    }
    text = result.message.content
    assert isinstance(text, str)
    assert text.startswith('{"status":"ok","image_id":"f1","camera":"front","age_s":')
    assert '": ' not in text
    assert "\n" not in text


def test_several_queries_are_one_request_with_one_frame(make_toolkit, call) -> None:
    segmenter, frames = RecordingSegmenter([rectangle(1, 2, 30, 40)]), []

    def source(camera: str) -> Frame:
        frames.append(new_frame(camera))
        return frames[-1]

    tool = make_toolkit(segmenter=segmenter, frame_source=source, deadline_s=7).get_tools()[0]
    call(tool, queries=["mug", "the mug left of the plate", "What is hot?"], camera="wrist")
    ((frame, queries, deadline_s),) = segmenter.requests
    assert frame is frames[0]
    assert len(frames) == 1
    assert frame.camera == "wrist"
    assert [q.resolved_task() for q in queries] == [Task.OPEN_VOCABULARY, Task.REFERRING, Task.REASONING]
    assert [q.thing_classes for q in queries] == [("mug",), (), ()]
    assert 6 < deadline_s <= 7


def test_without_a_frame_source_the_camera_is_named(make_toolkit, call) -> None:
    segmenter = RecordingSegmenter([rectangle(1, 2, 30, 40)])
    tool = make_toolkit(segmenter=segmenter, frame_source=None, max_age_s=3).get_tools()[0]
    result = call(tool, queries=["mug"], camera="wrist")
    source = segmenter.requests[0][0]
    assert source == CameraRef(name="wrist", max_age_s=3)
    assert result["camera"] == "wrist"
    assert "image_id" not in tool.args


def test_nothing_found_is_no_match_with_what_was_tried(tool, call) -> None:
    result = call(tool, queries=["big fork on the plate", "spoon"])
    assert result.message.status == "success"
    assert result["status"] == "no_match"
    assert result["objects"] == []
    assert result["tried"] == ["big fork on the plate", "spoon"]
    assert result["next"] == "segment_objects(['big fork','fork'])"
    assert "wrist" in result["hint"]
    assert result.artifact["masks"] == []


def test_found_and_not_found_are_distinguished(tool, call) -> None:
    result = call(tool, queries=["mug", "fork"])
    assert result["status"] == "ok"
    assert result["not_found"] == ["fork"]
    assert "tried" not in result.json


def test_masks_without_pixels_do_not_count_as_found(make_toolkit, call) -> None:
    tool = make_toolkit(segmenter=RecordingSegmenter([rectangle(0, 0, 0, 0)])).get_tools()[0]
    assert call(tool, queries=["ghost"])["status"] == "no_match"


def test_the_of_several_is_ambiguous(tool, call) -> None:
    result = call(tool, queries=["the mug", "the plate"])
    assert result["status"] == "ambiguous"
    assert result["ambiguous"] == ["the mug"]
    assert len(result["objects"]) == 3
    assert call(tool, queries=["the plate"])["status"] == "ok"
    assert call(tool, queries=["mug"])["status"] == "ok"


def test_the_same_object_twice_is_not_ambiguous(make_toolkit, call) -> None:
    masks = [rectangle(100, 100, 200, 240), rectangle(101, 100, 201, 240)]
    tool = make_toolkit(segmenter=RecordingSegmenter(masks)).get_tools()[0]
    result = call(tool, queries=["the mug"])
    assert result["status"] == "ok"
    assert result["objects"][1]["same_as"] == "f1/m1"
    tool = make_toolkit(segmenter=RecordingSegmenter([masks[0], rectangle(130, 100, 230, 240)])).get_tools()[
        0
    ]
    assert call(tool, queries=["the mug"])["status"] == "ambiguous"


def test_one_object_under_two_phrases_is_not_two_objects(tool, call) -> None:
    result = call(tool, queries=["mug", "red mug"])
    assert [o.get("same_as") for o in result["objects"]] == [None, None, "f1/m2"]


def test_ids_survive_across_calls(make_toolkit, call) -> None:
    toolkit = make_toolkit()
    tool = toolkit.get_tools()[0]
    first = call(tool, queries=["mug"])
    elsewhere = call(tool, queries=["plate"], camera="wrist")
    again = call(tool, queries=["plate", "red mug"], image_id="f1")
    assert [elsewhere["image_id"], again["image_id"]] == ["f2", "f1"]
    assert again["camera"] == "front"
    assert [o["id"] for o in again["objects"]] == ["f1/m3", "f1/m4"]
    assert [o["mark"] for o in again["objects"]] == [3, 4]
    assert again["objects"][1]["same_as"] == "f1/m2"
    scene, plate = toolkit.store.object("f1/m3")
    assert plate.label == "plate"
    assert np.array_equal(plate.mask.decode(), MASKS["plate"][0])
    assert scene.objects[0].object_id == first["objects"][0]["id"]
    assert make_toolkit(store=toolkit.store).store.object("f2/m1")[0].camera == "wrist"


def test_image_id_asks_about_the_same_pixels(make_toolkit, call) -> None:
    segmenter = RecordingSegmenter([rectangle(1, 2, 30, 40)])
    seeds = iter(range(10))
    toolkit = make_toolkit(
        segmenter=segmenter, frame_source=lambda camera: new_frame(camera, seed=next(seeds))
    )
    tool = toolkit.get_tools()[0]
    call(tool, queries=["mug"])
    call(tool, queries=["mug"])
    call(tool, queries=["plate"], image_id="f1")
    first, second, again = (source for source, *_ in segmenter.requests)
    assert again is first
    assert not np.array_equal(first.rgb, second.rgb)


def test_an_image_that_made_room_is_stale(make_toolkit, call) -> None:
    tool = make_toolkit(store=SceneStore(run="", max_images=2)).get_tools()[0]
    for _ in range(3):
        call(tool, queries=["mug"])
    result = call(tool, queries=["mug"], image_id="f1")
    assert (result["status"], result["code"], result.message.status) == ("stale", "STALE_ID", "error")
    assert call(tool, queries=["plate"], image_id="f3")["status"] == "ok"


def test_limit_is_shared_fairly_and_the_rest_counted(make_toolkit, call) -> None:
    many = [rectangle(10 * i, 5, 10 * i + 8, 40) for i in range(20)]
    segmenter = FakeSegmenter({"brick": many, "mug": MASKS["mug"]})
    tool = make_toolkit(segmenter=segmenter).get_tools()[0]
    result = call(tool, queries=["brick", "mug"], max_objects=4)
    assert [o["label"] for o in result["objects"]] == ["brick", "brick", "mug", "mug"]
    assert result["truncated"] == 18
    assert len(call(tool, queries=["brick"])["objects"]) == 10
    assert len(call(tool, queries=["brick"], max_objects=50)["objects"]) == 20


def test_scores_are_neither_thrown_away_nor_invented(make_toolkit, call) -> None:
    masks = [rectangle(10, 5, 50, 40), rectangle(100, 5, 150, 40), rectangle(200, 5, 250, 40)]
    tool = make_toolkit(segmenter=RecordingSegmenter(masks, [0.876, 0.25, float("nan")])).get_tools()[0]
    objects = call(tool, queries=["mug"])["objects"]
    assert [o.get("score") for o in objects] == [0.88, 0.25, None]
    assert "score" not in objects[2]


def test_center_lies_on_the_object(make_toolkit, call) -> None:
    """The centroid of a ring is in its hole: a gripper sent there closes on air."""
    rows, columns = np.mgrid[:480, :640]
    radius = np.hypot(rows - 200, columns - 400)
    ring = (radius < 100) & (radius > 60)
    tool = make_toolkit(segmenter=RecordingSegmenter([ring])).get_tools()[0]
    x_px, y_px = call(tool, queries=["ring"])["objects"][0]["center_xy"]
    assert ring[y_px, x_px]


@pytest.mark.parametrize(
    ("point_xy", "words"),
    [
        ((0, 0), "left, top"),
        ((639, 0), "right, top"),
        ((0, 479), "left, bottom"),
        ((320, 240), "center, middle"),
        ((400, 100), "center, top"),
        ((450, 200), "right, middle"),
    ],
)
def test_where(point_xy: tuple[int, int], words: str) -> None:
    assert image_region(point_xy, (480, 640)) == words


def test_every_result_has_an_age(make_toolkit, call) -> None:
    """It counts from the stamp or, without a usable one, from arrival, and then the result says so."""
    now_ns = [50_000_000_000]

    def tool_at(stamp_ns: int) -> Any:
        rgb = np.zeros((480, 640, 3), np.uint8)
        source = lambda camera: Frame(rgb=rgb, camera=camera, stamp_ns=stamp_ns)  # noqa: E731
        return make_toolkit(frame_source=source, clock_ns=lambda: now_ns[0]).get_tools()[0]

    assert call(tool_at(now_ns[0] - 1_250_000_000), queries=["mug"])["age_s"] == 1.25
    assert "age_from" not in call(tool_at(now_ns[0] + 1000), queries=["mug"]).json
    for unusable in (0, now_ns[0] + 10**12):
        tool = tool_at(unusable)
        assert call(tool, queries=["mug"])["age_s"] == 0
        now_ns[0] += 3_500_000_000
        later = call(tool, queries=["plate"], image_id="f1")
        assert (later["age_s"], later["age_from"]) == (3.5, "arrival")


def test_an_image_without_a_stamp_grows_too_old_too(make_toolkit, call) -> None:
    now_ns = [50_000_000_000]
    frame = Frame(rgb=np.zeros((480, 640, 3), np.uint8))
    toolkit = make_toolkit(frame_source=lambda _: frame, clock_ns=lambda: now_ns[0], max_image_age_s=30)
    tool = toolkit.get_tools()[0]
    call(tool, queries=["mug"])
    now_ns[0] += 31 * 10**9
    assert call(tool, queries=["plate"], image_id="f1")["code"] == "STALE_FRAME"


@pytest.mark.parametrize("with_source", [True, False])
def test_a_frozen_camera_is_refused(make_toolkit, call, with_source: bool) -> None:
    """An arm kept moving by the last frame of a camera that had stopped."""
    frozen = new_frame("front", age_s=60)
    segmenter = FakeSegmenter(MASKS, frames={"front": frozen})
    source = (lambda _: frozen) if with_source else None
    tool = make_toolkit(segmenter=segmenter, frame_source=source).get_tools()[0]
    result = call(tool, queries=["mug"])
    assert (result["status"], result["code"]) == ("stale", "STALE_FRAME")
    assert "60" in result["message"]
    assert "objects" not in result.json
    tolerant = make_toolkit(segmenter=segmenter, frame_source=source, max_age_s=None).get_tools()[0]
    assert call(tolerant, queries=["mug"])["age_s"] == pytest.approx(60, abs=5)


@pytest.mark.slow
def test_slow_inference_does_not_make_a_fresh_frame_stale(make_toolkit, call) -> None:
    segmenter = FakeSegmenter(MASKS, delay_s=0.5)
    tool = make_toolkit(segmenter=segmenter, max_age_s=0.4).get_tools()[0]
    result = call(tool, queries=["mug"])
    assert result["status"] == "ok"
    assert result["age_s"] >= 0.6


def test_earlier_images_grow_too_old_to_ask_about(make_toolkit, call) -> None:
    now = [time.time_ns()]
    tool = make_toolkit(clock_ns=lambda: now[0], max_image_age_s=30).get_tools()[0]
    call(tool, queries=["mug"])
    now[0] += 20 * 10**9
    assert call(tool, queries=["plate"], image_id="f1")["age_s"] == pytest.approx(20, abs=1)
    now[0] += 20 * 10**9
    assert call(tool, queries=["red mug"], image_id="f1")["status"] == "stale"


def test_artifact_is_plain_and_complete(tool, call) -> None:
    result = call(tool, queries=["plate"])
    artifact = result.artifact
    assert sorted(artifact) == ["frame", "masks", "result", "schema"]
    assert artifact["schema"] == "xsam_agent_tools/segmentation/1"
    assert artifact["result"] == result.json
    (mask,) = artifact["masks"]
    assert mask["id"] == "f1/m1"
    assert type(mask["rle"]["counts"]) is str
    assert np.array_equal(coco_mask.decode(mask["rle"]).astype(bool), MASKS["plate"][0])
    frame = artifact["frame"]
    assert {**frame, "stamp_ns": 0} == {
        "image_id": "f1",
        "camera": "front",
        "frame_id": "front_optical",
        "stamp_ns": 0,
        "size": [640, 480],
    }
    assert json.loads(json.dumps(artifact)) == artifact
    assert_plain(artifact)


@pytest.mark.parametrize("images", ["user", "tool"])
def test_overlay_is_in_the_artifact_and_never_in_the_text(
    make_toolkit, call, monkeypatch, images: str
) -> None:
    from xsam.draw import overlay as draw

    seen: list[dict[str, Any]] = []
    draw_overlay = draw.draw_overlay
    monkeypatch.setattr(draw, "draw_overlay", lambda *a, **k: (seen.append(k), draw_overlay(*a, **k))[1])
    tool = make_toolkit(images=images).get_tools()[0]
    call(tool, queries=["mug"])
    result = call(tool, queries=["plate"], image_id="f1")
    (png,) = result.images
    overlay = cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR)
    assert overlay.shape == (480, 640, 3)
    assert isinstance(result.message.content, str)
    assert len(result.message.content) < 600
    assert seen[-1]["numbers"] == [3]
    assert seen[-1]["style"] == "outline"


def test_overlay_of_a_large_image_is_scaled_down(make_toolkit, call) -> None:
    mask = np.zeros((1500, 2048), np.bool_)
    mask[200:900, 300:1500] = True
    frame = Frame(rgb=np.zeros((1500, 2048, 3), np.uint8))
    tool = make_toolkit(
        segmenter=RecordingSegmenter([mask]), frame_source=lambda _: frame, images="user"
    ).get_tools()[0]
    result = call(tool, queries=["mug"])
    png = base64.b64decode(result.images[0])
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape == (750, 1024, 3)
    assert result["objects"][0]["box_xyxy"] == [300, 200, 1500, 900]
    assert result["picture"] == {"size": [1024, 750], "shows_xyxy": [0, 0, 2048, 1500]}


def test_long_labels_and_messages_are_cut(make_toolkit, call) -> None:
    tool = make_toolkit(
        segmenter=RecordingSegmenter([rectangle(1, 2, 30, 40)], label="very " * 50)
    ).get_tools()[0]
    label = call(tool, queries=["mug"])["objects"][0]["label"]
    assert len(label) <= 40
    assert label.endswith("…")


def test_the_tool_is_a_structured_tool(tool) -> None:
    """ROSA silently drops tools without `.func`, such as plain functions."""
    assert isinstance(tool, StructuredTool)
    assert callable(tool.func)
    assert callable(tool.coroutine)
    content, artifact = tool.func(queries=["mug"])
    assert json.loads(content)["camera"] == "front"
    assert artifact["schema"]
