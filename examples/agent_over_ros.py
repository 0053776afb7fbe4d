"""An agent whose eyes are a ROS 2 node: `python examples/agent_over_ros.py --find mug "the blue mug"`.

The agent is the ten lines of `ask`; the rest starts a simulated camera and a segmenter node, each a process
of its own. With `--node /xsam` an already running node is asked instead; `--llm openai:gpt-5-mini` lets a
real model do the talking.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_in_process import ScriptedModel
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from ros_processes import RosProcesses

from xsam import XSamError
from xsam_agent_tools import XSamToolkit
from xsam_ros.client import RosSegmenter

PARAMETERS = Path(__file__).parents[1] / "config" / "demo.yaml"
START_S = 300.0  # a busy machine takes long to load PyTorch


def ask(node: str, llm, words: str) -> str:
    """The ten lines: an agent that sees through a running node."""
    with RosSegmenter(node) as segmenter:
        cameras = [camera.name for camera in segmenter.status().cameras]
        toolkit = XSamToolkit(segmenter, cameras=cameras, deadline_s=60)
        agent = create_agent(llm, toolkit.get_tools())
        messages = agent.invoke({"messages": [HumanMessage(words)]})["messages"]
    for message in messages:
        message.pretty_print()
    return str(messages[-1].content)


def main(argv: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--find", nargs="+", default=["mug", "the blue mug"])
    parser.add_argument("--llm", default=ScriptedModel(messages=iter(())), help="default: scripted")
    parser.add_argument("--node", help="a running segmenter node; default: start one")
    args = parser.parse_args(argv)
    words = ", ".join(args.find)
    if args.node:
        return ask(args.node, args.llm, words)
    with running_node() as node:
        return ask(node, args.llm, words)


@contextmanager
def running_node() -> Iterator[str]:
    """A simulated camera and a segmenter node, ready to answer; gives the node's name."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    with tempfile.TemporaryDirectory() as logs, RosProcesses(log_dir=Path(logs)) as processes:
        processes.start("camera", "xsam_ros.camera_sim", "--params-file", PARAMETERS, "-p", "seed:=2000012")
        one = ("-p", "cameras:=[table]")  # the demo has a moving one as well
        processes.start("segmenter", "xsam_ros.segmenter_node", "--params-file", PARAMETERS, *one)
        wait_until_active("/xsam", processes)
        yield "/xsam"


def wait_until_active(node: str, processes: RosProcesses) -> None:
    """Until the node has its model and the first frame."""
    until, state = time.monotonic() + START_S, "not there yet"
    with RosSegmenter(node) as segmenter:
        while time.monotonic() < until:
            processes.check()
            try:
                status = segmenter.status(deadline_s=2.0)
            except XSamError as error:
                state = error.message
            else:
                state = status.last_error or status.state
                if status.state == "active" and all(camera.frames for camera in status.cameras):
                    return
            time.sleep(0.2)
    sys.exit(f"the segmenter was not ready within {START_S:.0f} s: {state}")


if __name__ == "__main__":
    main()
