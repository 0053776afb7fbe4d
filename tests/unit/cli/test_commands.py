"""The `xsam` command: messages, tables, exit codes; never a traceback for an error of the project."""

from __future__ import annotations

import errno
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from support.golden import GOLDEN
from xsam import Frame, MaskRle, XSam, XSamError, __version__, cli
from xsam.engine import DEFAULT_FRAME_CACHE_MIB
from xsam.errors import DownloadError, ModelError, QueueFullError
from xsam.sim import render, sample_scene

ROOT = Path(__file__).parents[3]
IMAGE = GOLDEN / "a" / "image.png"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def _xsam(*arguments: object) -> Result:
    """Run the command; an exception that is not an exit is the test's failure."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def _segment(*arguments: object) -> Result:
    return _xsam("segment", IMAGE, *arguments, "--model", GOLDEN / "a", "--device", "cpu")


def _error_line(result: Result, code: int) -> str:
    """The only line of the output."""
    assert result.exit_code == code
    assert "Traceback" not in result.output
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: ")
    return line


def _json_line(result: Result, code: int) -> dict[str, str]:
    """The only line on stdout, as JSON."""
    assert result.exit_code == code
    assert "Traceback" not in result.output
    (line,) = result.stdout.splitlines()
    failure: dict[str, str] = json.loads(line)
    assert failure.keys() == {"status", "code", "message", "hint"}
    assert failure["message"]
    return failure


# -- segment


def test_results_are_a_table(tmp_path: Path) -> None:
    overlay = tmp_path / "pictures" / "overlay.png"
    result = _segment("the red mug", "--out", overlay)
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
    result = _xsam(
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
    result = _segment("--class", "cat", "--class", "dog", "--stuff", "sky", "--threshold", "0.0", "--json")
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
    output = json.loads(_segment(*arguments, "--json").stdout)
    assert output["task"] == task
    assert output["status"] in ("found", "not_found")


def test_not_found_has_its_own_exit_code() -> None:
    result = _segment("the red mug", "--threshold", "1")
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
        (["--task", "generic"], "needs thing_classes or stuff_classes"),
        (["mug", "--out", "overlay.docx"], "cannot tell the image format of 'overlay.docx'"),
    ],
)
def test_invalid_queries_are_refused(arguments: list[str], message: str) -> None:
    assert message in _error_line(_segment(*arguments), 2)


@pytest.mark.parametrize("arguments", [["--task", "nonsense"], ["--threshold", "1.5"], ["--unknown"]])
def test_wrong_usage_has_the_code_of_a_refusal(arguments: list[str]) -> None:
    assert _segment("mug", *arguments).exit_code == 2


@pytest.mark.parametrize("content", [None, b"", b"this is text"])
def test_files_that_are_no_images(tmp_path: Path, content: bytes | None) -> None:
    image = tmp_path / "image.png"
    if content is not None:
        image.write_bytes(content)
    message = "cannot read" if content is None else "is not an image that OpenCV can read"
    assert message in _error_line(_xsam("segment", image, "mug"), 2)


def test_a_missing_or_damaged_model(tmp_path: Path) -> None:
    line = _error_line(_xsam("segment", IMAGE, "mug", "--model", tmp_path / "nothing"), 1)
    assert "no model" in line
    assert "(give a folder written by `xsam convert`" in line
    folder = shutil.copytree(GOLDEN / "a", tmp_path / "a")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:1000])
    assert "is damaged" in _error_line(_xsam("segment", IMAGE, "mug", "--model", folder), 1)


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
    line = _error_line(_segment("mug"), code)
    assert line == f"error: {error.message} ({error.hint})"
    result = _segment("mug", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout) == {
        "status": status,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
    }


def test_an_overlay_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = _error_line(_segment("mug", "--out", tmp_path / "file" / "overlay.png"), 1)
    assert str(tmp_path / "file") in line


def test_bugs_are_one_line_and_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("xsam.engine.XSam.load", broken)
    line = _error_line(_segment("mug"), 1)
    assert "ZeroDivisionError: a bug (test_commands.py:" in line
    assert "XSAM_TRACEBACK=1" in line
    assert _json_line(_segment("mug", "--json"), 1)["code"] == "INTERNAL"
    monkeypatch.setenv("XSAM_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        _segment("mug")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--device", "cuda"], "INVALID_OPTION", 'device must be "cpu" or "auto" on this machine'),
        (["--device", "gpu"], "INVALID_OPTION", 'device must be "auto", "cpu"'),
        (["--device", ""], "INVALID_OPTION", "device must be"),
        (["--device", "meta"], "INVALID_OPTION", "device must be"),
        (["--llm-device", "auto"], "INVALID_OPTION", "llm_device must be"),
        (["--threads", "100000"], "INVALID_OPTION", "threads must be an integer from 1 to 4096 or null"),
        (["--threads", "0"], "USAGE", "Invalid value for '--threads'"),
        (["--llm-weights", "int4"], "USAGE", "'int4' is not one of 'as_loaded', 'int8'"),
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
    result = _xsam("segment", IMAGE, "mug", *arguments, "--json")
    failure = _json_line(result, 1 if code == "CHECKPOINT" else 2)
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
        failure = _json_line(_segment("mug", "--out", overlay, "--json"), 1)
        line = _error_line(_segment("mug", "--out", overlay), 1)
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
    line = _error_line(_xsam("segment", image, "mug", "--out", folder / name, "--model", "tiny"), 2)
    assert "is the input image (write the result to another file)" in line
    assert image.read_bytes() == before


def test_an_output_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "overlay.png").mkdir()
    assert "Is a directory" in _error_line(_segment("mug", "--out", tmp_path / "overlay.png"), 1)


@pytest.mark.parametrize(
    "arguments", [["--class", "mug", "--class", "mug"], ["--class", "mug,mug"], ["--class", " mug , mug"]]
)
def test_a_repeated_category_is_one_category(arguments: list[str]) -> None:
    """The scores of a category that was given twice were halved."""
    once = json.loads(_segment("--class", "mug", "--threshold", "0", "--json").stdout)
    twice = json.loads(_segment(*arguments, "--threshold", "0", "--json").stdout)
    assert twice["segments"] == once["segments"] != []


def test_categories_with_commas_are_several() -> None:
    apart = json.loads(_segment("--class", "mug", "--class", "cube", "--threshold", "0", "--json").stdout)
    joined = json.loads(_segment("--class", "mug,cube", "--threshold", "0", "--json").stdout)
    assert joined["segments"] == apart["segments"]
    assert {segment["label"] for segment in joined["segments"]} == {"mug", "cube"}


def test_a_category_cannot_be_thing_and_stuff() -> None:
    line = _error_line(_segment("--class", "table", "--stuff", "Table"), 2)
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
    assert _xsam(*command, *(LOAD_ARGUMENTS if given else ())).exit_code == 1
    assert received == {"model": "tiny", **(LOAD_OPTIONS if given else defaults)}


@pytest.mark.parametrize("command", ["segment", "eval"])
def test_help_lists_the_options_of_the_model(command: str) -> None:
    output = _xsam(command, "--help").output
    assert all(f"--{name.replace('_', '-')}" in output for name in LOAD_OPTIONS)
    assert f"{DEFAULT_FRAME_CACHE_MIB} by default" in output


@pytest.mark.parametrize("option", [("--threads", "0"), ("--frame-cache-mib", "-1"), ("--llm-weights", "4")])
def test_options_of_the_model_are_checked(option: tuple[str, str]) -> None:
    assert _segment("mug", *option).exit_code == 2


def test_segmenting_with_options_of_the_model() -> None:
    result = _segment("mug", "--threshold", "0", "--llm-device", "cpu:0", "--threads", "1", "--json")
    assert result.exit_code == 0
    assert (
        json.loads(result.stdout)["segments"]
        == json.loads(_segment("mug", "--threshold", "0", "--json").stdout)["segments"]
    )


# -- the other commands


def test_convert(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(GOLDEN / "c" / "tokenizer", source / "tokenizer")
    shutil.copy(GOLDEN / "c" / "config.json", source)
    torch.save(load_file(GOLDEN / "c" / "model.safetensors"), source / "pytorch_model.bin")
    result = _xsam("convert", source, out, "--dtype", "bfloat16")
    assert result.exit_code == 0
    assert "released layout, bfloat16; " in result.output
    assert "tokenizer: 423 tokens for 423 rows" in result.output
    assert f"wrote {out} (" in result.output
    assert len([line for line in result.output.splitlines() if line.endswith("  model.safetensors")]) == 1
    assert "is not empty (give a new folder, or --force" in _error_line(_xsam("convert", source, out), 1)
    assert _xsam("convert", source, out, "--force").exit_code == 0
    assert _xsam("segment", IMAGE, "mug", "--model", out, "--device", "cpu").exit_code == 0


def test_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = _error_line(_xsam("download", "--out", tmp_path / "here"), 1)
    assert "switched off by HF_HUB_OFFLINE" in line
    assert f"into {tmp_path / 'here' / 'X-SAM'}" in line


def test_download_says_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xsam.weights.download import DownloadReport

    requested: dict[str, str] = {}

    def pretend(out: Path, *, revisions: dict[str, str]) -> DownloadReport:
        requested.update(revisions)
        return DownloadReport(
            out=out, commits={"hao9610/X-SAM": "0abc"}, file_count=3, size_bytes=9_200_000_000, fetched=("x",)
        )

    monkeypatch.setattr("xsam.weights.download.download", pretend)
    out = tmp_path / "my files"
    result = _xsam("download", "--out", out, "--revision", "hao9610/X-SAM=0abc")
    assert result.exit_code == 0
    assert requested == {"hao9610/X-SAM": "0abc"}
    assert "0abc  hao9610/X-SAM" in result.output
    assert "9.20 GB checked" in result.output
    assert result.output.strip().endswith(f"next: xsam convert '{out}' {tmp_path / 'xsam_full'}")


@pytest.mark.parametrize("revision", ["hao9610/X-SAM", "=abc", "hao9610/X-SAM="])
def test_download_requires_complete_revisions(tmp_path: Path, revision: str) -> None:
    result = _xsam("download", "--out", tmp_path, "--revision", revision)
    assert result.exit_code == 2
    assert "REPO=COMMIT" in result.output


def test_scenes(tmp_path: Path) -> None:
    seed, hw = 2_000_003, (120, 160)
    result = _xsam("scenes", "--seed", seed, "--out", tmp_path / "new", "--width", hw[1], "--height", hw[0])
    assert result.exit_code == 0
    paths = [Path(line) for line in result.output.split()]
    assert [path.name for path in paths] == [
        f"scene_{seed}_{name}" for name in ("rgb.png", "depth_mm.png", "instances.png", "truth.json")
    ]
    rgb, depth, ids = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths[:3])
    view = render(sample_scene(seed), image_hw=hw)
    assert np.array_equal(rgb[..., ::-1], view.rgb)
    assert (depth.dtype, ids.dtype) == (np.uint16, np.uint16)
    assert np.abs(depth / 1000.0 - view.depth_m).max() <= 0.0006
    assert np.array_equal(ids, view.instance_ids)
    truth = json.loads(paths[3].read_text())
    assert truth["image_hw"] == list(hw)
    assert truth["intrinsics"] == view.intrinsics.tolist()
    present = {item["instance_id"] for item in truth["objects"]}
    assert present == set(np.unique(ids).tolist()) - {0}
    kinds = {expression["kind"] for expression in truth["expressions"]}
    assert {"category", "reasoning", "absent_category"} <= kinds
    assert all(set(e["instance_ids"]) <= present for e in truth["expressions"])
    Frame(rgb=np.ascontiguousarray(rgb[..., ::-1]), depth_m=(depth / 1000.0).astype(np.float32))


def test_version() -> None:
    lines = _xsam("version").output.splitlines()
    assert lines[0] == f"xsam {__version__}"
    assert f"torch {torch.__version__}" in lines


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


def test_help_is_fast_because_it_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "cv2", "huggingface_hub", "PIL", "scipy")
    done = _python(f"""
