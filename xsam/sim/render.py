"""Render a scene in NumPy: color, metric depth, instance ids, and surface ids.

Rendering is deterministic: the same scene, camera, and size give the same pixels. Everything is computed on
a finer grid of `supersample` × `supersample` rays per pixel; colors are averaged, ids decided by majority.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from xsam.sim.camera import PinholeCamera
from xsam.sim.geometry import SceneGeometry, scene_geometry
from xsam.sim.raster import Fragments, rasterize
from xsam.sim.scene import FLOOR_Z_M, TABLE_THICKNESS_M, TableScene
from xsam.sim.textures import Texture, look_up

STUFF_NAMES: tuple[str, ...] = ("none", "table", "wall", "floor")
"""Names of the values of `RenderedView.stuff_ids`; "none" covers objects and the void."""

TABLE_ID, WALL_ID, FLOOR_ID = 1, 2, 3

_Scalar = TypeVar("_Scalar", np.int32, np.float32)

_NEAR_M = 0.05
_VOID_RGB = 0.5
_TILE_M = {TABLE_ID: 1.2, WALL_ID: 2.0, FLOOR_ID: 1.5}
_GAMMA = 1.0 / 1.25
_LUT_SIZE = 4096
_TO_SRGB_U8 = np.round(255.0 * np.linspace(0.0, 1.0, _LUT_SIZE) ** _GAMMA).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RenderedView:
    """A rendered image with its ground truth.

    Arrays are indexed [y, x]; pixel centers have integer coordinates.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth_m: (H, W) float32, along the optical axis; 0 = nothing within range.
        instance_ids: (H, W) uint16, 0 = no object, i + 1 = `scene.objects[i]`.
        stuff_ids: (H, W) uint8, index into `STUFF_NAMES`.
        intrinsics: (3, 3) float64 matrix K of this image.
        world_from_camera: (4, 4) float64 pose of the optical frame: x right, y down, z forward.
        in_frame_fraction: (n,) float32, fraction of each object's silhouette that is in frame.
        visible_fraction: (n,) float32, fraction of the silhouette that is in frame and not occluded.
    """

    rgb: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    instance_ids: NDArray[np.uint16]
    stuff_ids: NDArray[np.uint8]
    intrinsics: NDArray[np.float64]
    world_from_camera: NDArray[np.float64]
    in_frame_fraction: NDArray[np.float32]
    visible_fraction: NDArray[np.float32]


@dataclass(slots=True, kw_only=True, eq=False)
class _Rays:
    """Working buffers over the P rays of the fine grid; vectors are (3, P)."""

    # Scaled to 1 along the optical axis, so depth times direction is the offset from the eye.
    direction: NDArray[np.float32]
    eye: NDArray[np.float32]
    depth_m: NDArray[np.float32]
    color: NDArray[np.float32]
    normal: NDArray[np.float32]
    label: NDArray[np.int32]  # instance id * 4 + stuff id


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    product: NDArray[np.float32] = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return product


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.sqrt(_dot(vectors, vectors)) + np.float32(1e-9)
    return (vectors / length).astype(np.float32, copy=False)


def _cast_rays(
    pose: NDArray[np.float64], matrix: NDArray[np.float64], image_hw: tuple[int, int], fine: int
) -> _Rays:
    height, width = image_hw
    x = ((np.arange(width * fine) + 0.5) / fine - 0.5 - matrix[0, 2]) / matrix[0, 0]
    y = ((np.arange(height * fine) + 0.5) / fine - 0.5 - matrix[1, 2]) / matrix[1, 1]
    rows = [pose[k, 0] * x[None, :] + pose[k, 1] * y[:, None] + pose[k, 2] for k in range(3)]
    direction = np.stack(rows).reshape(3, -1).astype(np.float32)
    count = direction.shape[1]
    return _Rays(
        direction=direction,
        eye=pose[:3, 3].astype(np.float32),
        depth_m=np.full(count, np.inf, np.float32),
        color=np.full((3, count), _VOID_RGB, np.float32),
        normal=np.repeat(np.array([[0.0], [0.0], [1.0]], np.float32), count, axis=1),
        label=np.zeros(count, np.int32),
    )


def _draw_plane(
    rays: _Rays,
    axis: int,
    level_m: float,
    texture: Texture,
    stuff_id: int,
    limits_m: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> None:
    """Draw the plane `coordinate[axis] == level_m`, or a rectangle of it, bounded along the other axes."""
    other = [k for k in range(3) if k != axis]
    along = rays.direction[axis]
    offset = np.float32(level_m) - rays.eye[axis]
    depth = offset / np.where(np.abs(along) < 1e-6, np.float32(1e-6), along)
    hit = np.flatnonzero((depth > 0) & (depth < rays.depth_m))
    depth = depth[hit]
    u, v = (rays.eye[k] + depth * rays.direction[k, hit] for k in other)
    if limits_m is not None:
        (low_u, high_u), (low_v, high_v) = limits_m
        inside = (u > low_u) & (u < high_u) & (v > low_v) & (v < high_v)
        hit, depth, u, v = hit[inside], depth[inside], u[inside], v[inside]
    tile = np.float32(1.0 / _TILE_M[stuff_id])
    rays.depth_m[hit] = depth
    rays.color[:, hit] = look_up(texture, u * tile, v * tile).T
    rays.label[hit] = stuff_id
    rays.normal[:, hit] = 0.0
    rays.normal[axis, hit] = np.sign(-offset)


def _draw_room(rays: _Rays, scene: TableScene) -> None:
    room = scene.room
    half_x, half_y = room.table_half_size_m
    side = (-TABLE_THICKNESS_M, 0.0)
    _draw_plane(rays, 2, 0.0, room.table, TABLE_ID, ((-half_x, half_x), (-half_y, half_y)))
    _draw_plane(rays, 1, -half_y, room.table, TABLE_ID, ((-half_x, half_x), side))
    facing_x = half_x if rays.eye[0] > 0 else -half_x
    _draw_plane(rays, 0, facing_x, room.table, TABLE_ID, ((-half_y, half_y), side))
    _draw_plane(rays, 1, room.wall_y_m, room.wall, WALL_ID)
    _draw_plane(rays, 2, FLOOR_Z_M, room.floor, FLOOR_ID)


def _project(
    geometry: SceneGeometry, pose: NDArray[np.float64], matrix: NDArray[np.float64], fine: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Project the triangles that face the camera.

    Returns:
        (T,) indices, (T, 3, 2) fine pixel coordinates, (T, 3) inverse depths.
    """
    to_eye = pose[:3, 3].astype(np.float32) - geometry.corners_m[:, 0]
    facing = np.flatnonzero((to_eye * geometry.face_normals).sum(axis=1) > 0)
    offset = (geometry.corners_m[facing] - pose[:3, 3]).astype(np.float64)
    x, y, z = (
        offset[:, :, 0] * pose[0, k] + offset[:, :, 1] * pose[1, k] + offset[:, :, 2] * pose[2, k]
        for k in range(3)
    )
    in_front = z.min(axis=1) > _NEAR_M
    facing, x, y, inverse = facing[in_front], x[in_front], y[in_front], 1.0 / z[in_front]
    u = (matrix[0, 0] * x * inverse + matrix[0, 2] + 0.5) * fine
    v = (matrix[1, 1] * y * inverse + matrix[1, 2] + 0.5) * fine
    return facing, np.stack([u, v], axis=-1).astype(np.float32), inverse.astype(np.float32)


