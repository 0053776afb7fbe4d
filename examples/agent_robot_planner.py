"""Plan with LangGraph for an arm: find → locate → grasp, with a simulated table and a simulated gripper.

With `--model tiny` the tiny model looks for it instead of the simulator, which knows the truth.

The model never sees a coordinate that it could get wrong: the graph passes the pose from the tool's artifact
to the gripper at full precision. If the object is not found, or several match, the plan ends without a move
and says why. With `--llm openai:gpt-5-mini` a chat model chooses the phrase to search for.
"""

import json
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import typer
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from xsam.sim import sample_scene
from xsam.sim.oracle import SimulatedTable, simulated_view
from xsam_agent_tools import XSamToolkit

SEED = 2_000_012
REACH_M = 0.05  # the gripper closes around what is this close to it


class Plan(TypedDict, total=False):
    """State that the nodes of the graph pass on; a report ends the plan."""

    request: str
    words: str  # the phrase to search for
    object_id: str
    pose: dict[str, Any]  # frame, position_m, orientation_xyzw, size_m
    report: str


class SimulatedGripper:
    """A gripper that moves to a position in the world, closes, and holds the object that is there."""

    def __init__(self, seed: int) -> None:
        self._objects = sample_scene(seed).objects

    def grasp(self, position_m: list[float]) -> str:
        """Close at a position and return what is held, for example "blue mug", or "" for nothing."""
        for item in self._objects:
            low, high = (np.array(corner, float) for corner in (item.model.lower_m, item.model.upper_m))
            local = (np.linalg.inv(item.world_from_object()) @ [*position_m, 1.0])[:3]
            if ((local > low - REACH_M / 2) & (local < high + REACH_M / 2)).all():
                return f"{item.color} {item.category}"
        return ""


def build_planner(toolkit: XSamToolkit, gripper: SimulatedGripper, llm: Any = None) -> Any:
    """Return the graph. Its nodes call the tools of the toolkit; no model chooses them."""
    tools = {tool.name: tool for tool in toolkit.get_tools()}

    def call(name: str, **arguments: Any) -> Any:
        return tools[name].invoke({"name": name, "args": arguments, "id": name, "type": "tool_call"})

    def choose_phrase(plan: Plan) -> Plan:
        if llm is None:
            return {"words": plan["request"]}
        task = SystemMessage("Reply with a short phrase for the object to fetch, like: the blue mug")
        return {"words": llm.invoke([task, HumanMessage(plan["request"])]).text.strip()}

    def find(plan: Plan) -> Plan:
        found = json.loads(call("segment_objects", queries=[plan["words"]]).content)
        if found["status"] == "ok":
            return {"object_id": found["objects"][0]["id"]}
        if found["status"] == "ambiguous":
            which = "; ".join(found.get("differ", {}).values())
            return {"report": f"Several fit {plan['words']!r} ({which}): which one?"}
        return {"report": f"I do not see {plan['words']!r}: {found.get('hint', found['status'])}"}

    def locate(plan: Plan) -> Plan:
        message = call("locate_objects_3d", object_ids=[plan["object_id"]], frame="base_link")
        if message.artifact is None:  # no depth, too old, no transform: never a guess
            return {"report": f"I cannot reach it: {json.loads(message.content)['message']}"}
        (pose,) = message.artifact["places"]
        return {"pose": pose}

    def grasp(plan: Plan) -> Plan:
        held = gripper.grasp(plan["pose"]["center_m"])
        return {"report": f"I hold the {held}." if held else "The gripper closed on nothing."}

    def next_step(plan: Plan) -> Literal["continue", "end"]:
        return "end" if "report" in plan else "continue"

    graph = StateGraph(Plan)
    for node in (choose_phrase, find, locate, grasp):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "choose_phrase").add_edge("choose_phrase", "find")
    graph.add_conditional_edges("find", next_step, {"continue": "locate", "end": END})
    graph.add_conditional_edges("locate", next_step, {"continue": "grasp", "end": END})
    graph.add_edge("grasp", END)
    return graph.compile(checkpointer=InMemorySaver())


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    request: Annotated[str, typer.Argument(help="What to fetch.")] = "the blue mug",
    model: Annotated[
        str | None, typer.Option(help="tiny or a converted folder; default: the simulator's ground truth.")
    ] = None,
    llm: Annotated[
        str | None, typer.Option(help="E.g. openai:gpt-5-mini; default: search for the request as it is.")
    ] = None,
) -> dict[str, Any]:
    table = SimulatedTable(SEED)
    segmenter: Any = table
    if model:
        from xsam import XSam

        segmenter = XSam.load(model)
    chat = None
    if llm:
        from langchain.chat_models import init_chat_model

        chat = init_chat_model(llm)
    world_from_camera = simulated_view(SEED)[1].world_from_camera

    def transforms(target: str, source: str, stamp_ns: int) -> Any:  # on a robot: a look-up in TF
        return world_from_camera if (target, source) == ("base_link", "front_optical") else None

    toolkit = XSamToolkit(
        segmenter,
        cameras=["front"],
        mode="full",
        frame_source=table.frame,
        transforms=transforms,
        deadline_s=120,
    )
    planner = build_planner(toolkit, SimulatedGripper(SEED), chat)
    plan: dict[str, Any] = planner.invoke({"request": request}, {"configurable": {"thread_id": "table"}})
    print(json.dumps(plan, indent=2))
    return plan


if __name__ == "__main__":
    app()
