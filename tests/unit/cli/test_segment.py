"""`xsam segment`: tables, JSON, overlays, options; never a traceback for an error of the project."""

from __future__ import annotations

import errno
import inspect
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from support.golden import GOLDEN
from tests.unit.cli.command import IMAGE, error_line, json_line, run_segment, run_xsam
from xsam import MaskRle, XSam, XSamError
from xsam.engine import DEFAULT_FRAME_CACHE_MIB
from xsam.errors import DownloadError, ModelError, QueueFullError


def test_results_are_a_table(tmp_path: Path) -> None:
    overlay = tmp_path / "pictures" / "overlay.png"
    result = run_segment("the red mug", "--out", overlay)
    assert result.exit_code == 0
    assert result.output.startswith("found: in ")
    assert "with a\n" in result.output
    assert all(
        word in result.output for word in ("label", "score", "area px", "the red mug", f"wrote {overlay}")
    )
    drawn, original = cv2.imread(str(overlay)), cv2.imread(str(IMAGE))
    assert drawn.shape == original.shape
    assert (drawn != original).any()


def test_the_overlay_has_the_colors_of_the_image(tmp_path: Path) -> None:
    """Red stays red: OpenCV's channel order is BGR."""
    image, overlay = tmp_path / "red.png", tmp_path / "overlay.png"
    Image.new("RGB", (96, 64), (250, 0, 0)).save(image)
    result = run_xsam(
        "segment",
        image,
        "mug",
        "--threshold",
        1,
        "--model",
        GOLDEN / "a",
        "--device",
        "cpu",
        "--out",
        overlay,
    )
    assert result.exit_code == 3
    with Image.open(overlay) as drawn:
        assert drawn.convert("RGB").getpixel((90, 60)) == (250, 0, 0)


def test_json_contains_the_masks() -> None:
    result = run_segment("--class", "cat", "--class", "dog", "--stuff", "sky", "--threshold", "0.0", "--json")
    assert result.exit_code == 0
    output = json.loads(result.stdout)
    assert output["status"] == "found"
    assert output["task"] == "open_vocabulary"
    assert output["timing_s"].keys() >= {"encode", "decode"}
    height, width = cv2.imread(str(IMAGE)).shape[:2]
    assert output["image"] == {"width": width, "height": height}
    for segment in output["segments"]:
        assert segment["label"] in ("cat", "dog", "sky")
        counts = segment["mask"]["counts"].encode()
        mask = MaskRle(height=height, width=width, counts=counts).decode()
        assert mask.sum() == segment["area_px"] > 0
        rows, columns = np.nonzero(mask)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert segment["box_xyxy"] == [float(v) for v in corners]


@pytest.mark.parametrize(
    ("arguments", "task"),
    [
        (["the red mug"], "referring"),
        (["what can hold coffee?"], "reasoning"),
        (["--box", "10,10,50,50"], "interactive"),
        (["--point", "12.5,20"], "interactive"),
        (["--box", "10,10,50,50", "--point", "3,4"], "visual_grounded"),
        (["mug", "--task", "reasoning"], "reasoning"),
    ],
)
def test_the_task_follows_from_what_is_given(arguments: list[str], task: str) -> None:
    output = json.loads(run_segment(*arguments, "--json").stdout)
    assert output["task"] == task
    assert output["status"] in ("found", "unsure", "not_found")


def test_not_found_has_its_own_exit_code() -> None:
    result = run_segment("the red mug", "--threshold", "1")
    assert result.exit_code == 3
    assert result.output.startswith("not found: nothing matches 'the red mug'; best score ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the query is empty"),
        (["mug", "--point", "1,1"], "three different requests"),
        (["mug", "--class", "mug"], "three different requests"),
        (["--box", "1,2,3"], "--box takes 4 numbers separated by commas, got '1,2,3'"),
        (["--point", "1;2"], "--point takes 2 numbers"),
        (["--point", "5000,2"], "lies outside the"),
        (["--box", "9,9,3,3"], "needs x_min < x_max"),
        (["--task", "generic"], "need thing_classes or stuff_classes"),
        (["mug", "--out", "overlay.docx"], "cannot write an image as 'overlay.docx'"),
    ],
)
def test_invalid_queries_are_refused(arguments: list[str], message: str) -> None:
    assert message in error_line(run_segment(*arguments), 2)


@pytest.mark.parametrize("arguments", [["--task", "nonsense"], ["--threshold", "1.5"], ["--unknown"]])
def test_wrong_usage_has_the_code_of_a_refusal(arguments: list[str]) -> None:
    assert run_segment("mug", *arguments).exit_code == 2


