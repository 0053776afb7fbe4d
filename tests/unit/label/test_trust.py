"""Which labels in doubt are used before anybody has looked at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.media.clips import scene, write_video
from xsam import MaskRle
from xsam.label.items import decided


def label(name: str, left: int, *, score: float, doubt: str = "weak", **more: Any) -> dict[str, Any]:
    mask = np.zeros((20, 40), np.bool_)
    mask[4:12, left : left + 8] = True
    code = MaskRle.encode(mask).counts.decode()
    return {
        "label": name,
        "label_index": 0,
        "score": score,
        **({"doubt": doubt} if doubt else {}),
        "track_id": left + 1,
        "box_xyxy": [left, 4, left + 8, 12],
        "area_px": 64,
        "mask": {"size": [20, 40], "counts": code},
        **more,
    }


def used(*labels: dict[str, Any], trust: float = 0.5, decisions: dict[str, str] | None = None) -> list[bool]:
    """Return which labels of a frame are labels, and not regions to ignore."""
    result = {"status": "unsure", "model": "m", "image": {}, "segments": list(labels)}
    line = {"source": "a", "sequence": "a", "frame": 0, "name": "a_0", "stamp_ns": 0, "results": [result]}
    (frame,) = decided([line], decisions or {}, threshold=None, trust=trust)
    return ["ignore" not in segment for segment in frame["results"][0]["segments"]]


def test_what_is_more_often_right_than_wrong_is_used() -> None:
    sure = label("mug", 0, score=0.9, doubt="")
    likely, unlikely = label("mug", 10, score=0.6, chance=0.6), label("mug", 20, score=0.6, chance=0.4)
    assert used(sure, likely, unlikely) == [True, True, False]
    assert used(sure, likely, unlikely, trust=0.3) == [True, True, True]
    assert used(sure, likely, unlikely, trust=1.0) == [True, False, False]


def test_a_doubt_of_which_nothing_is_known_is_never_trusted() -> None:
    """A model without calibration; a word that the model does not know has a chance of 0."""
    assert used(label("mug", 0, score=0.99)) == [False]
    assert used(label("mug", 0, score=0.99), trust=0.0) == [False]
    assert used(label("fork", 0, score=0.99, chance=0.0), trust=0.1) == [False]
    assert used(label("fork", 0, score=0.99, chance=0.0), trust=0.0) == [False]
    assert used(label("mug", 0, score=0.99, chance=0.01), trust=0.0) == [True]
    assert used(label("mug", 0, score=0.99, chance=1.0), trust=1.0) == [False]


def test_one_thing_has_one_label() -> None:
    mug, bowl = label("mug", 0, score=0.7, chance=0.7), label("bowl", 1, score=0.6, chance=0.6)
    assert used(mug, bowl) == [True, False]
    assert used(bowl, mug) == [False, True]
    assert used(mug, label("bowl", 20, score=0.6, chance=0.6)) == [True, True]
    assert used(label("cup", 0, score=0.9, doubt=""), bowl) == [True, False]
    same = label("bowl", 1, score=0.7, chance=0.7)
    assert used(mug, same) == [False, False]  # nothing tells which


@pytest.mark.slow
def test_trusted_labels_are_counted_and_reviewed_all_the_same(tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.unit.label.labeling import OPTIONS, ColorEngine, coco, label_colors

    class Calibrated(ColorEngine):
        def segment(self, *arguments: Any, **options: Any) -> Any:
            results = super().segment(*arguments, **options)
            return [
                replace(r, segments=replace(r.segments, chances=np.full(len(r.segments), 0.6, np.float32)))
                for r in results
            ]

    clip = write_video(tmp_path / "a.mp4", [scene(step) for step in range(7)])
    done = label_colors(tmp_path / "out", clip, engine=Calibrated(), options=replace(OPTIONS, val=0.0))
    assert (done.counts.labels, done.counts.trusted, done.counts.ignored) == (14, 7, 0)
    assert done.counts.doubtful == 2
    assert any("7 labels are in doubt, and used" in note for note in done.counts.notes)
    blue = [a for a in coco(tmp_path / "out")["annotations"] if a["prompt"] == "blue"]
    assert {(a["iscrowd"], a["doubt"], round(a["chance"], 3)) for a in blue} == {(0, "pale", 0.6)}
    options = replace(OPTIONS, val=0.0, trust=0.7)
    done = label_colors(tmp_path / "strict", clip, engine=Calibrated(), options=options)
    assert (done.counts.labels, done.counts.trusted, done.counts.ignored) == (7, 0, 7)
