"""The other commands, help, versions, and an install without the model."""

from __future__ import annotations

import errno
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from support.golden import GOLDEN
from tests.unit.cli.command import IMAGE, error_line, json_line, run_xsam
from xsam import Frame, __version__
from xsam.sim import render, sample_scene

ROOT = Path(__file__).parents[3]


def _options(*values: str) -> list[str]:
    return [argument for value in values for argument in ("--option", value)]


def _four_folders(name: str) -> list[str]:
    options = ("--llm", "--vision", "--sam", "--mask2former")
    return [argument for option in options for argument in (option, name)]


@pytest.mark.slow
def test_convert(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(GOLDEN / "c" / "tokenizer", source / "tokenizer")
    shutil.copy(GOLDEN / "c" / "config.json", source)
    torch.save(load_file(GOLDEN / "c" / "model.safetensors"), source / "pytorch_model.bin")
    result = run_xsam("convert", source, out, "--dtype", "bfloat16")
    assert result.exit_code == 0
    assert "released layout, bfloat16; " in result.output
    assert "tokenizer: 423 tokens for 423 rows" in result.output
    assert f"wrote {out} (" in result.output
    assert len([line for line in result.output.splitlines() if line.endswith("  model.safetensors")]) == 1
    assert "is not empty (give a new folder, or --force" in error_line(run_xsam("convert", source, out), 2)
    assert run_xsam("convert", source, out, "--force").exit_code == 0
    assert run_xsam("segment", IMAGE, "mug", "--model", out, "--device", "cpu").exit_code == 0


def test_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = error_line(run_xsam("download", "--out", tmp_path / "here"), 1)
    assert "switched off by HF_HUB_OFFLINE" in line
    assert f"into {tmp_path / 'here' / 'X-SAM'}" in line


def test_download_says_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xsam.weights.download import DownloadReport

    requested: dict[str, str] = {}

    def pretend(out: Path, *, revisions: dict[str, str], repositories: object) -> DownloadReport:
        requested.update(revisions)
        return DownloadReport(
            out=out, commits={"hao9610/X-SAM": "0abc"}, file_count=3, size_bytes=9_200_000_000, fetched=("x",)
        )

    monkeypatch.setattr("xsam.weights.download.download", pretend)
    out = tmp_path / "my files"
    result = run_xsam("download", "--out", out, "--revision", "hao9610/X-SAM=0abc")
    assert result.exit_code == 0
    assert requested == {"hao9610/X-SAM": "0abc"}
    assert "0abc  hao9610/X-SAM" in result.output
    assert "9.20 GB checked" in result.output
    assert result.output.strip().endswith(f"next: xsam convert '{out}' {tmp_path / 'xsam_full'}")


@pytest.mark.parametrize("revision", ["hao9610/X-SAM", "=abc", "hao9610/X-SAM="])
def test_download_requires_complete_revisions(tmp_path: Path, revision: str) -> None:
    result = run_xsam("download", "--out", tmp_path, "--revision", revision)
    assert result.exit_code == 2
    assert "REPO=COMMIT" in result.output


def test_scenes(tmp_path: Path) -> None:
    seed, hw = 2_000_003, (120, 160)
    result = run_xsam(
        "scenes", "--seed", seed, "--out", tmp_path / "new", "--width", hw[1], "--height", hw[0]
    )
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


@pytest.mark.parametrize(
    ("module", "arguments", "code", "message"),
    [
        ("xsam.eval.scenes", ["no model", "--scenes", "0:1"], 1, "no model 'no model'"),
        ("xsam.eval.scenes", ["tiny", "--per-scene", "0"], 2, "Invalid value for '--per-scene'"),
        ("xsam.sim.shards", ["--start", "0", "--count", "0", "--out", "x"], 2, "Invalid value for '--count'"),
        (
            "xsam.sim.shards",
            ["--start", "-1", "--count", "1", "--out", "x"],
            2,
            "Invalid value for '--start'",
        ),
        ("xsam.train.run", ["nothing", "--out", "x"], 2, "no such recipe: nothing"),
        ("xsam.train.calibrate", ["no model"], 1, "no model 'no model'"),
        ("xsam.train.calibrate", ["tiny", "--scenes", "1"], 2, "expected START:COUNT, got '1'"),
        ("xsam.train.curves", ["nothing", "--out", "x"], 2, "nothing"),
        ("xsam.train.curves", ["nothing"], 2, "Missing option '--out'"),
        ("xsam.train.assemble", [*_four_folders("nothing"), "--out", "x"], 1, "no tokenizer folder nothing"),
        ("xsam.train.pipeline", ["--smoke", "--data", "/dev/null/x", "--out", "x"], 1, "Not a directory"),
    ],
)
def test_commands_of_modules_end_with_one_line(
    module: str, arguments: list[str], code: int, message: str
) -> None:
    """They were tracebacks, and wrong usage several lines; 2 is for a bad value, 1 for work that failed."""
    result = CliRunner().invoke(importlib.import_module(module).app, arguments)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == code
    line = result.output.strip().splitlines()[-1] if code == 1 else error_line(result, 2)
    assert line.startswith("error: ")
    assert message in line


def test_wrong_usage_before_any_command_is_a_line_of_json() -> None:
    assert json_line(run_xsam("--json"), 2)["code"] == "USAGE"


def test_version() -> None:
    lines = run_xsam("version").output.splitlines()
    assert lines[0] == f"xsam {__version__}"
    assert f"torch {torch.__version__}" in lines


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


def test_help_is_fast_because_it_loads_nothing_heavy() -> None:
    """Half of its time was NumPy, for the names of tasks, and Rich, which prints results only."""
    heavy = ("numpy", "pycocotools", "scipy", "cv2", "PIL", "av", "torch", "transformers", "tokenizers")
    heavy += ("safetensors", "huggingface_hub", "fastapi", "yaml", "rich", "asyncio", "pydantic")
    commands = ("segment", "label", "serve", "eval", "train", "convert", "download", "scenes", "version")
    done = _python(f"""
import sys
from xsam.cli import app
for arguments in (["--help"], *([command, "--help"] for command in {commands!r})):
    app(arguments, prog_name="xsam", standalone_mode=False)
    print("loaded:", *sorted(set({heavy!r}) & set(sys.modules)))
""")
    assert done.returncode == 0, done.stderr
    helps = [text.splitlines() for text in done.stdout.split("Usage: xsam ")[1:]]
    assert [lines[0].split()[0] for lines in helps] == ["[OPTIONS]", *commands]
    assert all(f"  {command}  " in "\n".join(helps[0]) for command in commands)
    summary, *loaded = (set(lines[-1].split()) for lines in helps)
    assert summary == {"loaded:"}
    assert all(names <= {"loaded:", "pydantic"} for names in loaded)  # Typer checks parameters with Pydantic


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
        (["--scenes", "1:1", "--coco", "somewhere"], "give one of --scenes, --coco, --source, --benchmark"),
        (["--limit", "0"], "Invalid value for '--limit'"),
    ],
)
def test_wrong_usage_of_eval_is_told_from_failure(arguments: list[str], message: str) -> None:
    """Some had the exit code of a failure, and options without effect were ignored."""
    failure = json_line(run_xsam("eval", "tiny", *arguments, "--json"), 2)
    assert failure["code"] in ("USAGE", "INVALID_OPTION")
    assert message in failure["message"]
    assert message in error_line(run_xsam("eval", "tiny", *arguments), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "tiny/nosuch", "--out", "x"], "no such recipe: tiny/nosuch"),
        (["train", "tiny/stage1", "--out", "x", "--set", "x/nosuch"], "expected FIELD=VALUE, got 'x/nosuch'"),
        (["train", "tiny/stage1", "--out", "x", "--set", "steps=many"], "steps must be int, got 'many'"),
        (["train", "tiny/stage1", "--out", "x", "--set", "stepps=3"], "unknown field(s) stepps"),
        (["train", "tiny/stage1", "--out", "x", "--image-size", "17"], "must be a multiple of 16 pixels"),
        (["train", "tiny/stage1", "--out", "x", "--image-size", "big"], "Invalid value for '--image-size'"),
        (["train", "tiny/stage1"], "Missing option '--out'"),
        (["download", "--revision", "nosuch/x=abc"], "nothing is downloaded from nosuch/x"),
        (
            ["download", "x2sam", "--revision", "hao9610/X-SAM=abc"],
            "nothing is downloaded from hao9610/X-SAM",
        ),
        (["download", "--revision", "nosuch/x"], "write REPO=COMMIT"),
        (["download", "nosuch"], "'nosuch' is not one of 'xsam', 'x2sam'"),
        (["convert", "a", "b", "--dtype", "int8"], "Invalid value for '--dtype'"),
        (["eval", "tiny", "--benchmark", "nosuch", "--data", "/"], "unknown benchmark 'nosuch'"),
        (["eval", "tiny", "--source", "llava", "--option", "turn"], "write NAME=VALUE"),
        (
            ["eval", "tiny", "--source", "llava", *_options("annotations=a", "images=b", "turn=last")],
            "turn must be 'first' or 'random'",
        ),
        (["eval", "tiny", "--scenes", "1:1", "--device", "gpu"], "device must be"),
        (["scenes", "--out", "x", "--width", "5"], "Invalid value for '--width'"),
        (["nosuch"], "No such command 'nosuch'"),
        (["version", "extra"], "unexpected extra argument"),
    ],
)
def test_bad_values_are_wrong_usage(arguments: list[str], message: str) -> None:
    """Some had the exit code of a failure; those that typer finds were drawn in a box of several lines."""
    assert message in error_line(run_xsam(*arguments), 2)


def test_data_that_is_missing_is_a_failure(tmp_path: Path) -> None:
    failure = json_line(run_xsam("eval", "tiny", "--coco", tmp_path, "--json"), 1)
    assert (failure["status"], failure["code"]) == ("failed", "DATASET")


@pytest.mark.slow
def test_scores_are_printed_even_if_pictures_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xsam.eval.pictures.PictureSample.write", full)
    result = run_xsam("eval", "tiny", "--scenes", "2000000:1", "--pictures", tmp_path, "--json")
    assert result.exit_code == 1
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["n"] == 1
    assert f"error: cannot write images to {tmp_path}: No space left on device" in result.stderr


def test_weights_with_a_small_vocabulary(tmp_path: Path) -> None:
    """Without a config.json they are taken for the full size, whose special tokens they do not have."""
    tensors = load_file(GOLDEN / "c" / "model.safetensors")
    torch.save(tensors, tmp_path / "iter_10.pth")
    shutil.copytree(GOLDEN / "c" / "tokenizer", tmp_path / "tokenizer")
    line = error_line(run_xsam("convert", tmp_path, tmp_path / "out"), 1)
    assert "the weights do not fit the full-size model: the token ids of llm must be below" in line
    assert "need their config.json" in line
