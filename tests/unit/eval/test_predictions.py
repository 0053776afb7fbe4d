"""Predictions on disk: they score alike, and an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.eval.answers import refused, result, right_answer
from tests.unit.eval.test_sources import HW, MASKS, PROMPTS, Pictures
from xsam.errors import DatasetError, InvalidOptionError
from xsam.eval import asking
from xsam.eval.predictions import PREDICTIONS, SCORES, PredictionFile
from xsam.eval.processes import Processes
from xsam.eval.questions import Question
from xsam.eval.sources import evaluate_source
from xsam.segmenter import FakeSegmenter
from xsam.types.requests import SegmentationResult

EVALUATION = {"model": "tiny", "source": "pictures"}
MODEL = FakeSegmenter({})


class Asked:
    """Stands for the model: counts the images, and stops the run at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> None:
        self.images, self.stop_at = 0, stop_at
        monkeypatch.setattr(asking, "ask", self._ask)

    def _ask(
        self, model: object, rgb: NDArray[np.uint8], questions: Sequence[Question]
    ) -> list[SegmentationResult]:
        if self.images == self.stop_at:
            raise KeyboardInterrupt
        self.images += 1
        return [right_answer(question, HW) for question in questions]


def _scores(folder: Path, *, resume: bool = False, **arguments: Any) -> dict[str, Any]:
    predictions = PredictionFile(folder, EVALUATION, resume=resume)
    try:
        return evaluate_source(MODEL, Pictures(*PROMPTS), prompts=9, predictions=predictions, **arguments)
    finally:
        predictions.close()


def test_an_interrupted_evaluation_is_scored_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Asked(monkeypatch)
    whole = _scores(tmp_path / "whole")
    assert (whole["n"], whole["complete"]) == (4, True)

    Asked(monkeypatch, stop_at=2)
    part = _scores(tmp_path / "part")
    assert (part["n"], part["complete"], part["referring_miou"]) == (2, False, 1.0)
    with (tmp_path / "part" / PREDICTIONS).open("a", encoding="utf-8") as file:
        file.write('{"image":"2","resul')  # the power failed here
    rest = Asked(monkeypatch)
    assert _scores(tmp_path / "part", resume=True) == whole
    assert rest.images == 2
    again = Asked(monkeypatch)
    assert _scores(tmp_path / "part", resume=True) == whole
    assert again.images == 0


def test_predictions_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    _scores(tmp_path)
    with pytest.raises(InvalidOptionError, match="exists") as caught:
        PredictionFile(tmp_path, EVALUATION)
    assert "--resume" in caught.value.hint
    with pytest.raises(InvalidOptionError, match="another evaluation"):
        PredictionFile(tmp_path, {**EVALUATION, "model": "other"}, resume=True)
    _scores(tmp_path, resume=True, seed=1)  # the same questions, whatever the seed
    assert asked.images == 4
    predictions = PredictionFile(tmp_path, EVALUATION, resume=True)
    evaluate_source(MODEL, Pictures("referring"), predictions=predictions)  # other questions
    predictions.close()
    assert asked.images == 8


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot write"):
        PredictionFile(tmp_path / "file" / "folder", EVALUATION)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """The message was the system's alone, without the file and without a way on."""
    (tmp_path / PREDICTIONS).symlink_to("/dev/full")
    with pytest.raises(DatasetError, match=r"cannot write .*predictions\.jsonl: No space left") as caught:
        PredictionFile(tmp_path, EVALUATION)
    assert "--resume" in caught.value.hint


def test_a_damaged_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Asked(monkeypatch)
    _scores(tmp_path)
    path = tmp_path / PREDICTIONS
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"predictions\.jsonl, line 2 is damaged"):
        PredictionFile(tmp_path, EVALUATION, resume=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"size":[24,32]', '"size":[24,31]'),
        ('"status":"found"', '"status":"maybe"'),
        ('"counts":["', '"counts":["~'),
        ('"scores":[0', '"scores":["x",0'),
        ('"phrases":[]', '"phrases":5'),
        ('"labels":', '"titles":'),
    ],
)
def test_damaged_results_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    Asked(monkeypatch)
    _scores(tmp_path)
    path = tmp_path / PREDICTIONS
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"predictions\.jsonl: the results for image 0 are damaged"):
        _scores(tmp_path, resume=True)


def test_what_failed_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ask", lambda _, __, questions: [refused(q.query, HW) for q in questions])
    assert _scores(tmp_path)["failed"] > 0
    asked = Asked(monkeypatch)
    assert _scores(tmp_path, resume=True)["failed"] == 0
    assert asked.images == 4


