"""The servers that are measured, each as a process: `python -m benchmarks.server.program KIND PORT`.

tiny    `xsam_server` with the tiny model
plain   what one would write first: FastAPI, the image as base64 in JSON, the model called in the handler
ray     `xsam_server.fleet` with two replicas of the tiny model, and without affinity
color   `xsam_server` with a stand-in for the model that finds what is red, in 5 ms
"""

from __future__ import annotations

import base64
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import uvicorn

from xsam import CameraRef, Frame, MaskRle, Query, SegmentationResult, Segments, Status, Timing
from xsam.segmenter import Engine
from xsam.types.deadline import StageHook, TextHook
from xsam.types.masks import box_of_mask
from xsam.wire.conversion import result_to_body
from xsam_server.serving import serve
from xsam_server.settings import Client, ServerSettings

TOKEN = "benchmark-token"
COLOR_S = 0.005


class TimedEngine:
    """An engine whose results say how long the whole call took, as the stages "engine" and "engine_cpu"."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model_id = engine.model_id

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
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        results = self._engine.segment(
            source, queries, deadline_s=deadline_s, on_stage=on_stage, on_text=on_text, keep_frame=keep_frame
        )
        spent_s = {"engine": time.perf_counter() - began_s, "engine_cpu": time.thread_time() - began_cpu_s}
        return [result.with_timing(spent_s) for result in results]

    def warm_up(self) -> None:
        self._engine.warm_up()

    def close(self) -> None:
        self._engine.close()


class RedEngine:
    """Finds the red pixels of a picture: a mask for another picture would be noticed."""

    model_id = "color"

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
        if on_stage is not None:
            on_stage("color")
        time.sleep(COLOR_S)
        mask = (source.rgb == (255, 0, 0)).all(axis=2)
        segments = Segments(
            image_hw=source.image_hw,
            masks=(MaskRle.encode(mask),),
            labels=("red",),
            label_indices=np.zeros(1, np.int32),
            scores=np.ones(1, np.float32),
            boxes_xyxy=np.array([box_of_mask(mask)], np.float32),
        )
        return [
            SegmentationResult(
                status=Status.FOUND,
                query=query,
                segments=segments,
                model_id=self.model_id,
                timing=Timing(stages_s={"engine": COLOR_S}),
            )
            for query in queries
        ]

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


def load_timed_tiny() -> TimedEngine:
    return TimedEngine(_load_tiny())


def _load_tiny() -> Any:
    from xsam import XSam

    return XSam.load("tiny", device="cpu", threads=1)


def _serve_plain(port: int) -> None:
    import cv2
    from fastapi import FastAPI

    engine = load_timed_tiny()
    engine.warm_up()
    app = FastAPI()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/segment")
    async def segment(body: dict[str, Any]) -> dict[str, Any]:
        file = np.frombuffer(base64.b64decode(body["image"]), np.uint8)
        rgb = cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1]
        (result,) = engine.segment(
            Frame(rgb=rgb), [Query(text=body["text"])], deadline_s=1e9, keep_frame=False
        )
        return {"result": result_to_body(replace(result)).model_dump(mode="json")}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _serve_ray(port: int) -> None:
    from support.fleet import running_fleet, running_ray

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    options: dict[str, Any] = {"min_replicas": 2, "threads": 1, "affinity": False}
    with running_ray(), running_fleet(load_timed_tiny, port=port, **options):
        ended.wait()


def main() -> None:
    """Serve until a signal ends the process."""
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "plain":
        _serve_plain(port)
    elif kind == "ray":
        _serve_ray(port)
    elif kind == "tiny":
        serve(load_timed_tiny, ServerSettings(port=port))
    else:
        clients = (Client(name="fleet", token=TOKEN),)
        serve(RedEngine, ServerSettings(port=port, clients=clients, queue_size=64, frames_bytes=8 << 20))


if __name__ == "__main__":
    main()