@pytest.mark.parametrize("content", [None, bytes(9), b"this is text"])
def test_files_that_are_no_images(tmp_path: Path, content: bytes | None) -> None:
    image = tmp_path / "image.png"
    if content is not None:
        image.write_bytes(content)
    message = "cannot read" if content is None else "is not an image that can be read"
    assert message in error_line(run_xsam("segment", image, "mug"), 2)


def test_a_missing_or_damaged_model(tmp_path: Path) -> None:
    line = error_line(run_xsam("segment", IMAGE, "mug", "--model", tmp_path / "nothing"), 1)
    assert "no model" in line
    assert "(give a folder written by `xsam convert`" in line
    folder = shutil.copytree(GOLDEN / "a", tmp_path / "a")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:1000])
    assert "is damaged" in error_line(run_xsam("segment", IMAGE, "mug", "--model", folder), 1)


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (ModelError("it broke", hint="fix it"), 1, "failed"),
        (QueueFullError("too many"), 2, "refused"),
        (DownloadError("no net"), 1, "failed"),
    ],
)
def test_errors_of_the_project_become_exit_codes(
    monkeypatch: pytest.MonkeyPatch, error: XSamError, code: int, status: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("xsam.engine.XSam.load", fail)
    line = error_line(run_segment("mug"), code)
    assert line == f"error: {error.message} ({error.hint})"
    result = run_segment("mug", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout) == {
        "status": status,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
    }


def test_an_overlay_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = error_line(run_segment("mug", "--out", tmp_path / "file" / "overlay.png"), 1)
    assert str(tmp_path / "file") in line


@pytest.mark.parametrize("name", [".png", "o.pbm", "o.pgm", "o.exr", "o", "o.png.txt"])
def test_formats_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path, name: str) -> None:
    """OpenCV says that it writes these, and does not write color images with them."""
    failure = json_line(run_segment("mug", "--out", tmp_path / name, "--json", "--model", "no model"), 2)
    assert "cannot write an image as" in failure["message"]


def test_an_image_with_12_of_16_bits_is_seen(tmp_path: Path) -> None:
    """It was read as an almost black one."""
    pixels = cv2.imread(str(IMAGE))
    deep_pixels = np.round(pixels / 255 * 4095).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep_pixels)
    arguments = ("mug", "--json", "--threshold", 0, "--model", GOLDEN / "a", "--device", "cpu")
    plain = json.loads(run_xsam("segment", IMAGE, *arguments).stdout)
    deep = json.loads(run_xsam("segment", tmp_path / "deep.png", *arguments).stdout)
    assert deep["segments"][0]["mask"] == plain["segments"][0]["mask"]
    assert deep["notes"] == ["deep.png uses only 12 of its 16 bits and was brightened to match"]
    assert "notes" not in plain


def test_bugs_are_one_line_and_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("xsam.engine.XSam.load", broken)
    line = error_line(run_segment("mug"), 1)
    assert "ZeroDivisionError: a bug (test_segment.py:" in line
    assert "XSAM_TRACEBACK=1" in line
    assert json_line(run_segment("mug", "--json"), 1)["code"] == "INTERNAL"
    monkeypatch.setenv("XSAM_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_segment("mug")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--device", "cuda"], "INVALID_OPTION", 'device must be "cpu" or "auto" on this machine'),
        (["--device", "gpu"], "INVALID_OPTION", 'device must be "auto", "cpu"'),
        (["--device", ""], "INVALID_OPTION", "device must be"),
        (["--device", "meta"], "INVALID_OPTION", "device must be"),
        (["--llm-device", "auto"], "INVALID_OPTION", "llm_device must be"),
        (["--device", "cpu:7"], "INVALID_OPTION", "device must be"),
        (["--threads", "100000"], "INVALID_OPTION", "threads must be an integer from 1 to 4096 or null"),
        (["--threads", "0"], "USAGE", "Invalid value for '--threads'"),
        (["--llm-weights", "int4"], "USAGE", "'int4' is not one of 'as_loaded', 'int8', 'bfloat16'"),
        (["--threshold", "nan"], "USAGE", "Invalid value for '--threshold'"),
        (["--nonsense"], "USAGE", "No such option"),
        (["--box", "1,2"], "INVALID_QUERY", "--box takes 4 numbers"),
        (["--model", ""], "CHECKPOINT", "no model ''"),
    ],
)
def test_with_json_every_refusal_is_a_line_of_json(arguments: list[str], code: str, message: str) -> None:
    """Some were tracebacks with nothing on stdout."""
    if arguments == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = run_xsam("segment", IMAGE, "mug", *arguments, "--json")
    failure = json_line(result, 1 if code == "CHECKPOINT" else 2)
    assert failure["code"] == code
    assert message in failure["message"]
    assert failure["status"] == ("failed" if code == "CHECKPOINT" else "refused")


