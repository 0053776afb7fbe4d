"""ReasonSeg: LabelMe polygons, questions and explanations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.data.readers.disk import box, phrases, write_image, write_json
from xsam.data.readers.reason_seg import ReasonSeg
from xsam.errors import DatasetError, MissingDataError, RecordError

QUESTIONS = ["Where can I sit?", "What  would <p>you</p> rest on?"]


def _shape(label: str, *points: list[float]) -> dict[str, Any]:
    return {
        "label": label,
        "labels": [label],
        "shape_type": "polygon",
        "image_name": "sofa.jpg",
        "points": list(points),
        "group_id": None,
        "flags": {},
    }


def _square(label: str, x_min: float, y_min: float, x_max: float, y_max: float) -> dict[str, Any]:
    """Return a square that includes its border: pixels from min to max, max inclusive."""
    return _shape(label, [x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max])


SOFA = {
    "text": QUESTIONS,
    "is_sentence": True,
    "shapes": [
        _square("ignore", 4, 4, 5, 5),  # a hole: smaller, so on top although it comes first
        _square("target", 2.9, 2.2, 8.7, 8.1),  # coordinates are cut to whole pixels
        _square("target", 12, 9, 40, 30),  # reaches over the border
        _square("ignore", 9, 0, 15, 3),
        _square("Flag", 0, 0, 15, 11),
    ],
}
TARGET = (box(2, 2, 9, 9) & ~box(4, 4, 6, 6)) | box(12, 9, 16, 12)
IGNORED = box(4, 4, 6, 6) | box(9, 0, 16, 4)
CUP = {"text": ["the thing to drink from"], "is_sentence": False, "shapes": [_square("target", 1, 1, 3, 3)]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, (name, data) in enumerate({"cup": CUP, "sofa": SOFA}.items()):
        write_image(tmp_path / "train" / f"{name}.jpg", seed=seed)
        write_json(tmp_path / "train" / f"{name}.json", data)
    return tmp_path


def test_masks_pixel_by_pixel(root: Path) -> None:
    source = ReasonSeg(root=root)
    assert (source.name, source.class_names, len(source), source.skipped["without a text"]) == (
        "reason_seg",
        (),
        2,
        0,
    )
    sofa = source.sample(1, np.random.default_rng(0))
    np.testing.assert_array_equal(sofa.masks, [TARGET])
    np.testing.assert_array_equal(sofa.ignored, IGNORED)
    np.testing.assert_array_equal(sofa.rgb, write_image(root / "train" / "sofa.jpg", seed=1))
    cup = source.sample(0, np.random.default_rng(0))
    np.testing.assert_array_equal(cup.masks, [box(1, 1, 4, 4)])
    assert cup.ignored is None


def test_a_small_target_lies_on_a_large_ignored_region(root: Path) -> None:
    shapes = [_square("target", 4, 4, 5, 5), _square("ignore", 2, 2, 8, 8)]
    write_json(root / "train" / "cup.json", {**CUP, "shapes": shapes})
    sample = ReasonSeg(root=root).sample(0, np.random.default_rng(0))
    np.testing.assert_array_equal(sample.masks, [box(4, 4, 6, 6)])
    np.testing.assert_array_equal(sample.ignored, box(2, 2, 9, 9) & ~box(4, 4, 6, 6))


def test_sentences_are_reasoning_and_phrases_referring(root: Path) -> None:
    source = ReasonSeg(root=root)
    prompts = source.sample(1, np.random.default_rng(0), prompts=5).prompts
    assert {prompt.conversation.question for prompt in prompts} == {
        f"<|user|>\n<image>\n<p>{text}</p> Please output the corresponding segmentation mask.<|end|>\n"
        "<|assistant|>\n"
        for text in ("Where can I sit?", "What would you rest on?")
    }
    assert len(prompts) == 2
    for prompt in prompts:
        assert (prompt.kind, prompt.conversation.answer) == ("reasoning", "Sure, it is <SEG>.<|end|>")
        assert prompt.labels.tolist() == [0]
    (prompt,) = source.sample(0, np.random.default_rng(0)).prompts
    assert "Please segment <p>the thing to drink from</p> in this image." in prompt.conversation.question


def test_explanations_are_answers(root: Path) -> None:
    explained = [{"image": "sofa.jpg", "query": "Where?", "outputs": "The sofa\nis soft. <SEG>", "json": "…"}]
    path = write_json(root / "explanatory" / "train.json", explained)
    source = ReasonSeg(root=root, explain_share=1.0)
    (prompt,) = source.sample(1, np.random.default_rng(0)).prompts
    (question,) = phrases(prompt.conversation)
    assert question in ("Where can I sit?", "What would you rest on?")
    assert prompt.kind == "explained_reasoning"
    assert f"<p>{question}</p> Please explain why and output" in prompt.conversation.question
    assert prompt.conversation.answer == "The sofa is soft. The segmentation mask is <SEG>.<|end|>"
    assert prompt.labels.tolist() == [0]
    (plain,) = source.sample(0, np.random.default_rng(0)).prompts  # none is known
    assert plain.kind == "reasoning"
    for off in ({"explain_share": 0.0}, {"explanations": False}):
        (prompt,) = ReasonSeg(root=root, **off).sample(1, np.random.default_rng(0)).prompts
        assert prompt.conversation.answer == "Sure, it is <SEG>.<|end|>"
    elsewhere = root / "mine.json"
    path.rename(elsewhere)
    (prompt,) = (
        ReasonSeg(root=root, explanations=elsewhere, explain_share=1.0)
        .sample(1, np.random.default_rng(0))
        .prompts
    )
    assert prompt.kind == "explained_reasoning"


def test_how_often_an_explanation_is_asked_for(root: Path) -> None:
    write_json(root / "explanatory" / "train.json", [{"image": "sofa.jpg", "query": "", "outputs": "Soft."}])
    source = ReasonSeg(root=root)
    rng = np.random.default_rng(0)
    kinds = [source.sample(1, rng).prompts[0].kind for _ in range(200)]
    assert 0.4 < kinds.count("explained_reasoning") / 200 < 0.6


def test_pictures_without_text_or_target_are_left_out(root: Path) -> None:
    write_json(root / "train" / "cup.json", {**CUP, "text": [" ", "<SEG>"]})
    write_image(root / "train" / "wall.jpg", seed=5)
    write_json(root / "train" / "wall.json", {**CUP, "shapes": [_square("ignore", 1, 1, 3, 3)]})
    source = ReasonSeg(root=root)
    assert source.skipped == {"without a text": 1, "without a target": 1}
    np.testing.assert_array_equal(source.sample(0, np.random.default_rng(0)).masks, [TARGET])


def test_western_encoding_is_read(root: Path) -> None:
    content = json.dumps({**CUP, "text": ["the café’s cup"]}, ensure_ascii=False)
    (root / "train" / "cup.json").write_bytes(content.encode("cp1252"))
    (prompt,) = ReasonSeg(root=root).sample(0, np.random.default_rng(0)).prompts
    assert phrases(prompt.conversation) == ["the café’s cup"]


def test_missing_files_are_named(root: Path) -> None:
    with pytest.raises(MissingDataError, match="val does not exist") as caught:
        ReasonSeg(root=root, split="val")
    assert "LISA" in caught.value.hint
    with pytest.raises(MissingDataError, match=r"none\.json"):
        ReasonSeg(root=root, explanations=root / "none.json")
    (root / "train" / "cup.json").unlink()
    with pytest.raises(MissingDataError, match=r"cup\.json does not exist"):
        ReasonSeg(root=root)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match="holds no usable images"):
        ReasonSeg(root=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "a question"}, "'text' must be list"),
        ({"text": [4]}, "'text' must be a list of strings"),
        ({"is_sentence": "yes"}, "'is_sentence' must be"),
        ({"shapes": [{"label": "target"}]}, "shape number 0: the field 'points'"),
        ({"shapes": [_shape("target")]}, r"shape number 0: 'points' must be a list of \[x, y\]"),
        ({"shapes": [_shape("target", [1, 2], [3])]}, r"shape number 0: 'points' must be a list of \[x, y\]"),
    ],
)
def test_malformed_records_are_named(root: Path, change: dict[str, Any], message: str) -> None:
    write_json(root / "train" / "sofa.json", {**SOFA, **change})
    with pytest.raises(RecordError, match=rf"sofa\.json.*{message}"):
        ReasonSeg(root=root)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (_square("target", 20, 20, 30, 30), "the target covers no pixels"),
        (_square("target", 1, 1, 1e12, 4), "far outside"),
        (_square("target", 1, 1, float("nan"), 4), "far outside"),
    ],
)
def test_unusable_polygons_are_named(root: Path, shape: dict[str, Any], message: str) -> None:
    write_json(root / "train" / "sofa.json", {**SOFA, "shapes": [shape]})
    with pytest.raises(RecordError, match=rf"train, image sofa: .*{message}"):
        ReasonSeg(root=root).sample(1, np.random.default_rng(0))