def _draw_objects(
    rays: _Rays,
    geometry: SceneGeometry,
    facing: NDArray[np.int64],
    inverse: NDArray[np.float32],
    hits: Fragments,
) -> None:
    depth = 1.0 / hits.key
    front = np.flatnonzero(depth < rays.depth_m[hits.pixel] + np.float32(1e-3))
    pixel, local = hits.pixel[front], hits.triangle[front]
    b1, b2 = hits.b1[front], hits.b2[front]
    # Perspective-correct weights: barycentric weights in the image times the corner's inverse depth.
    w0, w1, w2 = (1 - b1 - b2) * inverse[local, 0], b1 * inverse[local, 1], b2 * inverse[local, 2]
    triangle = facing[local]
    n0, n1, n2 = (geometry.normals[triangle, corner].T for corner in range(3))
    normal = _unit(n0 * w0 + n1 * w1 + n2 * w2)
    rays.depth_m[pixel] = depth[front]
    rays.color[:, pixel] = geometry.rgb[triangle].T
    rays.normal[:, pixel] = normal
    rays.label[pixel] = (geometry.object_index[triangle] + 1) * 4


def _shade(rays: _Rays, scene: TableScene, geometry: SceneGeometry) -> NDArray[np.float32]:
    """Return the (3, P) linear color of every ray."""
    lamp = np.asarray(scene.light.direction, np.float32)
    lamp_color = np.asarray(scene.light.color, np.float32)
    view = _unit(-rays.direction)
    shadow = np.zeros(len(rays.label), np.float32)
    near = np.flatnonzero((rays.label == TABLE_ID) | (rays.label >= 4))  # no shadows beyond the table
    surface = rays.eye[:, None] + rays.direction[:, near] * rays.depth_m[near]
    shadow[near] = geometry.shadow_share(surface, rays.normal[:, near])
    lit = 1 - np.float32(0.85) * shadow
    fill = np.clip(_dot(rays.normal, view), 0, 1)
    ambient = np.float32(scene.light.ambient) * (np.float32(0.55) + np.float32(0.45) * fill)
    diffuse = np.float32(0.75) * np.clip(_dot(rays.normal, lamp), 0, 1) * lit
    rgb = (rays.color * (ambient + diffuse * lamp_color[:, None])).astype(np.float32, copy=False)
    shiny = np.flatnonzero(rays.label >= 4)
    half = _unit(view[:, shiny] + lamp[:, None])
    gloss = np.clip(_dot(rays.normal[:, shiny], half), 0, 1)
    gloss2 = gloss * gloss
    gloss4 = gloss2 * gloss2
    gloss8 = gloss4 * gloss4
    rgb[:, shiny] += np.float32(0.28) * gloss8 * gloss8 * gloss8 * gloss4 * lit[shiny]
    return rgb


