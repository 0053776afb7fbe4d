"""Give an agent a ROS 2 node for eyes: `python examples/agent_over_ros.py --find mug "the blue mug"`.

The agent is the ten lines of `ask`; the rest starts a simulated camera and a segmenter node, each in its own
process. `--node /xsam` uses a node that is already running; `--llm openai:gpt-5-mini` replaces the scripted
model with a real one.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`, which is not installed

from support.processes import NodeProcesses, use_private_domain
from support.readiness import wait_until_active
from support.scripted_model import ScriptedModel, segment_and_report
from xsam_agent_tools import XSamToolkit
from xsam_ros.client import RosSegmenter

PARAMETERS = Path(__file__).resolve().parents[1] / "config" / "demo.yaml"
START_TIMEOUT_S = 300.0  # loading PyTorch takes long on a busy machine


def ask(node: str, llm, request: str) -> str:
    """Run an agent that sees through a running node, and return its last message: the ten lines."""
    with RosSegmenter(node) as segmenter:
        cameras = [camera.name for camera in segmenter.status().cameras]
        toolkit = XSamToolkit(segmenter, cameras=cameras, deadline_s=60)
        agent = create_agent(llm, toolkit.get_tools())
        messages = agent.invoke({"messages": [HumanMessage(request)]})["messages"]
    for message in messages:
        message.pretty_print()
    return str(messages[-1].content)


def main(argv: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--find", nargs="+", default=["mug", "the blue mug"])
    parser.add_argument("--llm", default=ScriptedModel(policy=segment_and_report), help="default: scripted")
    parser.add_argument("--node", help="a running segmenter node; default: start one")
    args = parser.parse_args(argv)
    request = ", ".join(args.find)
    if args.node:
        return ask(args.node, args.llm, request)
    with running_node() as node:
        return ask(node, args.llm, request)


@contextmanager
def running_node() -> Iterator[str]:
    """Start a simulated camera and a segmenter node, wait until both work, and yield the node's name."""
    use_private_domain()
    with tempfile.TemporaryDirectory() as logs, NodeProcesses(log_dir=Path(logs)) as processes:
        processes.start("camera", "xsam_ros.camera_sim", "--params-file", PARAMETERS, "-p", "seed:=2000012")
        one_camera = ("-p", "cameras:=[table]")  # the parameter file also lists a moving one
        processes.start("segmenter", "xsam_ros.segmenter_node", "--params-file", PARAMETERS, *one_camera)
        with RosSegmenter("/xsam") as segmenter:
            wait_until_active(segmenter, cameras=("table",), processes=processes, timeout_s=START_TIMEOUT_S)
        yield "/xsam"


if __name__ == "__main__":
    main()
