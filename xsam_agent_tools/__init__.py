"""Tools that let a language model see through a robot's cameras.

One definition works in LangChain, in LangGraph, and in every framework that accepts LangChain tools::

    from xsam_agent_tools import XSamToolkit

    tools = XSamToolkit(segmenter, cameras=["front", "wrist"]).get_tools()

`segmenter` is anything that implements `xsam.Segmenter`: the model in this process, the client of a
ROS node, or a fake. Nothing here imports PyTorch or ROS; LangChain is loaded with the toolkit.
`xsam_agent_tools.middleware` shows the overlays to models with vision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xsam_agent_tools.errors import (
    ArgumentsError,
    ImageFullError,
    ImageNotKeptError,
    NoDepthError,
    NotLookedError,
    NoTransformError,
    RepeatedQueryError,
    StaleIdError,
    UnknownIdError,
)
from xsam_agent_tools.memory.scene_store import Scene, SceneObject, SceneStore

if TYPE_CHECKING:
    from xsam_agent_tools.toolkit import XSamToolkit

__all__ = [
    "ArgumentsError",
    "ImageFullError",
    "ImageNotKeptError",
    "NoDepthError",
    "NoTransformError",
    "NotLookedError",
    "RepeatedQueryError",
    "Scene",
    "SceneObject",
    "SceneStore",
    "StaleIdError",
    "UnknownIdError",
    "XSamToolkit",
]


def __getattr__(name: str) -> Any:
    if name == "XSamToolkit":
        from xsam_agent_tools.toolkit import XSamToolkit

        return XSamToolkit
    raise AttributeError(f"module 'xsam_agent_tools' has no attribute {name!r}")
