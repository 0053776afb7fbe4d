"""Put a mixed load on a real node while cameras and lifecycle misbehave: every request has to end.

    python -m benchmarks.ros.soak --minutes 3

Two simulated cameras, a stream, eight clients of the service and the action; some goals are cancelled, some
preempt all others. Cameras are stopped, killed, and restarted with another size or encoding; the node is
deactivated while it works. The last line is JSON; the exit code is 1 if a request was lost.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from benchmarks.ros.load import LoadClient, Tally
from support.processes import NodeProcesses, parameter_arguments, use_private_domain
from support.readiness import wait_until_active
from xsam.sim import render, sample_scene
from xsam_ros.action import Segment as SegmentAction
from xsam_ros.client import RosSegmenter
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.msg import PixelPoint, SegmentationResult, SegmentQuery, VisualPrompt
from xsam_ros.srv import GetStatus, Segment, SetStreamQuery

CAMERAS = ("front", "rear")
_CLIENTS = 8
_GOAL_SHARE = 0.3  # of the requests; they go over the action
_DISTURB_EVERY_S = 4.0
_PHRASES = ("the mug", "the red object", "the leftmost object", "what can I drink from?", "the green teapot")
_LISTS = (("mug", "book"), ("apple", "ball", "box"), ("bottle",))
_SHAPES = ((320, 240, "rgb8"), (640, 480, "bgr8"), (480, 360, "mono8"), (640, 480, "yuv422"))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    minutes: Annotated[float, typer.Option(help="How long to keep up the load.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Seed of load and disturbances.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for logs.")] = Path("soak_output"),
) -> None:
    """Run the soak; exit with 0 if no request was lost."""
    out.mkdir(parents=True, exist_ok=True)
    use_private_domain()
    print(f"[soak] {minutes:g} minutes, seed {seed}; logs go to {out}/", flush=True)
    with NodeProcesses(log_dir=out) as processes, LoadClient("soak_control") as control:
        report = _Soak(processes, control, out, seed).run(60 * minutes)
    print(json.dumps(report, allow_nan=False))
    raise typer.Exit(1 if report["lost"] else 0)


class _Soak:
    """One run: clients, disturbances, and counts of both."""

    def __init__(self, processes: NodeProcesses, control: LoadClient, out: Path, seed: int) -> None:
        self._processes = processes
        self._control = control
        self._parameters = out / "parameters.yaml"
        self._random = random.Random(seed)
        self._seed = seed
        self._tally = Tally()
        self._ending = threading.Event()
        self._disturbances: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._goals: Counter[str] = Counter()
        self._stream_results = 0
        self._drops = 0  # of the streams that have ended
        self._errors: list[str] = []

    def run(self, seconds: float) -> dict[str, Any]:
        """Keep up the load for this long, and return the report."""
        cameras: dict[str, Any] = {"cameras": list(CAMERAS), "model": "tiny", "device": "cpu"}
        for name in CAMERAS:
            cameras[name] = {"depth_topic": f"/{name}/depth"}
        self._parameters.write_text(yaml.safe_dump({"/xsam": {"ros__parameters": cameras}}), encoding="utf-8")
        for name in CAMERAS:
            self._start_camera(name, _SHAPES[1])
        self._processes.start("segmenter", "xsam_ros.segmenter_node", "--params-file", self._parameters)
        with RosSegmenter("/xsam") as segmenter:
            wait_until_active(segmenter, cameras=CAMERAS, processes=self._processes)
        self._control.node.create_subscription(
            SegmentationResult, "/xsam/front/result", self._on_stream_result, 10
        )
        self._stream("the mug", 5.0)
        rss_start_mb = 0.0
        threads = [
            threading.Thread(target=self._guarded, args=(self._client, index)) for index in range(_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        began_s = time.monotonic()
        disturb_at_s = began_s + _DISTURB_EVERY_S
        disturbances = itertools.cycle((self._restart, self._kill, self._cycle, self._change_stream))
        while (now_s := time.monotonic()) - began_s < seconds and not self._errors:
            if not rss_start_mb and now_s - began_s > min(20.0, seconds / 3):
                rss_start_mb = self._processes.resident_mb("segmenter")  # once its caches are filled
            if now_s >= disturb_at_s and now_s - began_s < seconds - 5.0:
                next(disturbances)()
                disturb_at_s = time.monotonic() + _DISTURB_EVERY_S
            time.sleep(0.1)
        self._ending.set()
        for thread in threads:
            thread.join(60.0)
        elapsed_s = time.monotonic() - began_s
        return self._report(elapsed_s, rss_start_mb)

    def _report(self, elapsed_s: float, rss_start_mb: float) -> dict[str, Any]:
        status = self._control.try_call(GetStatus, "/xsam/get_status", GetStatus.Request(), timeout_s=10.0)
        tally = self._tally
        latency_ms = 1000 * np.percentile(tally.latency_s, [50, 99]) if tally.latency_s else (0.0, 0.0)
        return {
            "minutes": round(elapsed_s / 60, 2),
            "requests": tally.requests,
            "answers": tally.answers,
            "refusals": dict(sorted(tally.refusals.items())),
            "failures": dict(sorted(tally.failures.items())),
            "lost": len(tally.lost) + len(self._errors),
            "late": len(tally.late),
            "late_requests": tally.late[:20],
            # The node's own count: if it ended all requests, a lost response was lost in transport.
            "ended_by_the_node": 0 if status is None else status.answered + status.refused + status.failed,
            "lost_requests": [*tally.lost[:20], *self._errors[:5]],
            "goals": dict(sorted(self._goals.items())),
            "p50_ms": round(float(latency_ms[0]), 1),
            "p99_ms": round(float(latency_ms[1]), 1),
            "rss_start_mb": round(rss_start_mb, 1),
            "rss_end_mb": round(self._processes.resident_mb("segmenter"), 1),
            "stream_results": self._stream_results,
            "drops": self._drops + _dropped(status),
            "disturbances": dict(self._disturbances),
            "clients": _CLIENTS,
            "seed": self._seed,
        }

    # ------------------------------------------------------------------------------ clients

    def _guarded(self, work: Any, index: int) -> None:
        try:
            work(index)
        except Exception as error:  # a client that dies has lost its request; the report has to show it
            self._errors.append(f"client {index}: {type(error).__name__}: {error}")

    def _client(self, index: int) -> None:
        rng = random.Random(1000 * self._seed + index)
        image = image_from_array(render(sample_scene(2_000_000 + index)).rgb, "rgb8")
        with LoadClient(f"soak_client_{index}") as client:
            while not self._ending.is_set():
                request, description = _request(rng, image)
                if rng.random() < _GOAL_SHARE:
                    self._send_goal(client, rng, request, description)
                else:
                    self._tally.call(client, "/xsam/segment", request, description)
                time.sleep(rng.uniform(0.0, 0.1))

    def _send_goal(
        self, client: LoadClient, rng: random.Random, request: Segment.Request, description: str
    ) -> None:
        """Send the request over the action; some goals are cancelled, some preempt all others."""
        goal = SegmentAction.Goal(
            camera=request.camera,
            image=request.image,
            queries=request.queries,
            timeout_s=request.timeout_s,
            preempt=rng.random() < 0.1,
        )
        cancel_after_s = rng.choice((None, None, 0.0, 0.05, 0.3))
        kind = "goal" + ", preempting" * goal.preempt + ", cancelled" * (cancel_after_s is not None)
        with self._lock:
            self._goals[kind] += 1
        self._tally.call_action(
            client, "/xsam/segment", goal, f"{kind}: {description}", cancel_after_s=cancel_after_s
        )

    # -------------------------------------------------------------------------- disturbances

    def _restart(self) -> None:
        """Stop a camera for a second, and start it again with another size and encoding."""
        name = self._random.choice(CAMERAS)
        self._processes.stop(name)
        time.sleep(1.0)
        self._start_camera(name, self._random.choice(_SHAPES))
        self._disturbances["restart"] += 1

    def _kill(self) -> None:
        """Kill a camera, and start it again with another size and encoding."""
        name = self._random.choice(CAMERAS)
        self._processes.stop(name, first=signal.SIGKILL)
        self._start_camera(name, self._random.choice(_SHAPES))
        self._disturbances["kill"] += 1

    def _cycle(self) -> None:
        """Deactivate the node while it works, and activate it again."""
        self._keep_drops()
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=transition))
            response = self._control.try_call(ChangeState, "/xsam/change_state", request, timeout_s=30.0)
            if response is None or not response.success:
                self._errors.append(f"transition {transition}: {response}")
            time.sleep(0.5)
        self._disturbances["deactivate"] += 1
        self._stream(self._random.choice(_PHRASES), 5.0)

    def _change_stream(self) -> None:
        self._stream(self._random.choice(_PHRASES), self._random.choice((0.0, 2.0, 10.0)))
        self._disturbances["stream"] += 1

    def _keep_drops(self) -> None:
        """Add up the drops of the current stream; a new stream counts from 0."""
        self._drops += _dropped(
            self._control.try_call(GetStatus, "/xsam/get_status", GetStatus.Request(), timeout_s=10.0)
        )

    def _stream(self, text: str, rate_hz: float) -> None:
        self._keep_drops()
        request = SetStreamQuery.Request(camera="front", queries=[SegmentQuery(text=text)], rate_hz=rate_hz)
        response = self._control.try_call(SetStreamQuery, "/xsam/set_stream_query", request, timeout_s=10.0)
        if response is None or response.status == response.STATUS_UNKNOWN:
            self._errors.append("no response from set_stream_query")

    def _on_stream_result(self, result: SegmentationResult) -> None:
        self._stream_results += bool(result.stream_id)

    def _start_camera(self, name: str, shape: tuple[int, int, str]) -> None:
        width, height, encoding = shape
        values = {"camera": name, "width": width, "height": height, "encoding": encoding, "rate_hz": 10.0}
        arguments = parameter_arguments(values)
        self._processes.start(name, "xsam_ros.camera_sim", "-r", f"__node:={name}_camera", *arguments)


def _dropped(status: GetStatus.Response | None) -> int:
    streams = [] if status is None else [camera.stream for camera in status.cameras]
    return sum(int(stream.dropped) for stream in streams if stream.running)


def _request(rng: random.Random, image: Any) -> tuple[Segment.Request, str]:
    """Return a random request, sometimes an invalid one, and its description."""
    kind = rng.choice(("phrase", "phrase", "list", "several", "point", "inline", "short", "unknown", "none"))
    request = Segment.Request(camera=rng.choice(CAMERAS), timeout_s=rng.choice((2.0, 5.0, 10.0)))
    phrase = SegmentQuery(text=rng.choice(_PHRASES))
    request.queries = [phrase]
    if kind == "list":
        request.queries = [SegmentQuery(thing_classes=list(rng.choice(_LISTS)))]
    elif kind == "several":
        request.queries = [SegmentQuery(text=text) for text in rng.sample(_PHRASES, 3)]
    elif kind == "point":
        point = PixelPoint(x=rng.uniform(-5.0, 330.0), y=rng.uniform(-5.0, 250.0))
        prompt = VisualPrompt(kind=VisualPrompt.KIND_POINT, points=[point])
        request.queries = [SegmentQuery(prompts=[prompt])]
    elif kind == "inline":
        request.camera, request.image = "", image
    elif kind == "short":
        request.timeout_s = rng.choice((0.001, 0.05))
    elif kind == "unknown":
        request.camera = "basement"
    elif kind == "none":
        request.queries = []
    return request, f"{kind} on {request.camera or 'inline image'} within {request.timeout_s} s"


if __name__ == "__main__":
    app()
