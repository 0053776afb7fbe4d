"""What Label Studio sends to an ML backend and expects, recorded from its API connector."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from support.model_server import FakeEngine, running_server
from tests.server.conftest import HEIGHT, RED, WIDTH, new_engine, picture, png
from tests.server.test_outlines import decoded
from xsam import Task
from xsam_server.settings import Client, ServerSettings

IMAGE = "data:image/png;base64," + base64.b64encode(png(picture())).decode()
OTHER = "data:image/png;base64," + base64.b64encode(png(picture(50))).decode()
CONFIG = """<View>
  <!-- as the template "Semantic segmentation with masks" has it -->
  <Image name="image" value="$picture" zoom="true"/>
  <BrushLabels name="tag" toName="image">
    <Label value="Ruby" predicted_values="red, crimson"/><Label value="floor" background="#FFA39E"/>
  </BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true"><Label value="Ruby"/></KeyPointLabels>
</View>"""
POLYGONS = CONFIG.replace("BrushLabels", "PolygonLabels")
BOXES = CONFIG.replace("BrushLabels", "RectangleLabels")


def mark(kind: str = "keypointlabels", label: str = "Ruby", **values: Any) -> dict[str, Any]:
    """Return a region as the smart tools send it: percent of the image."""
    at = {"x": 20 / WIDTH * 100, "y": 10 / HEIGHT * 100, "width": 0.3}
    own = {name: values.pop(name) for name in ("is_positive", "image_rotation") if name in values}
    return {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {**at, "labels": [label], kind: [label], **values},
        "is_positive": True,
        "id": "fBWv1t0S2L",
        "from_name": "click",
        "to_name": "image",
        "type": kind,
        "origin": "manual",
        **own,
    }


def predict(
    http: httpx.Client, *marks: dict[str, Any], config: str = CONFIG, images: tuple[Any, ...] = (IMAGE,)
) -> httpx.Response:
    tasks = [
        {"id": 7 + index, "data": {"picture": image}, "project": 1} for index, image in enumerate(images)
    ]
    context = {"result": list(marks)} if marks else None
    body = {
        "tasks": tasks,
        "model_version": "any",
        "project": "1.1700000000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": context},
    }
    return http.post("/predict", json=body)


def results_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return list(answer.json()["results"])


def test_setup_and_health(http: httpx.Client) -> None:
    assert http.get("/health").json()["status"] == "UP"
    setup = {"project": "1.17", "schema": CONFIG, "hostname": "http://evil.example", "access_token": "s3cret"}
    assert http.post("/setup", json=setup).json() == {"model_version": "fake"}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("", "no XML"),
        ("<View>", "no XML"),
        ("<View><Image name='i' value='$i'/><Choices name='c' toName='i'/></View>", "no tag for the masks"),
        (CONFIG.replace('toName="image"', 'toName="other"'), "no tag for the masks"),
        (CONFIG.replace('value="$picture"', 'value="http://x/y.png"'), "value='http"),
        (CONFIG.replace("<Label ", "<Choice "), "no labels"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + CONFIG, "document type"),
        (CONFIG + " " * 300_000, "too long"),
    ],
)
def test_a_project_without_a_place_for_masks_is_refused(http: httpx.Client, config: str, named: str) -> None:
    for answer in (
        http.post("/setup", json={"project": "1.17", "schema": config}),
        predict(http, config=config),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_QUERY")
        assert named in answer.json()["message"]


def test_all_labels_are_asked_for_and_come_back_as_brush_strokes(
    http: httpx.Client, engine: FakeEngine
) -> None:
    (prediction,) = results_of(predict(http))
    (query,) = engine.asked[-1][1]
    assert (query.task, query.thing_classes) == (Task.OPEN_VOCABULARY, ("red", "crimson", "floor"))
    assert prediction["model_version"] == "fake"
    assert prediction["score"] == pytest.approx(0.9)
    ruby, floor = prediction["result"]
    assert (ruby["type"], ruby["from_name"], ruby["to_name"]) == ("brushlabels", "tag", "image")
    assert (ruby["original_width"], ruby["original_height"], ruby["image_rotation"]) == (WIDTH, HEIGHT, 0)
    assert ruby["value"]["brushlabels"] == ["Ruby"], "asked for as red"
    assert ruby["value"]["format"] == "rle"
    assert floor["value"]["brushlabels"] == ["floor"]
    assert ruby["id"] != floor["id"]
    for region, mask in ((ruby, RED), (floor, ~RED)):
        rgba = decoded(region["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
        assert np.array_equal(rgba[..., 3] > 0, mask)


def test_polygons_and_boxes_are_in_percent(http: httpx.Client) -> None:
    ruby, floor = results_of(predict(http, config=POLYGONS))[0]["result"]
    assert (ruby["type"], ruby["value"]["polygonlabels"]) == ("polygonlabels", ["Ruby"])
    corners = [(10, 5), (10, 15), (30, 5), (30, 15)]
    expected = [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in corners]
    assert sorted(ruby["value"]["points"]) == pytest.approx(np.array(expected), abs=1e-3)
    assert floor["meta"]["text"] == ["holes of 200 px are filled: a polygon has none"]
    box = results_of(predict(http, config=BOXES))[0]["result"][0]["value"]
    assert box["rectanglelabels"] == ["Ruby"]
    sides = [box[name] for name in ("x", "y", "width", "height")]
    assert sides == pytest.approx([1000 / WIDTH, 500 / HEIGHT, 2000 / WIDTH, 1000 / HEIGHT])


def test_each_task_has_its_result(http: httpx.Client, engine: FakeEngine) -> None:
    seen = results_of(predict(http, images=(IMAGE, OTHER, IMAGE)))
    assert len(seen) == 3
    shades = [int(source.rgb[0, 0, 0]) for source, _, _ in engine.asked[-3:]]
    assert shades == [90, 50, 90]
    assert [keep for _, _, keep in engine.asked[-3:]] == [False] * 3


def test_a_click_is_a_point_with_the_label_of_its_tool(http: httpx.Client, engine: FakeEngine) -> None:
    corner = mark(x=100.0, y=0.0, is_positive=False)
    (prediction,) = results_of(predict(http, mark(), corner))
    (region,) = prediction["result"]
    assert region["value"]["brushlabels"] == ["Ruby"]
    (query,) = engine.asked[-1][1]
    assert query.task is Task.INTERACTIVE
    first, second = query.prompts
    assert first.points_xy.tolist() == pytest.approx(np.array([[20, 10]]))
    assert (first.positive, second.positive) == (True, False)
    assert second.points_xy[0, 0] == pytest.approx(WIDTH - 0.5)


def test_a_box_is_a_box(http: httpx.Client, engine: FakeEngine) -> None:
    size = {"x": 0.0, "y": 0.0, "width": 50.0, "height": 100.0}
    results_of(predict(http, mark("rectanglelabels", **size)))
    (query,) = engine.asked[-1][1]
    assert query.prompts[0].box_xyxy == pytest.approx((0, 0, WIDTH / 2, HEIGHT))


def test_nothing_found_is_a_prediction_without_regions(http: httpx.Client) -> None:
    config = CONFIG.replace("red, crimson", "diary").replace('value="floor"', 'value="ceiling"')
    assert results_of(predict(http, config=config)) == [{"result": [], "score": 0.0, "model_version": "fake"}]


def test_doubts_go_with_the_region(http: httpx.Client, engine: FakeEngine) -> None:
    engine.doubt = "it may be orange"
    assert results_of(predict(http))[0]["result"][0]["meta"] == {"text": ["it may be orange"]}


@pytest.mark.parametrize(
    ("marks", "named"),
    [
        ([mark(label="Saphire")], "no label 'Saphire'"),
        ([mark(), mark(label="floor")], "differ in their label"),
        ([mark(image_rotation=90)], "turned"),
        ([mark("rectanglelabels", height=5.0, rotation=30)], "turned"),
        ([mark("ellipselabels", radiusX=5)], "'ellipselabels' are not supported"),
        ([mark(x="5")], "no percentage"),
        ([mark(x=-5.0)], "outside"),
        ([mark(is_positive=False)], "positive"),
        (
            [{**mark(), "original_width": HEIGHT, "original_height": WIDTH}],
            f"takes it to be {HEIGHT}×{WIDTH}",
        ),
    ],
)
def test_marks_that_would_be_misread_are_refused(
    http: httpx.Client, marks: list[dict[str, Any]], named: str
) -> None:
    answer = predict(http, *marks)
    assert answer.status_code == 400
    assert named in answer.json()["message"]


@pytest.mark.parametrize(
    "image",
    [
        "http://169.254.169.254/latest/meta-data",
        "/data/upload/1/a.png",
        "file:///etc/passwd",
        "s3://bucket/a.png",
        "data:text/html;base64,AAAA",
        "",
        None,
        ["a.png"],
    ],
)
def test_nothing_is_fetched_unless_the_server_was_told_from_where(http: httpx.Client, image: object) -> None:
    answer = predict(http, images=(IMAGE, image))
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_IMAGE")
    assert answer.json()["message"].startswith("task 8: ")


def test_too_many_tasks_are_refused_before_they_are_read(http: httpx.Client) -> None:
    assert predict(http, images=("",) * 33).json()["code"] == "TOO_LARGE"
    assert predict(http, images=()).json()["code"] == "TOO_LARGE"


def test_label_studio_sends_the_token_as_a_password() -> None:
    settings = ServerSettings(clients=(Client(name="ann", token="secret-of-ann"),))
    setup = {"project": "1.17", "schema": CONFIG}
    with running_server(new_engine, settings) as running, httpx.Client(base_url=running.url) as http:
        for auth in (None, ("ann", "wrong-token"), ("secret-of-ann", "")):
            assert http.post("/setup", json=setup, auth=auth).status_code == 401
        assert http.get("/health").status_code == 200
        assert http.post("/setup", json=setup, auth=("ann", "secret-of-ann")).status_code == 200
        assert http.get("/v1/status", auth=("ann", "secret-of-ann")).status_code == 401
        bearer = {"Authorization": "Bearer secret-of-ann"}
        assert http.post("/setup", json=setup, headers=bearer).status_code == 200
        broken = {"Authorization": "Basic ???"}
        assert http.post("/setup", json=setup, headers=broken).status_code == 401
        large = {"project": "1.17", "schema": "x" * 2_000_000}
        assert http.post("/setup", json=large, headers=bearer).status_code == 413


def test_before_the_model_is_loaded_a_project_cannot_be_connected(engine: FakeEngine) -> None:
    def fail() -> FakeEngine:
        raise RuntimeError("no weights")

    with running_server(fail) as running, httpx.Client(base_url=running.url) as http:
        assert http.post("/setup", json={"project": "1.1", "schema": CONFIG}).status_code == 500
        assert http.get("/v1/models").status_code == 500
