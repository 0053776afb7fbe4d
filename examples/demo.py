"""Run the whole path: simulated camera → ROS 2 node → masks, an agent that uses them, and a model server.

`make demo` takes a simulated table, and compares the results with the simulator's ground truth;
`make demo IMAGE=photo.jpg` takes an image of yours (the tiny model knows simulated tables only).

Camera and segmenter run in their own processes and talk over DDS. Images, `report.json` and the logs of the
processes are written to the output folder.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from demo_requests import DemoRequest, requests_for_photo, requests_for_scene
from demo_server import ask_server
from demo_stream import stream
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`, which is not installed

from support.processes import NodeProcesses, use_private_domain
from support.readiness import wait_until_active
from support.scripted_model import ScriptedModel, segment_and_report
from xsam import CameraRef, Frame, SegmentationResult
from xsam.draw.overlay import draw_overlay
from xsam.sim import orbit_camera, render, sample_scene
from xsam.types.masks import mask_iou
from xsam_agent_tools import XSamToolkit
from xsam_ros.client import RosSegmenter

PARAMETERS = Path(__file__).resolve().parents[1] / "config" / "demo.yaml"
CAMERA, MOVING_CAMERA = "table", "moving"
IMAGE_HW = (480, 640)  # of the camera in config/demo.yaml
START_TIMEOUT_S, REQUEST_TIMEOUT_S = 90.0, 30.0
_MAX_TRACKS = 12  # in the table; the report has all


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    out: Annotated[Path, typer.Option(help="Folder for images and report.")] = Path("demo_output"),
    image: Annotated[
        Path | None, typer.Option(help="An image of your own instead of the simulated camera.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Simulated scene (test range).")] = 2_000_303,
) -> None:
    """Run the demo; exit with 0 if the node carried out every request."""
    photo = _read_image(image) if image else None
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.png"):
        old.unlink()
    use_private_domain()
    console = Console(markup=True, highlight=False)
    console.width = max(console.width, 118)
    started = time.monotonic()
    with NodeProcesses(log_dir=out) as processes:
        if photo is None:
            scene_of = ("--params-file", PARAMETERS, "-p", f"seed:={seed}")
            processes.start("camera", "xsam_ros.camera_sim", *scene_of)
            processes.start(
                "moving_camera", "xsam_ros.camera_sim", *scene_of, "-r", "__node:=xsam_moving_camera"
            )
        processes.start("segmenter", "xsam_ros.segmenter_node", "--params-file", PARAMETERS)
        console.print(f"\\[demo] started {', '.join(processes.names)}; logs are in {out}/")
        with RosSegmenter("/xsam") as segmenter:
            cameras = (CAMERA,) if photo is None else ()
            try:
                wait_until_active(segmenter, cameras=cameras, processes=processes, timeout_s=START_TIMEOUT_S)
            except (RuntimeError, TimeoutError) as error:
                sys.exit(f"demo: {error}")
            console.print(f"\\[demo] the model is loaded after {time.monotonic() - started:.0f} s")
            if photo is None:
                scene = sample_scene(seed)
                view = render(scene, camera=orbit_camera(scene, 0.0), image_hw=IMAGE_HW)
                rgb, requests = view.rgb, requests_for_scene(scene, view)
                source: Frame | CameraRef = CameraRef(name=CAMERA)
            else:
                rgb, requests = photo, requests_for_photo(photo)
                source = Frame(rgb=photo)
            _save(out / "00_camera.png", rgb)
            rows = [
                _ask(segmenter, source, rgb, request, out / f"{i:02d}_{request.name}.png")
                for i, request in enumerate(requests, start=1)
            ]
            agent = _run_agent(segmenter, requests, out) if photo is None else None
            streamed = None
            if photo is None:
                console.print("\\[demo] streaming a query on a camera that swings around the table")
                streamed = stream(segmenter, MOVING_CAMERA, _categories(requests), out)
    console.print("\\[demo] the same model behind HTTP: xsam serve")
    served = ask_server(rgb, next(r.query for r in requests if r.name == "referring"), out)
    report = {
        "model": next((row["model"] for row in rows if row["model"]), ""),
        "source": str(image or f"simulated scene {seed}"),
        "seconds": round(time.monotonic() - started, 1),
        "requests": rows,
        "agent": agent,
        "stream": streamed,
        "server": served,
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print_table(console, rows)
    if agent is not None:
        console.print(f"[bold]agent[/] asked {agent['calls']} → {agent['answer']}")
    if streamed is not None:
        _print_tracks(console, streamed)
    latency = f"in {served['round_trip_ms']:.0f} ms"
    console.print(f"[bold]server[/] answered {served['status']} {latency}; page: {served['page']}")
    console.print(f"\\[demo] {report['seconds']} s; images and report.json are in {out}/")
    raise typer.Exit(1 if any(row["status"] in ("failed", "refused") for row in rows) else 0)


def _read_image(path: Path) -> np.ndarray:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        sys.exit(f"demo: cannot read {path} as an image")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _save(path: Path, rgb: np.ndarray) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def _ask(
    segmenter: RosSegmenter, source: Frame | CameraRef, rgb: np.ndarray, request: DemoRequest, overlay: Path
) -> dict[str, Any]:
    """Send one request over ROS, save an overlay image, and return a row for table and report."""
    began = time.monotonic()
    (result,) = segmenter.segment(source, [request.query], deadline_s=REQUEST_TIMEOUT_S)
    round_trip_s = time.monotonic() - began
    _save(overlay, draw_overlay(rgb, result.segments, title=request.title))
    return {
        "name": request.name,
        "task": result.query.resolved_task().value,
        "request": request.title,
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
        "picture": overlay.name,
    }


def _iou(result: SegmentationResult, request: DemoRequest) -> float | None:
    """Return the IoU of result and truth, all masks of a label together, averaged over the labels."""
    if not request.truth:
        return None
    ious = []
    for label, truth in request.truth.items():
        masks = [
            mask
            for name, mask in zip(result.segments.labels, result.masks, strict=True)
            if label in ("", name)
        ]
        ious.append(mask_iou(np.any(masks, axis=0), truth) if masks else 0.0)
    return round(float(np.mean(ious)), 3)


def _run_agent(segmenter: RosSegmenter, requests: list[DemoRequest], out: Path) -> dict[str, Any]:
    """Run a LangChain agent that sees through the ROS node only; its chat model follows a script."""
    texts = [r.query.text for r in requests if r.name in ("referring", "absent")]
    tools = XSamToolkit(segmenter, cameras=[CAMERA], deadline_s=REQUEST_TIMEOUT_S).get_tools()
    agent = create_agent(ScriptedModel(policy=segment_and_report), tools)
    messages = agent.invoke({"messages": [HumanMessage(", ".join(texts))]})["messages"]
    transcript = [f"{m.type}: {m.text or m.tool_calls}" for m in messages if hasattr(m, "text")]
    (out / "agent.txt").write_text("\n\n".join(transcript) + "\n", encoding="utf-8")
    calls = [call for m in messages for call in getattr(m, "tool_calls", [])]
    return {"calls": [{"tool": c["name"], "args": c["args"]} for c in calls], "answer": messages[-1].text}


def _categories(requests: list[DemoRequest]) -> tuple[str, ...]:
    return next(r.query.thing_classes for r in requests if r.name == "categories")


def _print_tracks(console: Console, streamed: dict[str, Any]) -> None:
    title = f"{streamed['answers']} results at {streamed['rate_hz']} Hz on camera {streamed['camera']}"
    table = Table(title=title)
    for column in ("track", "label", "results", "distance, from … to"):
        table.add_column(column)
    longest = sorted(streamed["tracks"], key=lambda row: -row["answers"])[:_MAX_TRACKS]
    for row in sorted(longest, key=lambda row: row["track"]):
        meters = row["distance_m"]
        distance = "unknown" if meters is None else f"{meters[0]:.2f} … {meters[1]:.2f} m"
        table.add_row(str(row["track"]), row["label"], str(row["answers"]), distance)
    console.print(table)


def _print_table(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table(title="X-SAM over ROS 2")
    for column in ("request", "task", "status"):
        table.add_column(column, max_width=40)
    for column in ("found", "score", "IoU", "encode", "language", "decode", "round trip"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        color = {"found": "green", "unsure": "yellow", "not_found": "yellow"}.get(row["status"], "red")
        latency_ms = row["latency_ms"]
        table.add_row(
            row["request"],
            row["task"],
            f"[{color}]{row['status']}[/]",
            str(row["found"]),
            "-" if row["score"] is None else f"{row['score']:.2f}",
            "-" if row["iou"] is None else f"{row['iou']:.2f}",
            *(
                f"{latency_ms.get(stage, 0.0):.0f} ms"
                for stage in ("encode", "language", "decode", "round_trip")
            ),
        )
    console.print(table)


if __name__ == "__main__":
    app()
