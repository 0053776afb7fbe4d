"""What `/metrics` tells, in Prometheus' text format, and the log line of each request."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

LOG = logging.getLogger("xsam_server")
OK = "OK"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_QUERIES = (1, 2, 4, 8, 16, 32)


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """What is told about a request: never its text, its image or its token."""

    client: str
    code: str = OK
    http_status: int = 200
    queries: int = 0
    frame: str = ""  # "kept", "known" (sent again), "new"; "" = not so far
    body_began: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    stages_s: dict[str, float] = field(default_factory=dict)
    model_stages_s: dict[str, float] = field(default_factory=dict)  # of the model's call; empty: none ended
    began_s: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s


class Metrics:
    """The metrics of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self,
        *,
        waiting: Callable[[], int],
        busy: Callable[[], bool],
        frames_bytes: Callable[[], int],
        memory_bytes: Callable[[], int],
    ) -> None:
        """Register the metrics; the arguments are asked for when they are read."""
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests by client and code.", "client", "code")
        self._bytes = self._counter("bytes", "Bytes of bodies.", "client", "direction")
        self._frames = self._counter(
            "frames", "Frames: kept (asked about by id), known (sent again) or new.", "client", "frame"
        )
        self._seconds = Histogram(
            "xsam_request_seconds",
            "Seconds from the first byte to the last.",
            ["client"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stages = Histogram(
            "xsam_stage_seconds", "Seconds by stage.", ["stage"], buckets=_SECONDS, registry=self._registry
        )
        self._batch = Histogram(
            "xsam_batch_size",
            "Queries that the model answered in one call.",
            buckets=_QUERIES,
            registry=self._registry,
        )
        gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
            ("queue_waiting", "Requests that wait for the model.", waiting),
            ("model_busy", "1 while the model works.", lambda: float(busy())),
            ("frames_kept_bytes", "Pixels of the frames that are kept.", frames_bytes),
            ("requests_memory_bytes", "Bodies and pixels of the requests being answered.", memory_bytes),
        )
        for name, text, read in gauges:
            Gauge(f"xsam_{name}", text, registry=self._registry).set_function(read)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"xsam_{name}", text, labels, registry=self._registry)

    def ended(self, record: RequestRecord) -> None:
        """Count and log a request."""
        self._requests.labels(record.client, record.code).inc()
        self._bytes.labels(record.client, "in").inc(record.bytes_in)
        self._bytes.labels(record.client, "out").inc(record.bytes_out)
        self._seconds.labels(record.client).observe(record.elapsed_s)
        for stage, seconds in (*record.stages_s.items(), *record.model_stages_s.items()):
            self._stages.labels(stage).observe(seconds)
        if record.model_stages_s:
            self._batch.observe(record.queries)
        if record.frame:
            self._frames.labels(record.client, record.frame).inc()
        log_event(
            "request",
            client=record.client,
            code=record.code,
            http=record.http_status,
            queries=record.queries,
            frame=record.frame,
            bytes_in=record.bytes_in,
            bytes_out=record.bytes_out,
            seconds=round(record.elapsed_s, 4),
        )

    def as_text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)


def log_event(event: str, **fields: object) -> None:
    """Log one line of JSON."""
    LOG.info("%s", json.dumps({"event": event, **fields}))


def log_bug(text: str) -> None:
    """Log a traceback as one line of JSON."""
    LOG.error("%s", json.dumps({"event": "error", "traceback": text}))
