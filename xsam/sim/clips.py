"""Clips of a table: the camera moves, and some objects are carried over it, in and out of view.

An object keeps its instance id through the whole clip, also while it is hidden or out of view: `objects[i]`
of every frame is the same object, with id i + 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from xsam.sim.camera import PinholeCamera, orbit
from xsam.sim.meshes import Vec3
from xsam.sim.render import RenderedView, render
from xsam.sim.scene import SceneConfig, TableScene, sample_scene

FRAME_RATE_HZ = 15.0

_CLEARANCE_M = 0.02  # of a carried object above the highest one


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig:
    """Distribution that `sample_clip` draws from; every pair is (minimum, maximum), inclusive.

    Attributes:
        scene: of the table.
        length: number of frames.
        swing_deg: of the camera around the table, to each side.
        period_s: of the swing.
        carried: number of objects that move.
        speed_m_s: of a carried object.
    """

    scene: SceneConfig = SceneConfig(object_count=(4, 7), truncation_probability=0.0)  # noqa: RUF009  # frozen
    length: int = 60
    swing_deg: tuple[float, float] = (4.0, 12.0)
    period_s: tuple[float, float] = (6.0, 12.0)
    carried: tuple[int, int] = (1, 2)
    speed_m_s: tuple[float, float] = (0.08, 0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedObject:
    """The way of one object: along a line through a point that it passes at a time."""

    index: int  # in the objects of the scene
    through_m: Vec3
    at_s: float
    velocity_m_s: tuple[float, float]  # along x and y
    turn_rad_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableClip:
    """A scene and how it changes."""

    scene: TableScene
    length: int
    swing_rad: float
    period_s: float
    carried: tuple[CarriedObject, ...]

    def stamp_s(self, frame: int) -> float:
        """Return the time of a frame from the beginning of the clip."""
        return frame / FRAME_RATE_HZ

    def camera(self, frame: int) -> PinholeCamera:
        """Return where the camera is."""
        return orbit(self.scene.camera, self.stamp_s(frame), period_s=self.period_s, swing_rad=self.swing_rad)

    def scene_at(self, frame: int) -> TableScene:
        """Return the scene with its objects where they are."""
        objects = list(self.scene.objects)
        for way in self.carried:
            elapsed_s = self.stamp_s(frame) - way.at_s
            x, y, z = way.through_m
            objects[way.index] = replace(
                objects[way.index],
                position_m=(x + way.velocity_m_s[0] * elapsed_s, y + way.velocity_m_s[1] * elapsed_s, z),
                yaw_rad=objects[way.index].yaw_rad + way.turn_rad_s * elapsed_s,
            )
        return replace(self.scene, objects=tuple(objects))

    def render(
        self, frame: int, *, image_hw: tuple[int, int] = (480, 640), supersample: int = 2
    ) -> RenderedView:
        """Render one frame; see `xsam.sim.render.render`."""
        return render(
            self.scene_at(frame), camera=self.camera(frame), image_hw=image_hw, supersample=supersample
        )

    def views(
        self, *, image_hw: tuple[int, int] = (480, 640), supersample: int = 2
    ) -> Iterator[RenderedView]:
        """Render all frames, one after the other."""
        for frame in range(self.length):
            yield self.render(frame, image_hw=image_hw, supersample=supersample)


def sample_clip(seed: int, config: ClipConfig | None = None) -> TableClip:
    """Sample a clip; the same seed and configuration give the same clip.

    The seeds of `xsam.sim.scene` keep the splits apart: the clip of a seed shows the objects of its scene.

    Raises:
        ValueError: see `sample_scene`.
    """
    config = config or ClipConfig()
    scene = sample_scene(seed, config.scene)
    rng = np.random.default_rng(np.random.SeedSequence((seed, 1)))
    duration_s = config.length / FRAME_RATE_HZ
    count = min(int(rng.integers(config.carried[0], config.carried[1] + 1)), len(scene.objects))
    height_m = max(float(item.model.upper_m[2]) for item in scene.objects) + _CLEARANCE_M
    ways = []
    for index in rng.choice(len(scene.objects), count, replace=False).tolist():
        heading_rad = float(rng.uniform(0.0, 2.0 * math.pi))
        speed = float(rng.uniform(*config.speed_m_s))
        item = scene.objects[index]
        ways.append(
            CarriedObject(
                index=index,
                # Each on a level of its own, so that they do not run into each other.
                through_m=(float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.12, 0.12)), height_m),
                at_s=float(rng.uniform(0.0, duration_s)),
                velocity_m_s=(speed * math.cos(heading_rad), speed * math.sin(heading_rad)),
                turn_rad_s=float(rng.normal(0.0, 0.3)),
            )
        )
        height_m += float(item.model.upper_m[2] - item.model.lower_m[2]) + _CLEARANCE_M
    return TableClip(
        scene=scene,
        length=config.length,
        swing_rad=math.radians(float(rng.uniform(*config.swing_deg))),
        period_s=float(rng.uniform(*config.period_s)),
        carried=tuple(ways),
    )
