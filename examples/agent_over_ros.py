"""Give an agent a ROS 2 node for eyes: `python examples/agent_over_ros.py --find mug "the blue mug"`.

The agent is the ten lines of `ask`; the rest starts a simulated camera and a segmenter node, each in its own
process. `--node /xsam` uses a node that is already running; `--llm openai:gpt-5-mini` replaces the scripted
model with a real one.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
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


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    more: Annotated[list[str] | None, typer.Argument(metavar="[PHRASE]...", help="More to find.")] = None,
    find: Annotated[list[str] | None, typer.Option(help="What to find; default: mug, the blue mug.")] = None,
    llm: Annotated[str | None, typer.Option(help="A model of LangChain; default: scripted.")] = None,
    node: Annotated[str | None, typer.Option(help="A running segmenter node; default: start one.")] = None,
) -> str:
    model = llm or ScriptedModel(policy=segment_and_report)
    request = ", ".join([*(find or ()), *(more or ())] or ["mug", "the blue mug"])
    if node:
        return ask(node, model, request)
    with running_node() as started:
        return ask(started, model, request)


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
    app()
