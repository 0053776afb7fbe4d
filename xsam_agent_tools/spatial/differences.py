"""What tells several candidates apart, in a few words each, for the model or the user to choose by."""

from __future__ import annotations

from collections.abc import Sequence

from xsam.errors import InvalidImageError
from xsam_agent_tools.errors import NoDepthError
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.spatial.locations import has_place, locate
from xsam_agent_tools.spatial.relations import UNCLEAR, Body, compare

MAX_CANDIDATES = 8

# relation → the word for the object that fits, with two candidates and with more
_EXTREMES = {
    "leftmost": ("left", "leftmost"),
    "rightmost": ("right", "rightmost"),
    "nearest": ("nearer", "nearest"),
    "farthest": ("farther", "farthest"),
    "largest": ("larger", "largest"),
    "smallest": ("smaller", "smallest"),
}
_VERTICAL = {"topmost": ("upper", "topmost"), "bottommost": ("lower", "bottommost")}


def body_of(scene: Scene, item: SceneObject) -> Body:
    """An object as the relations see it, with its place in space where the image has depth."""
    location = locate(scene, item) if has_place(scene, item) else None
    return Body(
        object_id=item.object_id,
        mask=item.mask.decode(),
        location=location,
        in_camera_frame=location is None or location.frame_id in ("", scene.frame_id),
        image_depth_m=scene.frame.depth_m if scene.frame is not None else None,
    )


def distinguish(scene: Scene, items: Sequence[SceneObject]) -> dict[str, str]:
    """Object id → words that fit it and not the others, such as "left, red, nearer".

    Only clear differences count; candidates that differ in nothing are not in the result.
    """
    items = items[:MAX_CANDIDATES]
    if len(items) < 2:
        return {}
    words: dict[str, list[str]] = {item.object_id: [] for item in items}
    bodies = [_body_without_trouble(scene, item) for item in items]
    _add_extremes(words, bodies, {name: _EXTREMES[name] for name in ("leftmost", "rightmost")})
    if not any(words.values()):
        _add_extremes(words, bodies, _VERTICAL)
    for object_id, color in _colors(scene, bodies).items():
        words[object_id].append(color)
    _add_extremes(words, bodies, {name: _EXTREMES[name] for name in ("nearest", "farthest")})
    _add_extremes(words, bodies, {name: _EXTREMES[name] for name in ("largest", "smallest")})
    return {object_id: ", ".join(said[:3]) for object_id, said in words.items() if said}


def _body_without_trouble(scene: Scene, item: SceneObject) -> Body:
    """The object; a depth image that cannot be used leaves the other differences to tell."""
    try:
        return body_of(scene, item)
    except InvalidImageError:
        return Body(object_id=item.object_id, mask=item.mask.decode())


def _add_extremes(
    words: dict[str, list[str]], bodies: Sequence[Body], relations: dict[str, tuple[str, str]]
) -> None:
    for relation, (of_two, of_many) in relations.items():
        try:
            answer = compare(relation, bodies).answer
        except NoDepthError:  # this difference is not known, the others are
            continue
        if answer != UNCLEAR:
            words[answer].append(of_two if len(bodies) == 2 else of_many)


def _colors(scene: Scene, bodies: Sequence[Body]) -> dict[str, str]:
    """The colors, when they are not all the same."""
    if scene.frame is None:
        return {}
    from xsam_agent_tools.spatial.appearance import color_name

    names = {body.object_id: color_name(scene.frame.rgb, body.mask) for body in bodies}
    if len(set(names.values())) < 2:
        return {}
    return {object_id: name for object_id, name in names.items() if name}