def test_a_full_disk_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial picture stayed under the final name, and `--json` printed nothing."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    overlay = tmp_path / "overlay.png"
    overlay.write_bytes(b"the old picture")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        failure = json_line(run_segment("mug", "--out", overlay, "--json"), 1)
        line = error_line(run_segment("mug", "--out", overlay), 1)
    assert (failure["status"], failure["code"]) == ("failed", "FILE")
    assert failure["message"] == f"{overlay}: No space left on device"
    assert f"{overlay}: No space left on device (free some space" in line
    assert overlay.read_bytes() == b"the old picture"
    assert list(tmp_path.iterdir()) == [overlay]


@pytest.mark.parametrize("name", ["scene.png", "../here/scene.png"])
def test_the_input_is_not_overwritten(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    image = Path(shutil.copy(IMAGE, folder / "scene.png"))
    before = image.read_bytes()
    line = error_line(run_xsam("segment", image, "mug", "--out", folder / name, "--model", "tiny"), 2)
    assert "is the input image (write the result to another file)" in line
    assert image.read_bytes() == before


def test_an_output_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "overlay.png").mkdir()
    assert "Is a directory" in error_line(run_segment("mug", "--out", tmp_path / "overlay.png"), 1)


@pytest.mark.parametrize(
    "arguments", [["--class", "mug", "--class", "mug"], ["--class", "mug,mug"], ["--class", " mug , mug"]]
)
def test_a_repeated_category_is_one_category(arguments: list[str]) -> None:
    """The scores of a category that was given twice were halved."""
    once = json.loads(run_segment("--class", "mug", "--threshold", "0", "--json").stdout)
    twice = json.loads(run_segment(*arguments, "--threshold", "0", "--json").stdout)
    assert twice["segments"] == once["segments"] != []


def test_categories_with_commas_are_several() -> None:
    apart = json.loads(run_segment("--class", "mug", "--class", "cube", "--threshold", "0", "--json").stdout)
    joined = json.loads(run_segment("--class", "mug,cube", "--threshold", "0", "--json").stdout)
    assert joined["segments"] == apart["segments"]
    assert {segment["label"] for segment in joined["segments"]} == {"mug", "cube"}


def test_a_category_cannot_be_thing_and_stuff() -> None:
    line = error_line(run_segment("--class", "table", "--stuff", "Table"), 2)
    assert "the category 'table' is given as a thing and as stuff" in line


LOAD_OPTIONS = {
    "device": "cpu",
    "llm_device": "cpu:0",
    "llm_weights": "int8",
    "compiled": True,
    "threads": 2,
    "frame_cache_mib": 0.5,
}
LOAD_ARGUMENTS = (
    *("--device", "cpu", "--llm-device", "cpu:0", "--llm-weights", "int8", "--compiled"),
    *("--threads", "2", "--frame-cache-mib", "0.5"),
)


@pytest.mark.parametrize("command", [("segment", IMAGE, "mug", "--model", "tiny"), ("eval", "tiny")])
@pytest.mark.parametrize("given", [True, False])
def test_options_of_the_model_are_passed_on(
    monkeypatch: pytest.MonkeyPatch, command: tuple[object, ...], given: bool
) -> None:
    """Without options, every value is the default of `XSam.load`."""
    received: dict[str, object] = {}

    def load(model: str, **options: object) -> XSam:
        received.update(options, model=model)
        raise ModelError("that is all")

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(XSam.load).parameters.items()
        if name in LOAD_OPTIONS
    }
    monkeypatch.setattr("xsam.engine.XSam.load", load)
    assert run_xsam(*command, *(LOAD_ARGUMENTS if given else ())).exit_code == 1
    assert received == {"model": "tiny", **(LOAD_OPTIONS if given else defaults)}


@pytest.mark.parametrize("command", ["segment", "eval"])
def test_help_lists_the_options_of_the_model(command: str) -> None:
    output = run_xsam(command, "--help").output
    assert all(f"--{name.replace('_', '-')}" in output for name in LOAD_OPTIONS)
    assert f"{DEFAULT_FRAME_CACHE_MIB} by default" in output


@pytest.mark.parametrize("option", [("--threads", "0"), ("--frame-cache-mib", "-1"), ("--llm-weights", "4")])
def test_options_of_the_model_are_checked(option: tuple[str, str]) -> None:
    assert run_segment("mug", *option).exit_code == 2


def test_segmenting_with_options_of_the_model() -> None:
    result = run_segment("mug", "--threshold", "0", "--llm-device", "cpu:0", "--threads", "1", "--json")
    assert result.exit_code == 0
    assert (
        json.loads(result.stdout)["segments"]
        == json.loads(run_segment("mug", "--threshold", "0", "--json").stdout)["segments"]
    )
