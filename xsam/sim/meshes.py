"""Triangle meshes of simple solids: the primitives that household objects are built from.

Units are meters; z points up. Faces are counterclockwise when seen from outside, so the renderer can cull
back faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rgb = tuple[float, float, float]
"""Linear color, each channel in 0..1."""

ColorRole = Literal["main", "accent", "label"] | Rgb
"""Which of the object's colors a part takes, or a fixed color."""

Vec3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A mesh of a single color.

    Attributes:
        vertices: (V, 3) float32, meters, in the object frame.
        faces: (F, 3) int32, indices into `vertices`, counterclockwise from outside.
        color_role: where the color comes from.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    color_role: ColorRole = "main"

    def painted(self, color_role: ColorRole) -> Part:
        """Return the mesh in another color."""
        return Part(vertices=self.vertices, faces=self.faces, color_role=color_role)

    def moved(self, offset_m: ArrayLike) -> Part:
        """Return the mesh translated by (x, y, z) meters."""
        vertices = self.vertices + np.asarray(offset_m, np.float32)
        return Part(vertices=vertices, faces=self.faces, color_role=self.color_role)

    def scaled(self, factor: ArrayLike) -> Part:
        """Return the mesh scaled about the origin by one positive factor, or by one per axis."""
        vertices = self.vertices * np.asarray(factor, np.float32)
        return Part(vertices=vertices, faces=self.faces, color_role=self.color_role)

    def laid(self) -> Part:
        """Return the mesh rotated by 90 degrees about y, so that +z becomes +x."""
        x, y, z = self.vertices.T
        vertices = np.stack([z, y, -x], axis=1)
        return Part(vertices=vertices, faces=self.faces, color_role=self.color_role)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectModel:
    """A household object standing on z = 0 near the origin.

    Attributes:
        category: for example "teddy bear".
        parts: meshes in a common frame.
        colors: names of the colors the main parts may take.
        lower_m: (3,) float32, minimum corner of the axis-aligned bounding box.
        upper_m: (3,) float32, maximum corner.
    """

    category: str
    parts: tuple[Part, ...]
    colors: tuple[str, ...]
    lower_m: NDArray[np.float32]
    upper_m: NDArray[np.float32]


def assemble(category: str, parts: Sequence[Part], colors: tuple[str, ...], scale: float) -> ObjectModel:
    """Shift the parts so that their lowest point is at z = 0, scale them, and compute the bounding box."""
    lowest = min(float(part.vertices[:, 2].min()) for part in parts)
    placed = tuple(part.moved((0.0, 0.0, -lowest)).scaled(scale) for part in parts)
    for part in placed:
        part.vertices.flags.writeable = False
        part.faces.flags.writeable = False
    vertices = np.concatenate([part.vertices for part in placed])
    lower, upper = vertices.min(axis=0), vertices.max(axis=0)
    lower.flags.writeable = upper.flags.writeable = False
    return ObjectModel(category=category, parts=placed, colors=colors, lower_m=lower, upper_m=upper)


