"""Locations of a scene's objects in space, from their masks and the depth of their image.

A segmenter with a depth camera of its own (the ROS node) sends the locations along with the masks. Where the
toolkit has the frames, the locations are computed here; both use `xsam.spatial.localize`.
"""

from __future__ import annotations

from xsam.types.location import Location3D
from xsam_agent_tools.errors import NoDepthError, NoTransformError
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.perception import Perception
from xsam_agent_tools.spatial.pieces import main_piece


def is_locatable(scene: Scene, item: SceneObject) -> bool:
    """Return whether the object has a location, or depth and intrinsics to compute it from."""
    return item.location is not None or is_computable(scene)


def is_computable(scene: Scene) -> bool:
    """Return whether the pixels of a scene are here with depth and intrinsics."""
    frame = scene.frame
    return frame is not None and frame.depth_m is not None and frame.intrinsics is not None


def locate(scene: Scene, item: SceneObject) -> Location3D:
    """Return the location of an object, or an invalid one with the reason; its frame: `location_frame`.

    Raises:
        NoDepthError: the image has no depth or no intrinsics.
        InvalidImageError: the intrinsics do not fit the image.
    """
    return item.location if item.location is not None else locate_in_camera(scene, item)


def locate_in_camera(scene: Scene, item: SceneObject) -> Location3D:
    """Compute the location of an object in the frame of its camera, from the depth of the scene's own frame.

    Raises:
        NoDepthError: the image has no depth or no intrinsics.
        InvalidImageError: the intrinsics do not fit the image.
    """
    frame = scene.frame
    if frame is None:
        raise NoDepthError(f"image {scene.image_id} of camera {scene.camera!r} came without depth")
    if frame.depth_m is None or frame.intrinsics is None:
        missing = "depth" if frame.depth_m is None else "camera matrix"
        raise NoDepthError(f"image {scene.image_id} of camera {scene.camera!r} came without {missing}")
    from xsam.spatial.localize import locate_mask  # loads OpenCV, which importing the tools does not need

    return locate_mask(main_piece(item.mask.decode()).mask, frame.depth_m, frame.intrinsics, lens=frame.lens)


def location_frame(location: Location3D, scene: Scene) -> str:
    """Return the name of a location's frame: its own, else the camera's optical frame."""
    return location.frame_id or scene.frame_id or f"{scene.camera} (optical)"


def transform_location(location: Location3D, target: str, scene: Scene, perception: Perception) -> Location3D:
    """Transform a location to the target frame; "" leaves it in its own.

    Raises:
        NoTransformError: no transform is available, or the matrix is not a rigid transform.
    """
    source = location.frame_id or scene.frame_id
    if target in ("", source) or not location.valid:
        return location
    matrix = perception.transform(target, source, scene)
    try:
        return location.transformed(matrix, target)
    except ValueError as error:
        raise NoTransformError(f"the transform from {source!r} to {target!r}: {error}") from error
