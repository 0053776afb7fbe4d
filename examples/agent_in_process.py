"""An agent that sees, in one process: `python examples/agent_in_process.py --find mug "the red bowl"`.

Without `--llm` a scripted stand-in talks; with it any model of LangChain does: `--llm openai:gpt-5-mini`.
"""

import argparse
import json
import time

import cv2
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from xsam import Frame, XSam
from xsam.sim import render, sample_scene
from xsam_agent_tools import XSamToolkit


class ScriptedModel(GenericFakeChatModel):
    """Looks for what the user names, then reports what the tool said."""

    def bind_tools(self, tools, **kwargs):
        return self

    def _generate(self, messages, *args, **kwargs):
        if isinstance(messages[-1], HumanMessage):
            look = {
                "name": "segment_objects",
                "args": {"queries": messages[-1].text.split(", ")},
                "id": "look",
            }
            reply = AIMessage("", tool_calls=[look])
        else:
            seen = json.loads(messages[-1].content)
            spots = [f"{item['label']} ({item['id']}): {item['where']}" for item in seen.get("objects", [])]
            reply = AIMessage(f"{seen['status']}; {'; '.join(spots) or seen['hint']}")
        return ChatResult(generations=[ChatGeneration(message=reply)])


def main(argv: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", help="a picture; default: a simulated table")
    parser.add_argument("--find", nargs="+", default=["mug", "bowl", "plate"])
    parser.add_argument("--llm", default=ScriptedModel(messages=iter(())), help="default: scripted")
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
