"""Camera-independent geometry: all triangles of a scene in the world frame, and the shadow map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xsam.sim.meshes import ColorRole, Rgb
from xsam.sim.raster import rasterize
from xsam.sim.scene import TableObject, TableScene

_SHADOW_SIZE_PX = 448
_SHADOW_SPAN_M = 1.4
_SHADOW_BIAS_M = 0.007
_SHADOW_NORMAL_OFFSET_M = 0.004
_CREASE_COSINE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneGeometry:
    """The T triangles of all objects in world coordinates.

    Attributes:
        corners_m: (T, 3, 3) float32, corner then xyz.
        normals: (T, 3, 3) float32, unit normals at the corners; smooth except at sharp edges.
        face_normals: (T, 3) float32, not normalized, pointing outward.
        rgb: (T, 3) float32, linear color.
        object_index: (T,) int64.
        light_axes: (3, 3) float32, rows: two axes perpendicular to the light, then the direction to the lamp.
        shadow_height_m: (S, S) float32, height along the light direction of the first surface the light hits.
    """

    corners_m: NDArray[np.float32]
    normals: NDArray[np.float32]
    face_normals: NDArray[np.float32]
    rgb: NDArray[np.float32]
    object_index: NDArray[np.int64]
    light_axes: NDArray[np.float32]
    shadow_height_m: NDArray[np.float32]

    def shadow_share(
        self, surface_m: NDArray[np.float32], normal: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the (N,) fraction of the lamp that is blocked, 0..1, at (3, N) surface points.

        Note: without the offset along the (3, N) normals, curved surfaces would show rings of self-shadowing.
        """
        points_m = surface_m + normal * np.float32(_SHADOW_NORMAL_OFFSET_M)
        scale, middle = np.float32(_SHADOW_SIZE_PX / _SHADOW_SPAN_M), np.float32(_SHADOW_SIZE_PX / 2)
        x, y, z = points_m
        u, v, toward_lamp = (axis[0] * x + axis[1] * y + axis[2] * z for axis in self.light_axes)
        u, v = u * scale + middle, v * scale + middle
        threshold = toward_lamp + np.float32(_SHADOW_BIAS_M)
        share = np.zeros(points_m.shape[1], np.float32)
        last = np.float32(_SHADOW_SIZE_PX - 1)
        flat = self.shadow_height_m.reshape(-1)
        columns = [np.clip(u + np.float32(d), 0, last).astype(np.int32) for d in (-0.8, 0.8)]
        rows = [np.clip(v + np.float32(d), 0, last).astype(np.int32) * _SHADOW_SIZE_PX for d in (-0.8, 0.8)]
        for row in rows:
            for column in columns:
                share += flat[row + column] > threshold
        return share * np.float32(0.25)


def _color_of(item: TableObject, role: ColorRole) -> Rgb:
    if role == "main":
        return item.main_rgb
    if role == "accent":
        return item.accent_rgb
    if role == "label":
        return item.label_rgb
    assert not isinstance(role, str)
    return role


def _corner_normals(
    vertices: NDArray[np.float32], faces: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (F, 3, 3) unit normals at the corners and (F, 3) face normals scaled by twice the area."""
    corners = vertices[faces].astype(np.float64)
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    index = faces.reshape(-1)
    sums = [np.bincount(index, np.repeat(face_normals[:, k], 3), len(vertices)) for k in range(3)]
    summed = np.stack(sums, axis=1).astype(np.float64)
    smooth = summed / (np.linalg.norm(summed, axis=1, keepdims=True) + 1e-15)
    unit = face_normals / (np.linalg.norm(face_normals, axis=1, keepdims=True) + 1e-15)
    at_corners = smooth[faces]
    is_smooth = (at_corners * unit[:, None]).sum(axis=-1, keepdims=True) > _CREASE_COSINE
    normals = np.where(is_smooth, at_corners, unit[:, None])
    return normals.astype(np.float32), face_normals.astype(np.float32)


def _light_axes(direction: tuple[float, float, float]) -> NDArray[np.float32]:
    lamp = np.asarray(direction, np.float64)
    across = np.cross(lamp, (0.0, 1.0, 0.0))
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(lamp, across), lamp]).astype(np.float32)


@lru_cache(maxsize=4)
def scene_geometry(scene: TableScene) -> SceneGeometry:
    """Collect the triangles of a scene and compute its shadow map.

    The last few results are cached, so rendering from a moving camera is cheap.
    """
    vertices, faces, colors, owners = [], [], [], []
    offset = 0
    for index, item in enumerate(scene.objects):
        pose = item.world_from_object()
        for part in item.model.parts:
            x, y, z = part.vertices.astype(np.float64).T
            world = [pose[k, 0] * x + pose[k, 1] * y + pose[k, 2] * z + pose[k, 3] for k in range(3)]
            vertices.append(np.stack(world, axis=1).astype(np.float32))
            faces.append(part.faces.astype(np.int64) + offset)
            offset += len(part.vertices)
            color = np.asarray(_color_of(item, part.color_role), np.float32)
            colors.append(np.broadcast_to(color, part.faces.shape))
            owners.append(np.full(len(part.faces), index, np.int64))
    all_vertices, all_faces = np.concatenate(vertices), np.concatenate(faces)
    normals, face_normals = _corner_normals(all_vertices, all_faces)

    axes = _light_axes(scene.light.direction)
    x, y, z = all_vertices.T
    lit = np.stack([axis[0] * x + axis[1] * y + axis[2] * z for axis in axes], axis=1)[all_faces]
    scale = np.float32(_SHADOW_SIZE_PX / _SHADOW_SPAN_M)
    points_px = lit[:, :, :2] * scale + np.float32(_SHADOW_SIZE_PX / 2)
    hits = rasterize(points_px, lit[:, :, 2], (_SHADOW_SIZE_PX, _SHADOW_SIZE_PX))
    shadow = np.full(_SHADOW_SIZE_PX**2, -np.inf, np.float32)
    shadow[hits.pixel] = hits.key
    return SceneGeometry(
        corners_m=all_vertices[all_faces],
        normals=normals,
        face_normals=face_normals,
        rgb=np.concatenate(colors),
        object_index=np.concatenate(owners),
        light_axes=axes,
        shadow_height_m=shadow.reshape(_SHADOW_SIZE_PX, _SHADOW_SIZE_PX),
    )
