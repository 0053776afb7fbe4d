"""The tools, one module a family; `BUILDERS` and `PICTURE_BUILDERS` are the one list of them."""

from __future__ import annotations

from collections.abc import Callable

from xsam_agent_tools.tools.asking import ask_scene
from xsam_agent_tools.tools.definition import Toolbox, ToolSpec
from xsam_agent_tools.tools.looking import show_camera
from xsam_agent_tools.tools.objects import filter_objects, inspect_object
from xsam_agent_tools.tools.pointing import refine_object, segment_with_prompt
from xsam_agent_tools.tools.reporting import perception_status, report_not_found
from xsam_agent_tools.tools.searching import segment_everything, segment_objects
from xsam_agent_tools.tools.space import compare_objects, locate_objects_3d
from xsam_agent_tools.tools.tracking import track_object

CORE_BUILDERS: dict[str, Callable[[Toolbox], ToolSpec]] = {
    "segment_objects": segment_objects,
    "ask_scene": ask_scene,
    "inspect_object": inspect_object,
    "locate_objects_3d": locate_objects_3d,
    "report_not_found": report_not_found,
}
BUILDERS: dict[str, Callable[[Toolbox], ToolSpec]] = {
    **CORE_BUILDERS,
    "segment_with_prompt": segment_with_prompt,
    "refine_object": refine_object,
    "filter_objects": filter_objects,
    "compare_objects": compare_objects,
    "segment_everything": segment_everything,
    "track_object": track_object,
    "perception_status": perception_status,
}
# Offered in both sets wherever pictures are on.
PICTURE_BUILDERS: dict[str, Callable[[Toolbox], ToolSpec]] = {"show_camera": show_camera}

NEED_PIXELS = frozenset({"refine_object"})
"""Tools that always segment an earlier image again: they are offered only where pixels are kept."""

__all__ = ["BUILDERS", "CORE_BUILDERS", "NEED_PIXELS", "PICTURE_BUILDERS", "ToolSpec", "Toolbox"]
