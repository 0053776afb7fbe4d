"""The one place where the tools, the segmenter and the limits come together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from langchain_core.tools import BaseTool

from xsam.segmenter import Segmenter
from xsam_agent_tools.perception import FrameSource, Limits, Perception
from xsam_agent_tools.scene_store import SceneStore
from xsam_agent_tools.schemas import check_camera_names
from xsam_agent_tools.tools import Images, segment_objects

Mode = Literal["core", "full"]

# name → how to build it; a tool is offered from its mode upwards
_BUILDERS = {"segment_objects": segment_objects}
_TOOLS_OF_MODE: dict[Mode, tuple[str, ...]] = {"core": ("segment_objects",), "full": ("segment_objects",)}


class XSamToolkit:
    """Perception tools over one segmenter::

        tools = XSamToolkit(segmenter, cameras=["front", "wrist"]).get_tools()
        agent = create_agent(model, tools)

    Tools of one toolkit share a scene store: an object id from one answer is valid in later calls.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        cameras: Sequence[str],
        *,
        mode: Mode = "core",
        images: Images = "none",
        frame_source: FrameSource | None = None,
        store: SceneStore | None = None,
        deadline_s: float = 30.0,
        max_age_s: float | None = 5.0,
        max_image_age_s: float | None = 120.0,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Check the settings; nothing is asked of the segmenter yet.

        Args:
            segmenter: the model in this process, the client of a node, or a fake.
            cameras: names that the model may choose from; the first is the default.
            mode: "core" or "full" set of tools.
            images: "user" and "tool" put an overlay into each artifact and say in which message a
                middleware may show the newest one; the text for the model never contains images.
            frame_source: gives the newest frame of a camera. The frame itself is then segmented, so image
                and masks belong together, and earlier images can be asked about again. Without it
                the segmenter takes the frame from its own camera of that name.
            store: give one to share it between toolkits or to set its bounds.
            deadline_s: of one tool call; covers frame, waiting for the model, and inference.
            max_age_s: of a camera's newest frame; None = whatever the segmenter allows.
            max_image_age_s: of an earlier image that is asked about again; None = any.
            clock_ns: now, in nanoseconds of the clock that stamps the frames (simulated time: the node's).

        Raises:
            TypeError: the segmenter has no `segment`.
            ValueError: a setting is out of range, or overlays are wanted without a frame source.
        """
        if not isinstance(segmenter, Segmenter):
            raise TypeError(f"a segmenter needs a method `segment`, {type(segmenter).__name__} has none")
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
        if images not in get_args(Images):
            raise ValueError(f"images must be one of {get_args(Images)}, got {images!r}")
        if images != "none" and frame_source is None:
            raise ValueError(f"images={images!r} needs a frame_source: a segmenter's answers carry no pixels")
        self.mode: Mode = mode
        self.images: Images = images
        self.store = store if store is not None else SceneStore()
        self._perception = Perception(
            segmenter,
            check_camera_names(cameras),
            store=self.store,
            limits=Limits(deadline_s=deadline_s, max_age_s=max_age_s, max_image_age_s=max_image_age_s),
            frame_source=frame_source,
            clock_ns=clock_ns,
        )

    def get_tools(self) -> list[BaseTool]:
        """The tools of the mode, ready for an agent."""
        names = _TOOLS_OF_MODE[self.mode]
        return [_BUILDERS[name](self._perception, images=self.images, tools=names) for name in names]
