"""What X-AnyLabeling 4 sends and expects, recorded from its remote-server client."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from support.model_server import PATIENCE_S, FakeEngine, running_server
from support.polling import poll_until
from tests.server.conftest import HEIGHT, RED, WIDTH, new_engine, picture, png
from xsam import RequestCancelledError, Task
from xsam_server.settings import Client, ServerSettings

IMAGE = "data:image/png;base64," + base64.b64encode(png(picture())).decode()
BOX_OF_RED = [[10.0, 5.0], [10.0, 15.0], [30.0, 5.0], [30.0, 15.0]]
POINT = {"type": "point", "data": [20, 10], "label": 1}
# The client sends these with every request, whatever the model.
ALWAYS = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001}


def predict(http: httpx.Client, image: str = IMAGE, model: str = "fake", **params: Any) -> httpx.Response:
    body = {"model": model, "image": image, "params": {**ALWAYS, **params}}
    return http.post("/v1/predict", json=body, headers={"Token": ""})


def data_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["success"] is True
    return dict(body["data"])


def test_the_list_names_the_model_and_what_to_show_for_each_task(http: httpx.Client) -> None:
    body = http.get("/v1/models").json()
    assert body["success"] is True
    (info,) = [body["data"]["fake"]]
    tasks = {task["id"]: task for task in info["available_tasks"]}
    assert list(tasks) == ["phrase", "categories", "marks", "similar"]
    assert [task["batch_processing_mode"] for task in tasks.values()] == ["text_prompt"] * 2 + [None] * 2
    shown = {widget["name"] for widget in info["widgets"]}
    for task in tasks.values():
        assert set(task["active_widgets"]) <= shown
    assert "edit_text" in tasks["phrase"]["active_widgets"]
    assert "button_add_point" in tasks["marks"]["active_widgets"]


def test_a_phrase_gives_polygons_in_pixels(http: httpx.Client, engine: FakeEngine) -> None:
    data = data_of(predict(http, text_prompt="red", current_task="phrase"))
    (shape,) = data["shapes"]
    assert (shape["label"], shape["shape_type"], shape["group_id"]) == ("red", "polygon", None)
    assert sorted(shape["points"][:-1]) == BOX_OF_RED
    assert shape["points"][0] == shape["points"][-1]
    assert shape["score"] == pytest.approx(0.9)
    assert (shape["difficult"], shape["description"], data["description"]) == (False, "", "")
    assert "replace" not in data, "the annotator's own setting decides"
    (query,) = engine.asked[-1][1]
    assert (query.text, query.score_threshold) == ("red", None)


def test_categories_are_one_query(http: httpx.Client, engine: FakeEngine) -> None:
    for task in ({"current_task": "categories"}, {}):
        data = data_of(predict(http, text_prompt="red, floor,red", conf_threshold=0.25, **task))
        assert [shape["label"] for shape in data["shapes"]] == ["red", "floor"]
        assert "holes of 200 px are filled" in data["shapes"][1]["description"]
        (query,) = engine.asked[-1][1]
        assert (query.thing_classes, query.score_threshold) == (("red", "floor"), 0.25)


def test_a_question_with_a_comma_is_not_a_list(http: httpx.Client, engine: FakeEngine) -> None:
    predict(http, text_prompt="if I spill, what do I need?")
    assert engine.asked[-1][1][0].text == "if I spill, what do I need?"


def test_marks_are_an_object_to_be_named_that_replaces_nothing(
    http: httpx.Client, engine: FakeEngine
) -> None:
    box = {"type": "rectangle", "data": [30, 15, 10, 5], "label": 0}  # drawn from the lower right
    data = data_of(predict(http, marks=[POINT, box], current_task="marks"))
    assert data["replace"] is False
    assert [shape["label"] for shape in data["shapes"]] == ["AUTOLABEL_OBJECT"]
    (query,) = engine.asked[-1][1]
    assert query.task is Task.INTERACTIVE
    point, rectangle = query.prompts
    assert (point.points_xy.tolist(), point.positive) == ([[20, 10]], True)
    assert (rectangle.box_xyxy, rectangle.positive) == ((10, 5, 30, 15), False)
    predict(http, marks=[POINT], current_task="similar")
    assert engine.asked[-1][1][0].task is Task.VISUAL_GROUNDED


def test_what_is_drawn_already_stays_when_nothing_is_found(http: httpx.Client) -> None:
    data = data_of(predict(http, text_prompt="the diary"))
    assert (data["shapes"], data["replace"], data["status"]) == ([], False, "not_found")
    assert "diary" in data["message"]


def test_marks_of_what_is_not_meant_wait_for_one_of_what_is(http: httpx.Client) -> None:
    """The client takes all shapes away when it gets an error, and the first click may be a negative one."""
    data = data_of(predict(http, marks=[{**POINT, "label": 0}]))
    assert (data["shapes"], data["replace"], data["status"]) == ([], False, "refused")
    assert "positive" in data["message"]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"text_prompt": ""}, "INVALID_QUERY"),
        ({"text_prompt": "red", "conf_threshold": 1.5}, "INVALID_QUERY"),
        ({"text_prompt": "red", "filter_classes": ["red"]}, "INVALID_QUERY"),
        ({"text_prompt": "red", "current_task": "detect"}, "INVALID_QUERY"),
        ({"marks": [{"type": "point", "data": [500, 10], "label": 1}]}, "INVALID_QUERY"),
        ({"marks": [{"type": "point", "data": [5], "label": 1}]}, "INVALID_QUERY"),
        ({"marks": [{"type": "rectangle", "data": [5, 5, 5, 9], "label": 1}]}, "INVALID_QUERY"),
        ({"marks": [{"type": "auto_grid"}]}, "INVALID_QUERY"),
        ({"text_prompt": "red", "epsilon_factor": 3}, "INVALID_QUERY"),
        ({"text_prompt": "red", "image": "http://127.0.0.1/a.png"}, "INVALID_IMAGE"),
        ({"text_prompt": "red", "image": "/etc/passwd"}, "INVALID_IMAGE"),
        ({"text_prompt": "red", "image": "data:image/png;base64,????"}, "INVALID_IMAGE"),
        ({"text_prompt": "red", "image": "data:image/png;base64,AAAA"}, "INVALID_IMAGE"),
        ({"text_prompt": "red", "image": ""}, "INVALID_IMAGE"),
        ({"text_prompt": "red", "model": "segment_anything_3"}, "WRONG_MODEL"),
    ],
)
def test_what_is_refused_is_an_http_error(http: httpx.Client, params: dict[str, Any], code: str) -> None:
    """Of an answer with HTTP 200, the client reads the shapes alone: it would look like "nothing there"."""
    answer = predict(http, **params)
    assert answer.status_code in (400, 409)
    assert answer.json()["code"] == code
    assert answer.json()["message"]


def test_an_image_without_the_head_of_a_data_uri(http: httpx.Client) -> None:
    assert len(data_of(predict(http, image=IMAGE.partition(",")[2], text_prompt="red"))["shapes"]) == 1


def test_an_object_in_doubt_is_marked_as_difficult_and_says_why(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.doubt = "it may be orange"
    (shape,) = data_of(predict(http, text_prompt="red"))["shapes"]
    assert (shape["difficult"], shape["description"]) == (True, "it may be orange")


def test_a_second_question_about_an_image_finds_it_decoded(http: httpx.Client, engine: FakeEngine) -> None:
    predict(http, text_prompt="red")
    predict(http, marks=[POINT])
    assert engine.asked[-1][0] is engine.asked[-2][0]


def test_parts_of_one_object_are_a_group() -> None:
    both = np.zeros((HEIGHT, WIDTH), np.bool_)
    both[2:9, 2:9] = both[2:9, 30:40] = True
    engine = FakeEngine({"feet": [both], "red": [RED]})
    with running_server(lambda: engine) as running, httpx.Client(base_url=running.url) as http:
        shapes = data_of(predict(http, text_prompt="feet, red"))["shapes"]
    assert [shape["label"] for shape in shapes] == ["feet", "feet", "red"]
    assert shapes[0]["group_id"] == shapes[1]["group_id"] > 0
    assert shapes[2]["group_id"] is None


def test_tokens_and_limits_are_those_of_the_server() -> None:
    clients = (Client(name="ann", token="secret-of-ann", concurrent=1),)
    settings = ServerSettings(clients=clients, max_body_bytes=20_000, max_pixels=5_000)
    with running_server(new_engine, settings) as running, httpx.Client(base_url=running.url) as http:
        for path, headers in [("/v1/models", {}), ("/v1/models", {"Token": "wrong-token"})]:
            assert http.get(path, headers=headers).status_code == 401
        assert predict(http, text_prompt="red").status_code == 401
        own = {"Token": "secret-of-ann"}
        assert http.get("/v1/models", headers=own).status_code == 200
        assert http.get("/v1/status", headers=own).status_code == 401, "on its own paths only"
        body = {"model": "fake", "image": IMAGE, "params": {"text_prompt": "red"}}
        assert http.post("/v1/predict", json=body, headers=own).status_code == 200
        evil = {**own, "Origin": "http://evil.example"}
        assert http.post("/v1/predict", json=body, headers=evil).status_code == 403
        for image in (IMAGE + "A" * 30_000, _large()):
            answer = http.post("/v1/predict", json={**body, "image": image}, headers=own)
            assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")


def _large() -> str:
    return base64.b64encode(png(np.zeros((100, 100, 3), np.uint8))).decode()


def test_deadlines_and_closed_connections_end_a_request(engine: FakeEngine) -> None:
    with (
        running_server(lambda: engine, ServerSettings(max_deadline_s=0.5)) as running,
        httpx.Client(base_url=running.url) as http,
    ):
        engine.free.clear()
        late = predict(http, text_prompt="red")
        assert (late.status_code, late.json()["code"]) == (504, "DEADLINE")
    engine.ended_early.clear()
    with running_server(lambda: engine) as running, httpx.Client(base_url=running.url, timeout=0.3) as http:
        with pytest.raises(httpx.ReadTimeout):
            predict(http, text_prompt="red")
        poll_until(lambda: engine.ended_early, "the model to stop", timeout_s=PATIENCE_S)
        assert isinstance(engine.ended_early[0], RequestCancelledError)
