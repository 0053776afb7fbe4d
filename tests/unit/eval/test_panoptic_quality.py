"""Panoptic quality and semantic IoU: hand-computed cases, and a slow reference on random maps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from xsam.eval.panoptic_quality import PanopticQuality, SemanticOverlap

NAMES = ("mug", "book", "table")
Map = NDArray[np.int64]


def _row(*runs: tuple[int, int]) -> Map:
    """Build a one-row map from (value, length) runs."""
    return np.concatenate([np.full(length, value) for value, length in runs])[None]


def _scores(
    truth: Map,
    truth_classes: Mapping[int, int],
    found: Map,
    found_classes: Mapping[int, int],
    **crowd: object,
) -> PanopticQuality:
    quality = PanopticQuality(NAMES, 2)
    quality.add(truth, truth_classes, found, found_classes, **crowd)  # type: ignore[arg-type]
    return quality


def test_a_picture_by_hand() -> None:
    # mug: IoU 8/10. book: missed, and one invented on the table. table: 26 of 34 px, 26 / 34.
    truth = _row((1, 10), (2, 6), (3, 34))
    found = _row((7, 8), (0, 10), (8, 26), (9, 6))
    scores = _scores(truth, {1: 0, 2: 1, 3: 2}, found, {7: 0, 8: 2, 9: 1}).scores()
    assert scores.pq_by_class == pytest.approx({"mug": 0.8, "book": 0.0, "table": 26 / 34})
    assert scores.pq == pytest.approx((0.8 + 0 + 26 / 34) / 3)
    assert scores.sq == pytest.approx((0.8 + 0 + 26 / 34) / 3)
    assert scores.rq == pytest.approx(2 / 3)
    assert scores.pq_things == pytest.approx(0.4)
    assert scores.pq_stuff == pytest.approx(26 / 34)


def test_counts_go_over_all_pictures_before_the_division() -> None:
    quality = PanopticQuality(NAMES, 2)
    quality.add(_row((1, 10)), {1: 0}, _row((1, 10)), {1: 0})
    quality.add(_row((1, 10)), {1: 0}, _row((1, 6), (2, 4)), {1: 0, 2: 0})
    # IoU 1 and 0.6, one extra segment: (1 + 0.6) / (2 + 0.5).
    assert quality.scores().pq == pytest.approx(1.6 / 2.5)
    assert quality.scores().sq == pytest.approx(0.8)
    assert quality.scores().rq == pytest.approx(2 / 2.5)
    assert quality.scores().pq_stuff is None


def test_an_iou_of_one_half_is_no_match() -> None:
    scores = _scores(_row((1, 10)), {1: 0}, _row((1, 5), (0, 5)), {1: 0}).scores()
    assert (scores.pq, scores.rq) == (0.0, 0.0)


def test_another_class_is_no_match() -> None:
    scores = _scores(_row((1, 10)), {1: 0}, _row((1, 10)), {1: 1}).scores()
    assert scores.pq_by_class == {"mug": 0.0, "book": 0.0}


def test_void_is_taken_out_of_the_union() -> None:
    # 10 px of mug; the result covers them and 8 void pixels: 10 / (10 + 18 − 10 − 8).
    scores = _scores(_row((1, 10), (0, 8)), {1: 0}, _row((4, 18)), {4: 0}).scores()
    assert scores.pq == 1.0


@pytest.mark.parametrize(("on_void", "extra"), [(6, False), (5, True)])
def test_a_segment_mostly_on_void_is_no_mistake(on_void: int, extra: bool) -> None:
    truth = _row((0, 20), (3, 30))
    found = _row((0, 20 - on_void), (1, 10), (2, 20 + on_void))
    scores = _scores(truth, {3: 2}, found, {1: 0, 2: 2}).scores()
    assert scores.pq_by_class.get("mug") == (0.0 if extra else None)


def test_crowds_are_not_missed_and_excuse_only_their_class() -> None:
    truth = _row((1, 20), (3, 30))
    right = _scores(truth, {1: 0, 3: 2}, _row((5, 20), (6, 30)), {5: 0, 6: 2}, crowd={1})
    assert right.scores().pq_by_class == {"table": 1.0}
    other = _scores(truth, {1: 0, 3: 2}, _row((5, 20), (6, 30)), {5: 1, 6: 2}, crowd={1})
    assert other.scores().pq_by_class == {"book": 0.0, "table": 1.0}


def test_maps_that_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match=r"segments without a class: \[9\]"):
        _scores(_row((1, 4)), {1: 0}, _row((9, 4)), {})
    with pytest.raises(ValueError, match="the truth"):
        _scores(_row((1, 4)), {1: 0}, _row((1, 5)), {1: 0})
    with pytest.raises(ValueError, match="must differ"):
        PanopticQuality(("mug", "mug"), 1)
    scores = PanopticQuality(NAMES, 2).scores()
    assert (scores.pq, scores.sq, scores.rq, scores.pq_things, scores.pq_stuff) == (None,) * 5


def _slow_pq(pictures: list[tuple[Map, dict[int, int], Map, dict[int, int], set[int]]]) -> list[float | None]:
    """Compute PQ of each class straight from the definition, segment by segment."""
    by_class: list[float | None] = []
    for label in range(3):
        total, hits, misses, extra = 0.0, 0, 0, 0
        for truth, t_classes, found, f_classes, crowd in pictures:
            taken = set()
            void = truth == 0
            for t in {int(v) for v in np.unique(truth)} - {0} - crowd:
                if t_classes[t] != label:
                    continue
                partner = None
                for f in {int(v) for v in np.unique(found)} - {0}:
                    segment = found == f
                    union = ((segment & ~void) | (truth == t)).sum()
                    if f_classes[f] == label and ((truth == t) & segment).sum() / union > 0.5:
                        partner, iou = f, ((truth == t) & segment).sum() / union
                if partner is None:
                    misses += 1
                else:
                    total, hits = total + iou, hits + 1
                    taken.add(partner)
            excused = void | np.isin(truth, [c for c in crowd if t_classes[c] == label])
            for f in {int(v) for v in np.unique(found)} - {0} - taken:
                extra += f_classes[f] == label and (excused & (found == f)).sum() / (found == f).sum() <= 0.5
        weight = hits + 0.5 * extra + 0.5 * misses
        by_class.append(total / weight if weight else None)
    return by_class


def test_agrees_with_the_definition_on_random_maps() -> None:
    rng = np.random.default_rng(0)
    quality, pictures = PanopticQuality(NAMES, 2), []
    for _ in range(30):
        blocks = rng.integers(0, 5, (3, 3))
        truth = np.kron(blocks, np.ones((6, 6), np.int64)).astype(np.int64)
        found = np.roll(truth, rng.integers(-1, 2, 2), (0, 1))
        found = np.where(rng.random((18, 18)) < 0.1, rng.integers(0, 5, (18, 18)), found)
        t_classes = {k: int(rng.integers(3)) for k in range(1, 5)}
        f_classes = {k: v if rng.random() < 0.8 else int(rng.integers(3)) for k, v in t_classes.items()}
        crowd = {4} if rng.random() < 0.3 else set()
        quality.add(truth, t_classes, found, f_classes, crowd=crowd)
        pictures.append((truth, t_classes, found, f_classes, crowd))
    expected = {NAMES[i]: pq for i, pq in enumerate(_slow_pq(pictures)) if pq is not None}
    assert quality.scores().pq_by_class == pytest.approx(expected)
    assert 0.2 < min(expected.values()) < max(expected.values()) < 0.95


def test_semantic_iou_by_hand() -> None:
    overlap = SemanticOverlap(NAMES)
    # 10 mug (6 right, 2 as book, 2 as nothing), 10 table (7 right, 3 as mug), 5 void.
    truth = _row((0, 10), (2, 10), (-1, 5))
    found = _row((0, 6), (1, 2), (-1, 2), (2, 7), (0, 3), (1, 5))
    overlap.add(truth, found)
    assert overlap.iou_by_class() == pytest.approx({"mug": 6 / 13, "table": 7 / 10})
    assert overlap.mean_iou == pytest.approx((6 / 13 + 0.7) / 2)
    overlap.add(_row((1, 4)), _row((1, 4)))
    # The two pixels labeled as a book before now count against it.
    assert overlap.iou_by_class()["book"] == pytest.approx(4 / 6)


def test_semantic_iou_agrees_with_masks_class_by_class() -> None:
    rng = np.random.default_rng(1)
    truth, found = rng.integers(-1, 3, (2, 40, 50))
    overlap = SemanticOverlap(NAMES)
    overlap.add(truth[:20], found[:20])
    overlap.add(truth[20:], found[20:])
    expected = {}
    for label, name in enumerate(NAMES):
        mine, theirs = (truth == label), (found == label) & (truth >= 0)
        expected[name] = (mine & theirs).sum() / (mine | theirs).sum()
    assert overlap.iou_by_class() == pytest.approx(expected)


def test_semantic_maps_that_cannot_be_scored() -> None:
    overlap = SemanticOverlap(NAMES)
    assert overlap.mean_iou is None
    for truth, found in ((_row((3, 2)), _row((0, 2))), (_row((0, 2)), _row((-2, 2)))):
        with pytest.raises(ValueError, match="from -1 to 2"):
            overlap.add(truth, found)
    with pytest.raises(ValueError, match="the truth"):
        overlap.add(_row((0, 2)), _row((0, 3)))
