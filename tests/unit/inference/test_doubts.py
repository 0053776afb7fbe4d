"""What speaks against a segment: words, rivals, a low chance, and places; without a network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xsam import Frame, MaskRle, Query, SegmentationResult, Segments, Status, Task, VisualPrompt
from xsam.config.calibration import Calibration, EvidenceWeights
from xsam.inference.census import Census, census_names, named_category
from xsam.inference.doubts import compete, with_doubts
from xsam.inference.mask_support import NO_SUPPORT, MaskSupport

HW = (100, 200)
SCORE_ONLY = EvidenceWeights(score=1.0)  # the chance is the score
NAMED = EvidenceWeights(bias=1.0, named=1.0, rival=-1.0)
KNOWN = Calibration(
    known_categories=("mug", "vase", "knife"),
    sure_from=0.7,
    weights={"category": NAMED, "categories": SCORE_ONLY, "phrase": NAMED, "question": SCORE_ONLY},
)


def box(left: int, top: int = 10, size: int = 20) -> MaskRle:
    mask = np.zeros(HW, np.bool_)
    mask[top : top + size, left : left + size] = True
    return MaskRle.encode(mask)


def result_of(query: Query, *found: tuple[str, float, MaskRle]) -> SegmentationResult:
    return SegmentationResult(
        status=Status.FOUND if found else Status.NOT_FOUND,
        query=query,
        segments=Segments(
            image_hw=HW,
            masks=tuple(mask for _, _, mask in found),
            labels=tuple(label for label, _, _ in found),
            label_indices=np.zeros(len(found), np.int32),
            scores=np.array([score for _, score, _ in found], np.float32),
            boxes_xyxy=np.zeros((len(found), 4), np.float32),
        ),
    )


def census_with(*found: tuple[str, float, MaskRle]) -> Census:
    labels, scores, masks = zip(*found, strict=True) if found else ((), (), ())
    return Census(names=KNOWN.known_categories, labels=labels, scores=scores, masks=masks)


def check(
    result: SegmentationResult,
    census: Census,
    *,
    calibration=KNOWN,
    unknown=None,
    depth_m=None,
    support=NO_SUPPORT,
    marks_here=True,
    decided_from=0.0,
):
    frame = Frame(rgb=np.zeros((*HW, 3), np.uint8), depth_m=depth_m)
    return with_doubts(
        result,
        result.query.resolved_task(),
        frame,
        census=census,
        calibration=calibration,
        unknown=unknown or {},
        support=support,
        marks_here=marks_here,
        decided_from=decided_from,
    )


def test_what_the_census_confirms_is_found() -> None:
    mug = box(10)
    result = check(
        result_of(Query(thing_classes=("mug",)), ("mug", 0.6, mug)), census_with(("mug", 0.8, mug))
    )
    assert (result.status, result.segments.doubts) == (Status.FOUND, ("",))


def test_a_label_that_fits_better_is_named() -> None:
    """A mug was found on 117 of 303 tables without one: on a vase, and the census knew."""
    vase = box(10)
    result = check(
        result_of(Query(thing_classes=("mug",)), ("mug", 0.6, vase)),
        census_with(("vase", 0.92, vase), ("mug", 0.1, vase)),
    )
    assert (result.status, result.segments.doubts) == (Status.UNSURE, ("looks more like a vase, 0.92",))


def test_a_word_that_the_model_does_not_know_is_named() -> None:
    """336 of 360 answers about unknown nouns were found, with scores around 0.2 to 0.8."""
    query = Query(thing_classes=("mug", "fork"))
    mug, other = box(10), box(60)
    result = check(
        result_of(query, ("mug", 0.9, mug), ("fork", 0.8, other)), census_with(), unknown={"fork": ("fork",)}
    )
    assert result.status is Status.UNSURE
    assert result.segments.doubts == ("", "the model does not know 'fork'")
    assert result.segments.chances[0] > 0.8
    assert result.segments.chances[1] == 0.0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("the mug that is not red", "not"),
        ("the mug without a handle", "without"),
        ("a mug other than the red one", "other than"),
        ("the mug that isn't red", "isn't"),
        ("NO mug", "NO"),
        ("the notable mug", ""),  # a word that only begins so
        ("the knotted mug", ""),
    ],
)
def test_what_a_thing_must_not_be_is_not_understood(text: str, word: str) -> None:
    """Of the phrases "the … that is not red" where all were red, 42 of 100 were answered with confidence."""
    mug = box(10)
    result = check(result_of(Query(text=text), (text, 0.95, mug)), census_with(("mug", 0.95, mug)))
    assert result.status is (Status.UNSURE if word else Status.FOUND)
    if word:
        assert result.segments.doubts == (
            f"the model does not understand {word!r}: check what it must not be",
        )
    uncalibrated = check(result_of(Query(text=text), (text, 0.95, mug)), census_with(), calibration=None)
    assert uncalibrated.status is Status.FOUND  # a large model may understand it
    assert np.isnan(uncalibrated.segments.chances).all()
    assert (float(result.segments.chances[0]) == 0.0) == bool(word)


def test_a_weak_answer_says_how_often_such_answers_are_right() -> None:
    result = check(result_of(Query(text="what can i drink from?"), ("what?", 0.4, box(10))), census_with())
    assert result.segments.doubts == ("weak: about 4 of 10 such answers are right",)
    assert 0.35 <= result.segments.chances[0] <= 0.45


@pytest.mark.parametrize(("firmness", "status"), [(0.9, Status.FOUND), (0.5, Status.UNSURE)])
def test_a_soft_outline_speaks_against_a_segment(firmness: float, status: Status) -> None:
    weights = EvidenceWeights(score=1.0, firmness=1.0)
    calibration = replace(KNOWN, weights={"category": weights})
    result = result_of(Query(thing_classes=("mug",)), ("mug", 0.6, box(10)))
    support = MaskSupport(firmness=(firmness,), runners_up=(0.0,))
    assert check(result, census_with(), calibration=calibration, support=support).status is status


@pytest.mark.parametrize(("answered", "chance"), [(1, 0.5), (2, 0.99)])
def test_an_answer_with_one_of_two_mugs_is_in_doubt(answered: int, chance: float) -> None:
    """What one can drink from is all of the mugs or none; the vase, the only one, says nothing."""
    calibration = replace(KNOWN, weights={"question": EvidenceWeights(kin=1.0)})
    mugs = [("mug", 0.9, box(0)), ("mug", 0.8, box(50))]
    census = census_with(*mugs, ("vase", 0.9, box(100)))
    found = [*(mug[2] for mug in mugs[:answered]), box(100)]
    query = Query(text="what can i drink from?")
    result = check(
        result_of(query, *((query.text, 0.9, mask) for mask in found)), census, calibration=calibration
    )
    assert result.segments.chances.tolist() == pytest.approx([*[chance] * answered, 0.5])


def test_an_answer_to_a_mark_does_not_depend_on_a_census_that_happens_to_be_cached() -> None:
    calibration = replace(KNOWN, weights={"mark": EvidenceWeights(kin=1.0)})
    query = Query(task=Task.INTERACTIVE, prompts=(VisualPrompt.point(10, 20),))
    mugs = [("mug", 0.9, box(left)) for left in (0, 50, 100)]
    for census in (census_with(), census_with(*mugs)):
        result = check(result_of(query, ("region", 0.9, box(0))), census, calibration=calibration)
        assert result.segments.chances.tolist() == pytest.approx([0.5])


def test_one_of_several_answers_counts_less() -> None:
    calibration = replace(KNOWN, weights={"question": EvidenceWeights(alone=1.0)})
    query = Query(text="what can i drink from?")
    one, two = (
        check(
            result_of(query, *((query.text, 0.9, box(60 * place)) for place in range(count))),
            census_with(),
            calibration=calibration,
        ).segments.chances
        for count in (1, 2)
    )
    assert one.tolist() == pytest.approx([0.99])
    assert two.tolist() == pytest.approx([0.5, 0.5])


def test_an_undecided_object_of_a_list_is_in_doubt_and_says_what_else_it_may_be() -> None:
    calibration = replace(KNOWN, sure_from=0.3)
    query = Query(thing_classes=("mug", "vase"))
    found = (("mug", 0.9, box(10)), ("mug", 0.5, box(60)), ("vase", 0.5, box(110)))
    census = census_with(("mug", 0.5, box(60)), ("vase", 0.45, box(60)), ("vase", 0.5, box(110)))
    result = check(result_of(query, *found), census, calibration=calibration, decided_from=0.6)
    assert result.segments.doubts == (
        "",
        "may also be a vase, 0.45",
        "weak: about 5 of 10 such answers are right",
    )
    own = check(result_of(query, *found), census, calibration=calibration)
    assert own.segments.doubts == ("", "", "")


def test_a_list_with_surfaces_has_weights_of_its_own() -> None:
    calibration = replace(KNOWN, weights={"layout": EvidenceWeights(bias=-5.0)})
    mug = ("mug", 0.9, box(10))
    things = check(
        result_of(Query(thing_classes=("mug", "cup")), mug), census_with(), calibration=calibration
    )
    both = Query(thing_classes=("mug", "cup"), stuff_classes=("table",))
    assert things.status is Status.FOUND
    assert check(result_of(both, mug), census_with(), calibration=calibration).status is Status.UNSURE


def test_without_a_calibration_scores_are_taken_as_they_are() -> None:
    result = check(
        result_of(Query(thing_classes=("mug",)), ("mug", 0.1, box(10))), census_with(), calibration=None
    )
    assert result.status is Status.FOUND


def test_unlikely_ones_beside_sure_ones_are_left_out_unless_a_threshold_asks_for_all() -> None:
    query = Query(thing_classes=("mug", "vase"))
    found = (("mug", 0.9, box(10)), ("mug", 0.2, box(60)), ("vase", 0.2, box(110)))
    result = check(result_of(query, *found), census_with())
    assert result.segments.labels == ("mug", "vase")  # no vase is sure, so the unlikely one is shown
    assert result.segments.doubts[0] == ""
    everything = check(result_of(replace(query, score_threshold=0.0), *found), census_with())
    assert len(everything) == 3


def test_what_looks_like_a_marked_thing_is_of_its_category() -> None:
    """Asked for all that look like a marked book, a mug was told without a doubt."""
    mug, other, vase = box(10), box(60), box(110)
    marks = (VisualPrompt.box(8, 8, 32, 32),)
    query = Query(task=Task.VISUAL_GROUNDED, prompts=marks)
    result = result_of(query, ("region 1", 0.6, mug), ("region 1", 0.9, vase), ("region 1", 0.8, other))
    census = census_with(("mug", 0.9, mug), ("vase", 0.95, vase), ("mug", 0.8, other))
    calibration = replace(KNOWN, weights={"look_alike": NAMED})
    checked = check(result, census, calibration=calibration)
    assert checked.segments.masks == (mug, other), "the vase is hardly ever right, and left out"
    assert checked.segments.doubts == ("", "")
    everything = check(
        replace(result, query=replace(query, score_threshold=0.1)), census, calibration=calibration
    )
    assert everything.status is Status.UNSURE
    assert everything.segments.doubts == ("", "looks more like a vase, 0.95", "")


def test_marks_on_an_earlier_frame_do_not_say_what_is_there_now() -> None:
    mug, vase = box(10), box(110)
    query = Query(task=Task.VISUAL_GROUNDED, prompts=(VisualPrompt.box(8, 8, 32, 32),))
    result = result_of(query, ("region 1", 0.6, mug), ("region 1", 0.9, vase))
    census = census_with(("mug", 0.9, mug), ("vase", 0.95, vase))
    calibration = replace(KNOWN, weights={"look_alike": NAMED})
    checked = check(result, census, calibration=calibration, marks_here=False)
    assert checked.segments.masks == (vase,)


def test_a_soft_outline_at_a_mark_is_in_doubt() -> None:
    query = Query(task=Task.INTERACTIVE, prompts=(VisualPrompt.point(20, 20),))
    calibration = replace(KNOWN, weights={"mark": EvidenceWeights(firmness=1.0)})
    for firmness, doubt in ((0.9, ""), (0.4, "weak: about 4 of 10 such answers are right")):
        support = MaskSupport(firmness=(firmness,), runners_up=(0.0,))
        result = check(
            result_of(query, ("region", 0.9, box(10))),
            census_with(("vase", 0.99, box(10))),
            calibration=calibration,
            support=support,
        )
        assert result.segments.doubts == (doubt,)


def test_one_object_of_a_list_has_one_label() -> None:
    here = box(10)
    query = Query(thing_classes=("mug", "vase"))
    result = check(result_of(query, ("vase", 0.8, here), ("mug", 0.3, here)), census_with())
    assert result.segments.labels == ("vase",)


@pytest.mark.parametrize(
    ("phrase", "chosen", "doubt"),
    [
        ("the leftmost mug", 0, ""),
        ("the leftmost mug", 1, "another one is at that place by position"),
        ("the rightmost mug", 2, ""),
        ("the second mug from the left", 1, ""),
        ("the largest mug", 2, ""),
        ("the smallest mug", 0, "another one is too close to tell by visible size"),
        ("the nearest mug", 1, ""),
        ("the farthest mug", 1, "another one is at that place by depth"),
        ("the mug left of the vase", 0, "another one is there, too"),
        ("the mug right of the vase", 2, ""),
        ("the mug right of the knife", 2, "no knife found to compare it with"),
    ],
)
def test_places_are_checked_by_outlines_and_depth(phrase: str, chosen: int, doubt: str) -> None:
    mugs = [box(5), box(50), box(150, size=30)]
    vase = box(100)
    depth_m = np.full(HW, 2.0, np.float32)
    depth_m[:, 45:75] = 1.0
    depth_m[:, 140:] = 3.0
    census = census_with(*(("mug", 0.9, mug) for mug in mugs), ("vase", 0.9, vase))
    result = check(result_of(Query(text=phrase), (phrase, 0.3, mugs[chosen])), census, depth_m=depth_m)
    assert result.segments.doubts == (doubt,)
    assert result.status is (Status.UNSURE if doubt else Status.FOUND)


def test_near_and_far_need_depth() -> None:
    mugs = [box(5), box(50)]
    census = census_with(*(("mug", 0.9, mug) for mug in mugs))
    result = check(result_of(Query(text="the nearest mug"), ("the nearest mug", 0.9, mugs[0])), census)
    assert result.segments.doubts == ("there is no depth to check near and far",)


def test_a_model_without_a_word_list_is_asked_for_the_nouns_that_a_phrase_compares() -> None:
    queries = [Query(text="the leftmost espresso cup"), Query(text="a dog"), Query(thing_classes=("cat",))]
    assert census_names(queries, None) == ("espresso cup",)
    assert census_names([Query(text="the mug left of the lamp")], KNOWN) == ("mug", "vase", "knife", "lamp")
    assert census_names([Query(text="the largest object")], None) == ()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the red mug left of the vase", "mug"),
        ("two knives", "knife"),
        ("Mugs", "mug"),
        ("mugshot", None),
        ("what can i drink from?", None),
    ],
)
def test_the_category_that_a_text_names(text: str, name: str | None) -> None:
    assert named_category(text, KNOWN.known_categories) == name


def test_queries_of_one_request_compete_for_an_object() -> None:
    """Without a word list, too: a fork with 0.3 is a spoon with 0.9 if both were asked for."""
    here = box(10)
    spoon = result_of(Query(thing_classes=("spoon",)), ("spoon", 0.9, here))
    fork = result_of(Query(thing_classes=("fork",)), ("fork", 0.3, here))
    small = result_of(Query(thing_classes=("small spoon",)), ("small spoon", 0.5, here))
    phrase = result_of(Query(text="the thing to eat with", task=Task.REFERRING), ("the thing", 0.4, here))
    results = compete([spoon, fork, small, phrase])
    assert [result.status for result in results] == [
        Status.FOUND,
        Status.UNSURE,
        Status.FOUND,
        Status.FOUND,
    ]
    assert results[1].segments.doubts == ("looks more like a spoon, 0.90",)
