"""A real fleet under the load of robots: Ray Serve on this machine, with the model or a stand-in for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.fleet.load import OK, Outcomes, RobotLoad
from support.fleet import RunningFleet, running_fleet
from xsam import CameraRef, Frame, Query, SegmentationResult, Segments, Status, Timing, XSamError
from xsam.remote import RemoteSegmenter
from xsam.types.deadline import Deadline, StageHook, TextHook

_STAGE_S = 0.01
_KEPT = re.compile(r'xsam_frames_total\{[^}]*frame="kept"\} ([0-9.e+]+)')
_NOT_KEPT = re.compile(r'xsam_requests_total\{[^}]*code="FRAME_NOT_KEPT"\} ([0-9.e+]+)')


class SleepingEngine:
    """Takes a time for a new frame, and another for one that it knows; as with a GPU, the CPU stays free."""

    model_id = "sleeping"

    def __init__(self, folder: Path, new_s: float, same_s: float) -> None:
        self._seconds = {False: new_s, True: same_s}
        self._known: set[bytes] = set()
        (folder / f"replica-{os.getpid()}").touch()

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
        assert isinstance(source, Frame)
        deadline = Deadline(deadline_s)
        key = hashlib.sha256(source.rgb.tobytes()).digest()
        until_s = time.monotonic() + self._seconds[key in self._known]
        began_s = time.monotonic()
        while (left_s := until_s - time.monotonic()) > 0:
            deadline.check("asleep")
            if on_stage is not None:
                on_stage("asleep")
            time.sleep(min(left_s, _STAGE_S))
        self._known.add(key)
        return [
            SegmentationResult(
                status=Status.NOT_FOUND,
                query=query,
                segments=Segments(
                    image_hw=source.image_hw,
                    masks=(),
                    labels=(),
                    label_indices=np.zeros(0, np.int32),
                    scores=np.zeros(0, np.float32),
                    boxes_xyxy=np.zeros((0, 4), np.float32),
                ),
                model_id=self.model_id,
                timing=Timing(stages_s={"engine": time.monotonic() - began_s}),
            )
            for query in queries
        ]

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextlib.contextmanager
def sleeping_fleet(folder: Path, *, new_s: float, same_s: float, **args: Any) -> Iterator[RunningFleet]:
    """Run a fleet whose replicas leave their process numbers in a folder."""
    with running_fleet(partial(SleepingEngine, folder, new_s, same_s), **args) as fleet:
        yield fleet


class RobotsAtWork:
    """Robots that ask a real fleet; what `simulation` does on its own clock."""

    def __init__(
        self, fleet: RunningFleet, load: RobotLoad, *, image_hw: tuple[int, int] = (120, 160)
    ) -> None:
        self.outcomes = Outcomes()
        self.engine_s: dict[str, list[float]] = {"new": [], "same": []}  # by what the prompt was about
        self.outside_s: list[float] = []  # of prompts that did not wait for others
        self._fleet, self._load = fleet, load
        self._chance = np.random.default_rng()  # no frame twice: replicas would know it from an earlier run
        self._image_hw = image_hw

    def run(self, meanwhile: Callable[[], None] | None = None) -> RobotsAtWork:
        """Ask for as long as the load says; a function may disturb the fleet when half of it is over."""
        before = self._counts()
        asyncio.run(self._run(meanwhile))
        kept, not_kept = np.subtract(self._counts(), before)
        self.outcomes.asked_by_id, self.outcomes.sent_again = int(kept + not_kept), int(not_kept)
        return self

    def _counts(self) -> tuple[float, float]:
        text = httpx.get(f"{self._fleet.url}/metrics", trust_env=False).text
        return sum(map(float, _KEPT.findall(text))), sum(map(float, _NOT_KEPT.findall(text)))

    async def _run(self, meanwhile: Callable[[], None] | None) -> None:
        load = self._load
        phases = random.Random(0)
        with RemoteSegmenter(self._fleet.url) as remote:
            disturbing = asyncio.create_task(self._disturb(meanwhile))
            until_s = time.monotonic() + load.seconds
            await asyncio.gather(
                *(self._robot(remote, phases.random() / load.hz, until_s) for _ in range(load.robots))
            )
            await disturbing

    async def _disturb(self, meanwhile: Callable[[], None] | None) -> None:
        if meanwhile is not None:
            await asyncio.sleep(self._load.seconds / 2)
            await asyncio.to_thread(meanwhile)

    async def _robot(self, remote: RemoteSegmenter, phase_s: float, until_s: float) -> None:
        looks: list[asyncio.Task[None]] = []
        due_s = time.monotonic() + phase_s
        while due_s < until_s:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            due_s += 1 / self._load.hz
            looks.append(asyncio.create_task(self._look(remote)))
        await asyncio.gather(*looks)

    async def _look(self, remote: RemoteSegmenter) -> None:
        frame = Frame(rgb=self._chance.integers(0, 256, (*self._image_hw, 3), np.uint8))
        for number in range(self._load.prompts):
            began_s = time.monotonic()
            code = OK
            try:
                (result,) = await remote.segment_async(
                    frame, [Query(text=f"object {number}")], deadline_s=self._load.deadline_s
                )
                engine_s = result.timing.stages_s["engine"]
                self.engine_s["same" if number else "new"].append(engine_s)
                self.outside_s.append(time.monotonic() - began_s - engine_s)
            except XSamError as error:
                code = error.code
            self.outcomes.add(code, time.monotonic() - began_s, self._load.deadline_s)
