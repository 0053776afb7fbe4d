"""`xsam eval`: JSON, tables, pictures and error messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from support.golden import GOLDEN_X2SAM
from tests.unit.eval import benchmark_files as files
from xsam import cli
from xsam.cli.scores import score_table
from xsam.eval.scenes import SCORE_KEYS


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def _eval(*arguments: object, model: object = "tiny") -> Result:
    """Run the command; any exception other than an exit fails the test."""
    command = ["eval", str(model), "--device", "cpu", *map(str, arguments)]
    result = CliRunner().invoke(cli.app, command)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def _error_line(result: Result, code: int = 1) -> str:
    """Return the only line that is printed."""
    assert result.exit_code == code
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.slow
def test_eval_on_scenes_ends_with_json(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pictures"
    result = _eval("--scenes", "2000001:9", "--limit", 1, "--json", "--pictures", folder, "--count", 3)
    assert result.exit_code == 0
    scores = json.loads(result.stdout, parse_constant=_no_constant)
    assert (scores["n"], scores["failed"]) == (1, 0)
    assert 0 <= scores["referring_miou"] <= 1
    assert scores["iou_ordinal"] is None
    assert "2000001" not in result.stdout
    assert f"wrote 3 images to {folder}" in result.stderr
    names = sorted(path.name for path in folder.iterdir())
    assert [name[:5] for name in names] == ["0_iou", "1_iou", "2_iou"]
    assert names == sorted(names, key=lambda name: float(name[5:9]))


@pytest.mark.slow
def test_eval_takes_a_checkpoint_of_x2sam() -> None:
    result = _eval("--scenes", "2000001:1", "--json", model=GOLDEN_X2SAM / "x2a")
    assert result.exit_code == 0
    scores = json.loads(result.stdout, parse_constant=_no_constant)
    assert (scores["n"], scores["failed"]) == (1, 0)
    assert 0 <= scores["referring_miou"] <= 1
    assert scores["panoptic_pq"] is not None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def test_eval_prints_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, {"referring_miou": 0.25, "iou_extreme_x": 0.5, "iou_size": None, "gcg_cider": 1.5})
    result = _eval()
    assert result.exit_code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines()]
    assert ["referring expressions", "mean IoU", "0.250"] in rows
    assert ["… by kind", "extreme x, mean IoU", "0.500"] in rows
    assert ["grounded captions", "CIDEr-D, 0 to 10", "1.500"] in rows
    assert "size" not in result.output
    assert result.output.endswith("3 images, 40 questions: 40 referring\n")
    _pretend(monkeypatch, {"protocol": "sampled: …"})
    assert _eval().output.endswith("3 images, 40 questions: 40 referring\nsampled: …\n")


def test_an_interrupted_evaluation_prints_its_scores_and_says_so_by_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _pretend(monkeypatch, {"referring_miou": 0.25, "complete": False})
    result = _eval("--json")
    assert result.exit_code == 130
    scores = json.loads(result.stdout)
    assert (scores["referring_miou"], scores["complete"]) == (0.25, False)
    _pretend(monkeypatch, {"complete": True})
    assert _eval("--json").exit_code == 0


def test_eval_reports_what_got_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = {"failed": 2, "failures": {"gcg: DEADLINE: no answer within [bold] 1 s": 2}}
    _pretend(monkeypatch, failures)
    result = _eval()
    assert result.exit_code == 0
    assert "2× no result: gcg: DEADLINE: no answer within [bold] 1 s" in result.stderr
    assert "40 questions, 2 without a result" in result.stdout
    _pretend(monkeypatch, {"failed": 40, "failures": {"gcg: DEADLINE: late": 40}})
    assert _eval("--json").exit_code == 1


def _pretend(monkeypatch: pytest.MonkeyPatch, scores: dict[str, object]) -> None:
    rest = {"counts": {"referring": 40}, "questions": 40, "failed": 0, "failures": {}, "n": 3}
    monkeypatch.setattr("xsam.eval.scenes.evaluate", lambda *_, **__: {**rest, **scores})
    monkeypatch.setattr("xsam.engine.XSam.load", lambda *_, **__: None)


def test_eval_describes_every_score() -> None:
    extra = ("instance_ap50", "interactive_iou", "grefcoco_n_acc", "grefcoco_t_acc", "vgd_point_ap50")
    table = score_table(dict.fromkeys((*SCORE_KEYS, *extra), 0.5))
    assert table.row_count == len(SCORE_KEYS) + len(extra)
    assert score_table({"n": 5, "questions": 3, "skipped": 1, "ms_per_query_median": 2.0}).row_count == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenes", "5"], "expected START:COUNT, got '5'"),
        (["--scenes", "5:1", "--coco", "."], "give one of --scenes, --coco, --source, --benchmark"),
        (["--source", "refcoco", "--option", "root"], "write NAME=VALUE"),
        (["--count", "0"], "--count"),
        (["--benchmark", "refcoco-val"], "--benchmark needs --data"),
        (["--benchmark", "refcoco-val", "--data", ".", "--prompts", "2"], "--prompts needs --source"),
        (["--data", "."], "--data needs --benchmark"),
    ],
)
def test_eval_used_wrongly(arguments: list[str], message: str) -> None:
    result = _eval(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_eval_of_data_that_is_not_there(tmp_path: Path) -> None:
    line = _error_line(_eval("--coco", tmp_path, "--split", "tiny"))
    assert "has no annotations of tiny" in line
    assert str(tmp_path / "annotations" / "instances_tiny.json") in line
    line = _error_line(_eval("--benchmark", "reasonseg-val", "--data", tmp_path))
    assert "reasonseg-val" in line
    assert "no val" in line
    assert "unknown benchmark 'lvis'" in _error_line(_eval("--benchmark", "lvis", "--data", tmp_path), 2)
    line = _error_line(_eval("--coco", tmp_path, "--task", "boxes"), 2)
    assert "unknown tasks ['boxes']" in line


@pytest.mark.slow
def test_eval_of_scenes_goes_on_with_its_predictions(tmp_path: Path) -> None:
    """--out and --resume were for data sets only."""
    arguments = ("--scenes", "2000001:3", "--per-scene", 1, "--out", tmp_path, "--json")
    part = json.loads(_eval(*arguments, "--limit", 1).stdout)
    assert (part["n"], part["complete"]) == (1, True)
    assert "another evaluation" in _eval("--scenes", "1:3", "--out", tmp_path, "--resume").output
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3  # the evaluation, and two rounds of questions
    both = json.loads(_eval(*arguments, "--limit", 2, "--resume").stdout)
    again = json.loads(_eval(*arguments, "--limit", 2, "--resume").stdout)
    assert (both["n"], again["ms_per_query_median"]) == (2, None)  # nothing was asked again
    assert {**again, "ms_per_query_median": 0} == {**both, "ms_per_query_median": 0}
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == again


@pytest.mark.slow
def test_eval_of_a_benchmark(tmp_path: Path) -> None:
    root = files.refcoco(tmp_path / "data")
    result = _eval("--benchmark", "refcoco-val", "--data", root, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0
    scores = json.loads(result.stdout)
    assert (scores["benchmark"], scores["questions"], scores["failed"]) == ("refcoco-val", 5, 0)
    assert "every sentence of every ref is asked" in scores["protocol"]
    table = _eval("--benchmark", "refcoco-val", "--data", root, "--out", tmp_path / "out", "--resume")
    assert "RefCOCO val in the UNC partition" in table.stdout
    assert f"{scores['referring_ciou']:.3f}" in table.stdout


def test_eval_takes_sources_of_training(tmp_path: Path) -> None:
    options = ["--option", f"annotations={tmp_path}/none.json", "--option", "images=x"]
    assert "none.json does not exist" in _error_line(_eval("--source", "coco_instance", *options))
    assert "unknown dataset kind 'nothing'" in _error_line(_eval("--source", "nothing"), 2)
