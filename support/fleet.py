"""A real fleet for tests and benchmarks: Ray Serve on this machine, with a stand-in for the model."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from support.polling import poll_until
from xsam import CameraRef, FakeSegmenter, Frame, Query, SegmentationResult
from xsam.errors import XSamError
from xsam.segmenter import Engine
from xsam.types.deadline import StageHook, TextHook
from xsam.types.masks import BoolMask
from xsam_server.fleet import read_options

APP = "xsam"
START_WITHIN_S = 180.0
_HOLD = "hold"


class FolderEngine(FakeSegmenter):
    """A fake engine in a process of its own: files of a folder hold it up, and say what it was asked."""

    model_id = "fake"

    def __init__(self, masks_by_label: Mapping[str, Sequence[BoolMask]], folder: Path) -> None:
        super().__init__(masks_by_label)
        self._folder = folder

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        """Segment, when nothing holds it up."""
        self._note("began")
        began_s = time.monotonic()
        try:
            while (self._folder / _HOLD).exists():
                if on_stage is not None:
                    on_stage("held")
                time.sleep(0.01)
            return super().segment(
                source,
                queries,
                deadline_s=deadline_s - (time.monotonic() - began_s),
                on_stage=on_stage,
                keep_frame=keep_frame,
            )
        except XSamError as error:
            self._note(error.code)
            raise

    def warm_up(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def _note(self, what: str) -> None:
        (self._folder / f"{what}-{os.getpid()}-{uuid.uuid4().hex}").touch()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFolder:
    """What engines of a folder did, and whether they are held up."""

    folder: Path

    def hold(self) -> None:
        """Hold all calls up from now on."""
        (self.folder / _HOLD).touch()

    def free(self) -> None:
        """Let all calls go on."""
        (self.folder / _HOLD).unlink(missing_ok=True)

    def processes(self, what: str) -> list[int]:
        """Return the process of each call that "began", or ended with the code of an error."""
        return [int(path.name.split("-")[1]) for path in self.folder.glob(f"{what}-*")]

    def clear(self) -> None:
        """Forget everything."""
        for path in self.folder.iterdir():
            path.unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningFleet:
    """A fleet that answers."""

    url: str
    port: int


@contextlib.contextmanager
def running_ray() -> Iterator[None]:
    """Run a cluster of this process alone."""
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S="1",
        RAY_worker_niceness="0",
        RAY_raylet_start_wait_time_s="120",  # of machines that others keep busy
    )
    import ray

    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=1,  # so many idle workers are started at once
            object_store_memory=100 << 20,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def running_fleet(load: Callable[[], Engine], *, port: int = 0, **args: Any) -> Iterator[RunningFleet]:
    """Run a fleet on the cluster of `running_ray`, and end it with the context.

    Args:
        load: returns the engine of a replica; must be importable there.
        port: where it listens; 0 = a free one.
        args: fields of `FleetOptions`.
    """
    from ray import serve

    if port == 0:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        deploy(load, **args)

        def is_ready() -> bool:
            return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200

        poll_until(is_ready, "the fleet", timeout_s=START_WITHIN_S, interval_s=0.1)
        yield RunningFleet(url=url, port=port)
    finally:
        serve.shutdown()


def deploy(load: Callable[[], Engine], *, wait: bool = True, **args: Any) -> None:
    """Deploy the fleet, or change it; returns when that is done, or with `wait=False` when it has begun.

    Ask for the status on the same thread: Ray builds its configurations with state of the whole process.
    """
    from ray import serve

    from xsam_server.fleet.deployments import application

    options = read_options({"num_cpus": 0, "ingress_num_cpus": 0, **args})
    target = serve.RunTarget(application(load, options), name=APP, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=wait)


def replica_states() -> dict[str, int]:
    """Return how many replicas are in each state of Ray Serve; on the thread of `deploy`."""
    from ray import serve

    return dict(serve.status().applications[APP].deployments["EngineReplica"].replica_states)
