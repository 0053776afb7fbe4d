"""One image and several queries over HTTP: images of every kind, results, and what is refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from support.model_server import FakeEngine
from tests.server.conftest import HEIGHT, RED, WIDTH, Ask, picture, png
from xsam import InvalidImageError, MaskRle, ModelError, OutOfMemoryError
from xsam.wire.models import ErrorBody, ResponseBody, raw_rgb_header


def masks_of(response: httpx.Response) -> list[np.ndarray]:
    """Return the masks of the first result."""
    assert response.status_code == 200, response.text
    body = ResponseBody.model_validate_json(response.content)
    return [
        MaskRle.from_counts(*found.mask.size, found.mask.counts.encode()).decode()
        for found in body.results[0].segments
    ]


def error_of(response: httpx.Response) -> ErrorBody:
    return ErrorBody.model_validate_json(response.content)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_an_image_file(ask: Ask, engine: FakeEngine, suffix: str) -> None:
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    _, content = cv2.imencode(suffix, picture()[..., ::-1], lossless)
    (mask,) = masks_of(ask(bytes(content)))
    np.testing.assert_array_equal(mask, RED)
    frame = engine.asked[-1][0]
    difference = np.abs(frame.rgb.astype(int) - picture()).mean()  # 33 with red and blue swapped
    assert difference < (10 if suffix == ".jpg" else 1e-9)


def test_raw_rgb_with_its_size(ask: Ask, engine: FakeEngine) -> None:
    response = ask(picture().tobytes(), image={"width": WIDTH, "height": HEIGHT})
    (mask,) = masks_of(response)
    np.testing.assert_array_equal(mask, RED)
    np.testing.assert_array_equal(engine.asked[-1][0].rgb, picture())
    ppm = raw_rgb_header(WIDTH, HEIGHT) + picture().tobytes()
    assert response.json()["frame"] == hashlib.sha256(ppm).hexdigest()


def test_the_same_bytes_of_another_width_are_another_frame(ask: Ask) -> None:
    """Else the masks of a picture would be put on another one."""
    pixels = bytes(range(96)) * 3
    sizes = ({"width": 12, "height": 8}, {"width": 8, "height": 12})
    first, second = (ask(pixels, image=size).json()["frame"] for size in sizes)
    assert first != second


def test_exif_turns_the_image(ask: Ask) -> None:
    from io import BytesIO

    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    stream = BytesIO()
    Image.fromarray(picture()).save(stream, "JPEG", exif=exif, quality=95)
    assert ask(stream.getvalue()).json()["results"][0]["image"] == {"width": HEIGHT, "height": WIDTH}


def test_results_are_in_order_and_one_that_is_refused_costs_the_others_nothing(ask: Ask) -> None:
    queries: list[dict[str, Any]] = [
        {"text": "red"},
        {"text": " "},
        {"text": "blue"},
        {"thing_classes": ["red"], "stuff_classes": ["floor"]},
        {"prompts": [{"kind": "point", "points_xy": [[WIDTH, 0]]}]},
        {"prompts": [{"kind": "box", "box_xyxy": [12, 6, 20, 10]}]},
        {"prompts": [{"kind": "scribble", "points_xy": [[12, 6], [20, 10]]}]},
    ]
    results = ask(png(picture()), queries=queries).json()["results"]
    assert [result["status"] for result in results] == [
        *("found", "refused", "not_found", "found", "refused", "found", "found")
    ]
    assert results[1]["code"] == "INVALID_QUERY"
    assert results[2]["message"] == "nothing matches 'blue'"
    assert [found["label"] for found in results[3]["segments"]] == ["red", "floor"]
    assert results[0]["model"] == "fake"


def test_a_result_has_the_keys_of_the_command_line(ask: Ask) -> None:
    """`xsam segment --json` prints the same; tests/unit/cli compares its values."""
    (result,) = ask(png(picture())).json()["results"]
    assert list(result) == [
        *("status", "message", "code", "hint", "model", "task", "text", "image", "segments", "timing_s")
    ]
    assert list(result["segments"][0]) == ["label", "label_index", "score", "box_xyxy", "area_px", "mask"]


@pytest.mark.parametrize(
    ("image", "fields", "status", "code", "named"),
    [
        (None, {}, 400, "INVALID_QUERY", "neither an image nor the id"),
        (None, {"frame": "0" * 64}, 404, "FRAME_NOT_KEPT", "000000000000"),
        (None, {"frame": "short"}, 400, "INVALID_QUERY", "frame"),
        ("png", {"frame": "0" * 64}, 400, "INVALID_QUERY", "not that of the image"),
        ("png", {"queries": []}, 400, "INVALID_QUERY", "no queries"),
        ("png", {"queries": [{"text": "red"}] * 33}, 413, "TOO_LARGE", "33 queries"),
        ("png", {"queries": [{"text": "red", "treshold": 0.5}]}, 400, "INVALID_QUERY", "treshold"),
        ("png", {"path": "/etc/passwd"}, 400, "INVALID_QUERY", "path"),
        ("png", {"model": "another"}, 409, "WRONG_MODEL", "another"),
        ("png", {"deadline_s": 0}, 504, "DEADLINE", "deadline"),
        ("png", {"deadline_s": -3.0}, 504, "DEADLINE", "deadline"),
        ("png", {"image": {"width": 3, "height": 4}}, 400, "INVALID_IMAGE", "has 36 bytes, got"),
        ("text", {}, 400, "INVALID_IMAGE", "no JPEG, PNG or WebP"),
        ("empty", {}, 400, "INVALID_IMAGE", "no JPEG, PNG or WebP"),
        ("gif", {}, 400, "INVALID_IMAGE", "no JPEG, PNG or WebP"),
        ("half", {}, 400, "INVALID_IMAGE", "image"),
    ],
)
def test_what_is_refused(
    ask: Ask,
    engine: FakeEngine,
    image: str | None,
    fields: dict[str, Any],
    status: int,
    code: str,
    named: str,
) -> None:
    images = {
        "png": png(picture()),
        "text": b"/etc/passwd",
        "empty": b"",
        "gif": b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00",
        "half": png(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8))[:4000],
    }
    response = ask(None if image is None else images[image], **fields)
    error = error_of(response)
    assert (response.status_code, error.code, error.status.value) == (status, code, "refused")
    assert named in error.message
    assert engine.asked == []


FORM = "multipart/form-data; boundary=b"


def part(name: str, content: bytes = b"x") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", "application/json"),
        (b"queries=mug", "application/x-www-form-urlencoded"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"", "multipart/form-data"),
        (b"no boundary here", FORM),
        (b"--b\r\n\r\n--b--\r\n", FORM),
        (part("file") + b"--b--\r\n", FORM),
        (part("image") + b"--b--\r\n", FORM),
        (part("image") * 2 + b"--b--\r\n", FORM),
        (part("request", b"{}"), FORM),
    ],
)
def test_malformed_bodies(http: httpx.Client, body: bytes, content_type: str) -> None:
    response = http.post("/v1/segment", content=body, headers={"content-type": content_type})
    assert (response.status_code, error_of(response).code) == (400, "INVALID_QUERY")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ModelError("the network gave NaN"), 500, "MODEL_ERROR"),
        (OutOfMemoryError("no room"), 503, "OUT_OF_MEMORY"),
        (InvalidImageError("odd"), 400, "INVALID_IMAGE"),
        (KeyError("a bug"), 500, "MODEL_ERROR"),
    ],
)
def test_errors_of_the_model_are_typed(
    ask: Ask, engine: FakeEngine, error: Exception, status: int, code: str
) -> None:
    engine.error = error  # type: ignore[assignment]
    response = ask(png(picture()))
    assert (response.status_code, error_of(response).code) == (status, code)
    assert "Traceback" not in response.text
    engine.error = None
    assert ask(png(picture())).status_code == 200


def test_unknown_paths_are_errors_in_json(http: httpx.Client) -> None:
    assert error_of(http.get("/v1/nothing")).code == "NO_SUCH_PATH"
    assert http.get("/v1/segment").status_code == 405


def test_the_api_is_described(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/v1/segment", "/v1/schema", "/v1/status", "/healthz", "/readyz", "/metrics"} <= set(paths)
    assert "multipart/form-data" in paths["/v1/segment"]["post"]["requestBody"]["content"]
    assert http.get("/docs").status_code == 200


def test_the_schema_is_that_of_the_snapshot(http: httpx.Client) -> None:
    """A change here is a change of the protocol: clients of older versions must still be understood."""
    from pathlib import Path

    snapshot = json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))
    assert http.get("/v1/schema").json() == snapshot
