"""X-SAM: segment anything you can say or point at.

Everything but the errors is imported on first use. Structures, the `Segmenter` protocol and masks need NumPy
only; `XSam` brings PyTorch along::

    from xsam import XSam

    result = XSam.load("tiny").segment(rgb, "the red mug")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from xsam.errors import (
    CameraUnavailableError,
    CheckpointError,
    DatasetError,
    DeadlineExceededError,
    DownloadError,
    FrameNotKeptError,
    InvalidImageError,
    InvalidOptionError,
    InvalidQueryError,
    LinkDownError,
    MissingDataError,
    ModelError,
    NoFrameError,
    NotActiveError,
    OutOfMemoryError,
    QueueFullError,
    RateLimitError,
    RecordError,
    ReplicaLostError,
    RequestCancelledError,
    RequestRefusedError,
    RequestTooLargeError,
    SegmenterUnavailableError,
    SourceError,
    StaleFrameError,
    StreamEndedError,
    StreamTakenError,
    TrainingConfigError,
    UnauthorizedError,
    UnknownCameraError,
    WrongModelError,
    XSamError,
)
from xsam.version import __version__

if TYPE_CHECKING:
    from xsam.engine import XSam
    from xsam.segmenter import FakeSegmenter, Segmenter
    from xsam.types.masks import MaskRle
    from xsam.types.requests import (
        CameraRef,
        Frame,
        PromptKind,
        Query,
        SegmentationResult,
        Segments,
        Status,
        Task,
        Timing,
        VisualPrompt,
    )

__all__ = [
    "CameraRef",
    "CameraUnavailableError",
    "CheckpointError",
    "DatasetError",
    "DeadlineExceededError",
    "DownloadError",
    "FakeSegmenter",
    "Frame",
    "FrameNotKeptError",
    "InvalidImageError",
    "InvalidOptionError",
    "InvalidQueryError",
    "LinkDownError",
    "MaskRle",
    "MissingDataError",
    "ModelError",
    "NoFrameError",
    "NotActiveError",
    "OutOfMemoryError",
    "PromptKind",
    "Query",
    "QueueFullError",
    "RateLimitError",
    "RecordError",
    "ReplicaLostError",
    "RequestCancelledError",
    "RequestRefusedError",
    "RequestTooLargeError",
    "SegmentationResult",
    "Segmenter",
    "SegmenterUnavailableError",
    "Segments",
    "SourceError",
    "StaleFrameError",
    "Status",
    "StreamEndedError",
    "StreamTakenError",
    "Task",
    "Timing",
    "TrainingConfigError",
    "UnauthorizedError",
    "UnknownCameraError",
    "VisualPrompt",
    "WrongModelError",
    "XSam",
    "XSamError",
    "__version__",
]


_MODULES = {
    **dict.fromkeys(("FakeSegmenter", "Segmenter"), "xsam.segmenter"),
    "MaskRle": "xsam.types.masks",
    "XSam": "xsam.engine",
}


def __getattr__(name: str) -> Any:
    """Import a name on first use: the types bring NumPy, the engine PyTorch (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'xsam' has no attribute {name!r}")
    try:
        found = getattr(importlib.import_module(_MODULES.get(name, "xsam.types.requests")), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "transformers", "safetensors", "PIL"):
            raise ImportError(
                f"{name} needs {error.name}, which is not installed: pip install 'xsam[model]'"
            ) from error
        raise
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
