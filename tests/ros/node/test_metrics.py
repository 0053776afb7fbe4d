from __future__ import annotations

import pytest

from xsam_ros.node.metrics import NodeStatistics, QueueStatistics, StreamStatistics


def test_requests_are_counted_by_how_they_ended() -> None:
    statistics = NodeStatistics()
    for code in ("", "", "QUEUE_FULL", "DEADLINE", "QUEUE_FULL", "MODEL_ERROR"):
        statistics.count_request(code)
    snapshot = statistics.snapshot()
    assert (snapshot.answered, snapshot.refused, snapshot.failed) == (2, 3, 1)
    assert snapshot.by_code == {"QUEUE_FULL": 2, "DEADLINE": 1, "MODEL_ERROR": 1}


def test_recent_times_are_kept_by_stage() -> None:
    statistics = NodeStatistics()
    for number in range(600):
        statistics.add_times({"queue": 1.0, "encode": float(number)})
    snapshot = statistics.snapshot()
    assert set(snapshot.stages_s) == {"queue", "encode", "total"}
    assert len(snapshot.stages_s["encode"]) == 512
    assert snapshot.stages_s["encode"][-1] == 599.0
    assert snapshot.stages_s["total"][-1] == pytest.approx(600.0)


def test_a_snapshot_does_not_change() -> None:
    waiting = [3]
    statistics = NodeStatistics(
        queue=lambda: QueueStatistics(waiting=waiting[0], size=8),
        streams=lambda: {"front": StreamStatistics(running=True)},
    )
    before = statistics.snapshot()
    statistics.count_request("")
    statistics.add_times({"queue": 1.0})
    waiting[0] = 4
    assert (before.answered, before.stages_s, before.queue.waiting) == (0, {}, 3)
    assert before.streams["front"].running
    assert statistics.snapshot().queue.waiting == 4