import sys
from xsam.cli import main
sys.argv = ["xsam", "--help"]
try:
    main()
except SystemExit as stop:
    print("loaded:", *sorted(set({heavy!r}) & set(sys.modules)), "code:", stop.code)
""")
    assert done.stdout.rstrip().endswith("loaded: code: 0"), done.stdout + done.stderr
    commands = ("segment", "eval", "convert", "download", "scenes", "version")
    assert all(name in done.stdout for name in commands)


@pytest.mark.slow
def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xsam", "segment", "nowhere.png", "mug"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: cannot read nowhere.png: No such file or directory\n"


@pytest.mark.slow
def test_an_install_without_the_model_says_so() -> None:
    done = _python(f"""
import sys
sys.modules["torch"] = None
from xsam.cli import main
sys.argv = ["xsam", "segment", {str(IMAGE)!r}, "mug"]
main()
""")
    assert done.returncode == 1
    assert (
        done.stderr.strip() == "error: this needs torch, which is not installed (pip install 'xsam[model]')"
    )


# -- usage of eval


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "nonsense"], "unknown dataset kind 'nonsense'"),
        (
            ["--source", "coco_panoptic", "--option", "nonsense=1"],
            "missing a required argument: 'annotations'",
        ),
        (["--coco", "somewhere", "--task", "nonsense"], "unknown tasks ['nonsense']"),
        (["--task", "panoptic"], "--task needs --coco"),
        (["--split", "val2017"], "--split needs --coco"),
        (["--prompts", "3"], "--prompts needs --source"),
        (["--count", "3"], "--count needs --pictures"),
        (["--coco", "somewhere", "--per-scene", "3"], "--per-scene is for simulated scenes only"),
        (["--scenes", "nonsense"], "expected START:COUNT, got 'nonsense'"),
        (["--scenes", "1:1", "--coco", "somewhere"], "give one of --scenes, --coco and --source"),
        (["--limit", "0"], "Invalid value for '--limit'"),
    ],
)
def test_wrong_usage_of_eval_is_told_from_failure(arguments: list[str], message: str) -> None:
    """Some had the exit code of a failure, and options without effect were ignored."""
    failure = _json_line(_xsam("eval", "tiny", *arguments, "--json"), 2)
    assert failure["code"] in ("USAGE", "INVALID_OPTION")
    assert message in failure["message"]
    assert _xsam("eval", "tiny", *arguments).exit_code == 2


def test_data_that_is_missing_is_a_failure(tmp_path: Path) -> None:
    failure = _json_line(_xsam("eval", "tiny", "--coco", tmp_path, "--json"), 1)
    assert (failure["status"], failure["code"]) == ("failed", "DATASET")


def test_scores_are_printed_even_if_pictures_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xsam.eval.pictures.PictureSample.write", full)
    result = _xsam("eval", "tiny", "--scenes", "2000000:1", "--pictures", tmp_path, "--json")
    assert result.exit_code == 1
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["n"] == 1
    assert f"error: cannot write images to {tmp_path}: No space left on device" in result.stderr


def test_weights_with_a_small_vocabulary(tmp_path: Path) -> None:
    """Without a config.json they are taken for the full size, whose special tokens they do not have."""
    tensors = load_file(GOLDEN / "c" / "model.safetensors")
    torch.save(tensors, tmp_path / "iter_10.pth")
    shutil.copytree(GOLDEN / "c" / "tokenizer", tmp_path / "tokenizer")
    line = _error_line(_xsam("convert", tmp_path, tmp_path / "out"), 1)
    assert "the weights do not fit the full-size model: the token ids of llm must be below" in line
    assert "need their config.json" in line
