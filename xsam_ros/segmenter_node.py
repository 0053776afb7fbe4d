"""Entry point of the segmenter node: `python -m xsam_ros.segmenter_node`; the code is in `xsam_ros.node`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xsam_ros.runtime.process import exit_on_signals

if TYPE_CHECKING:
    from xsam_ros.node.node import SegmenterNode

__all__ = ["SegmenterNode", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM, which end it in every stage, also during its imports."""
    exit_on_signals()
    try:
        from xsam_ros.node.node import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("xsam"):
            raise  # the workspace was not built or not sourced; the traceback says where
        print(
            f"error: the Python package {error.name!r} is not installed; run pip install '.[model]' in the "
            f"folder of X-SAM with the Python of this node ({sys.executable})",
            file=sys.stderr,
        )
        return 2

    return run(arguments)


def __getattr__(name: str) -> Any:
    if name == "SegmenterNode":
        from xsam_ros.node.node import SegmenterNode

        return SegmenterNode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    raise SystemExit(main())
