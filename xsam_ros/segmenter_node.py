"""Entry point of the segmenter node: `python -m xsam_ros.segmenter_node`; the code is in `xsam_ros.node`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from xsam_ros.runtime.process import run_entry_point

if TYPE_CHECKING:
    from xsam_ros.node.node import SegmenterNode

__all__ = ["SegmenterNode", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM, which end it in every stage, also during its imports."""
    return run_entry_point(_load, arguments)


def _load() -> Callable[[Sequence[str] | None], int]:
    from xsam_ros.node.node import main as run

    return run


def __getattr__(name: str) -> Any:
    if name == "SegmenterNode":
        from xsam_ros.node.node import SegmenterNode

        return SegmenterNode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    raise SystemExit(main())
