"""Random table-top scenes: objects, surfaces, light, and camera, all from one seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xsam.sim.camera import PinholeCamera, look_from, orbit
from xsam.sim.household import CATEGORIES, COLORS, build_object
from xsam.sim.meshes import ObjectModel, Rgb, Vec3
from xsam.sim.textures import Texture, sample_texture

TRAIN_SEEDS = range(1_000_000)
VALIDATION_SEEDS = range(1_000_000, 1_010_000)
TEST_SEEDS = range(2_000_000, 2_010_000)

FLOOR_Z_M = -0.72
TABLE_THICKNESS_M = 0.04

_FRAME_4_3 = (144, 192)  # (H, W) that objects are placed for, whatever shape is rendered later
_ACCENTS: tuple[Rgb, ...] = ((0.85, 0.85, 0.84), (0.10, 0.10, 0.11), (0.55, 0.55, 0.57), (0.35, 0.35, 0.36))


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneConfig:
    """Distribution that `sample_scene` draws from; every pair is (minimum, maximum), inclusive.

    Attributes:
        object_count: number of objects.
        categories: categories to choose from.
        distractor_probability: probability that two or three objects share the category of the first one.
        elevation_deg: angle of the camera above the table.
        azimuth_deg: position of the camera around the table; 0 faces the wall.
        distance_m: distance from the camera to the point it looks at.
        fovy_deg: vertical field of view of a 4:3 image.
        truncation_probability: probability that an object may extend beyond the edge of the image.
        gap_m: minimum distance between the footprints of two objects.
    """

    object_count: tuple[int, int] = (3, 8)
    categories: tuple[str, ...] = CATEGORIES
    distractor_probability: float = 0.6
    elevation_deg: tuple[float, float] = (22.0, 62.0)
    azimuth_deg: tuple[float, float] = (-35.0, 35.0)
    distance_m: tuple[float, float] = (0.62, 1.0)
    fovy_deg: tuple[float, float] = (32.0, 44.0)
    truncation_probability: float = 0.08
    gap_m: float = 0.008


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableObject:
    """An object on the table.

    Attributes:
        model: the meshes.
        color: name of the main color, a key of `COLORS`.
        position_m: position of the model's origin in the world.
        yaw_rad: rotation about the vertical axis.
        main_rgb, accent_rgb, label_rgb: linear colors of the parts.
    """

    model: ObjectModel
    color: str
    position_m: Vec3
    yaw_rad: float
    main_rgb: Rgb
    accent_rgb: Rgb
    label_rgb: Rgb

    @property
    def category(self) -> str:
        """Name of the category, for example "teddy bear"."""
        return self.model.category

    def world_from_object(self) -> NDArray[np.float64]:
        """Return the (4, 4) float64 pose of the model in the world."""
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        pose = np.eye(4)
        pose[:2, :2] = [[cos, -sin], [sin, cos]]
        pose[:3, 3] = self.position_m
        return pose

    def footprint_m(self) -> NDArray[np.float64]:
        """Return the (4, 2) corners, in the world, of the rotated bounding rectangle on the table."""
        (x0, y0), (x1, y1) = self.model.lower_m[:2].tolist(), self.model.upper_m[:2].tolist()
        pose = self.world_from_object()
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) @ pose[:2, :2].T + pose[:2, 3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """A distant lamp and ambient light.

    Attributes:
        direction: unit vector from the table to the lamp.
        color: linear RGB.
        ambient: brightness of the ambient light.
    """

    direction: Vec3
    color: Rgb
    ambient: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Room:
    """The surfaces around the objects.

    Attributes:
        table_half_size_m: half the table's extent along x and y; its top is at z = 0.
        wall_y_m: y coordinate of the plane of the wall.
        table, floor, wall: textures.
    """

    table_half_size_m: tuple[float, float]
    wall_y_m: float
    table: Texture
    floor: Texture
    wall: Texture


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableScene:
    """Everything the renderer needs. `objects[i]` has instance id i + 1. Compared by identity."""

    seed: int
    objects: tuple[TableObject, ...]
    room: Room
    light: Light
    camera: PinholeCamera = field(repr=False)


def footprints_overlap(a: NDArray[np.float64], b: NDArray[np.float64], gap_m: float = 0.0) -> bool:
    """Return True if two rectangles, (4, 2) corners each, are closer than a gap (separating axis test)."""
    for rectangle in (a, b):
        for edge in (rectangle[1] - rectangle[0], rectangle[3] - rectangle[0]):
            axis = edge / (np.hypot(edge[0], edge[1]) + 1e-12)
            on_a, on_b = a @ axis, b @ axis
            if on_a.max() + gap_m <= on_b.min() or on_b.max() + gap_m <= on_a.min():
                return False
    return True


def _jitter_color(rng: np.random.Generator, name: str) -> Rgb:
    rgb = np.asarray(COLORS[name]) * rng.uniform(0.88, 1.10) * (1.0 + rng.normal(0.0, 0.03, 3))
    r, g, b = np.clip(rgb, 0.02, 1.0).tolist()
    return r, g, b


def _sample_camera(rng: np.random.Generator, config: SceneConfig) -> PinholeCamera:
    return look_from(
        (float(rng.uniform(-0.06, 0.06)), float(rng.uniform(-0.05, 0.05)), 0.03),
        azimuth_rad=math.radians(rng.uniform(*config.azimuth_deg)),
        elevation_rad=math.radians(rng.uniform(*config.elevation_deg)),
        distance_m=float(rng.uniform(*config.distance_m)),
        fovy_rad=math.radians(rng.uniform(*config.fovy_deg)),
        roll_rad=float(rng.normal(0.0, 0.03)),
    )


def _sample_light(rng: np.random.Generator) -> Light:
    direction = np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.8, 0.4), 1.0])
    x, y, z = (direction / np.linalg.norm(direction)).tolist()
    power = rng.uniform(0.8, 1.05)
    color = (float(power), float(power * rng.uniform(0.93, 1.02)), float(power * rng.uniform(0.85, 1.04)))
    return Light(direction=(x, y, z), color=color, ambient=float(rng.uniform(0.36, 0.55)))


def _sample_room(rng: np.random.Generator) -> Room:
    return Room(
        table_half_size_m=(float(rng.uniform(0.5, 0.75)), float(rng.uniform(0.38, 0.55))),
        wall_y_m=float(rng.uniform(0.7, 1.8)),
        table=sample_texture(rng),
        floor=sample_texture(rng),
        wall=sample_texture(rng, "plain" if rng.random() < 0.7 else None),
    )


def _sample_categories(rng: np.random.Generator, config: SceneConfig) -> list[str]:
    low, high = config.object_count
    names = [str(name) for name in rng.choice(config.categories, int(rng.integers(low, high + 1)))]
    if rng.random() < config.distractor_probability:
        same = min(len(names), int(rng.integers(2, 4)))
        names[:same] = [names[0]] * same
    return names


def _place_object(
    rng: np.random.Generator,
    config: SceneConfig,
    category: str,
    camera: PinholeCamera,
    room: Room,
    others: list[TableObject],
) -> TableObject | None:
    """Put an object of the category on a free spot of the table; return None if none is found."""
    model = build_object(category, rng)
    taken = {other.color for other in others if other.category == category}
    free = [color for color in model.colors if color not in taken]
    color = str(rng.choice(free or model.colors))
    shade = rng.uniform(0.72, 0.95)
    label = tuple((shade * (1.0 - 0.12 * rng.random(3))).tolist())
    accent = _ACCENTS[int(rng.integers(len(_ACCENTS)))]
    main = _jitter_color(rng, color)
    may_leave_frame = rng.random() < config.truncation_probability
    inset = -0.05 if may_leave_frame else 0.08
    height, width = _FRAME_4_3
    reach_x, reach_y = min(0.42, room.table_half_size_m[0]), min(0.32, room.table_half_size_m[1])
    occupied = [other.footprint_m() for other in others]
    for _ in range(60):
        x, y = float(rng.uniform(-reach_x, reach_x)), float(rng.uniform(-reach_y, reach_y))
        candidate = TableObject(
            model=model,
            color=color,
            position_m=(x, y, 0.0),
            yaw_rad=float(rng.uniform(0.0, 2.0 * math.pi)),
            main_rgb=main,
            accent_rgb=accent,
            label_rgb=(label[0], label[1], label[2]),
        )
        corners = candidate.footprint_m()
        if (np.abs(corners) > room.table_half_size_m).any():
            continue
        middle = np.array([[*corners.mean(axis=0), float(model.upper_m[2]) / 2.0]])
        px, py, _ = camera.project(middle, _FRAME_4_3)[0]
        if not (inset <= px / width <= 1.0 - inset and inset <= py / height <= 1.0 - inset):
            continue
        if any(footprints_overlap(corners, other, config.gap_m) for other in occupied):
            continue
        return candidate
    return None


def sample_scene(seed: int, config: SceneConfig | None = None) -> TableScene:
    """Sample a scene; the same seed and configuration give the same scene.

    Use seeds from `TRAIN_SEEDS`, `VALIDATION_SEEDS`, and `TEST_SEEDS` to keep the splits disjoint.

    Raises:
        ValueError: the seed is negative, or the objects do not fit on the table.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    config = config or SceneConfig()
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    room, light = _sample_room(rng), _sample_light(rng)
    for _ in range(50):
        camera = _sample_camera(rng, config)
        objects: list[TableObject] = []
        for category in _sample_categories(rng, config):
            placed = _place_object(rng, config, category, camera, room, objects)
            if placed is not None:
                objects.append(placed)
        if len(objects) >= config.object_count[0]:
            return TableScene(seed=seed, objects=tuple(objects), room=room, light=light, camera=camera)
    raise ValueError(f"{config.object_count[0]} objects do not fit into the view of the camera")


def orbit_camera(
    scene: TableScene, t_s: float, *, period_s: float = 20.0, swing_rad: float = 0.35
) -> PinholeCamera:
    """Return the scene's camera after t seconds of a smooth swing around the table."""
    return orbit(scene.camera, t_s, period_s=period_s, swing_rad=swing_rad)
