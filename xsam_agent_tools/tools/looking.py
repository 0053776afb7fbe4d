"""The camera's picture itself, with nothing segmented: `show_camera`."""

from __future__ import annotations

from xsam_agent_tools.memory.scene_store import Scene
from xsam_agent_tools.runtime.progress import progress_reporter
from xsam_agent_tools.schemas import show_camera_args
from xsam_agent_tools.text.content import header
from xsam_agent_tools.text.pictures import camera_picture
from xsam_agent_tools.tools.all_cameras import (
    CameraAnswer,
    answer_from_all,
    means_all_cameras,
)
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec
from xsam_agent_tools.tools.searching import report_answer

_DESCRIPTION = """\
Show what a camera sees, as a picture: the newest image, or an earlier one by image_id. Nothing is searched \
for and no object gets an id; the image itself does, so that you can ask about it later. grid draws lines \
that are labeled in pixels of the image: read coordinates for marks from it. Coordinates are always pixels \
of `size`; where the picture itself is smaller, picture has its size and the part of the image it shows.\
"""


def show_camera(toolbox: Toolbox) -> ToolSpec:
    """Build `show_camera`: the picture of a camera, with an optional grid."""
    perception = toolbox.perception
    name = "show_camera"

    def run(camera: str = perception.cameras[0], image_id: str = "", grid: bool = False) -> Output:
        progress = progress_reporter(name)

        def look(camera: str, image_id: str = "", one_of_all: bool = True) -> Scene:
            progress("looking", camera=camera, image_id=image_id, queries=[])
            return perception.look(camera=camera, image_id=image_id, one_of_all=one_of_all)

        def answer(scene: Scene, room: int = 0) -> CameraAnswer:
            payload = header("ok", scene, perception.age(scene))
            pictures = []
            if scene.frame is not None:
                pictures = [camera_picture(scene.frame, toolbox.pictures, grid=grid)]
            if grid:
                payload["grid"] = "lines are labeled in pixels of the image"
            return CameraAnswer(payload=payload, scene=scene, pictures=pictures)

        if means_all_cameras(camera, image_id, perception):
            output = answer_from_all(perception, look, answer, room=0, count=lambda _: 0, absence=dict)
        else:
            output = answer(look(camera, image_id, False)).output()
        report_answer(progress, output)
        return output

    args = show_camera_args(perception.cameras)
    return ToolSpec(name=name, description=_DESCRIPTION, args=args, run=run)
