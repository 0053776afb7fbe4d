"""Check answers with an interpreter that uses only the question, the masks and the annotations."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.sim.test_language import HEIGHT, WIDTH, annotation, interpret, named, views
from xsam.sim.affordances import AFFORDANCES
from xsam.sim.annotate import ObjectAnnotation
from xsam.sim.conversation import KIND_SHARES, VOCABULARY, QuestionAnswer, grid_cell, scene_dialogue
from xsam.sim.household import CATEGORIES, COLORS, colors_of
from xsam.sim.question_pools import POOLS
from xsam.train.tokenizer import build_tiny_tokenizer

pytestmark = pytest.mark.slow  # the file takes several seconds

HW = (HEIGHT, WIDTH)
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SINGULAR = {"knives": "knife", "boxes": "box"}
FRUIT = {"apple", "banana", "lemon", "pear"}
PURPOSES = {
    "to drink from": {"mug", "cup", "bottle", "can"},
    "to eat": {*FRUIT, "carrot"},
    "to cut bread with": {"knife"},
    "a child can play with": {"ball", "block", "duck", "teddy bear"},
    "to read": {"book"},
    "to call someone with": {"phone"},
    "for repair work": {"hammer", "screwdriver", "tape"},
    "to cook with": {"pan"},
    "to pour tea from": {"teapot"},
    "to put flowers in": {"vase"},
    "for a fruit salad": FRUIT,
    "to hit a nail with": {"hammer"},
    "to turn a screw with": {"screwdriver"},
    "to eat soup from": {"bowl"},
    "to stir coffee with": {"spoon"},
    "to serve cake on": {"plate"},
    "to stick paper to the wall with": {"tape"},
    "that can hold things": {"mug", "cup", "bowl", "box", "can", "bottle", "vase", "teapot", "pan"},
}
Objects = tuple[ObjectAnnotation, ...]


def ask(objects: Objects, seed: int = 0, *, count: int = 10, hw: tuple[int, int] = HW) -> Any:
    return scene_dialogue(objects, hw, np.random.default_rng(seed), count=count)


def everything(objects: Objects, kind: str) -> dict[str, str]:
    """All questions of a kind about a view, with their answers."""
    return {p.question: p.answer for p in ask(objects, count=600) if p.kind == kind}


def a(name: str) -> str:
    return f"an {name} ." if name[0] in "aeiou" else f"a {name} ."


def cell_words(o: ObjectAnnotation, hw: tuple[int, int]) -> str:
    edges = np.linspace(0, max(hw), 13)
    column, row = (np.histogram([value + 0.5], edges)[0].argmax() for value in o.centroid_xy)
    return f"column {NUMBERS[column]} row {NUMBERS[row]}"


def only(objects: Objects, phrase: str) -> ObjectAnnotation:
    (number,) = interpret(objects, phrase.removeprefix("the "))
    (found,) = (o for o in objects if o.instance_id == number)
    return found


def beside(objects: Objects, side: str, phrase: str) -> ObjectAnnotation:
    here = only(objects, phrase)
    sign = 1 if side == "right" else -1
    there = [o for o in objects if sign * (o.centroid_xy[0] - here.centroid_xy[0]) > 0]
    return min(there, key=lambda o: abs(complex(*o.centroid_xy) - complex(*here.centroid_xy)))


def is_there(objects: Objects, what: str) -> str:
    if what.startswith("something "):
        categories = PURPOSES[what.removeprefix("something ")]
        return "yes ." if any(o.category in categories for o in objects) else "no ."
    found = named(objects, re.sub("^an? ", "", what))
    if not found:
        return "no ."
    color = what.split()[1]
    return "yes ." if color not in COLORS or any(o.color == color for o in found) else "unclear"


def how_many(objects: Objects, what: str) -> str:
    *color, noun = what.split(maxsplit=1) if what.partition(" ")[0] in COLORS else [what]
    found = named(objects, " ".join([*color, SINGULAR.get(noun, noun.removesuffix("s"))]))
    if any(o.color not in color for o in found if color):
        return "unclear"
    return f"{NUMBERS[len(found) - 1]} ." if found else "none ."


def compared(objects: Objects, first: str, word: str, second: str) -> str:
    p, q = only(objects, first), only(objects, second)
    differences = {
        "left of": q.centroid_xy[0] - p.centroid_xy[0],
        "nearer than": q.depth_m - p.depth_m,
        "smaller than": q.area_px - p.area_px,
    }
    opposite = {"right of": "left of", "farther than": "nearer than", "larger than": "smaller than"}
    difference = differences[word] if word in differences else -differences[opposite[word]]
    assert difference != 0
    return "yes ." if difference > 0 else "no ."


def looks(objects: Objects, names: str) -> Counter[str]:
    """Count each appearance in a list such as "two red mugs and a blue bowl" or "the red mugs"."""
    found: Counter[str] = Counter()
    for name in re.split(" , | and ", names):
        lead, color, noun = name.split(maxsplit=2)
        category = noun if noun in CATEGORIES else SINGULAR.get(noun, noun.removesuffix("s"))
        assert category in CATEGORIES
        look = f"{color} {category}"
        number = sum(f"{o.color} {o.category}" == look for o in objects)
        if lead != "the":
            assert number == (1 if lead in ("a", "an") else NUMBERS.index(lead) + 1)
        assert (noun == category) == (number == 1)
        assert look not in found
        found[look] = number
    return found


def check_sentence(objects: Objects, pair: QuestionAnswer) -> None:
    """An answer that lists objects."""
    if pair.kind == "reasoning":
        spoken = re.sub(" ([?,])", r"\1", pair.question)
        (wanted,) = (x.categories for x in AFFORDANCES if spoken in x.questions)
        fitting = Counter(f"{o.color} {o.category}" for o in objects if o.category in wanted)
        if not fitting:
            assert pair.answer == "there is nothing like that ."
            return
        match = re.fullmatch(r"you can use (.+) \.", pair.answer)
        assert match
        assert looks(objects, match[1]) == fitting
        return
    if not objects:
        assert pair.answer == "there is nothing on the table ."
        return
    match = re.fullmatch(r"(?:i see (.+)|(.+) (?:is|are) on the table) \.", pair.answer)
    assert match
    there = Counter(f"{o.color} {o.category}" for o in objects)
    assert looks(objects, match[1] or match[2]) <= there


def expected(objects: Objects, question: str, hw: tuple[int, int]) -> str:
    """Compute the answer without margins, by strict comparison of all given objects."""
    if match := re.fullmatch(r"where is (.+) \?", question):
        return f"{cell_words(only(objects, match[1]), hw)} ."
    if match := re.fullmatch(r"what is at (.+) \?", question):
        (found,) = (o for o in objects if cell_words(o, hw) == match[1])
        return a(f"{found.color} {found.category}")
    if match := re.fullmatch(r"what is just (left|right) of (.+) \?", question):
        found = beside(objects, match[1], match[2])
        return a(f"{found.color} {found.category}")
    if match := re.fullmatch(r"what color is (.+) \?", question):
        return f"{only(objects, match[1]).color} ."
    if match := re.fullmatch(r"is there (.+) \?", question):
        return is_there(objects, match[1])
    if match := re.fullmatch(r"how many (.+) are there \?", question):
        return how_many(objects, match[1])
    if match := re.fullmatch(
        r"is (the .+) ((?:left|right) of|(?:nearer|farther|smaller|larger) than) (the .+) \?", question
    ):
        return compared(objects, *match.groups())
    match = re.fullmatch(r"what is (the (\w+) .+) \?", question)
    assert match, question
    found = only(objects, match[1])
    return a(found.category) if match[2] in COLORS else a(f"{found.color} {found.category}")


def check(objects: Objects, pairs: tuple[QuestionAnswer, ...], hw: tuple[int, int] = HW) -> None:
    """Check that the answer holds for everything visible, and also without the unlabeled objects."""
    for pair in pairs:
        assert pair.kind in KIND_SHARES
        assert pair.question.endswith((" ?", " ."))
        assert pair.answer.endswith(" .")
        for shown in (objects, tuple(o for o in objects if o.labeled)):
            if pair.kind in ("reasoning", "caption"):
                check_sentence(shown, pair)
            else:
                assert expected(shown, pair.question, hw) == pair.answer, pair


@settings(max_examples=120, deadline=None)
@given(views(), st.integers(0, 1000))
def test_answers_are_true(objects: Objects, seed: int) -> None:
    check(objects, ask(objects, seed, count=40))


def test_answers_about_rendered_scenes_are_true_of_the_masks(samples: list[Any]) -> None:
    kinds: Counter[str] = Counter()
    for sample in samples:
        hw = sample.view.rgb.shape[:2]
        seen = []
        for item in sample.annotations:
            rows, columns = np.nonzero(sample.view.instance_ids == item.instance_id)
            depths = sample.view.depth_m[rows, columns]
            seen.append(
                replace(
                    item,
                    centroid_xy=(float(np.mean(columns)), float(np.mean(rows))),
                    area_px=len(rows),
                    depth_m=float(np.mean(depths[depths > 0], dtype=np.float64)),
                )
            )
        pairs = ask(sample.annotations, count=40, hw=hw)
        check(tuple(seen), pairs, hw)
        kinds.update(p.kind for p in pairs)
    assert set(kinds) == set(KIND_SHARES) == set(POOLS)


@settings(max_examples=40, deadline=None)
@given(views(), st.integers(0, 1000), st.integers(0, 25))
def test_counts_are_exact_and_no_question_comes_twice(objects: Objects, seed: int, count: int) -> None:
    pairs = ask(objects, seed, count=count)
    assert len(pairs) == count
    assert len({p.question for p in pairs}) == count
    assert pairs == ask(objects, seed, count=count)


@pytest.mark.parametrize("labeled", [True, False])
def test_views_with_little_in_them(labeled: bool) -> None:
    alone = annotation(1, "mug", "red", labeled=labeled)
    for objects in ((), (alone,)):
        pairs = ask(objects, count=30)
        assert len(pairs) == 30
        check(objects, pairs)
    captions = [p for p in ask((alone,), count=200) if p.kind == "caption"]
    assert bool(captions) == labeled, "nothing is on the table is not said of a sliver"


def test_when_questions_run_out_they_are_repeated() -> None:
    pairs = ask((annotation(1, "mug", "red"),), count=1500)
    assert len(pairs) == 1500
    different = len({p.question for p in pairs})
    assert 100 < different < 1500
    assert len({p.question for p in pairs[:different]}) == different


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        ask((), count=-1)


def test_different_generators_ask_differently() -> None:
    objects = (annotation(1, "mug", "red", (20, 20)), annotation(2, "plate", "blue", (150, 90)))
    assert ask(objects, 0) != ask(objects, 1)


def test_the_grid_covers_the_padded_square() -> None:
    assert grid_cell((0.0, 0.0), (144, 192)) == (0, 0)
    assert grid_cell((191.0, 143.0), (144, 192)) == (11, 8)  # cells are 16 pixels wide
    assert grid_cell((143.0, 191.0), (192, 144)) == (8, 11)
    assert grid_cell((15.4, 15.6), (144, 192)) == (0, 1)  # the edge lies between pixels 15 and 16


def test_every_word_is_known_and_no_word_of_the_vocabulary_is_made_up(samples: list[Any]) -> None:
    tokenizer = build_tiny_tokenizer()
    spoken: set[str] = set()
    for sample in samples:
        for pair in ask(sample.annotations, count=60, hw=sample.view.rgb.shape[:2]):
            spoken |= {*pair.question.split(), *pair.answer.split()}
            ids = tokenizer.encode(f"{pair.question} {pair.answer}", add_special_tokens=False)
            assert tokenizer.unk_token_id not in ids
            assert len(ids) == len(f"{pair.question} {pair.answer}".split())
    assert spoken <= set(VOCABULARY)
    assert {*NUMBERS[:11], "column", "none", "yes", "larger", "something", "describe"} <= spoken
    numbers = {w for w in NUMBERS if w in VOCABULARY}
    assert numbers == set(NUMBERS)


def random_views(number: int) -> list[Objects]:
    found = []
    for seed in range(number):
        rng = np.random.default_rng([seed, 7])
        objects = []
        for k in range(int(rng.integers(3, 9))):
            category = str(rng.choice(CATEGORIES))
            xy = (float(rng.uniform(5, 186)), float(rng.uniform(5, 138)))
            objects.append(
                annotation(
                    k + 1,
                    category,
                    str(rng.choice(colors_of(category))),
                    xy,
                    area_px=int(rng.integers(30, 2000)),
                    depth_m=float(rng.uniform(0.4, 1.4)),
                )
            )
        found.append(tuple(objects))
    return found


def test_yes_and_no_are_balanced_and_the_words_do_not_tell() -> None:
    """Also within each kind of question, where a language model could otherwise memorize the answer."""
    answers: dict[str, Counter[str]] = {}
    for seed, objects in enumerate(random_views(700)):
        for pair in ask(objects, seed, count=20):
            q = pair.question
            if pair.kind == "compare":
                word = next(w for w in ("left", "right", "nearer", "farther", "smaller", "larger") if w in q)
                answers.setdefault(word, Counter())[pair.answer] += 1
            elif pair.kind == "presence":
                colored = any(f" {color} " in q for color in COLORS)
                key = "purpose" if "something" in q else f"{colored} {q.endswith('object ?')}"
                answers.setdefault(key, Counter())[pair.answer] += 1
    assert len(answers) == 10
    for key, counted in answers.items():
        total = counted.total()
        assert total > 200, key
        assert abs(counted["yes ."] - total / 2) < 3.3 * total**0.5 / 2, (key, counted)  # 3.3 sigma


def test_rare_relations_are_asked_as_often_as_plain_names() -> None:
    """There are three plain names for each object and one ordinal in the whole view."""
    mugs = tuple(
        annotation(k + 1, "mug", color, (30.0 + 50 * k, 70), area_px=200 * 2**k, depth_m=0.5 + 0.2 * k)
        for k, color in enumerate(("red", "blue", "green"))
    )
    objects = (*mugs, annotation(4, "plate", "white", (55, 20), area_px=5000, depth_m=1.5))
    asked: Counter[str] = Counter()
    for seed in range(150):
        for pair in ask(objects, seed, count=8):
            if pair.kind == "locate":
                asked["ordinal" if "second" in pair.question else "other"] += 1
                asked["category"] += pair.question == "where is the plate ?"
    assert asked["ordinal"] > asked["category"] > 0


def test_comparisons_need_a_margin() -> None:
    mug = annotation(1, "mug", "red", (100, 70), area_px=400, depth_m=0.8)
    close = annotation(2, "bowl", "blue", (108, 70), area_px=510, depth_m=0.83)
    assert everything((mug, close), "compare") == {}
    clear = replace(close, centroid_xy=(110.0, 70.0), area_px=530, depth_m=0.85)
    assert everything((mug, clear), "compare")


def test_a_neighbor_is_clearly_nearest_and_beside() -> None:
    mug = annotation(1, "mug", "red", (40, 70))
    ball, cup = annotation(2, "ball", "blue", (80, 70)), annotation(3, "cup", "green", (100, 70))

    def right_of_the_mug(*others: ObjectAnnotation) -> set[str]:
        asked = everything((mug, *others), "describe_neighbor")
        return {v for q, v in asked.items() if "right" in q and ("mug" in q or "the red object" in q)}

    assert right_of_the_mug(ball, cup) == {"a blue ball ."}
    assert right_of_the_mug(ball, replace(cup, centroid_xy=(85.0, 75.0))) == set()  # 45 is not 1.3 × 40
    assert right_of_the_mug(replace(ball, labeled=False), cup) == set()
    assert right_of_the_mug(replace(ball, centroid_xy=(60.0, 95.0))) == set()  # rather below
    assert right_of_the_mug(replace(ball, centroid_xy=(48.0, 70.0))) == set()  # 8 < 5 % of 192


def test_a_cell_that_another_object_covers_is_not_asked_for() -> None:
    mug = annotation(1, "mug", "red", (40, 70))
    plate = annotation(2, "plate", "white", (90, 70), labeled=False)
    assert everything((mug, plate), "describe_cell") == {"what is at column three row five ?": "a red mug ."}
    for box in ((35, 60, 120, 90), (40, 68, 46, 76)):  # all of it; its center (39.5, 71.5) and the mug's
        assert everything((mug, replace(plate, box_xyxy=box)), "describe_cell") == {}
    assert everything((mug, replace(plate, centroid_xy=(34.0, 66.0))), "describe_cell") == {}


def test_the_color_of_an_object_of_two_colors_is_not_asked() -> None:
    """A knife with a red handle has a steel blade."""
    assert everything((annotation(1, "knife", "red"),), "color") == {}
    assert everything((annotation(1, "mug", "red"),), "color") == {"what color is the mug ?": "red ."}


def test_slivers_forbid_counts_captions_and_answers_that_leave_them_out() -> None:
    mugs = (annotation(1, "mug", "red", (40, 70)), annotation(2, "mug", "red", (120, 70), labeled=False))
    assert "yes ." in everything(mugs, "presence").values()
    for kind in ("caption", "locate", "compare"):
        assert everything(mugs, kind) == {}
    assert set(everything(mugs, "count").values()) == {"none ."}
    assert set(everything(mugs, "reasoning").values()) == {"there is nothing like that ."}
