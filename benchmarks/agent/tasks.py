"""Table-top tasks with answers from the simulator. `make_tasks.py` wrote their list, `tasks.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from xsam.sim import ObjectAnnotation, PinholeCamera, TableScene, orbit_camera, sample_scene
from xsam.sim.oracle import SimulatedTable

TASKS_FILE = Path(__file__).with_name("tasks.json")
IMAGE_HW = (480, 640)
SIDE_S = 5.0  # the side camera stands where the swinging camera is after this many seconds
CAMERAS = ("front", "side")

Front = Literal["whole", "left", "right"]


@dataclass(frozen=True, kw_only=True)
class ExpectedAnswer:
    """The right answer; exactly one field is set.

    Attributes:
        objects: instance ids, any of which is right; others are wrong.
        yes: whether it is there.
        count: how many.
        place: the instance id of the object whose position in the front camera's frame is requested.
        absent: no camera sees such an object; saying so is right.
        ask: several objects fit and nothing tells which is meant; asking back is right.
    """

    objects: tuple[int, ...] = ()
    yes: bool | None = None
    count: int | None = None
    place: int = 0
    absent: bool = False
    ask: bool = False


@dataclass(frozen=True, kw_only=True)
class AgentTask:
    """A user's request to an agent with two cameras, "front" and "side", at a simulated table.

    `front`: the part of the table that the front camera sees; the side camera sees all of it.
    """

    name: str
    kind: str
    seed: int
    request: str
    wanted: ExpectedAnswer
    front: Front = "whole"

    @property
    def nothing_there(self) -> bool:
        """Whether the honest answer is that there is no such thing."""
        return self.wanted.absent or self.wanted.yes is False

    def table(self) -> SimulatedTable:
        """Create the table with its cameras, which is also a segmenter with perfect masks."""
        return make_table(self.seed, self.front)


def make_table(seed: int, front: Front = "whole") -> SimulatedTable:
    """Create a table with a front camera that sees all of it, or one half, and a side camera."""
    cameras: dict[str, PinholeCamera | float] = {"front": 0.0, "side": SIDE_S}
    if front != "whole":
        cameras["front"] = _half(sample_scene(seed), front)
    return SimulatedTable(seed, cameras=cameras, image_hw=IMAGE_HW)


def load_tasks() -> list[AgentTask]:
    """Read the tasks from `tasks.json`."""
    rows = json.loads(TASKS_FILE.read_text(encoding="utf-8"))
    tasks = []
    for row in rows:
        wanted = dict(row.pop("wanted"))
        if "objects" in wanted:
            wanted["objects"] = tuple(wanted["objects"])
        tasks.append(AgentTask(**row, wanted=ExpectedAnswer(**wanted)))
    return tasks


def save_tasks(tasks: list[AgentTask]) -> None:
    """Write `tasks.json`, one task per line."""
    rows = []
    for task in tasks:
        row = asdict(task)
        row["wanted"] = {k: v for k, v in row["wanted"].items() if v != getattr(ExpectedAnswer(), k)}
        rows.append(json.dumps(row))
    TASKS_FILE.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")


def labeled(items: tuple[ObjectAnnotation, ...]) -> list[ObjectAnnotation]:
    """Return the objects that phrases may refer to."""
    return [item for item in items if item.labeled]


def _half(scene: TableScene, side: Front) -> PinholeCamera:
    """Turn the scene's camera to one side and zoom in."""
    camera = orbit_camera(scene, 0.0)
    eye, target = np.array(camera.eye_m), np.array(camera.target_m)
    right = camera.world_from_camera()[:3, 0]
    shift = (0.2 if side == "right" else -0.2) * float(np.linalg.norm(target - eye)) * right
    x, y, z = (target + shift).tolist()
    return replace(camera, target_m=(x, y, z), fovy_rad=0.55 * camera.fovy_rad)
