"""Decisions change the data set, only theirs, and nothing is lost by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.label.labeling import OPTIONS, ColorEngine, coco, files_of, label_colors
from tests.unit.media.clips import scene, write_video
from xsam.errors import SourceError
from xsam.label.items import itemized
from xsam.label.run import apply_decisions
from xsam.media.journal import Journal

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clips = [
        write_video(tmp_path / f"{name}.mp4", [scene(step + start) for step in range(7)])
        for name, start in (("a", 0), ("b", 10))
    ]
    label_colors(tmp_path / "out", *clips)
    return tmp_path / "out"


def run_of(folder: Path) -> str:
    return str(json.loads((folder / "label.json").read_text())["run"])


def items(folder: Path, label: str) -> list[str]:
    journal = Journal.reopen(folder)
    found = [
        item
        for _, labels in itemized(journal.entries())
        for item, segment in labels
        if segment["label"] == label
    ]
    journal.close()
    return list(dict.fromkeys(found))


def write(path: Path, run: str, decisions: Any, **more: Any) -> Path:
    path.write_text(
        json.dumps({"format": "xsam-label-decisions/1", "run": run, "decisions": decisions, **more})
    )
    return path


def states(folder: Path, label: str) -> dict[str, set[tuple[int, str]]]:
    """Return iscrowd and decision of the annotations of each item."""
    found: dict[str, set[tuple[int, str]]] = {}
    for annotation in [a for part in ("train", "val") for a in coco(folder, part)["annotations"]]:
        if annotation["prompt"] == label:
            state = (annotation["iscrowd"], annotation.get("decision", ""))
            found.setdefault(annotation["item"], set()).add(state)
    return found


def test_what_is_decided_holds_for_the_frames_that_an_object_was_carried_to(
    folder: Path, tmp_path: Path
) -> None:
    blue, red = items(folder, "blue"), items(folder, "red")
    assert len(blue) == 4  # two keyframes in each clip
    before = coco(folder)["images"]
    path = write(
        tmp_path / "d.json",
        run_of(folder),
        {blue[0]: "accept", blue[1]: "reject", blue[2]: "ignore", red[0]: "reject"},
    )
    done = apply_decisions(folder, path)
    assert states(folder, "blue") == {
        blue[0]: {(0, "accept")},
        blue[2]: {(1, "ignore")},
        blue[3]: {(1, "")},
    }
    assert red[0] not in states(folder, "red")
    assert states(folder, "red")[red[1]] == {(0, "")}
    assert coco(folder)["images"] == before
    assert done.counts.decisions == 4
    assert done.counts.doubtful == 1
    (labels,) = folder.glob("labels/*a_mp4/a_000002.txt")
    assert labels.read_text().startswith("1 ")  # blue, without red
    assert not list(folder.glob("ignore/*a_mp4/a_000002.txt"))


def test_twice_is_once_and_parts_add_up(folder: Path, tmp_path: Path) -> None:
    blue, run = items(folder, "blue"), run_of(folder)
    first = write(tmp_path / "1.json", run, {blue[0]: "accept"})
    second = write(tmp_path / "2.json", run, {blue[1]: "reject", blue[2]: "accept"})
    apply_decisions(folder, first)
    once = files_of(folder)
    apply_decisions(folder, first)
    assert files_of(folder) == once
    apply_decisions(folder, second)
    both = files_of(folder)
    assert json.loads(both["decisions.json"])["decisions"] == {
        blue[0]: "accept",
        blue[1]: "reject",
        blue[2]: "accept",
    }
    apply_decisions(folder, write(tmp_path / "3.json", run, {blue[1]: "undecided", blue[2]: "undecided"}))
    assert files_of(folder) == once
    apply_decisions(folder, second)
    apply_decisions(folder, first)
    assert files_of(folder) == both


def test_labeling_that_goes_on_keeps_the_decisions(folder: Path, tmp_path: Path) -> None:
    clips = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    out, engine = tmp_path / "part", ColorEngine()
    label_colors(out, *clips, engine=engine, stopped=lambda: engine.asked > 1)
    blue = items(out, "blue")
    done = apply_decisions(out, write(tmp_path / "d.json", run_of(out), {blue[0]: "accept"}))
    assert not done.complete
    done = label_colors(out, *clips, resume=True)
    assert done.complete
    assert states(out, "blue")[blue[0]] == {(0, "accept")}
    apply_decisions(folder, write(tmp_path / "d.json", run_of(folder), {blue[0]: "accept"}))
    assert files_of(out) == files_of(folder)


HEAD = '{"format": "xsam-label-decisions/1", "run": '


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not the JSON of decisions"),
        ("[" * 100_000, "is not the JSON of decisions"),
        ("[]", "has no decisions in it: its format is not"),
        ('{"run": "RUN", "decisions": {}}', "its format is not xsam-label-decisions/1"),
        (HEAD + '"0", "decisions": {}}', "about another run, '0'"),
        (HEAD + '["RUN"], "decisions": {}}', "about another run"),
        (HEAD + '"RUN", "decisions": []}', "has no decisions"),
        (
            HEAD + '"RUN", "decisions": {"ITEM": "yes"}}',
            "is 'yes'",
        ),
        (HEAD + '"RUN", "decisions": {"ITEM": null}}', "is None"),
        (HEAD + '"RUN", "decisions": {"ITEM": {}}}', "is {}"),
        (
            HEAD + '"RUN", "decisions": {"ITEM": "accept", "x:0:1": "reject"}}',
            "1 of 2 decisions are about labels that the run does not have, the first about 'x:0:1'; none was",
        ),
        (
            HEAD + '"RUN", "decisions": {"ITEM": "accept", "ITEM": "reject"}}',
            "a key is there twice",
        ),
    ],
)
def test_wrong_decisions_change_nothing(folder: Path, tmp_path: Path, content: str, message: str) -> None:
    item = items(folder, "blue")[0]
    path = tmp_path / "d.json"
    path.write_text(content.replace("RUN", run_of(folder)).replace("ITEM", item))
    before = files_of(folder)
    with pytest.raises(SourceError, match=message):
        apply_decisions(folder, path)
    assert files_of(folder) == before


def test_files_that_are_no_decisions(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read the decisions"):
        apply_decisions(folder, tmp_path / "none.json")
    large = tmp_path / "large.json"
    with large.open("wb") as stream:
        stream.truncate(1 << 30)  # of which nothing is read
    with pytest.raises(SourceError, match="at most"):
        apply_decisions(folder, large)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="is not the JSON"):
        apply_decisions(folder, binary)


def test_decisions_about_the_same_clip_with_other_pixels_are_refused(folder: Path, tmp_path: Path) -> None:
    """The same names and options, in another place: only what was found tells the runs apart."""
    decisions = write(tmp_path / "d.json", run_of(folder), {items(folder, "blue")[0]: "accept"})
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", [scene(step + 5) for step in range(7)])
    label_colors(tmp_path / "other", tmp_path / "a.mp4", tmp_path / "b.mp4")
    with pytest.raises(SourceError, match="about another run"):
        apply_decisions(tmp_path / "other", decisions)


def test_folders_without_a_data_set(folder: Path, tmp_path: Path) -> None:
    decisions = write(tmp_path / "d.json", run_of(folder), {})
    with pytest.raises(SourceError, match="there is no run in"):
        apply_decisions(tmp_path / "nothing", decisions)
    (folder / "label.json").unlink()  # as a kill before the end leaves it
    with pytest.raises(SourceError, match="has no data set yet") as refused:
        apply_decisions(folder, decisions)
    assert "--resume" in refused.value.hint
    segmented = tmp_path / "segmented"
    Journal(segmented, {"model": "colors", "queries": []}).close()
    with pytest.raises(SourceError, match="not of `xsam label`"):
        apply_decisions(segmented, decisions)
    (segmented / "results.jsonl").write_text("{}\n")
    with pytest.raises(SourceError, match="line 1 is damaged"):
        apply_decisions(segmented, decisions)


def test_two_at_once(folder: Path, tmp_path: Path) -> None:
    journal = Journal.reopen(folder)
    with pytest.raises(SourceError, match="another run is writing"):
        apply_decisions(folder, write(tmp_path / "d.json", run_of(folder), {}))
    journal.close()


def test_options_outlive_the_run(folder: Path) -> None:
    journal = Journal.reopen(folder)
    assert type(OPTIONS).of_run(journal.run) == OPTIONS
    journal.close()