def test_results_come_back(tmp_path: Path) -> None:
    source = Pictures("referring")
    image = source.sample(0, np.random.default_rng(0))
    from xsam.eval.sources import question_of

    question = question_of(image, image.prompts[0])
    assert question is not None
    sent = result(question.query, HW, [(0, MASKS[1], 0.25), (0, MASKS[0], 0.75)], text="täxt", phrases=("a",))
    for resume in (False, True):
        predictions = PredictionFile(tmp_path, EVALUATION, resume=resume)
        if not resume:
            predictions.add("7", [sent], image.rgb)
            path = predictions.write_scores({"n": 1})
        predictions.close()
    received = predictions.saved("7", [question], image.rgb)
    assert received is not None
    (back,) = received
    np.testing.assert_array_equal(back.masks, sent.masks)
    np.testing.assert_array_equal(back.segments.scores, sent.segments.scores)
    assert (back.status, back.text, back.phrases) == (sent.status, "täxt", ("a",))
    assert (path.name, json.loads(path.read_text())) == (SCORES, {"n": 1})
    assert predictions.saved("8", [question], image.rgb) is None
    assert predictions.saved("7", [question], image.rgb + 1) is None  # another image has this name now


FIRST, SECOND = Processes(count=2), Processes(index=1, count=2)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PredictionFile, PredictionFile]]:
    """The files of two processes; in this one, none of them waits for the other."""
    monkeypatch.setattr(Processes, "wait", lambda _: None)
    main = PredictionFile(tmp_path, EVALUATION, processes=FIRST)
    other = PredictionFile(tmp_path, EVALUATION, processes=SECOND)
    yield main, other
    main.close()
    other.close()


def _share(source: Pictures, file: PredictionFile, processes: Processes) -> dict[str, Any]:
    return evaluate_source(MODEL, source, prompts=9, predictions=file, processes=processes)


def _refuse(_: object, rgb: object, questions: Sequence[Question]) -> list[SegmentationResult]:
    return [refused(question.query, HW) for question in questions]


def test_processes_share_a_folder(
    two: tuple[PredictionFile, PredictionFile],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first process takes over what the others saved, and has the scores of one that is alone."""
    Asked(monkeypatch)
    whole = _scores(tmp_path_factory.mktemp("whole"))
    source = Pictures(*PROMPTS)
    assert _share(source, two[1], SECOND) == {}
    assert (tmp_path / "predictions.1.jsonl").is_file()
    first = Asked(monkeypatch)
    assert _share(source, two[0], FIRST) == whole
    assert first.images == 2
    assert [path.name for path in tmp_path.iterdir()] == [PREDICTIONS]
    again = Asked(monkeypatch)
    assert _scores(tmp_path, resume=True) == whole  # one process goes on alone
    assert again.images == 0


def test_what_another_process_could_not_answer_is_counted_once(
    two: tuple[PredictionFile, PredictionFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Pictures("referring")
    monkeypatch.setattr(asking, "ask", _refuse)
    _share(source, two[1], SECOND)
    asked = Asked(monkeypatch)
    scores = _share(source, two[0], FIRST)
    assert (scores["failed"], scores["questions"], scores["n"], asked.images) == (2, 4, 4, 2)
    rest = Asked(monkeypatch)
    _scores(tmp_path, resume=True)
    assert rest.images == 4  # the questions are others


def test_images_of_a_process_that_was_interrupted_are_missing(
    two: tuple[PredictionFile, PredictionFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Pictures("referring")
    Asked(monkeypatch, stop_at=1)
    _share(source, two[1], SECOND)
    Asked(monkeypatch)
    scores = _share(source, two[0], FIRST)
    assert (scores["n"], scores["complete"]) == (3, False)


def test_a_process_that_was_killed_leaves_its_results(
    two: tuple[PredictionFile, PredictionFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an incomplete line nor a failed result is taken over by the next run."""
    source = Pictures(*PROMPTS)
    Asked(monkeypatch, stop_at=1)
    _share(source, two[1], SECOND)
    monkeypatch.setattr(asking, "ask", _refuse)
    _share(source, two[1], SECOND)
    with two[1].path.open("a", encoding="utf-8") as file:
        file.write('{"image":"2","resul')
    rest = Asked(monkeypatch)
    assert _scores(tmp_path, resume=True)["failed"] == 0
    assert rest.images == 3
    assert not two[1].path.exists()