def _majority(
    label: NDArray[np.int32], depth_m: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Reduce (K, P) samples to one label and one depth per pixel.

    The most frequent label wins; ties go to the nearer one. Its depth is averaged in 1 / depth, which is
    exact at the pixel's center where the surface is flat and fills the pixel.
    """
    if len(label) == 1:
        return label[0], depth_m[0]
    same = label[:, None] == label[None]
    votes = 2 * same.sum(axis=1, dtype=np.int32) + (depth_m == depth_m.min(axis=0))
    best = votes.argmax(axis=0)[None]
    chosen = np.take_along_axis(label, best, axis=0)
    agrees = label == chosen
    inverse = np.where(agrees, 1.0 / depth_m, 0).sum(axis=0) / agrees.sum(axis=0)
    with np.errstate(divide="ignore"):
        return chosen[0], (1.0 / inverse).astype(np.float32)


def _samples_first(values: NDArray[_Scalar], image_hw: tuple[int, int], fine: int) -> NDArray[_Scalar]:
    """Reorder (H * fine * W * fine,) fine row-major samples to (fine * fine, H * W)."""
    height, width = image_hw
    grid = values.reshape(height, fine, width, fine)
    return grid.transpose(1, 3, 0, 2).reshape(fine * fine, height * width)


def render(
    scene: TableScene,
    *,
    camera: PinholeCamera | None = None,
    image_hw: tuple[int, int] = (480, 640),
    supersample: int = 2,
    max_depth_m: float = 8.0,
) -> RenderedView:
    """Render a scene.

    Args:
        scene: the scene to render.
        camera: the viewpoint; None uses the scene's own camera.
        image_hw: (H, W) in pixels.
        supersample: number of rays along each side of a pixel.
        max_depth_m: range of the depth sensor; farther surfaces get depth 0 but keep color and id.

    Raises:
        ValueError: the size or `supersample` is not positive.
    """
    height, width = image_hw
    fine = supersample
    if height < 1 or width < 1 or fine < 1:
        raise ValueError(f"image_hw and supersample must be positive, got {image_hw} and {supersample}")
    camera = camera or scene.camera
    pose, matrix = camera.world_from_camera(), camera.intrinsics(image_hw)
    geometry = scene_geometry(scene)
    count = len(scene.objects)

    rays = _cast_rays(pose, matrix, image_hw, fine)
    _draw_room(rays, scene)
    facing, points_px, inverse = _project(geometry, pose, matrix, fine)
    owner = geometry.object_index[facing]
    fine_wh = (width * fine, height * fine)
    hits = rasterize(points_px, inverse, fine_wh, owner, count)
    _draw_objects(rays, geometry, facing, inverse, hits)

    rgb = np.clip(_shade(rays, scene, geometry), 0, 1)
    rgb = rgb.reshape(3, height, fine, width, fine).mean(axis=(2, 4))
    rgb_u8 = _TO_SRGB_U8[(rgb * np.float32(_LUT_SIZE - 1) + np.float32(0.5)).astype(np.int32)]
    label, depth = _majority(
        _samples_first(rays.label, image_hw, fine), _samples_first(rays.depth_m, image_hw, fine)
    )
    in_frame = _in_frame_fraction(points_px, owner, count, fine_wh)
    seen_px = np.bincount(rays.label >> 2, minlength=count + 1)[1:]
    shown = np.divide(seen_px, hits.group_px, out=np.zeros(count), where=hits.group_px > 0)
    return RenderedView(
        rgb=np.ascontiguousarray(rgb_u8.transpose(1, 2, 0)),
        depth_m=np.where(depth <= max_depth_m, depth, 0).astype(np.float32).reshape(height, width),
        instance_ids=(label >> 2).astype(np.uint16).reshape(height, width),
        stuff_ids=(label & 3).astype(np.uint8).reshape(height, width),
        intrinsics=matrix,
        world_from_camera=pose,
        in_frame_fraction=in_frame.astype(np.float32),
        visible_fraction=(in_frame * shown).astype(np.float32),
    )


def _in_frame_fraction(
    points_px: NDArray[np.float32], owner: NDArray[np.int64], count: int, size_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the (n,) area fraction of each object's projected front faces with their center in the image."""
    edge1, edge2 = points_px[:, 1] - points_px[:, 0], points_px[:, 2] - points_px[:, 0]
    area = np.abs(edge1[:, 0] * edge2[:, 1] - edge1[:, 1] * edge2[:, 0])
    middle = points_px.mean(axis=1)
    inside = ((middle >= 0) & (middle < size_wh)).all(axis=1)
    total = np.bincount(owner, area, count)
    return np.divide(np.bincount(owner, area * inside, count), total, out=np.zeros(count), where=total > 0)
