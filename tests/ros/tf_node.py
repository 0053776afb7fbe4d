"""The node of `color_node.py`, with TF."""

from __future__ import annotations

import sys

from tests.ros import tf_stand_in

sys.modules["tf2_ros"] = tf_stand_in  # before the node is imported

from tests.ros.color_node import load  # noqa: E402
from xsam_ros.node.node import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main(engine_factory=load))
