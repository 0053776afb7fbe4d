"""`xsam label`: what it prints, its errors in one line, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.golden import GOLDEN
from tests.unit.cli.command import error_line, json_line, run_xsam
from tests.unit.media.clips import scene, write_video
from xsam.cli.label import parse_classes
from xsam.errors import InvalidOptionError

pytestmark = pytest.mark.slow

MODEL = ("--model", GOLDEN / "a", "--device", "cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [scene(step // 2) for step in range(12)]  # each twice
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def test_a_data_set_and_decisions_about_it(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (
        "label",
        clip,
        "--classes",
        "cat, dog",
        "--threshold",
        0,
        "--propagate",
        3,
        "--out",
        out,
        *MODEL,
    )
    result = run_xsam(*arguments, "--json")
    (line,) = result.stdout.splitlines()
    summary = json.loads(line)
    assert (result.exit_code, summary["status"]) in ((0, "found"), (4, "unsure"))
    assert (summary["frames"], summary["duplicates"], summary["complete"]) == (6, 6, True)
    assert summary["data"]["frames"] == 6
    assert summary["data"]["labels"] + summary["data"]["ignored"] > 0
    assert {Path(path).name for path in summary["outputs"]} >= {
        "review.html",
        "label.json",
        "data.yaml",
        "images",
    }
    assert all(Path(path).exists() for path in summary["outputs"])

    failure = json_line(run_xsam(*arguments, "--json"), 2)
    assert "--resume" in failure["hint"]
    again = run_xsam(*arguments, "--resume")
    assert again.exit_code == result.exit_code
    assert "6 near-duplicates were left out" in again.output

    run = json.loads((out / "label.json").read_text())["run"]
    decisions = tmp_path / "decisions.json"
    item = json.loads((out / "annotations" / "instances_train.json").read_text())["annotations"][0]["item"]
    content = {"format": "xsam-label-decisions/1", "run": run, "decisions": {item: "reject"}}
    decisions.write_text(json.dumps(content))
    applied = run_xsam("label", "--apply", decisions, "--out", out, "--json")
    assert applied.exit_code == 0
    summary = json.loads(applied.stdout)
    assert (summary["status"], summary["duplicates"], summary["data"]["decisions"]) == ("applied", 6, 1)
    content["run"] = "f" * 32
    decisions.write_text(json.dumps(content))
    failure = json_line(run_xsam("label", "--apply", decisions, "--out", out, "--json"), 2)
    assert "is about another run" in failure["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{clip}", "--classes", "cat"], "INVALID_OPTION", "--out is missing"),
        (["--classes", "cat", "--out", "{out}"], "INVALID_OPTION", "there is nothing to label"),
        (["{clip}", "--out", "{out}"], "INVALID_OPTION", "there is nothing to label"),
        (["{clip}", "--classes", ",", "--out", "{out}"], "INVALID_OPTION", "there is nothing to label"),
        (["{clip}", "--classes", "c\0t", "--out", "{out}"], "INVALID_OPTION", "cannot be printed"),
        (["{clip}", "--classes", "cat", "--out", "{clip}"], "INVALID_OPTION", "is a file"),
        (["{clip}", "--classes", "cat", "--out", "{out}", "--every", "x"], "INVALID_OPTION", "--every takes"),
        (["{clip}", "--classes", "cat", "--out", "{out}", "--val", "1"], "USAGE", "'--val'"),
        (["{clip}", "--apply", "d.json", "--out", "{out}"], "INVALID_OPTION", "--apply takes no sources"),
        (["--apply", "d.json", "--out", "{out}"], "SOURCE", "there is no run in"),
        (["gone.mp4", "--classes", "cat", "--out", "{out}"], "SOURCE", "gone.mp4"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    clip: Path, tmp_path: Path, arguments: list[str], code: str, message: str
) -> None:
    out = tmp_path / "out"
    filled = [argument.replace("{clip}", str(clip)).replace("{out}", str(out)) for argument in arguments]
    model = () if "--apply" in arguments else ("--model", "none")
    failure = json_line(run_xsam("label", *filled, *model, "--json"), 2)
    assert failure["code"] == code
    assert message in failure["message"]
    assert not out.exists()


def test_an_error_is_one_line(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file in the place of the folder")
    line = error_line(run_xsam("label", clip, "--classes", "cat", "--out", tmp_path, *MODEL), 1)
    assert "images" in line


def test_every_option_has_an_example() -> None:
    text = run_xsam("label", "--help").output
    for option in (
        "--classes",
        "--out",
        "--apply",
        "--propagate",
        "--duplicates",
        "--val",
        "--gray",
        "--review",
    ):
        assert text.count(option) >= 2, option


def test_classes() -> None:
    assert parse_classes(["mug, plate ,", "teddy  bear", "mug"]) == ("mug", "plate", "teddy bear")
    with pytest.raises(InvalidOptionError, match=r"'a\\x1b\[2Jb' has characters"):
        parse_classes(["a\x1b[2Jb"])
