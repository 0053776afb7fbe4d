"""`xsam segment` for more than one picture: arguments, outputs, the one line of JSON, and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from support.golden import GOLDEN, GOLDEN_X2SAM
from tests.unit.cli.command import error_line, json_line, run_xsam
from tests.unit.media.clips import scene, write_video
from xsam import Query, XSam
from xsam.cli.arguments import split_arguments
from xsam.errors import InvalidQueryError
from xsam.media.video_files import VideoFile

pytestmark = pytest.mark.slow

MODEL = ("--model", GOLDEN / "a", "--device", "cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", [scene(step) for step in range(6)])


def test_sources_come_first_and_queries_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert split_arguments(["photos", "clip.mp4", "mug", "what is red?"]) == (
        ["photos", "clip.mp4"],
        ["mug", "what is red?"],
    )
    assert split_arguments(["gone.png", "gone_too.png", "mug"]) == (["gone.png", "gone_too.png"], ["mug"])
    assert split_arguments(["mug"]) == (["mug"], [])
    with pytest.raises(InvalidQueryError, match=r"'b\.png' looks like a source, but follows the query 'mug'"):
        split_arguments(["a.png", "mug", "b.png"])


def test_a_video_with_every_output(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--class", "cat", "--threshold", 0, "--every", 2, "--track", "--out", out, *MODEL)
    result = run_xsam(
        "segment", clip, *arguments, "--save", "png,labels,video", "--save", "coco,yolo", "--json"
    )
    (line,) = result.stdout.splitlines()
    summary = json.loads(line)
    assert (result.exit_code, summary["status"]) in ((0, "found"), (4, "unsure"))
    assert (summary["frames"], summary["complete"], summary["damaged"]) == (3, True, 0)
    assert {Path(path).name for path in summary["outputs"]} == {
        *("results.jsonl", "images", "overlays", "masks", "overlay.mp4", "instances_results.json"),
        *("data.yaml", "labels"),
    }
    assert all(Path(path).exists() for path in summary["outputs"])
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines[1:]] == ["clip_000000", "clip_000002", "clip_000004"]
    assert lines[1]["results"][0].keys() >= {"status", "model", "task", "image", "segments", "timing_s"}

    failure = json_line(run_xsam("segment", clip, *arguments, "--json"), 2)
    assert "--resume" in failure["hint"]
    again = json.loads(run_xsam("segment", clip, *arguments, "--save", "coco", "--resume", "--json").stdout)
    assert (again["frames"], again["resumed"]) == (3, 3)


def test_tracking_uses_the_memory_of_a_model_that_has_one(clip: Path, tmp_path: Path) -> None:
    """The same masks as a session gives; the second video begins without the memory of the first."""
    model = GOLDEN_X2SAM / "x2a"
    arguments = ("cat", "--threshold", 0, "--every", 3, "--track", "--out", tmp_path / "out")
    run_xsam("segment", clip, clip, *arguments, "--model", model, "--device", "cpu", "--json")
    session = XSam.load(model, device="cpu").open_session(Query(text="cat", score_threshold=0.0))
    frames = [frame.load([]) for frame in VideoFile("clip", clip).frames()][::3]
    expected = [session.step(frame).segments.masks for frame in frames]
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()[1:]
    found = [
        tuple(segment["mask"]["counts"].encode() for segment in json.loads(line)["results"][0]["segments"])
        for line in lines
    ]
    assert found == 2 * [tuple(mask.counts for mask in masks) for masks in expected]


def test_the_folder_of_a_run_has_a_default(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_xsam("segment", clip, "a cat", "a dog", "--threshold", 1, "--every", "1s", *MODEL)
    assert result.exit_code == 3
    assert "1 frames: 2 not found; 0 masks" in result.output
    assert (tmp_path / "runs" / "segment" / "clip" / "results.jsonl").is_file()


def test_outputs_of_one_picture(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(scene(0)).save(picture)
    result = run_xsam("segment", picture, "cat", "--save", "png", "--out", tmp_path / "out", *MODEL)
    assert result.exit_code in (0, 3, 4)
    assert (tmp_path / "out" / "overlays" / "picture.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--save", "gif"], "INVALID_OPTION", "--save does not know 'gif'"),
        (["--every", "0"], "INVALID_OPTION", "--every takes"),
        (["--fps", "0"], "USAGE", "Invalid value for '--fps'"),
        (["--class", "a"], "INVALID_QUERY", "three different requests"),
        (["--out", "{clip}"], "INVALID_OPTION", "is a file; it must be the folder of the run"),
        (["--out", "overlay.mp4"], "INVALID_OPTION", "is a file; it must be the folder of the run"),
        (["--save", "png", "--out", "mug.png"], "INVALID_OPTION", "it must be the folder of the run"),
    ],
)
def test_wrong_options_are_refused_before_the_model_is_loaded(
    clip: Path, tmp_path: Path, arguments: list[str], code: str, message: str
) -> None:
    filled = [argument.replace("{clip}", str(clip)) for argument in arguments]
    out = () if "--out" in arguments else ("--out", tmp_path / "out")
    failure = json_line(run_xsam("segment", clip, "cat", *filled, *out, "--model", "none", "--json"), 2)
    assert failure["code"] == code
    assert message in failure["message"]
    assert not (tmp_path / "out").exists()


def test_sources_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    line = error_line(run_xsam("segment", tmp_path / "empty.mp4", "cat", "--model", "none"), 2)
    assert "cannot be opened as a video: it is empty" in line
    line = error_line(run_xsam("segment", tmp_path, "cat", "--model", "none"), 2)
    assert "empty.mp4" in line


def test_an_output_that_cannot_be_written_is_one_line_of_json(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "overlays").write_text("a file in the place of the folder")
    failure = json_line(
        run_xsam("segment", clip, "cat", "--save", "png", "--out", tmp_path, *MODEL, "--json"), 1
    )
    assert failure["code"] == "FILE"
    assert "overlays" in failure["message"]


def test_all_frames_damaged_is_a_failure(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    result = run_xsam("segment", tmp_path, "cat", "--out", tmp_path / "out", *MODEL, "--json")
    summary = json.loads(result.stdout)
    assert (result.exit_code, summary["status"], summary["damaged"]) == (1, "failed", 3)
    assert "0.png" in summary["problems"][0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_complete_files(tmp_path: Path, number: signal.Signals) -> None:
    clip = write_video(tmp_path / "clip.mp4", [scene(step % 20) for step in range(400)])
    out = tmp_path / "out"
    command = [sys.executable, "-m", "xsam", "segment", clip, "cat", "--save", "video,coco", "--out", out]
    process = subprocess.Popen(
        [*map(str, command), *map(str, MODEL), "--json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    deadline = time.monotonic() + 100
    journal = out / "results.jsonl"
    while not (journal.exists() and len(journal.read_bytes().splitlines()) > 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    summary = json.loads(stdout)
    assert summary["complete"] is False
    data = json.loads((out / "annotations" / "instances_results.json").read_text())
    assert len(data["images"]) == summary["frames"] < 400
    assert (out / "overlay.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("av", "clip.mp4", "media"), ("mcap", "a.mcap", "bags"), ("yaml", "a", "bags")],
)
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, extra: str
) -> None:
    source = tmp_path / name
    if name == "a":
        source.mkdir()
        (source / "metadata.yaml").write_text("")
    else:
        source.write_bytes(b"\x89MCAP0\r\n" if package == "mcap" else b"video")
    monkeypatch.setitem(sys.modules, package, None)
    for module in [module for module in sys.modules if module.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    failure = json_line(run_xsam("segment", source, "cat", "--model", "none", "--json"), 1)
    assert failure["code"] == "MISSING_PACKAGE"
    assert failure["hint"] == f"pip install 'xsam[{extra}]'"


def test_masks_are_carried_between_keyframes(clip: Path, tmp_path: Path) -> None:
    """Every third frame is seen by the model, at least; the results say which."""
    arguments = ("--class", "cat", "--threshold", 0, "--out", tmp_path, *MODEL)
    result = run_xsam("segment", clip, *arguments, "--propagate", 3, "--track", "--json")
    assert result.exit_code in (0, 4)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert lines[0]["run"]["propagate"] == 3
    carried = [line["results"][0].get("carried") for line in lines[1:]]
    assert len(carried) == 6
    assert carried[0] is None
    assert any(carried)
    for line, item in zip(lines[1:], carried, strict=True):
        if item is not None:
            assert item["age_s"] == pytest.approx((line["stamp_ns"] - item["keyframe_ns"]) * 1e-9)
            assert 1 <= item["frames"] < 3
            assert 0.0 <= item["confidence"] < 1.0


def test_clips_need_a_range_of_seeds(tmp_path: Path) -> None:
    assert run_xsam("eval", GOLDEN / "a", "--clips", "five").exit_code == 2
    assert run_xsam("eval", GOLDEN / "a", "--clips", "5:1", "--out", tmp_path).exit_code == 2
    assert run_xsam("eval", GOLDEN / "a", "--clips", "5:1", "--scenes", "5:1").exit_code == 2
