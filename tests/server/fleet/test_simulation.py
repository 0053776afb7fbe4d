"""The simulated fleet keeps what can be worked out on paper."""

from __future__ import annotations

import pytest

pytest.importorskip("simpy", reason="simpy is not installed")

from benchmarks.fleet.load import RobotLoad
from benchmarks.fleet.simulation import SimulatedFleet, simulate


def _fleet(replicas: int = 1, new_s: float = 0.1, same_s: float = 0.02, **options: object) -> SimulatedFleet:
    return SimulatedFleet(replicas=replicas, new_s=[new_s], same_s=[same_s], **options)  # type: ignore[arg-type]


def _load(robots: int, *, hz: float = 1.0, prompts: int = 1, deadline_s: float = 2.0) -> RobotLoad:
    return RobotLoad(robots=robots, hz=hz, prompts=prompts, deadline_s=deadline_s, seconds=200.0)


def test_a_lone_robot_waits_for_the_calls_and_nothing_else() -> None:
    report = simulate(_fleet(overhead_s=0.005), _load(1, prompts=2)).report()
    assert (report["goodput"], report["hit_rate"]) == (1.0, 1.0)
    assert report["p50_ms"] == pytest.approx(65.0, abs=40.1)  # half of them 105 ms, half 25
    assert report["p99_ms"] == pytest.approx(105.0)


@pytest.mark.parametrize(("robots", "kept_up"), [(5, 1.0), (20, 0.5), (40, 0.25)])
def test_an_overloaded_replica_answers_what_it_can(robots: int, kept_up: float) -> None:
    """It does ten calls a second; requests that would wait in vain are refused and cost nothing."""
    report = simulate(_fleet(), _load(robots)).report()
    assert report["goodput"] == pytest.approx(kept_up, rel=0.1)
    assert report["prompts"] == robots * 200


def test_affinity_finds_frames_and_chance_does_not() -> None:
    load = _load(4, prompts=3)
    assert simulate(_fleet(4), load).report()["hit_rate"] == 1.0
    by_chance = simulate(_fleet(4, affinity=False), load).report()
    assert 0.2 < by_chance["hit_rate"] < 0.6  # a quarter at first; then the frame is in two replicas
    assert by_chance["p50_ms"] > 2 * simulate(_fleet(4), load).report()["p50_ms"]


def test_batches_raise_what_an_overloaded_replica_keeps_up() -> None:
    load = _load(20)
    single = simulate(_fleet(max_ongoing=8), load).report()["goodput"]
    batched = simulate(_fleet(max_ongoing=8, batch=4, batch_gain=1.6), load).report()["goodput"]
    assert batched / single == pytest.approx(1.6, rel=0.15)
    never_full = simulate(_fleet(max_ongoing=1, batch=4, batch_gain=1.6), load).report()["goodput"]
    assert never_full <= single * 1.05, "a replica that holds one request never has a batch"
