"""Uses of the household objects, and questions that ask about them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Affordance:
    """A purpose and the categories that serve it.

    Attributes:
        name: short key used in statistics.
        categories: every category that is a correct answer.
        questions: paraphrases, lower case, each ending in "?".
    """

    name: str
    categories: frozenset[str]
    questions: tuple[str, ...]


def _affordance(name: str, categories: str, *questions: str) -> Affordance:
    return Affordance(name=name, categories=frozenset(categories.split(", ")), questions=questions)


AFFORDANCES: tuple[Affordance, ...] = (
    _affordance(
        "drink",
        "mug, cup, bottle, can",
        "what can i drink from?",
        "which objects are for drinking?",
        "i am thirsty, what can i use?",
    ),
    _affordance(
        "eat",
        "apple, banana, lemon, pear, carrot",
        "what can i eat?",
        "which objects are food?",
        "i am hungry, what can i take?",
    ),
    _affordance("cut", "knife", "what can i cut bread with?", "which object has a blade?", "what is sharp?"),
    _affordance(
        "play",
        "ball, block, duck, teddy bear",
        "what can a child play with?",
        "which objects are toys?",
        "what can i give to a child?",
    ),
    _affordance("read", "book", "what can i read?", "which object has pages?"),
    _affordance("call", "phone", "what can i call someone with?", "which object has a screen?"),
    _affordance(
        "repair",
        "hammer, screwdriver, tape",
        "what is useful for repair work?",
        "which objects belong in a toolbox?",
    ),
    _affordance("cook", "pan", "what can i fry an egg in?", "what can i cook with?"),
    _affordance("pour", "teapot", "what can i pour tea from?", "what can i make tea in?"),
    _affordance("flowers", "vase", "what can hold flowers?", "where can i put flowers?"),
    _affordance(
        "fruit",
        "apple, banana, lemon, pear",
        "which objects are fruit?",
        "what can i put in a fruit salad?",
    ),
    _affordance("nail", "hammer", "what can i hit a nail with?", "what can i drive a nail into wood with?"),
    _affordance("screw", "screwdriver", "what can i turn a screw with?", "what can i tighten a screw with?"),
    _affordance("soup", "bowl", "what can i eat soup from?", "what can i serve soup in?"),
    _affordance("stir", "spoon", "what can i stir coffee with?", "what can i eat soup with?"),
    _affordance("serve", "plate", "what can i serve cake on?", "what can i put a sandwich on?"),
    _affordance("stick", "tape", "what can i stick paper to the wall with?", "which object is sticky?"),
    _affordance(
        "container",
        "mug, cup, bowl, box, can, bottle, vase, teapot, pan",
        "what can hold things?",
        "which objects are containers?",
    ),
)
