"""The camera's picture itself, with nothing segmented: `show_camera`."""

from __future__ import annotations

from xsam_agent_tools.runtime.progress import progress_reporter
from xsam_agent_tools.schemas import show_camera_args
from xsam_agent_tools.text.artifact import segmentation_artifact
from xsam_agent_tools.text.content import header, to_text
from xsam_agent_tools.text.pictures import camera_picture
from xsam_agent_tools.tools.definition import Output, Toolbox, ToolSpec

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
        progress("looking", camera=camera, image_id=image_id, queries=[])
        scene = perception.look(camera=camera, image_id=image_id)
        payload = header("ok", scene, perception.age(scene))
        pictures = []
        if scene.frame is not None:
            pictures = [camera_picture(scene.frame, toolbox.pictures, grid=grid)]
        if grid:
            payload["grid"] = "lines are labeled in pixels of the image"
        progress("answered", status="ok", image_id=scene.image_id)
        return to_text(payload), segmentation_artifact(scene, [], payload, images=pictures)

    args = show_camera_args(perception.cameras)
    return ToolSpec(name=name, description=_DESCRIPTION, args=args, run=run)
