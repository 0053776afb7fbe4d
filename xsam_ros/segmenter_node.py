"""Entry point of the segmenter node: `python -m xsam_ros.segmenter_node`; the code is in `xsam_ros.node`."""

from xsam_ros.node.node import SegmenterNode, main

__all__ = ["SegmenterNode", "main"]

if __name__ == "__main__":
    raise SystemExit(main())
