"""What `/metrics` tells after some requests."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import Ask, picture, png


def _samples(http: httpx.Client) -> dict[tuple[str, ...], float]:
    """Return each sample by its name and the values of its labels."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_requests_frames_bytes_batches_and_stages_are_counted(http: httpx.Client, ask: Ask) -> None:
    image = png(picture())
    first = ask(image, queries=[{"text": "red"}, {"text": "floor"}])
    ask(image)
    ask(None, frame=first.json()["frame"])
    ask(None, frame="0" * 64)
    ask(b"no image")
    samples = _samples(http)
    assert samples["xsam_requests_total", "local", "OK"] == 3
    assert samples["xsam_requests_total", "local", "FRAME_NOT_KEPT"] == 1
    assert samples["xsam_requests_total", "local", "INVALID_IMAGE"] == 1
    assert samples["xsam_frames_total", "local", "new"] == 1
    assert samples["xsam_frames_total", "local", "known"] == 1
    assert samples["xsam_frames_total", "local", "kept"] == 1
    assert samples["xsam_batch_size_count",] == 3
    assert samples["xsam_batch_size_sum",] == 4
    assert samples["xsam_frames_kept_bytes",] == picture().nbytes
    assert samples["xsam_queue_waiting",] == samples["xsam_requests_memory_bytes",] == 0
    assert samples["xsam_request_seconds_count", "local"] == 5
    for stage in ("receive", "prepare", "queue", "inference"):
        assert samples["xsam_stage_seconds_count", stage] >= 3, stage
    assert samples["xsam_bytes_total", "local", "in"] > 2 * len(image)
    assert samples["xsam_bytes_total", "local", "out"] > 3 * len(first.content) / 2
