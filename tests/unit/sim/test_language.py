"""Check phrases with a small interpreter that uses only the text and the annotations."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsam.sim.affordances import AFFORDANCES
from xsam.sim.annotate import ObjectAnnotation, mirror
from xsam.sim.household import CATEGORIES, COLORS, SECONDARY_COLORS, colors_of
from xsam.sim.language import (
    ABSENT_KINDS,
    EXPRESSION_KINDS,
    VOCABULARY,
    Expression,
    absent_expressions,
    category_queries,
    grounded_caption,
    reasoning_answer,
    reasoning_questions,
    referring_expressions,
)
from xsam.sim.near_misses import NEAR_MISS_KINDS, near_misses
from xsam.sim.words import split_words
from xsam.types.nouns import plural

WIDTH, HEIGHT = 192, 144
Objects = tuple[ObjectAnnotation, ...]


def annotation(
    instance_id: int,
    category: str,
    color: str,
    xy: tuple[float, float] = (90.0, 70.0),
    *,
    area_px: int = 400,
    depth_m: float = 0.8,
    labeled: bool = True,
) -> ObjectAnnotation:
    x, y = int(xy[0]), int(xy[1])
    return ObjectAnnotation(
        instance_id=instance_id,
        category=category,
        color=color,
        labeled=labeled,
        area_px=area_px,
        box_xyxy=(max(x - 5, 0), max(y - 5, 0), min(x + 6, WIDTH), min(y + 6, HEIGHT)),
        centroid_xy=xy,
        depth_m=depth_m,
        position_camera_m=(0.0, 0.0, depth_m),
        visible_fraction=1.0,
        in_frame_fraction=1.0,
    )


@st.composite
def views(draw: st.DrawFn) -> Objects:
    """Return views of up to eight objects in few categories and colors, so that most phrases have rivals."""
    names = draw(st.lists(st.sampled_from(CATEGORIES), min_size=1, max_size=4, unique=True))
    found = []
    for number in range(1, draw(st.integers(1, 8)) + 1):
        category = draw(st.sampled_from(names))
        found.append(
            annotation(
                number,
                category,
                draw(st.sampled_from(colors_of(category))),
                (draw(st.floats(2, WIDTH - 3)), draw(st.floats(2, HEIGHT - 3))),
                area_px=draw(st.integers(30, 4000)),
                depth_m=draw(st.floats(0.4, 1.4)),
                labeled=draw(st.integers(0, 9)) > 0,
            )
        )
    return tuple(found)


def named(objects: Objects, name: str) -> list[ObjectAnnotation]:
    """List every object that "red mug", "mug", "red object" or "object" may refer to."""
    color, _, rest = name.partition(" ")
    if color not in COLORS:
        color, rest = "", name
    found = [o for o in objects if rest in (o.category, "object")]
    if color and rest == "object":
        return [o for o in found if color == o.color or color in SECONDARY_COLORS.get(o.category, ())]
    return [o for o in found if color in ("", o.color)]


def interpret(objects: Objects, text: str) -> list[int]:
    """Return the ids of the objects that a phrase without article strictly fits, without margins."""

    def x(o: ObjectAnnotation) -> float:
        return o.centroid_xy[0]

    word, _, noun = text.partition(" ")
    rankings: dict[str, Any] = {
        "leftmost": x,
        "rightmost": lambda o: -x(o),
        "smallest": lambda o: o.area_px,
        "largest": lambda o: -o.area_px,
        "nearest": lambda o: o.depth_m,
        "farthest": lambda o: -o.depth_m,
    }
    if word in rankings:
        return [min(named(objects, noun), key=rankings[word]).instance_id]
    if match := re.fullmatch(r"(second|third|fourth|fifth|sixth|seventh) (.+) from the (left|right)", text):
        ranked = sorted(named(objects, match[2]), key=x, reverse=match[3] == "right")
        number = ("second", "third", "fourth", "fifth", "sixth", "seventh").index(match[1]) + 1
        return [ranked[number].instance_id]
    if match := re.fullmatch(r"(.+) (left|right) of the (.+)", text):
        (anchor,) = named(objects, match[3])
        side = -1 if match[2] == "left" else 1
        return [o.instance_id for o in named(objects, match[1]) if side * (x(o) - x(anchor)) > 0]
    if match := re.fullmatch(r"(.+) between the (.+) and the (.+)", text):
        (first,), (second,) = named(objects, match[2]), named(objects, match[3])
        found = []
        for o in named(objects, match[1]):
            start, end, here = (complex(*q.centroid_xy) for q in (first, second, o))
            place = (here - start) / (end - start)  # 0 at the first, 1 at the second, imaginary = aside
            if 0.1 < place.real < 0.9 and abs(place.imag) < 0.3:
                found.append(o.instance_id)
        return found
    return [o.instance_id for o in named(objects, text)]


def check_expressions(objects: Objects, expressions: tuple[Expression, ...]) -> None:
    labeled = {o.instance_id for o in objects if o.labeled}
    assert len({e.text for e in expressions}) == len(expressions)
    for e in expressions:
        assert e.kind in EXPRESSION_KINDS
        assert e.text.startswith("the ")
        assert interpret(objects, e.text.removeprefix("the ")) == list(e.instance_ids), e
        assert set(e.instance_ids) <= labeled


@settings(max_examples=150, deadline=None)
@given(views())
@pytest.mark.slow
def test_expressions_are_true_and_unique(objects: Objects) -> None:
    check_expressions(objects, referring_expressions(objects, WIDTH))


def test_expressions_of_rendered_scenes_are_true(samples: list[Any]) -> None:
    kinds = set()
    for sample in samples:
        expressions = referring_expressions(sample.annotations, sample.view.rgb.shape[1])
        check_expressions(sample.annotations, expressions)
        kinds |= {e.kind for e in expressions}
    assert kinds == set(EXPRESSION_KINDS)


@settings(max_examples=60, deadline=None)
@given(views())
def test_left_and_right_change_places_in_the_mirror(objects: Objects) -> None:
    swap = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
    here = referring_expressions(objects, WIDTH)
    there = referring_expressions(mirror(objects, WIDTH), WIDTH)
    swapped = {
        (" ".join(swap.get(w, w) for w in e.text.split()), e.instance_ids)
        for e in here
        if e.kind != "relation"
    }
    assert swapped == {(e.text, e.instance_ids) for e in there if e.kind != "relation"}


def texts(objects: Objects, kind: str) -> dict[str, tuple[int, ...]]:
    return {e.text: e.instance_ids for e in referring_expressions(objects, WIDTH) if e.kind == kind}


def test_largest_is_by_visible_area_and_needs_a_margin() -> None:
    a, b = annotation(1, "mug", "red", area_px=1000), annotation(2, "mug", "blue", area_px=1290)
    assert texts((a, b), "size") == {}
    c = annotation(2, "mug", "blue", area_px=1310)
    assert texts((a, c), "size")["the largest mug"] == (2,)
    assert texts((a, c), "size")["the smallest mug"] == (1,)


def test_nearest_is_by_depth_not_by_the_place_in_the_picture() -> None:
    high_but_near = annotation(1, "mug", "red", (20, 10), depth_m=0.6)
    low_but_far = annotation(2, "mug", "blue", (150, 130), depth_m=0.9)
    assert texts((high_but_near, low_but_far), "distance")["the nearest mug"] == (1,)
    assert texts((high_but_near, annotation(2, "mug", "blue", depth_m=0.62)), "distance") == {}


def test_left_of_needs_every_rival_to_be_clearly_elsewhere() -> None:
    plate = annotation(3, "plate", "white", (100, 70))
    left, right = annotation(1, "mug", "red", (40, 70)), annotation(2, "mug", "blue", (150, 70))
    assert texts((left, right, plate), "relation") == {
        "the mug left of the plate": (1,),
        "the mug right of the plate": (2,),
    }
    beside = annotation(2, "mug", "blue", (102, 70))
    assert texts((left, beside, plate), "relation") == {}


def test_between() -> None:
    plate, ball = annotation(3, "plate", "white", (30, 70)), annotation(4, "ball", "red", (160, 75))
    middle, outside = annotation(1, "mug", "red", (95, 72)), annotation(2, "mug", "blue", (180, 30))
    found = texts((middle, outside, plate, ball), "relation")
    assert found["the mug between the plate and the ball"] == (1,)


def test_ordinals_count_from_both_sides() -> None:
    mugs = tuple(
        annotation(k + 1, "mug", color, (30.0 + 40 * k, 70))
        for k, color in enumerate(("red", "blue", "green", "pink"))
    )
    assert texts(mugs, "ordinal") == {
        "the second mug from the left": (2,),
        "the third mug from the left": (3,),
        "the second mug from the right": (3,),
        "the third mug from the right": (2,),
    }


def test_unlabeled_rivals_make_a_phrase_ambiguous() -> None:
    """With a sliver of a second mug at the edge, "the mug" would be debatable."""
    mug, sliver = (
        annotation(1, "mug", "red", (40, 70)),
        annotation(2, "mug", "blue", (190, 70), labeled=False),
    )
    found = {e.text for e in referring_expressions((mug, sliver), WIDTH)}
    assert found == {"the red mug", "the red object"}
    names = {q.text: q.instance_ids for q in category_queries((mug, sliver), np.random.default_rng(0))}
    assert names["mug"] == (1,)


def test_parts_of_another_color_make_a_color_ambiguous() -> None:
    knife, ball = annotation(1, "knife", "red"), annotation(2, "ball", "gray")
    assert texts((knife, ball), "color") == {"the red object": (1,)}


def test_phrases_without_article() -> None:
    found = referring_expressions((annotation(1, "mug", "red"),), WIDTH, article=False)
    assert {e.text for e in found} == {"mug", "red mug", "red object"}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(views(), st.integers(0, 1000))
def test_absent_expressions_fit_nothing(objects: Objects, seed: int) -> None:
    found = absent_expressions(objects, np.random.default_rng(seed), count_per_kind=3)
    assert {e.kind for e in found} <= set(ABSENT_KINDS)
    for e in found:
        assert e.instance_ids == ()
        if e.kind == "absent_reasoning":
            fitting = [a for a in AFFORDANCES if e.text in a.questions]
            assert fitting
            assert not [o for o in objects for a in fitting if o.category in a.categories]
        else:
            assert not named(objects, e.text.removeprefix("the ")), e


@settings(max_examples=60, deadline=None)
@given(views(), st.integers(0, 1000))
def test_near_misses_name_what_is_there_and_fit_nothing(objects: Objects, seed: int) -> None:
    true = {e.text for e in referring_expressions(objects, WIDTH)}
    found = near_misses(objects, WIDTH, np.random.default_rng(seed))
    assert len({e.kind for e in found}) == len(found) <= len(NEAR_MISS_KINDS)
    for e in found:
        assert e.instance_ids == ()
        assert e.text not in true
        assert any(o.category in e.text for o in objects), e
    by_kind = {e.kind: e.text.removeprefix("the ") for e in found}
    if "miss_side" in by_kind:
        side = " left of the " if " left of the " in by_kind["miss_side"] else " right of the "
        (one,), (two,) = (
            [o for o in objects if o.category == name] for name in by_kind["miss_side"].split(side)
        )
        is_left = one.centroid_xy[0] < two.centroid_xy[0]
        assert is_left == (side == " right of the ")
    if "miss_color" in by_kind:
        assert not named(objects, by_kind["miss_color"])
    if "miss_negated" in by_kind:
        category, color = by_kind["miss_negated"].split(" that is not ")
        assert {o.color for o in objects if o.category == category} == {color}


@settings(max_examples=60, deadline=None)
@given(views(), st.integers(0, 1000))
def test_category_queries_and_questions_are_complete(objects: Objects, seed: int) -> None:
    for query in category_queries(objects, np.random.default_rng(seed), absent_count=5):
        expected = tuple(o.instance_id for o in objects if o.category == query.text and o.labeled)
        assert query.instance_ids == expected
        assert (query.kind == "category") == bool(expected)
        if not expected:
            assert query.text not in {o.category for o in objects}
    for question in reasoning_questions(objects):
        (affordance,) = (a for a in AFFORDANCES if question.text in a.questions)
        expected = tuple(o.instance_id for o in objects if o.labeled and o.category in affordance.categories)
        assert question.instance_ids == expected != ()
        answer = reasoning_answer(question, objects)
        for o in objects:
            names = (f"the {o.color} {o.category}", f"the {o.color} {plural(o.category)}")
            if o.instance_id in expected:
                assert any(name in answer for name in names)


@settings(max_examples=60, deadline=None)
@given(views(), st.integers(0, 1000))
def test_captions_name_what_they_mean(objects: Objects, seed: int) -> None:
    caption = grounded_caption(objects, np.random.default_rng(seed))
    by_id = {o.instance_id: o for o in objects}
    phrases = re.findall(r"<p>(.*?)</p>", caption.text)
    assert len(phrases) == len(caption.instance_ids)
    for phrase, ids in zip(phrases, caption.instance_ids, strict=True):
        assert ids == tuple(sorted(ids)) != ()
        for number in ids:
            item = by_id[number]
            assert item.labeled
            noun = item.category if len(ids) == 1 else plural(item.category)
            assert phrase.endswith(f" {item.color} {noun}")
        same = [o for o in objects if o.labeled and (o.color, o.category) == (item.color, item.category)]
        assert len(same) == len(ids)


def test_caption_reads_well() -> None:
    objects = (
        annotation(1, "plate", "blue", (170, 70)),
        annotation(2, "apple", "green", (30, 70)),
        annotation(3, "knife", "red", (60, 70)),
        annotation(4, "knife", "red", (100, 70)),
        annotation(5, "carrot", "orange", (120, 70)),
    )
    caption = grounded_caption(objects)
    assert caption.text == (
        "<p>a blue plate</p> , <p>a green apple</p> , <p>an orange carrot</p> and <p>two red knives</p>"
        " are on the table ."
    )
    assert caption.instance_ids == ((1,), (2,), (5,), (3, 4))
    assert grounded_caption(objects[:1]).text == "<p>a blue plate</p> is on the table ."
    assert grounded_caption(()).text == "there is nothing on the table ."


def test_answers_read_well() -> None:
    objects = (
        annotation(1, "mug", "red", (30, 70)),
        annotation(2, "can", "blue", (60, 70)),
        annotation(3, "knife", "red"),
    )
    (drink, *_) = (q for q in reasoning_questions(objects) if q.text == "what can i drink from?")
    assert reasoning_answer(drink, objects) == "you can use the red mug and the blue can ."
    nothing = Expression(text="what can i eat?", instance_ids=(), kind="absent_reasoning")
    assert reasoning_answer(nothing, objects) == "there is nothing like that ."


@settings(max_examples=80, deadline=None)
@given(views(), st.integers(0, 1000))
def test_vocabulary_is_closed(objects: Objects, seed: int) -> None:
    rng = np.random.default_rng(seed)
    produced = [e.text for e in referring_expressions(objects, WIDTH)]
    produced += [e.text for e in category_queries(objects, rng)]
    produced += [e.text for e in absent_expressions(objects, rng)]
    questions = reasoning_questions(objects)
    produced += [e.text for e in questions] + [reasoning_answer(q, objects) for q in questions]
    produced += [grounded_caption(objects, rng).text, grounded_caption((), rng).text]
    words = {word for text in produced for word in split_words(text)}
    assert words <= set(VOCABULARY) | {"<p>", "</p>"}
    assert all(text == text.lower() for text in produced)


def test_vocabulary_is_sorted_and_small() -> None:
    assert list(VOCABULARY) == sorted(set(VOCABULARY))
    assert len(VOCABULARY) < 250


def test_splitting_into_words() -> None:
    assert split_words("segment <p>the teddy bear</p>, what is it?") == [
        *("segment", "<p>", "the", "teddy", "bear", "</p>", ",", "what", "is", "it", "?")
    ]


def test_affordances_are_well_formed() -> None:
    questions = [q for a in AFFORDANCES for q in a.questions]
    assert len(questions) == len(set(questions))
    assert all(q == q.lower() and q.endswith("?") for q in questions)
    assert all(len(a.questions) >= 2 and a.categories <= set(CATEGORIES) for a in AFFORDANCES)
    assert {category for a in AFFORDANCES for category in a.categories} == set(CATEGORIES)


def test_choices_are_deterministic() -> None:
    objects = (annotation(1, "mug", "red"), annotation(2, "can", "blue"))
    first, second = (absent_expressions(objects, np.random.default_rng(5)) for _ in range(2))
    assert first == second
    with pytest.raises(AttributeError):
        first[0].text = "changed"  # type: ignore[misc]
