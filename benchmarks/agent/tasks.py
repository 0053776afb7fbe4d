"""Table-top tasks with answers from the simulator. `make_tasks.py` wrote their list, `tasks.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from xsam.sim import ObjectAnnotation, PinholeCamera, TableScene, orbit_camera, sample_scene
from xsam.sim.oracle import SimulatedTable

TASKS_FILE = Path(__file__).with_name("tasks.json")
IMAGE_HW = (480, 640)
SIDE_S = 5.0  # the side camera stands where the swinging camera is after this many seconds
CAMERAS = ("front", "side")
BOTTOM_M = 0.009  # thickness of the bottom of a bowl, a plate and a pan

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
        kinds: (name, least number, greatest number) of every kind that must be listed; the two differ where
            an object can hardly be seen.
    """

    objects: tuple[int, ...] = ()
    yes: bool | None = None
    count: int | None = None
    place: int = 0
    absent: bool = False
    ask: bool = False
    kinds: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class LaterTurn:
    """The user's next request, and what has happened since the agent's last answer.

    Attributes:
        request: the request.
        front_s: where the front camera stands now: where the swinging camera is after this many seconds.
        restart: the agent's program was restarted: the conversation goes on with new tools.
    """

    request: str
    front_s: float = 0.0
    restart: bool = False


@dataclass(frozen=True, kw_only=True)
class AgentTask:
    """A user's request to an agent with two cameras, "front" and "side", at a simulated table.

    Attributes:
        name, kind: of the task.
        seed: of the scene.
        request: the user's first request.
        wanted: the right answer to the last request.
        front: the part of the table that the front camera sees; the side camera sees all of it.
        later: further requests in the same conversation.
        put_in: (inner, outer): instance ids of an object that was put into another one.
    """

    name: str
    kind: str
    seed: int
    request: str
    wanted: ExpectedAnswer
    front: Front = "whole"
    later: tuple[LaterTurn, ...] = ()
    put_in: tuple[int, int] | None = None

    @property
    def nothing_there(self) -> bool:
        """Whether the honest answer is that there is no such thing."""
        return self.wanted.absent or self.wanted.yes is False

    def table(self) -> SimulatedTable:
        """Create the table with its cameras, which is also a segmenter with perfect masks."""
        return make_table(self.seed, self.front, put_in=self.put_in)

    def table_at_end(self) -> SimulatedTable:
        """Create the table as it is after the last request."""
        table = self.table()
        if self.later:
            table.cameras["front"] = self.later[-1].front_s
        return table


def make_table(seed: int, front: Front = "whole", *, put_in: tuple[int, int] | None = None) -> SimulatedTable:
    """Create a table with a front camera that sees all of it, or one half, and a side camera."""
    cameras: dict[str, PinholeCamera | float] = {"front": 0.0, "side": SIDE_S}
    if front != "whole":
        cameras["front"] = _half(sample_scene(seed), front)
    scene = scene_with_contents(seed, *put_in) if put_in is not None else None
    return SimulatedTable(seed, cameras=cameras, image_hw=IMAGE_HW, scene=scene)


@lru_cache(maxsize=8)  # scenes are compared by identity, and so are their views
def scene_with_contents(seed: int, inner: int, outer: int) -> TableScene:
    """Return a scene in which one object lies in another one, on its bottom; both are instance ids."""
    scene = sample_scene(seed)
    objects = list(scene.objects)
    x, y, _ = objects[outer - 1].position_m
    objects[inner - 1] = replace(objects[inner - 1], position_m=(x, y, BOTTOM_M))
    return replace(scene, objects=tuple(objects))


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
        row = {k: v for k, v in row.items() if k not in ("later", "put_in")}  # no stored task has them
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
