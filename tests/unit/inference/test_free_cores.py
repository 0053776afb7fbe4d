"""The number of threads follows what other programs leave."""

from __future__ import annotations

import pytest

from xsam.inference.free_cores import FreeCores, Usage, allowed_cores, read_usage


def _free(cores: int, *usages: tuple[float, float, float]) -> list[int]:
    """Return the counts for samples of (time, all programs, this process)."""
    samples = iter([Usage(at_s=at, all_s=everything, own_s=own) for at, everything, own in usages])
    free = FreeCores(lambda: next(samples), cores)
    return [free.count() for _ in usages[1:]]


@pytest.mark.parametrize(
    ("others", "expected"), [(0.0, 4), (0.3, 4), (0.5, 3), (1.0, 3), (1.3, 3), (1.5, 2), (3.9, 1), (9.0, 1)]
)
def test_every_busy_program_takes_a_core(others: float, expected: int) -> None:
    assert _free(4, (10.0, 100.0, 7.0), (12.0, 100.0 + 2 * others, 7.0)) == [expected]


def test_the_own_work_does_not_count() -> None:
    assert _free(2, (0.0, 0.0, 0.0), (1.0, 2.0, 2.0), (2.0, 4.0, 3.0)) == [2, 1]


def test_a_short_window_changes_nothing() -> None:
    """The kernel counts in hundredths of a second: next prompts follow each other faster than that."""
    assert _free(2, (0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.01, 1.0, 0.0), (1.2, 1.0, 0.0)) == [1, 1, 2]


def test_the_first_request_counts_from_the_given_time() -> None:
    """It comes right after loading, and once ran on all cores of a busy machine."""
    free = FreeCores(
        lambda: Usage(at_s=3.0, all_s=4.0, own_s=2.0), 2, since=Usage(at_s=1.0, all_s=0.0, own_s=0.0)
    )
    assert free.count() == 1


def test_a_system_without_counters_leaves_all_cores() -> None:
    free = FreeCores(lambda: None, 3)
    assert free.count() == 3


def test_the_counters_of_this_machine() -> None:
    first = read_usage()
    total = sum(index * index for index in range(300_000))
    second = read_usage()
    assert total
    if first is None or second is None:
        pytest.skip("no /proc/stat")
    assert second.at_s > first.at_s
    assert second.own_s > first.own_s
    assert second.all_s >= first.all_s > 0
    assert allowed_cores() >= 1
