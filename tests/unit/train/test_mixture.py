"""The order of training images: balanced, one source per batch, and addressable by index."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from xsam.train.mixture import BatchPlan, PlannedBatch, repeat_factors


def _plan(sizes: list[int], *, batch_size: int = 4, balance: float = 0.1, seed: int = 0) -> BatchPlan:
    return BatchPlan(sizes, batch_size=batch_size, balance=balance, seed=seed)


def _epoch(plan: BatchPlan, epoch: int = 0) -> list[PlannedBatch]:
    count = plan.batches_per_epoch
    return [plan[epoch * count + i] for i in range(count)]


def test_small_sources_are_repeated_by_the_square_root() -> None:
    """Shares 0.9, 0.09 and 0.01 with t = 0.1 give 1, sqrt(10 / 9) and sqrt(10)."""
    assert repeat_factors([900, 90, 10], 0.1) == pytest.approx([1.0, 1.0540926, 3.1622777])
    assert repeat_factors([900, 90, 10], 0.09) == pytest.approx([1.0, 1.0, 3.0])
    assert repeat_factors([900, 90, 10], 0.0) == [1.0, 1.0, 1.0]
    assert repeat_factors([7], 0.1) == [1.0]


@pytest.mark.parametrize("sizes", [[3, 0], [], [0]])
def test_every_source_needs_a_picture(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="needs at least one image"):
        repeat_factors(sizes, 0.1)


def test_an_epoch_shows_every_picture_as_often_as_it_should() -> None:
    """Factors 1, 1.054 and 3.162: 90 images are shown 95 times in all, 10 images 32 times."""
    plan = _plan([900, 90, 10], batch_size=2)
    for epoch in (0, 1):
        shown = [Counter[int](), Counter[int](), Counter[int]()]
        for batch in _epoch(plan, epoch):
            shown[batch.source].update(batch.indices)
        assert set(shown[0]) == set(range(900))
        assert set(shown[0].values()) == {1}
        assert sum(shown[1].values()) in (95, 96)  # 94.87 in batches of two
        assert set(shown[1]) == set(range(90))
        assert Counter(shown[1].values()) == Counter({1: 84, 2: 6})
        assert Counter(shown[2].values()) == Counter({3: 8, 4: 2})
    assert plan.batches_per_epoch == 450 + 48 + 16


def test_the_last_batch_of_a_source_is_filled_up() -> None:
    plan = _plan([5, 2], batch_size=4, balance=0.0)
    first = [batch for batch in _epoch(plan) if batch.source == 0]
    second = [batch for batch in _epoch(plan) if batch.source == 1]
    assert [len(batch.indices) for batch in (*first, *second)] == [4, 4, 4]
    counts = Counter(i for batch in first for i in batch.indices)
    assert Counter(counts.values()) == Counter({2: 3, 1: 2})
    assert Counter(second[0].indices) == Counter({0: 2, 1: 2})


def test_a_batch_has_one_source_and_sources_are_mixed() -> None:
    plan = _plan([40, 40], batch_size=4)
    batches = _epoch(plan)
    assert all(0 <= i < 40 for batch in batches for i in batch.indices)
    order = [batch.source for batch in batches]
    assert Counter(order) == Counter({0: 10, 1: 10})
    assert 3 < sum(a != b for a, b in itertools.pairwise(order)) < 19


def test_a_batch_depends_on_its_number_and_the_seed_alone() -> None:
    sizes = [13, 5]
    in_order = [_plan(sizes)[i] for i in range(15)]
    plan = _plan(sizes)
    for number in (14, 2, 9, 2, 0, 14):
        assert plan[number] == in_order[number]
    assert [_plan(sizes, seed=1)[i].indices for i in range(15)] != [batch.indices for batch in in_order]


def test_epochs_differ_and_prompts_are_drawn_anew() -> None:
    plan = _plan([40, 12])
    first, second = _epoch(plan, 0), _epoch(plan, 1)
    assert [batch.indices for batch in first] != [batch.indices for batch in second]
    seeds = {batch.seed for batch in (*first, *second)}
    assert len(seeds) == len(first) + len(second)
    assert not seeds & {batch.seed for batch in _epoch(_plan([40, 12], seed=1))}
