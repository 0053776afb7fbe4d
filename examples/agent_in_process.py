"""Give an agent eyes, in one process: `python examples/agent_in_process.py --find mug "the red bowl"`.

Without `--llm` a scripted model drives the agent; `--llm openai:gpt-5-mini` uses a real one.
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`, which is not installed

from support.scripted_model import ScriptedModel, segment_and_report
from xsam import Frame, XSam
from xsam.sim import render, sample_scene
from xsam_agent_tools import XSamToolkit


def main(argv: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", help="an image file; default: a simulated table")
    parser.add_argument("--find", nargs="+", default=["mug", "bowl", "plate"])
    parser.add_argument("--llm", default=ScriptedModel(policy=segment_and_report), help="default: scripted")
    args = parser.parse_args(argv)

    def newest_frame(camera: str) -> Frame:
        if args.image:
            rgb = cv2.cvtColor(cv2.imread(args.image), cv2.COLOR_BGR2RGB)
        else:
            rgb = render(sample_scene(7), image_hw=(480, 640)).rgb
        return Frame(rgb=rgb, camera=camera, stamp_ns=time.time_ns())

    toolkit = XSamToolkit(XSam.load("tiny"), cameras=["front"], frame_source=newest_frame, deadline_s=120)
    agent = create_agent(args.llm, toolkit.get_tools())
    messages = agent.invoke({"messages": [HumanMessage(", ".join(args.find))]})["messages"]
    for message in messages:
        message.pretty_print()
    return str(messages[-1].content)


if __name__ == "__main__":
    main()
