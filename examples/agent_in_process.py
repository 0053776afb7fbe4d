"""Give an agent eyes, in one process: `python examples/agent_in_process.py --find mug "the red bowl"`.

Without `--llm` a scripted model drives the agent; `--llm openai:gpt-5-mini` uses a real one.
"""

import sys
import time
from pathlib import Path
from typing import Annotated

import cv2
import typer
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`, which is not installed

from support.scripted_model import ScriptedModel, segment_and_report
from xsam import Frame, XSam
from xsam.sim import render, sample_scene
from xsam_agent_tools import XSamToolkit

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    more: Annotated[list[str] | None, typer.Argument(metavar="[PHRASE]...", help="More to find.")] = None,
    find: Annotated[list[str] | None, typer.Option(help="What to find; default: cup, lemon, mug.")] = None,
    llm: Annotated[str | None, typer.Option(help="A model of LangChain; default: scripted.")] = None,
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Default: a simulated table.")
    ] = None,
) -> str:
    phrases = [*(find or ()), *(more or ())] or ["cup", "lemon", "mug"]

    def newest_frame(camera: str) -> Frame:
        if image:
            rgb = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
        else:
            rgb = render(sample_scene(7), image_hw=(480, 640)).rgb
        return Frame(rgb=rgb, camera=camera, stamp_ns=time.time_ns())

    toolkit = XSamToolkit(XSam.load("tiny"), cameras=["front"], frame_source=newest_frame, deadline_s=120)
    agent = create_agent(llm or ScriptedModel(policy=segment_and_report), toolkit.get_tools())
    messages = agent.invoke({"messages": [HumanMessage(", ".join(phrases))]})["messages"]
    for message in messages:
        message.pretty_print()
    return str(messages[-1].content)


if __name__ == "__main__":
    app()
