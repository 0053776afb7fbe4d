"""ReasonSeg: LabelMe polygons, questions and explanations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.data.readers.disk import box, phrases, skipped_text, write_image, write_json
from xsam.data.readers.reason_seg import ReasonSeg
from xsam.errors import DatasetError, InvalidOptionError, MissingDataError, RecordError
from xsam.types.masks import mask_iou

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
    assert (source.name, source.class_names, len(source), source.skipped) == ("reason_seg", (), 2, {})
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


def test_a_malformed_explanation_is_skipped(root: Path) -> None:
    good = {"image": "sofa.jpg", "outputs": "Soft."}
    explained = [good, {"image": 5, "outputs": "?"}, {"image": "cup.jpg"}, "cup.jpg"]
    write_json(root / "explanatory" / "train.json", explained)
    source = ReasonSeg(root=root, explain_share=1.0)
    assert source.skipped["malformed explanations"] == 3
    assert source.sample(1, np.random.default_rng(0)).prompts[0].kind == "explained_reasoning"


def test_short_and_long_questions(root: Path) -> None:
    """The short split has phrases, the long one sentences."""
    asked = {
        queries: [p.conversation.question for p in ReasonSeg(root=root, queries=queries).whole(0).prompts]
        for queries in ("short", "long")
    }
    assert len(ReasonSeg(root=root, queries="all")) == 2
    assert [len(questions) for questions in asked.values()] == [1, 2]
    assert "the thing to drink from" in asked["short"][0]
    assert "Where can I sit?" in asked["long"][0]
    with pytest.raises(InvalidOptionError, match="queries must be one of all, short, long"):
        ReasonSeg(root=root, queries="sentence")


def test_a_benchmark_asks_every_text(root: Path) -> None:
    sample = ReasonSeg(root=root).whole(1)
    asked = [phrases(prompt.conversation)[0] for prompt in sample.prompts]
    assert asked == ["Where can I sit?", "What would you rest on?"]


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
    (root / "train" / "sofa.jpg").unlink()
    with pytest.raises(DatasetError, match="no usable images") as refused:
        ReasonSeg(root=root)
    assert "1 without an annotation, 1 annotations without an image" in refused.value.hint


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
def test_malformed_records_are_skipped_and_named(
    root: Path, change: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(root / "train" / "sofa.json", {**SOFA, **change})
    assert re.search(rf"sofa\.json.*{message}", skipped_text(lambda: ReasonSeg(root=root), caplog))


def test_images_of_any_format_are_read(root: Path) -> None:
    for number, name in enumerate(("a.JPG", "b.jpeg", "c.png", "d.JPEG", "e.webp")):
        write_image(root / "train" / name, seed=10 + number)
        write_json(root / "train" / f"{name.partition('.')[0]}.json", CUP)
    assert len(ReasonSeg(root=root)) == 7
    write_image(root / "train" / "a.png", seed=3)  # which of the two is meant?
    write_json(root / "train" / "lost.json", CUP)
    assert ReasonSeg(root=root).skipped == {"malformed records": 1, "annotations without an image": 1}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_are_for_the_image_as_it_is_shown(root: Path, orientation: int) -> None:
    """LabelMe applies the orientation tag before anybody draws; the official reader does, too."""
    shown = np.zeros((40, 64, 3), np.uint8)
    shown[4:13, 8:41] = 255
    image = Image.fromarray(shown)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = image.transpose(undo[orientation]) if orientation > 1 else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(root / "train" / "cup.jpg", quality=95, exif=exif)
    record = {**CUP, "shapes": [_square("target", 8, 4, 40, 12)]}
    write_json(root / "train" / "cup.json", {**record, "imageHeight": 40, "imageWidth": 64})
    sample = ReasonSeg(root=root).sample(0, np.random.default_rng(0))
    assert sample.rgb.shape == (40, 64, 3)
    assert mask_iou(sample.masks[0], sample.rgb[..., 0] > 127) > 0.95
    write_json(root / "train" / "cup.json", {**record, "imageHeight": 64, "imageWidth": 40})
    with pytest.raises(RecordError, match=r"has 40×64 pixels .* are for 64×40"):
        ReasonSeg(root=root).sample(0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("kind", "points", "expected"),
    [
        ("rectangle", [[2, 3], [6, 5]], box(2, 3, 7, 6)),
        ("rectangle", [[6, 3], [2, 5]], box(2, 3, 7, 6)),
        ("rectangle", [[2, 3], [6, 3], [6, 5], [2, 5]], box(2, 3, 7, 6)),
        ("polygon", [[2, 3], [6, 3], [6, 5], [2, 5]], box(2, 3, 7, 6)),
        (None, [[2, 3], [6, 3], [6, 5], [2, 5]], box(2, 3, 7, 6)),
    ],
)
def test_shapes_are_what_labelme_shows(
    root: Path, kind: str | None, points: list[list[float]], expected: np.ndarray
) -> None:
    shape = {**_shape("target", *points), "shape_type": kind}
    write_json(root / "train" / "cup.json", {**CUP, "shapes": [shape]})
    np.testing.assert_array_equal(ReasonSeg(root=root).sample(0, np.random.default_rng(0)).masks[0], expected)


def test_a_circle_is_round(root: Path) -> None:
    """Of its two points a polygon would be a line."""
    shape = {**_shape("target", [8.0, 6.0], [8.0, 10.0]), "shape_type": "circle"}
    write_json(root / "train" / "cup.json", {**CUP, "shapes": [shape]})
    mask = ReasonSeg(root=root).sample(0, np.random.default_rng(0)).masks[0]
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    distance = np.hypot(x - 8, y - 6)
    assert mask[distance <= 3].all()
    assert not mask[distance >= 5].any()


@pytest.mark.parametrize(
    ("kind", "count"),
    [("line", 2), ("linestrip", 4), ("point", 1), ("mask", 2), ("circle", 3), ("rectangle", 3)],
)
def test_shapes_without_an_area_are_not_targets(
    root: Path, kind: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    shape = {**_shape("target", *[[k, 2.0 * k] for k in range(count)]), "shape_type": kind}
    write_json(root / "train" / "cup.json", {**CUP, "shapes": [shape]})
    text = skipped_text(lambda: ReasonSeg(root=root), caplog)
    assert f"cup.json, shape number 0: a {kind} of {count} points has no area" in text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("可以喝水的杯子", "utf-8"),
        ("可以喝水的杯子", "gbk"),
        ("杯子 is a cup, 桌子 a table", "gbk"),
        ("the café’s “crème brûlée”", "cp1252"),
        ("naïve façade, créée à zürich", "cp1252"),
    ],
)
def test_text_is_read_in_its_encoding(root: Path, text: str, encoding: str) -> None:
    content = json.dumps({**CUP, "text": [text]}, ensure_ascii=False)
    (root / "train" / "cup.json").write_bytes(content.encode(encoding))
    (prompt,) = ReasonSeg(root=root).sample(0, np.random.default_rng(0)).prompts
    assert phrases(prompt.conversation) == [text]


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
