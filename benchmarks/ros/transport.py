"""Count the images that arrive with and without the shipped Fast DDS profile, best effort, between processes.

    python -m benchmarks.ros.transport --seconds 3

A simulated camera sends 20 images a second; another process counts what arrives. The last line is JSON: the
images received and those sent meanwhile, by size and profile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from support.processes import NodeProcesses, parameter_arguments

PROFILE = Path(__file__).resolve().parents[2] / "config" / "fastdds_large_images.xml"
_SIZES = ((640, 480), (1280, 720))
_RATE_HZ = 20.0
_START_S = 30.0
_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"

_COUNT = """
import sys, time
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from benchmarks.ros.load import LoadClient
seconds, start_s = float(sys.argv[1]), float(sys.argv[2])
images, infos = [], []
with LoadClient("transport") as client:
    for kind, name, found in ((Image, "image_raw", images), (CameraInfo, "camera_info", infos)):
        topic = f"/camera/{name}"
        client.node.create_subscription(kind, topic, found.append, qos_profile_sensor_data, raw=True)
    until = time.monotonic() + start_s
    while not infos and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(1.0)  # both topics are discovered
    first = len(images), len(infos)
    time.sleep(seconds)
    print(len(images) - first[0], len(infos) - first[1])
"""


def received(width: int, height: int, *, profile: bool, seconds: float, logs: Path) -> dict[str, int]:
    """Count images, and camera infos as a measure of what was sent: those are small and do not get lost."""
    environment = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    environment.pop(_VARIABLE, None)
    if profile:
        environment[_VARIABLE] = str(PROFILE)
    values = {"camera": "camera", "width": width, "height": height, "rate_hz": _RATE_HZ}
    with NodeProcesses(log_dir=logs, env=environment) as processes:
        processes.start(f"camera_{width}", "xsam_ros.camera_sim", *parameter_arguments(values))
        counted = subprocess.run(
            [sys.executable, "-c", _COUNT, str(seconds), str(_START_S)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_START_S + seconds + 60.0,
            check=True,
        )
    images, infos = map(int, counted.stdout.split())
    return {"images": images, "sent": infos}


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    seconds: Annotated[float, typer.Option(help="How long to count.")] = 3.0,
    out: Annotated[Path, typer.Option(help="Folder for logs.")] = Path("transport_output"),
) -> None:
    """Count for each size with and without the profile."""
    out.mkdir(parents=True, exist_ok=True)
    report: dict[str, dict[str, dict[str, int]]] = {}
    for width, height in _SIZES:
        for profile in (False, True):
            os.environ["ROS_DOMAIN_ID"] = str(1 + int(time.monotonic() * 10) % 100)
            name = "with_profile" if profile else "default"
            counts = received(width, height, profile=profile, seconds=seconds, logs=out)
            report.setdefault(f"{width}x{height}", {})[name] = counts
            print(f"[transport] {width}×{height} {name}: {counts['images']} of {counts['sent']}", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    app()
