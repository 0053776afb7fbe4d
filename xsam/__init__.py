"""X-SAM: segment anything you can say or point at.

The light half (structures, errors, the `Segmenter` protocol, masks, drawing) is imported here and
needs NumPy only. `XSam` is loaded on first use, because it brings PyTorch along::

    from xsam import XSam

    result = XSam.load("tiny").segment(rgb, "the red mug")
"""

from __future__ import annotations

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
from xsam.version import __version__

if TYPE_CHECKING:
    from xsam.engine import XSam

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


def __getattr__(name: str) -> Any:
    if name == "XSam":
        try:
            from xsam.engine import XSam
        except ModuleNotFoundError as error:
            if error.name in ("torch", "transformers", "safetensors", "PIL"):
                raise ImportError(
                    f"XSam needs {error.name}, which is not installed: pip install 'xsam[model]'"
                ) from error
            raise
        return XSam
    raise AttributeError(f"module 'xsam' has no attribute {name!r}")
