"""`ask_scene`: reasoning, descriptions with ids in the text, and text without masks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.agent.sim_table import view_of
from tests.agent.table import rectangle
from xsam import MaskRle, ModelError, Query, SegmentationResult, Segments, Status, Task
from xsam.types.masks import box_of_mask
from xsam_agent_tools.tools.asking import scene_queries


class TextSegmenter:
    """A segmenter that returns the n-th prepared result for the n-th query, and then `names`.

    `names`: category → masks, the answer to the query for the names of what is in view.
    """

    def __init__(self, *results: dict, names: dict[str, list[np.ndarray]] | None = None) -> None:
        self.results, self.queries = results, []
        self.names = names or {}

    def segment(self, source, queries, *, deadline_s) -> list[SegmentationResult]:
        self.queries += queries
        labels = tuple(label for label, masks in self.names.items() for _ in masks)
        masks = [mask for masks in self.names.values() for mask in masks]
        last = {"phrases": labels, "masks": masks, "indices": range(len(labels))}
        return [self._result(source, q, **a) for q, a in zip(queries, (*self.results, last), strict=True)]

    def _result(
        self, source, query: Query, *, text="", phrases=(), masks=(), indices=(), error=None, doubt=""
    ):
        if error is not None:
            return SegmentationResult.from_error(error, query, source)
        segments = Segments(
            image_hw=source.image_hw,
            masks=tuple(map(MaskRle.encode, masks)),
            labels=tuple(phrases[i] if phrases else "region" for i in indices),
            doubts=(doubt,) * len(masks),
            label_indices=np.array(indices, np.int32),
            scores=np.full(len(masks), 0.5, np.float32),
            boxes_xyxy=np.array([box_of_mask(m) for m in masks], np.float32).reshape(-1, 4),
        )
        return SegmentationResult(
            status=(Status.UNSURE if doubt else Status.FOUND) if masks else Status.NOT_FOUND,
            query=query,
            segments=segments,
            text=text,
            phrases=tuple(phrases) if text else (),
            stamp_ns=source.stamp_ns,
        )


@pytest.mark.parametrize(
    ("question", "task"),
    [
        ("What can I drink from?", Task.REASONING),
        ("Which of these is hot?", Task.REASONING),
        ("What is on the plate used for?", Task.GROUNDED_CONVERSATION),
        ("Describe the scene.", Task.GROUNDED_CONVERSATION),
        ("please describe what is there", Task.GROUNDED_CONVERSATION),
        ("What do you see?", Task.GROUNDED_CONVERSATION),
        ("What is in front of you?", Task.GROUNDED_CONVERSATION),
        ("Where would you describe a song?", Task.REASONING),
    ],
)
def test_questions_are_reasoned_about_and_descriptions_described(question: str, task: Task) -> None:
    *queries, names = scene_queries(question, ["mug"])
    assert names.thing_classes == ("mug",)
    assert {query.resolved_task() for query in queries} == {task}
    assert [query.explain for query in queries] == ([False, True] if task is Task.REASONING else [False])


def test_a_description_contains_the_ids_of_its_objects(make_tools, call) -> None:
    masks = [rectangle(10, 20, 60, 90), rectangle(300, 100, 380, 200), rectangle(500, 300, 600, 400)]
    says = {"text": "A red mug and two books; a Mug again.", "phrases": ("a red mug", "two books", "a mug")}
    segmenter = TextSegmenter({**says, "masks": masks, "indices": [0, 1, 1]})
    result = call(make_tools(segmenter=segmenter)["ask_scene"], question="Describe the scene.")
    assert result["answer"] == "A red mug [f1/m1] and two books [f1/m2, f1/m3]; a Mug again."
    assert [o["label"] for o in result["objects"]] == ["a red mug", "two books", "two books"]
    assert [o["box_xyxy"] for o in result["objects"]][1] == [300, 100, 380, 200]


def test_a_description_of_the_simulated_table_names_all_that_is_labeled(sim_tools, table, call) -> None:
    result = call(sim_tools["ask_scene"], question="What do you see?")
    assert len(result["objects"]) == len(table.items)
    for item in result["objects"]:
        assert result["answer"].count(item["id"]) == 1


def test_masks_come_from_the_plain_query_and_text_from_the_explanation(make_tools, call) -> None:
    """A generated explanation may talk itself into an object other than the one in question."""
    first, second = rectangle(10, 20, 60, 90), rectangle(300, 100, 380, 200)
    segmenter = TextSegmenter(
        {"masks": [first], "indices": [0]},
        {"text": "The mug holds water.", "masks": [second], "indices": [0]},
        names={"mug": [first]},
    )
    result = call(make_tools(segmenter=segmenter)["ask_scene"], question="What holds water?")
    assert (result["status"], result["answer"]) == ("ok", "The mug [f1/m1] holds water.")
    assert [o["box_xyxy"] for o in result["objects"]] == [[10, 20, 60, 90]]
    assert result["objects"][0]["label"] == "mug"


def test_words_that_name_what_was_not_found_are_no_answer(make_tools, call) -> None:
    """20 of 20 empty scenes were "ok", most with words such as "you can use the red cup."."""
    segmenter = TextSegmenter({}, {"text": "you can use the red cup."})
    result = call(make_tools(segmenter=segmenter)["ask_scene"], question="What can I drink from?")
    assert (result["status"], result["objects"]) == ("no_match", [])
    assert "answer" not in result.json
    assert result["not_grounded"] == ["red cup"]


def test_words_beside_an_object_that_they_do_not_name_are_left_out(make_tools, call) -> None:
    mask = rectangle(10, 20, 60, 90)
    segmenter = TextSegmenter(
        {"masks": [mask], "indices": [0]}, {"text": "you can use the spoons."}, names={"mug": [mask]}
    )
    result = call(make_tools(segmenter=segmenter)["ask_scene"], question="What can I drink from?")
    assert (result["status"], result["objects"][0]["label"]) == ("ok", "mug")
    assert "answer" not in result.json
    assert result["not_grounded"] == ["spoon"]


def test_the_explanation_alone_finds_nothing(make_tools, call) -> None:
    """Its mask is where the words lead, and the words may be wrong."""
    mask = rectangle(300, 100, 380, 200)
    segmenter = TextSegmenter({}, {"text": "The mug holds water.", "masks": [mask], "indices": [0]})
    result = call(make_tools(segmenter=segmenter)["ask_scene"], question="What holds water?")
    assert (result["status"], result["objects"]) == ("no_match", [])


def test_a_phrase_of_a_description_without_a_mask_is_named(make_tools, call) -> None:
    says = {"text": "A mug beside a cup.", "phrases": ("a mug", "a cup")}
    segmenter = TextSegmenter({**says, "masks": [rectangle(10, 20, 60, 90)], "indices": [0]})
    result = call(make_tools(segmenter=segmenter)["ask_scene"], question="Describe it.")
    assert result["answer"] == "A mug [f1/m1] beside a cup."
    assert result["not_grounded"] == ["a cup"]
    nothing = call(make_tools(segmenter=TextSegmenter(says))["ask_scene"], question="Describe it.")
    assert (nothing["status"], nothing["not_grounded"]) == ("no_match", ["a mug", "a cup"])
    assert "answer" not in nothing.json


def test_an_answer_in_doubt_is_unsure_and_proposes_a_check(make_tools, call) -> None:
    segmenter = TextSegmenter(
        {"masks": [rectangle(10, 20, 60, 90)], "indices": [0], "doubt": "weak: 4 of 10 are right"}, {}
    )
    result = call(make_tools(segmenter=segmenter)["ask_scene"], question="What holds water?")
    assert (result["status"], result["objects"][0]["label"]) == ("unsure", "object")
    assert result["objects"][0]["unsure"] == "weak: 4 of 10 are right"
    assert result["next"] == "inspect_object('f1/m1')"


def test_one_object_under_two_phrases_is_listed_as_the_same(make_tools, call) -> None:
    mask = rectangle(10, 20, 60, 90)
    says = {"text": "A mug beside a cup.", "phrases": ("a mug", "a cup"), "masks": [mask, mask]}
    result = call(
        make_tools(segmenter=TextSegmenter({**says, "indices": [0, 1]}))["ask_scene"], question="Describe it."
    )
    assert [o.get("same_as") for o in result["objects"]] == [None, "f1/m1"]


def test_text_without_a_mask_is_told_but_matches_nothing(make_tools, call) -> None:
    words = call(
        make_tools(segmenter=TextSegmenter({}, {"text": "Nothing is hot."}))["ask_scene"],
        question="Is it hot?",
    )
    assert (words["status"], words["objects"], words["answer"]) == ("no_match", [], "Nothing is hot.")
    silent = call(make_tools(segmenter=TextSegmenter({}, {}))["ask_scene"], question="Is it hot?")
    assert (silent["status"], silent["tried"]) == ("no_match", ["Is it hot?"])
    assert "wrist" in silent["hint"]


def test_one_failing_half_does_not_hide_the_other(make_tools, call) -> None:
    error = {"error": ModelError("out of tokens")}
    good = {"masks": [rectangle(300, 100, 380, 200)], "indices": [0]}
    assert (
        call(make_tools(segmenter=TextSegmenter(error, good))["ask_scene"], question="What?")["status"]
        == "ok"
    )
    both = call(make_tools(segmenter=TextSegmenter(error, error))["ask_scene"], question="What?")
    assert (both["status"], both["code"]) == ("error", "MODEL_ERROR")


def test_a_question_about_an_earlier_image(sim_tools, table, call) -> None:
    image_id = call(sim_tools["segment_objects"], queries=["mug"])["image_id"]
    table.t_s = 3.0
    result = call(sim_tools["ask_scene"], question="what can i drink from?", image_id=image_id)
    drinkable = {"mug", "cup", "bottle", "can", "bowl", "teapot"}
    truth = [a for a in view_of(table.seed, 0.0)[2] if a.labeled and a.category in drinkable]
    assert sorted(o["box_xyxy"] for o in result["objects"]) == sorted(list(a.box_xyxy) for a in truth)
    assert result["image_id"] == image_id


def test_long_text_is_shortened(make_tools, call) -> None:
    segmenter = TextSegmenter({}, {"text": "word " * 1000})
    result = call(make_tools(segmenter=segmenter)["ask_scene"], question="What is it for?")
    assert len(result["answer"]) <= 1200