def _grid_faces(rings: int, segments: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return both triangles of the quads between consecutive rings, each (rings - 1, segments, 3)."""
    ring, segment = np.meshgrid(np.arange(rings - 1), np.arange(segments), indexing="ij")
    here = ring * segments + segment
    right = ring * segments + (segment + 1) % segments
    lower = np.stack([here, right, right + segments], axis=-1)
    upper = np.stack([here, right + segments, here + segments], axis=-1)
    return lower.astype(np.int32), upper.astype(np.int32)


def lathe(profile: ArrayLike, segments: int = 28) -> Part:
    """Revolve a profile about the z axis.

    Args:
        profile: (K, 2) radius and height in meters. Going up the outside of a solid makes its faces point
            outward.
        segments: number of steps around the axis.
    """
    radius, height = np.asarray(profile, np.float64).T
    angle = np.linspace(0.0, 2.0 * np.pi, segments, endpoint=False)
    x = radius[:, None] * np.cos(angle)
    y = radius[:, None] * np.sin(angle)
    z = np.broadcast_to(height[:, None], x.shape)
    lower, upper = _grid_faces(len(radius), segments)
    on_axis = radius < 1e-6  # triangles with an edge on the axis would be degenerate
    faces = np.concatenate([lower[~on_axis[:-1]].reshape(-1, 3), upper[~on_axis[1:]].reshape(-1, 3)])
    return Part(vertices=np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32), faces=faces)


def tube(path: ArrayLike, radius_m: float | Sequence[float], segments: int = 10) -> Part:
    """Build a closed tube along a path of (K, 3) points, with one radius or one per point."""
    points = np.asarray(path, np.float64)
    rings = len(points)
    radius = np.broadcast_to(np.asarray(radius_m, np.float64), (rings,))
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    if np.ptp(points[:, 1]) < 1e-9:  # a path in the xz plane is never parallel to y
        reference = np.array([0.0, 1.0, 0.0])
    elif np.abs(tangent[:, 2]).mean() < 0.8:
        reference = np.array([0.0, 0.0, 1.0])
    else:
        reference = np.array([1.0, 0.0, 0.0])
    side = np.cross(tangent, reference)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, tangent)
    angle = np.linspace(0.0, 2.0 * np.pi, segments, endpoint=False)
    ring = side[:, None] * np.cos(angle)[:, None] - up[:, None] * np.sin(angle)[:, None]
    vertices = (points[:, None] + radius[:, None, None] * ring).reshape(-1, 3)
    lower, upper = _grid_faces(rings, segments)
    sides = np.concatenate([lower.reshape(-1, 3), upper.reshape(-1, 3)])
    first, last, step = len(vertices), len(vertices) + 1, np.arange(segments)
    following = (step + 1) % segments
    end = (rings - 1) * segments
    caps = np.concatenate(
        [
            np.stack([np.full(segments, first), following, step], axis=1),
            np.stack([np.full(segments, last), end + step, end + following], axis=1),
        ]
    )
    vertices = np.concatenate([vertices, points[:1], points[-1:]])
    return Part(vertices=vertices.astype(np.float32), faces=np.concatenate([sides, caps]).astype(np.int32))


def box(size_m: Vec3, base_center_m: Vec3 = (0.0, 0.0, 0.0), bevel: float = 0.06) -> Part:
    """Build a box with beveled edges.

    Args:
        size_m: extent along x, y, z.
        base_center_m: center of the bottom face.
        bevel: width of the bevel as a fraction of the shortest edge.
    """
    half_x, half_y, height = size_m[0] / 2.0, size_m[1] / 2.0, size_m[2]
    edge = bevel * min(size_m)
    rings = []
    for z, inset in ((0.0, edge), (edge, 0.0), (height - edge, 0.0), (height, edge)):
        x, y = half_x - inset, half_y - inset
        cut = min(edge, x / 2.0, y / 2.0)
        outline = [(x, cut - y), (x, y - cut), (x - cut, y), (cut - x, y)]
        outline += [(-x, y - cut), (-x, cut - y), (cut - x, -y), (x - cut, -y)]
        rings += [(px, py, z) for px, py in outline]
    lower, upper = _grid_faces(4, 8)
    step = np.arange(1, 7)
    zero = np.zeros(6, int)
    bottom = np.stack([zero, step + 1, step], axis=1)
    top = np.stack([zero + 24, 24 + step, 25 + step], axis=1)
    faces = np.concatenate([lower.reshape(-1, 3), upper.reshape(-1, 3), bottom, top]).astype(np.int32)
    return Part(vertices=(np.asarray(rings) + base_center_m).astype(np.float32), faces=faces)


def ellipsoid(radii_m: Vec3, center_m: Vec3 = (0.0, 0.0, 0.0), segments: int = 20, rings: int = 12) -> Part:
    """Build an ellipsoid with its axes along x, y, z."""
    latitude = np.linspace(-np.pi / 2.0, np.pi / 2.0, rings)
    sphere = lathe(np.stack([np.cos(latitude), np.sin(latitude)], axis=1), segments)
    return sphere.scaled(radii_m).moved(center_m)


def arc(radius_m: float, start_rad: float, stop_rad: float, count: int) -> NDArray[np.float64]:
    """Return (count, 3) points of a circular arc about the origin in the xz plane, from +x toward +z."""
    angle = np.linspace(start_rad, stop_rad, count)
    return np.stack([radius_m * np.cos(angle), np.zeros(count), radius_m * np.sin(angle)], axis=1)
