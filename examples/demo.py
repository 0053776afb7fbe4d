"""The whole path in one go: simulated camera → ROS 2 node → masks, and an agent that uses them as a tool.

    make demo                    a simulated table; answers are compared with the simulator's truth
    make demo IMAGE=photo.jpg    a picture of yours (the tiny model knows simulated tables only)

Camera and segmenter run as processes of their own and talk over DDS. Pictures, `report.json` and the
processes' logs are left in the output folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from agent_in_process import ScriptedModel
from demo_requests import DemoRequest, requests_for_photo, requests_for_scene
from demo_stream import stream
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from rich.console import Console
from rich.table import Table
from ros_processes import RosProcesses

from xsam import CameraRef, Frame, SegmentationResult, XSamError
from xsam.draw.overlay import draw_overlay
from xsam.sim import orbit_camera, render, sample_scene
from xsam.types.masks import mask_iou
from xsam_agent_tools import XSamToolkit
from xsam_ros.client import RosSegmenter

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = ROOT / "config" / "demo.yaml"
CAMERA, MOVING_CAMERA = "table", "moving"
IMAGE_HW = (480, 640)  # what config/demo.yaml asks of the camera
START_S, ANSWER_S = 90.0, 30.0


def main(argv: list[str] | None = None) -> int:
    """Run the demo; 0 when every request was answered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output"), help="folder for pictures and report"
    )
    parser.add_argument("--image", type=Path, help="a picture of your own instead of the simulated camera")
    parser.add_argument("--seed", type=int, default=2_000_012, help="simulated scene (test range)")
    args = parser.parse_args(argv)
    photo = _read_image(args.image) if args.image else None
    args.out.mkdir(parents=True, exist_ok=True)
    for old in args.out.glob("*.png"):
        old.unlink()
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    console = Console(markup=True, highlight=False)
    console.width = max(console.width, 118)
    started = time.monotonic()
    with RosProcesses(log_dir=args.out) as processes:
        if photo is None:
            seed = ("--params-file", PARAMETERS, "-p", f"seed:={args.seed}")
            processes.start("camera", "xsam_ros.camera_sim", *seed)
            processes.start("moving_camera", "xsam_ros.camera_sim", *seed, "-r", "__node:=xsam_moving_camera")
        processes.start("segmenter", "xsam_ros.segmenter_node", "--params-file", PARAMETERS)
        console.print(f"\\[demo] started {', '.join(processes.names)}; logs are in {args.out}/")
        with RosSegmenter("/xsam") as segmenter:
            _wait_until_active(segmenter, processes)
            console.print(f"\\[demo] the model is loaded after {time.monotonic() - started:.0f} s")
            if photo is None:
                scene = sample_scene(args.seed)
                view = render(scene, camera=orbit_camera(scene, 0.0), image_hw=IMAGE_HW)
                rgb, requests = view.rgb, requests_for_scene(scene, view)
                source: Frame | CameraRef = CameraRef(name=CAMERA)
            else:
                rgb, requests = photo, requests_for_photo(photo)
                source = Frame(rgb=photo)
            _save(args.out / "00_camera.png", rgb)
            rows = [
                _ask(segmenter, source, rgb, request, args.out / f"{i:02d}_{request.name}.png")
                for i, request in enumerate(requests, start=1)
            ]
            agent = _run_agent(segmenter, requests, args.out) if photo is None else None
            streamed = None
            if photo is None:
                console.print("\\[demo] streaming a question on a camera that swings around the table")
                streamed = stream(segmenter, MOVING_CAMERA, _categories(requests), args.out)
    report = {
        "model": next((row["model"] for row in rows if row["model"]), ""),
        "source": str(args.image or f"simulated scene {args.seed}"),
        "seconds": round(time.monotonic() - started, 1),
        "requests": rows,
        "agent": agent,
        "stream": streamed,
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print_table(console, rows)
    if agent is not None:
        console.print(f"[bold]agent[/] asked {agent['calls']} → {agent['answer']}")
    if streamed is not None:
        _print_tracks(console, streamed)
    console.print(f"\\[demo] {report['seconds']} s; pictures and report.json are in {args.out}/")
    return 1 if any(row["status"] in ("failed", "refused") for row in rows) else 0


def _read_image(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        sys.exit(f"demo: {path} is not a picture that can be read")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _save(path: Path, rgb: np.ndarray) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def _wait_until_active(segmenter: RosSegmenter, processes: RosProcesses) -> None:
    """Until the node is active and, when there is a camera, its first frame has come."""
    until = time.monotonic() + START_S
    state = "not there yet"
    while time.monotonic() < until:
        processes.check()
        try:
            status = segmenter.status(deadline_s=2.0)
        except XSamError as error:
            state = error.message
        else:
            state = status.state
            if status.last_error:
                sys.exit(f"demo: the segmenter could not be configured: {status.last_error}")
            if state == "active" and ("camera" not in processes.names or status.cameras[0].frames > 0):
                return
        time.sleep(0.2)
    sys.exit(f"demo: the segmenter was not ready within {START_S:.0f} s ({state}); see its log")


def _ask(
    segmenter: RosSegmenter, source: Frame | CameraRef, rgb: np.ndarray, request: DemoRequest, picture: Path
) -> dict[str, Any]:
    """One request over ROS: an overlay picture, and a row for table and report."""
    began = time.monotonic()
    (result,) = segmenter.segment(source, [request.query], deadline_s=ANSWER_S)
    round_trip_s = time.monotonic() - began
    _save(picture, draw_overlay(rgb, result.segments, title=request.words))
    return {
        "name": request.name,
        "task": result.query.resolved_task().value,
        "request": request.words,
        "status": result.status.value,
        "expected": request.expected,
        "found": len(result),
        "score": round(float(result.segments.scores[0]), 3) if len(result) else None,
        "iou": _iou(result, request),
        "text": result.text,
        "message": result.message,
        "latency_ms": {
            **{stage: round(1000 * s, 1) for stage, s in result.timing.stages_s.items()},
            "round_trip": round(1000 * round_trip_s, 1),
        },
        "model": result.model_id,
        "picture": picture.name,
    }


def _iou(result: SegmentationResult, request: DemoRequest) -> float | None:
    """Mean over the labels of the IoU between answer and truth, all masks of a label together."""
    if not request.truth:
        return None
    ious = []
    for label, truth in request.truth.items():
        own = [
            mask
            for name, mask in zip(result.segments.labels, result.masks, strict=True)
            if label in ("", name)
        ]
        ious.append(mask_iou(np.any(own, axis=0), truth) if own else 0.0)
    return round(float(np.mean(ious)), 3)


def _run_agent(segmenter: RosSegmenter, requests: list[DemoRequest], out: Path) -> dict[str, Any]:
    """A LangChain agent loop whose only eyes are the ROS node; the chat model follows a script."""
    wanted = [r.query.text for r in requests if r.name in ("referring", "absent")]
    tools = XSamToolkit(segmenter, cameras=[CAMERA], deadline_s=ANSWER_S).get_tools()
    agent = create_agent(ScriptedModel(messages=iter(())), tools)
    messages = agent.invoke({"messages": [HumanMessage(", ".join(wanted))]})["messages"]
    transcript = [f"{m.type}: {m.text or m.tool_calls}" for m in messages if hasattr(m, "text")]
    (out / "agent.txt").write_text("\n\n".join(transcript) + "\n", encoding="utf-8")
    calls = [call for m in messages for call in getattr(m, "tool_calls", [])]
    return {"calls": [{"tool": c["name"], "args": c["args"]} for c in calls], "answer": messages[-1].text}


def _categories(requests: list[DemoRequest]) -> tuple[str, ...]:
    return next(r.query.thing_classes for r in requests if r.name == "categories")


def _print_tracks(console: Console, streamed: dict[str, Any]) -> None:
    title = f"{streamed['answers']} answers at {streamed['rate_hz']} Hz on camera {streamed['camera']}"
    table = Table(title=title)
    for column in ("track", "label", "answers", "distance, from … to"):
        table.add_column(column)
    for row in streamed["tracks"]:
        meters = row["distance_m"]
        words = "unknown" if meters is None else f"{meters[0]:.2f} … {meters[1]:.2f} m"
        table.add_row(str(row["track"]), row["label"], str(row["answers"]), words)
    console.print(table)


def _print_table(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table(title="X-SAM over ROS 2")
    for column in ("request", "task", "status"):
        table.add_column(column, max_width=40)
    for column in ("found", "score", "IoU", "encode", "language", "decode", "round trip"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        color = {"found": "green", "not_found": "yellow"}.get(row["status"], "red")
        spent = row["latency_ms"]
        table.add_row(
            row["request"],
            row["task"],
            f"[{color}]{row['status']}[/]",
            str(row["found"]),
            "-" if row["score"] is None else f"{row['score']:.2f}",
            "-" if row["iou"] is None else f"{row['iou']:.2f}",
            *(f"{spent.get(stage, 0.0):.0f} ms" for stage in ("encode", "language", "decode", "round_trip")),
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
