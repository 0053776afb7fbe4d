"""The toolkit: tools over one segmenter and its cameras, with all settings in one constructor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from langchain_core.tools import BaseTool

from xsam.segmenter import Segmenter
from xsam.types.requests import plain_name
from xsam_agent_tools.memory.history import History
from xsam_agent_tools.memory.scene_store import SceneStore
from xsam_agent_tools.perception import Perception, TransformSource
from xsam_agent_tools.planner_hints import OTHER_CAMERAS
from xsam_agent_tools.runtime.call_threads import CallThreads
from xsam_agent_tools.runtime.camera_frames import FrameSource
from xsam_agent_tools.runtime.time_limits import TimeLimits
from xsam_agent_tools.schemas import check_camera_names
from xsam_agent_tools.text.pictures import PictureSettings
from xsam_agent_tools.tools import BUILDERS, CORE_BUILDERS, NEED_PIXELS, PICTURE_BUILDERS, Toolbox, ToolSpec
from xsam_agent_tools.tools.definition import Images, langchain_tool

Mode = Literal["core", "full"]

HOUSEHOLD_THINGS = (
    *("person", "cat", "dog", "mug", "cup", "glass", "bowl", "plate", "bottle", "can", "box", "book", "ball"),
    *("block", "apple", "orange", "banana", "lemon", "pear", "carrot", "fork", "spoon", "knife", "scissors"),
    *("screwdriver", "hammer", "pan", "pot", "tape", "vase", "teapot", "duck", "teddy bear", "phone"),
    *("laptop", "keyboard", "mouse", "remote", "bag", "chair"),
)
"""Default categories of `segment_everything`."""


class XSamToolkit:
    """Perception tools that share one segmenter and one scene store::

        tools = XSamToolkit(segmenter, cameras=["front", "wrist"]).get_tools()
        agent = create_agent(model, tools)

    An object id from the result of one tool is valid in later calls of every tool.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        cameras: Sequence[str],
        *,
        mode: Mode = "core",
        images: Images = "none",
        pictures: PictureSettings | None = None,
        frame_source: FrameSource | None = None,
        transforms: TransformSource | None = None,
        store: SceneStore | None = None,
        thing_classes: Sequence[str] = HOUSEHOLD_THINGS,
        stuff_classes: Sequence[str] = (),
        deadline_s: float = 30.0,
        frame_wait_s: float = 5.0,
        max_age_s: float | None = 5.0,
        max_image_age_s: float | None = 120.0,
        max_position_age_s: float | None = 30.0,
        repeat_within_s: float = 60.0,
        clock_ns: Callable[[], int] | None = None,
    ) -> None:
        """Check the settings and build the tools; the segmenter is not called yet.

        Args:
            segmenter: the model in this process, the client of a node, or a fake.
            cameras: names that the model may choose from; the first is the default.
            mode: "core" or "full" set of tools; with `images`, `show_camera` is in both.
            images: "user" keeps overlays in the store's `pictures` and puts references to them into each
                artifact, for `xsam_agent_tools.middleware`; "tool" puts the pictures themselves there, for
                frameworks that show them (then checkpoints contain them, too). The text for the model never
                contains images.
            pictures: size and format of these images; None = JPEG of at most 200 kB as base64.
            frame_source: returns the newest frame of a camera. That frame itself is then segmented, so image,
                masks and depth belong together, and earlier images can be queried again. Without it
                the segmenter takes the frame from its own camera of that name; the client of a ROS node
                (`xsam.segmenter.FrameSegmenter`) then also gives the frame that it took.
            transforms: (target frame, source frame, stamp in ns) → (4, 4) matrix or None, such as a TF
                lookup. Without it (and without TF in the client of a ROS node) positions are available in
                the camera's own frame only.
            store: pass one to share it between toolkits or to set its bounds.
            thing_classes, stuff_classes: default categories of `segment_everything`.
            deadline_s: deadline of one tool call; covers frame, waiting for the model, and inference.
            frame_wait_s: how long one camera may take for its frame where all of them are asked at once.
            max_age_s: maximum age of a camera's newest frame; None = whatever the segmenter allows.
            max_image_age_s: maximum age of an earlier image that is queried again; None = any.
            max_position_age_s: maximum age of an image for positions in space; None = any.
            repeat_within_s: how long a query that found nothing is refused while the view stays the
                same; 0 = never.
            clock_ns: time in nanoseconds by the clock that stamps the frames; None = that of the client of a
                ROS node, which knows simulated time, else the system's.

        Raises:
            TypeError: the segmenter has no method `segment`.
            ValueError: a setting is out of range, or images are on without a frame source.
        """
        if not isinstance(segmenter, Segmenter):
            raise TypeError(f"a segmenter needs a method `segment`, {type(segmenter).__name__} has none")
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
        if images not in get_args(Images):
            raise ValueError(f"images must be one of {get_args(Images)}, got {images!r}")
        if isinstance(thing_classes, str) or isinstance(stuff_classes, str):
            raise ValueError("thing_classes and stuff_classes must be lists of names, not one string")
        if not (thing_classes or stuff_classes):
            raise ValueError("segment_everything needs thing_classes or stuff_classes")
        self.mode: Mode = mode
        self.images: Images = images
        self.store = store if store is not None else SceneStore()
        perception = Perception(
            segmenter,
            check_camera_names(cameras),
            store=self.store,
            limits=TimeLimits(
                deadline_s=deadline_s,
                frame_wait_s=frame_wait_s,
                max_age_s=max_age_s,
                max_image_age_s=max_image_age_s,
                max_position_age_s=max_position_age_s,
            ),
            history=History(repeat_within_s=repeat_within_s),
            frame_source=frame_source,
            transforms=transforms,
            clock_ns=clock_ns,
        )
        if images != "none" and not perception.keeps_frames:
            raise ValueError(f"images={images!r} needs a frame_source: a segmenter's results carry no pixels")
        self.call_threads = CallThreads()
        builders = {**(CORE_BUILDERS if mode == "core" else BUILDERS)}
        if images != "none":
            builders.update(PICTURE_BUILDERS)
        if not perception.keeps_frames:
            builders = {name: build for name, build in builders.items() if name not in NEED_PIXELS}
        toolbox = Toolbox(
            perception=perception,
            images=images,
            pictures=pictures if pictures is not None else PictureSettings(),
            names=tuple(builders),
            thing_classes=_each_once(thing_classes),
            stuff_classes=_each_once(stuff_classes),
        )
        specs = [build(toolbox) for build in builders.values()]
        unavailable = _unavailable(specs, perception)
        self.specs: tuple[ToolSpec, ...] = tuple(replace(spec, unavailable=unavailable) for spec in specs)

    def get_tools(self) -> list[BaseTool]:
        """Return the tools of the mode, ready for an agent."""
        pictures = self.store.pictures if self.images == "user" else None
        return [langchain_tool(spec, threads=self.call_threads, pictures=pictures) for spec in self.specs]


def _each_once(categories: Sequence[str]) -> tuple[str, ...]:
    """Return the categories without repetitions; "Mug " and "mug" are one."""
    distinct: dict[str, str] = {}
    for name in categories:
        distinct.setdefault(plain_name(name), " ".join(name.split()))
    return tuple(distinct.values())


def _unavailable(specs: Sequence[ToolSpec], perception: Perception) -> frozenset[str]:
    """Return the words for tools, arguments and cameras that these tools do not have."""
    tools = {*BUILDERS, *PICTURE_BUILDERS} - {spec.name for spec in specs}
    arguments = {"image_id", "frame"} - {name for spec in specs for name in spec.args.model_fields}
    cameras = OTHER_CAMERAS if len(perception.cameras) == 1 else ()
    return frozenset((*tools, *arguments, *cameras))
