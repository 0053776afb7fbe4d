"""Differences between candidates, in a few words each, for the model or the user to choose by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xsam.errors import InvalidImageError
from xsam_agent_tools.errors import NoDepthError
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.spatial.locations import is_locatable, locate
from xsam_agent_tools.spatial.pieces import main_piece
from xsam_agent_tools.spatial.relations import UNCLEAR, SpatialObject, compare

MAX_CANDIDATES = 8
MAX_TERMS = 3

# extreme → the term for the object that is it, among two candidates; among more it is the extreme itself
_TERMS_OF_TWO = {
    "leftmost": "left",
    "rightmost": "right",
    "topmost": "upper",
    "bottommost": "lower",
    "nearest": "nearer",
    "farthest": "farther",
    "largest": "larger",
    "smallest": "smaller",
}


def spatial_object(scene: Scene, item: SceneObject) -> SpatialObject:
    """Return the geometry of an object, with its location where the image has depth.

    Raises:
        InvalidImageError: the intrinsics do not fit the image.
    """
    location = locate(scene, item) if is_locatable(scene, item) else None
    piece = main_piece(item.mask.decode())
    return SpatialObject(
        object_id=item.object_id,
        mask=piece.mask,
        in_pieces=piece.is_broken,
        location=location,
        in_camera_frame=location is None or location.frame_id in ("", scene.frame_id),
        image_depth_m=scene.frame.depth_m if scene.frame is not None else None,
    )


def distinguish(scene: Scene, items: Sequence[SceneObject]) -> dict[str, str]:
    """Return object id → terms that fit it and none of the others, such as "left, red, nearer".

    Only clear differences count; candidates that differ in nothing are left out.
    """
    items = items[:MAX_CANDIDATES]
    if len(items) < 2:
        return {}
    objects = [_object_maybe_without_depth(scene, item) for item in items]
    terms = [
        *(
            _extreme_terms(objects, "leftmost", "rightmost")
            or _extreme_terms(objects, "topmost", "bottommost")
        ),
        *_color_terms(scene, objects),
        *_extreme_terms(objects, "nearest", "farthest", "largest", "smallest"),
    ]
    grouped: dict[str, list[str]] = {item.object_id: [] for item in items}
    for object_id, term in terms:
        grouped[object_id].append(term)
    return {object_id: ", ".join(own[:MAX_TERMS]) for object_id, own in grouped.items() if own}


def _object_maybe_without_depth(scene: Scene, item: SceneObject) -> SpatialObject:
    """Return the geometry of an object; an unusable depth image leaves the differences in the image."""
    try:
        return spatial_object(scene, item)
    except InvalidImageError:
        return SpatialObject(object_id=item.object_id, mask=main_piece(item.mask.decode()).mask)


def _extreme_terms(objects: Sequence[SpatialObject], *extremes: str) -> list[tuple[str, str]]:
    """Return (object id, term) for each extreme that is clear."""
    terms = []
    for extreme in extremes:
        try:
            outcome = compare(extreme, objects).outcome
        except NoDepthError:  # this difference is not known, the others are
            continue
        if outcome != UNCLEAR:
            terms.append((outcome, _TERMS_OF_TWO[extreme] if len(objects) == 2 else extreme))
    return terms


def _color_terms(scene: Scene, objects: Sequence[SpatialObject]) -> Iterator[tuple[str, str]]:
    """Yield (object id, color) unless all colors are the same."""
    if scene.frame is None:
        return
    from xsam_agent_tools.spatial.appearance import color_name

    names = {item.object_id: color_name(scene.frame.rgb, item.mask) for item in objects}
    if len(set(names.values())) >= 2:
        yield from ((object_id, name) for object_id, name in names.items() if name)
