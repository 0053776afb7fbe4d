"""One question to every camera at the same time: a camera that fails costs the others nothing.

A tool that looks at an image has two halves: to look, which may take long or fail, and to answer from what
was seen. With all cameras the first half runs for each of them at once; the second half then knows how many
objects each camera has, so that the room for objects goes to those that have some.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from xsam.errors import DeadlineExceededError, XSamError
from xsam_agent_tools.findings import fair_shares
from xsam_agent_tools.memory.scene_store import Scene, SceneObject
from xsam_agent_tools.perception import Perception
from xsam_agent_tools.runtime.serial_runner import GRACE_S
from xsam_agent_tools.schemas import ALL_CAMERAS
from xsam_agent_tools.text.artifact import (
    SEGMENTATION,
    frame_entry,
    mask_entry,
    picture_entries,
    segmentation_artifact,
)
from xsam_agent_tools.text.cameras_payload import cameras_payload
from xsam_agent_tools.text.content import to_text
from xsam_agent_tools.text.pictures import Picture
from xsam_agent_tools.tools.definition import Output

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraAnswer:
    """What a tool says about one image."""

    payload: dict[str, Any]
    scene: Scene
    objects: Sequence[SceneObject] = ()  # those whose masks belong into the artifact
    pictures: list[Picture] | None = None  # None = pictures are off

    def output(self) -> Output:
        """Return the text and the artifact of a call about this image alone."""
        artifact = segmentation_artifact(self.scene, self.objects, self.payload, images=self.pictures)
        return to_text(self.payload), artifact


def means_all_cameras(camera: str, image_id: str, perception: Perception) -> bool:
    """Return whether a call is about all cameras: an earlier image has its own, and "all" may be a name."""
    return camera == ALL_CAMERAS and camera not in perception.cameras and not image_id


def answer_from_all(
    perception: Perception,
    look: Callable[[str], T],
    answer: Callable[[T, int], CameraAnswer],
    *,
    room: int,
    count: Callable[[T], int],
    absence: Callable[[], Mapping[str, Any]],
) -> Output:
    """Look with all cameras at once, and merge what each of them shows.

    Args:
        perception: whose cameras.
        look: first half, called with the name of a camera, on a thread of its own.
        answer: second half, called with what was seen and how many objects it may list.
        room: bound on the objects of all cameras together.
        count: how many objects what was seen has.
        absence: returns what to add to the payload if no camera shows anything.

    Raises:
        XSamError: nothing was found, and some camera could not be looked through: that is not absence.
    """
    looks = on_each_camera(perception.cameras, look, deadline_s=perception.limits.deadline_s)
    seen = {camera: found for camera, found in looks.items() if not isinstance(found, XSamError)}
    shares = dict(zip(seen, fair_shares([count(found) for found in seen.values()], room), strict=True))
    outcomes: dict[str, CameraAnswer | XSamError] = {}
    for camera, found in looks.items():
        if isinstance(found, XSamError):
            outcomes[camera] = found
            continue
        try:
            outcomes[camera] = answer(found, shares[camera])
        except XSamError as error:
            outcomes[camera] = error
    answers = [outcome for outcome in outcomes.values() if isinstance(outcome, CameraAnswer)]
    parts = {
        camera: outcome if isinstance(outcome, XSamError) else outcome.payload
        for camera, outcome in outcomes.items()
    }
    payload = cameras_payload(parts, absence=absence)
    artifact: dict[str, Any] = {
        "schema": SEGMENTATION,
        "result": payload,
        "masks": [mask_entry(item) for one in answers for item in one.objects],
        "frames": [frame_entry(one.scene) for one in answers],
    }
    artifact["frame"] = artifact["frames"][0]
    if any(one.pictures is not None for one in answers):
        artifact.update(picture_entries([picture for one in answers for picture in one.pictures or ()]))
    return to_text(payload), artifact


def on_each_camera(
    cameras: Sequence[str], work: Callable[[str], T], *, deadline_s: float
) -> dict[str, T | XSamError]:
    """Call `work(camera)` for all cameras at once; return its results, or the error of each that failed.

    Work that has not ended by the deadline goes on in its (daemon) thread and counts as failed.
    """
    futures: dict[str, Future[T]] = {}
    for camera in cameras:
        future: Future[T] = Future()
        futures[camera] = future
        context = contextvars.copy_context()
        arguments = (_run, work, camera, future)
        name = f"xsam-search-{camera}"
        threading.Thread(target=context.run, args=arguments, name=name, daemon=True).start()
    wait(futures.values(), timeout=deadline_s + 2 * GRACE_S)
    return {camera: _outcome(camera, future, deadline_s) for camera, future in futures.items()}


def _run(work: Callable[[str], T], camera: str, future: Future[T]) -> None:
    try:
        future.set_result(work(camera))
    except BaseException as error:
        future.set_exception(error)


def _outcome(camera: str, future: Future[Any], deadline_s: float) -> Any:
    """Return the result, or the error as an `XSamError`."""
    if not future.done():
        return DeadlineExceededError(f"camera {camera!r} was not searched within {deadline_s:.3g} s")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, XSamError):
        return error
    _LOG.error("the search with camera %r failed", camera, exc_info=error)
    return XSamError(
        f"camera {camera!r} failed inside: {type(error).__name__}", hint="tell the user; see the log"
    )
