"""A server whose model hangs at the word "cliff": `python slow_server.py [settings of http as JSON]`."""

from __future__ import annotations

import json
import sys
import time

from tests.agent.table import MASKS, new_frame
from xsam import FakeSegmenter
from xsam_agent_tools import XSamToolkit
from xsam_agent_tools.mcp.http import HttpSettings
from xsam_agent_tools.mcp.server import leave_at_once, serve


class CliffSegmenter(FakeSegmenter):
    def segment(self, source, queries, *, deadline_s):
        if any("cliff" in category for query in queries for category in query.thing_classes):
            print("hangs", file=sys.stderr, flush=True)
            time.sleep(600)
        return super().segment(source, queries, deadline_s=deadline_s)


if __name__ == "__main__":
    toolkit = XSamToolkit(CliffSegmenter(MASKS), ["front"], frame_source=new_frame, deadline_s=300)
    http = HttpSettings(**json.loads(sys.argv[1])) if len(sys.argv) > 1 else None
    serve(toolkit, http)
    leave_at_once()
