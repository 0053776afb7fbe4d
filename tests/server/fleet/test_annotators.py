"""Annotation tools ask a fleet as they ask one server."""

from __future__ import annotations

import httpx
import pytest

from tests.server.test_label_studio import predict as predict_tasks
from tests.server.test_label_studio import results_of
from tests.server.test_x_anylabeling import BOX_OF_RED, data_of, predict

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray, with pydantic's newest release
]


def test_both_kinds_of_tools(http: httpx.Client) -> None:
    (model,) = http.get("/v1/models").json()["data"]
    (shape,) = data_of(predict(http, model=model, text_prompt="red"))["shapes"]
    assert sorted(shape["points"][:-1]) == BOX_OF_RED
    (prediction,) = results_of(predict_tasks(http))
    assert prediction["model_version"] == model
    assert [region["value"]["brushlabels"] for region in prediction["result"]] == [["Ruby"], ["floor"]]
    assert predict(http, model=model, text_prompt="").json()["code"] == "INVALID_QUERY"
