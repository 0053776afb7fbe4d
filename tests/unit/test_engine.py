"""`XSam` on tiny random models: every task, many queries at once, deadlines, and what goes wrong.

The weights are random, so nothing here says what is found; only that answers are typed, sized, repeatable
and the same whichever way they are asked for.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import xsam.engine
from xsam import (
    CameraRef,
    DeadlineExceededError,
    Frame,
    InvalidImageError,
    InvalidQueryError,
    ModelError,
    OutOfMemoryError,
    Query,
    RequestCancelledError,
    SegmentationResult,
    Status,
    Task,
    UnknownCameraError,
    VisualPrompt,
    XSam,
)
from xsam.checkpoint import load_checkpoint
from xsam.model.xsam import XSamModel
from xsam.train.tokenizer import build_tiny_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
STAGES = ["preprocess", "encode", "language", "decode", "postprocess"]


@functools.cache
def _parts(variant: str) -> tuple[XSamModel, Any]:
    torch.set_num_threads(1)
    return load_checkpoint(GOLDEN / variant)


@pytest.fixture(params=["a", "c"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> XSam:
    """A fresh engine around shared weights; free text is cut short, it takes a pass a token."""
    monkeypatch.setattr(xsam.engine, "MAX_NEW_TOKENS", 5)
    return XSam(*_parts(request.param), model_id=request.param)


@pytest.fixture
def one_engine(monkeypatch: pytest.MonkeyPatch) -> XSam:
    monkeypatch.setattr(xsam.engine, "MAX_NEW_TOKENS", 5)
    return XSam(*_parts("a"), model_id="a")


@functools.cache
def _picture(height: int = 97, width: int = 151) -> NDArray[np.uint8]:
    with Image.open(GOLDEN / "a" / "image.png") as image:
        rgb = np.array(image.convert("RGB").resize((width, height)))
    rgb.flags.writeable = False
    return rgb


def _queries(height: int, width: int) -> dict[str, Query]:
    """One of each task and kind of prompt, for a picture of this size."""
    point = VisualPrompt.point(width * 0.7, height * 0.4)
    box = VisualPrompt.box(width * 0.1, 0, width * 0.6 + 1, height * 0.8)
    scribble = VisualPrompt.scribble([(0, 0), (width * 0.5, height * 0.5), (width - 1, 0)])
    mask = np.zeros((height, width), np.bool_)
    mask[: height // 2 + 1, width // 3 :] = True
    return {
        "things": Query(thing_classes=("mug", "red cube"), score_threshold=0.0),
        "stuff": Query(stuff_classes=("water", "sky"), score_threshold=0.0),
        "things and stuff": Query(
            task=Task.GENERIC, thing_classes=("mug",), stuff_classes=("sky",), score_threshold=0.0
        ),
        "open vocabulary": Query(task=Task.OPEN_VOCABULARY, thing_classes=("boat",)),
        "referring": Query(text="the red cube left of the mug"),
        "reasoning": Query(text="What can be used to warm clothes?"),
        "explained": Query(text="What can be used to warm clothes?", explain=True),
        "caption": Query(task=Task.GROUNDED_CONVERSATION),
        "point": Query(prompts=(point,)),
        "box": Query(prompts=(box,)),
        "scribble": Query(prompts=(scribble,)),
        "mask": Query(prompts=(VisualPrompt.from_mask(mask),)),
        "point and not": Query(
            task=Task.INTERACTIVE, prompts=(box, VisualPrompt.point(0, 0, positive=False))
        ),
        "regions": Query(prompts=(point, box, scribble), score_threshold=0.0),
        "chat": Query(task=Task.CHAT, text="What is unusual about this image?"),
    }


def _same(first: SegmentationResult, second: SegmentationResult, tolerance: float = 0.0) -> None:
    assert first.status is second.status
    assert first.segments.labels == second.segments.labels
    assert (first.text, first.phrases) == (second.text, second.phrases)
    np.testing.assert_allclose(first.segments.scores, second.segments.scores, atol=tolerance, rtol=0)
    assert first.masks.shape == second.masks.shape
    if tolerance == 0.0:
        assert first.segments.masks == second.segments.masks
    for mask, other in zip(first.masks, second.masks, strict=True):
        assert (mask != other).mean() <= 1e-3  # a logit of ±1e-6 may fall on either side


# ------------------------------------------------------------------------------- tasks and sizes


@pytest.mark.parametrize("image_hw", [(97, 151), (1, 1), (3, 200), (200, 3), (151, 97)])
def test_every_task_answers_in_the_size_of_the_picture(engine: XSam, image_hw: tuple[int, int]) -> None:
    queries = _queries(*image_hw)
    results = engine.segment(_picture(*image_hw), list(queries.values()))
    for name, result in zip(queries, results, strict=True):
        assert result.status in (Status.FOUND, Status.NOT_FOUND), name
        assert result.query is queries[name]
        assert result.segments.image_hw == image_hw
        assert result.masks.shape == (len(result), *image_hw)
        assert result.found is (len(result) > 0 or (name == "chat" and bool(result.text)))
        assert bool(result.message) is not result.found
        assert result.model_id == engine.model_id
        assert set(result.timing.stages_s) == set(STAGES)
        assert "<" not in result.text.replace("<0x", "")
    by_name = dict(zip(queries, results, strict=True))
    for name in ("referring", "reasoning", "point", "box", "scribble", "mask", "point and not"):
        assert len(by_name[name]) <= 1, name
    for name in ("explained", "caption", "chat"):
        assert by_name[name].segments.labels == ()  # random weights say no <SEG>
    assert len(by_name["stuff"]) <= 2


def test_text_alone_gives_one_result(one_engine: XSam) -> None:
    result = one_engine.segment(_picture(), "the red cube")
    assert isinstance(result, SegmentationResult)
    assert result.query.resolved_task() is Task.REFERRING
    assert result.segments.labels == ("the red cube",)
    assert isinstance(one_engine.segment(_picture(), [Query(text="the red cube")]), list)


def test_an_answer_belongs_to_its_frame(one_engine: XSam) -> None:
    frame = Frame(rgb=_picture(), camera="wrist", frame_id="lens", stamp_ns=42)
    good, refused = one_engine.segment(frame, [Query(text="mug"), Query()])
    for result in (good, refused):
        assert (result.camera, result.frame_id, result.stamp_ns) == ("wrist", "lens", 42)


# --------------------------------------------------------------------------------- same answers


def test_the_same_question_has_the_same_answer(engine: XSam) -> None:
    queries = list(_queries(97, 151).values())
    for first, second in zip(
        engine.segment(_picture(), queries), engine.segment(_picture().copy(), queries), strict=True
    ):
        _same(first, second)


def test_together_is_the_same_as_one_by_one(engine: XSam) -> None:
    """More queries than one pass takes, of different lengths; the window of c is shorter than the image."""
    queries = list(_queries(97, 151).values())
    assert len(queries) > xsam.engine.MAX_PROMPTS_PER_PASS
    together = engine.segment(_picture(), queries)
    for query, result in zip(queries, together, strict=True):
        _same(result, engine.segment(_picture(), query), tolerance=1e-5)


def test_the_order_of_queries_does_not_matter(one_engine: XSam) -> None:
    queries = list(_queries(97, 151).values())
    forwards = one_engine.segment(_picture(), queries)
    backwards = one_engine.segment(_picture(), queries[::-1])
    for first, second in zip(forwards, backwards[::-1], strict=True):
        _same(first, second, tolerance=1e-5)


def test_views_of_a_picture_are_the_picture(one_engine: XSam) -> None:
    """A camera's BGR picture turned round with `[..., ::-1]` has negative strides."""
    for view in (_picture()[..., ::-1], _picture()[::-1, ::-1], _picture()[::2, 1:]):
        copied = np.ascontiguousarray(view)
        _same(one_engine.segment(view, "the mug"), one_engine.segment(copied, "the mug"))


def test_different_questions_and_pictures_have_different_answers(one_engine: XSam) -> None:
    """Else all comparisons above would prove nothing."""
    mug, cube = one_engine.segment(_picture(), [Query(text="mug"), Query(text="a red cube")])
    other = one_engine.segment(_picture()[::-1], "mug")
    assert mug.segments.scores.tolist() != cube.segments.scores.tolist()
    assert mug.segments.scores.tolist() != other.segments.scores.tolist()
    left, right = (
        one_engine.segment(_picture(), Query(prompts=(VisualPrompt.box(x, 10, x + 30, 60),)))
        for x in (5, 110)
    )
    assert left.segments.scores.tolist() != right.segments.scores.tolist()


def test_the_picture_is_encoded_once(one_engine: XSam, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = XSamModel.encode_image

    def counted(self: XSamModel, *args: Any) -> Any:
        calls.append(1)
        return encode(self, *args)

    monkeypatch.setattr(XSamModel, "encode_image", counted)
    one_engine.segment(_picture(), list(_queries(97, 151).values()))
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers_alike(dtype: str) -> None:
    """Half precision is the default on a GPU; all blocks must agree on it."""
    half = XSam.load(GOLDEN / "a", device="cpu", dtype=dtype)  # type: ignore[arg-type]
    exact = XSam(*_parts("a"), model_id="a")
    names = ("things and stuff", "referring", "box", "regions")
    queries = [_queries(97, 151)[name] for name in names]
    for rough, precise in zip(
        half.segment(_picture(), queries), exact.segment(_picture(), queries), strict=True
    ):
        assert rough.status is precise.status
        if len(precise) and precise.query.resolved_task() is Task.REFERRING:
            assert rough.segments.scores[0] == pytest.approx(precise.segments.scores[0], abs=0.05)


# ------------------------------------------------------------------------------------- thresholds


def test_a_high_threshold_finds_nothing_and_says_so(one_engine: XSam) -> None:
    for query in (
        Query(text="mug", score_threshold=1.0),
        Query(thing_classes=("mug", "cube"), score_threshold=1.0),
        Query(stuff_classes=("sky", "water"), score_threshold=1.0),
        Query(prompts=(VisualPrompt.point(5, 5),), score_threshold=1.0),
        Query(prompts=(VisualPrompt.point(5, 5), VisualPrompt.point(9, 9)), score_threshold=1.0),
    ):
        result = one_engine.segment(_picture(), query)
        assert result.status is Status.NOT_FOUND
        assert "nothing matches" in result.message
        assert (len(result), result.code) == (0, "")


def test_no_more_instances_than_wanted(one_engine: XSam) -> None:
    def ask(most: int) -> SegmentationResult:
        return one_engine.segment(
            _picture(), Query(thing_classes=("mug", "cube"), score_threshold=0.0, max_instances=most)
        )

    many, one = ask(100), ask(1)
    assert len(many) > len(one) == 1
    assert one.segments.scores[0] == many.segments.scores.max()


# -------------------------------------------------------------------------------- refusals, errors


def test_a_bad_query_among_good_ones(one_engine: XSam) -> None:
    good = Query(text="mug")
    first, bad, last = one_engine.segment(
        _picture(), [good, Query(prompts=(VisualPrompt.point(151, 5),)), good]
    )
    assert (bad.status, bad.code) == (Status.REFUSED, "INVALID_QUERY")
    assert "151×97" in bad.message
    alone = one_engine.segment(_picture(), good)
    _same(first, alone, 1e-5)
    _same(last, alone, 1e-5)


@pytest.mark.parametrize("query", [Query(), Query(text="<SEG>"), Query(text="\ud800"), "", " "])
def test_a_bad_query_alone_is_raised(one_engine: XSam, query: Query | str) -> None:
    with pytest.raises(InvalidQueryError):
        one_engine.segment(_picture(), query)


def test_no_queries(one_engine: XSam) -> None:
    with pytest.raises(InvalidQueryError):
        one_engine.segment(_picture(), [])


def test_more_tokens_than_the_model_has_room_for(one_engine: XSam) -> None:
    """Asked alone, this once came back as a REFUSED result where other bad queries are raised."""
    long = Query(thing_classes=tuple(f"xyzzy number {i} " * 4 for i in range(120)))
    refused, good = one_engine.segment(_picture(), [long, Query(text="mug")])
    assert (refused.status, refused.code) == (Status.REFUSED, "INVALID_QUERY")
    assert "tokens" in refused.message
    assert "fewer" in refused.hint
    assert good.status is not Status.REFUSED
    with pytest.raises(InvalidQueryError, match="tokens") as caught:
        one_engine.segment(_picture(), long)
    assert "fewer" in caught.value.hint


def test_generated_answers_need_room_as_well(one_engine: XSam, monkeypatch: pytest.MonkeyPatch) -> None:
    query = Query(task=Task.CHAT, text="what is it")
    limit = one_engine.config.llm.max_position_embeddings
    monkeypatch.setattr(xsam.engine, "MAX_NEW_TOKENS", limit - one_engine.config.num_image_tokens)
    with pytest.raises(InvalidQueryError, match="tokens"):
        one_engine.segment(_picture(), query)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
        [[1]],
        None,
        "photo.png",
    ],
)
def test_bad_images(one_engine: XSam, image: Any) -> None:
    with pytest.raises(InvalidImageError):
        one_engine.segment(image, "mug")


def test_the_engine_has_no_cameras(one_engine: XSam) -> None:
    with pytest.raises(UnknownCameraError, match="wrist"):
        one_engine.segment(CameraRef(name="wrist"), "mug")


def test_a_closed_engine_says_so(one_engine: XSam) -> None:
    one_engine.close()
    one_engine.close()
    for ask in (lambda: one_engine.segment(_picture(), "mug"), lambda: one_engine.config, one_engine.warm_up):
        with pytest.raises(ModelError, match="closed"):
            ask()


def test_warming_up_answers_something(one_engine: XSam) -> None:
    one_engine.warm_up()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("shapes differ"), ModelError),
        (MemoryError(), OutOfMemoryError),
        (torch.cuda.OutOfMemoryError("CUDA out of memory\nand much more"), OutOfMemoryError),
    ],
)
def test_what_the_network_raises_is_typed(
    one_engine: XSam, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[ModelError]
) -> None:
    def fail(*_: Any) -> None:
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(XSamModel, "answer", fail)
        with pytest.raises(expected) as caught:
            one_engine.segment(_picture(), "mug")
    assert type(caught.value) is expected
    assert caught.value.__cause__ is raised
    assert "\n" not in caught.value.message
    assert one_engine.segment(_picture(), "mug").found  # and goes on working


# ------------------------------------------------------------------------- deadlines, cancellation


@pytest.mark.parametrize("deadline_s", [0.0, -3.0, 1e-9])
def test_no_time(one_engine: XSam, deadline_s: float) -> None:
    with pytest.raises(DeadlineExceededError):
        one_engine.segment(_picture(), "mug", deadline_s=deadline_s)
    assert one_engine.segment(_picture(), "mug", deadline_s=60.0).found


@pytest.mark.parametrize("deadline_s", [1e12, float("inf")])
def test_all_the_time_in_the_world(one_engine: XSam, deadline_s: float) -> None:
    """Both once were an `OverflowError`: locks do not wait that long."""
    assert one_engine.segment(_picture(), "mug", deadline_s=deadline_s).found


def test_time_may_run_out_between_stages(one_engine: XSam) -> None:
    seen: list[str] = []

    def dawdle(stage: str) -> None:
        seen.append(stage)
        if stage == "encode":
            time.sleep(0.3)

    with pytest.raises(DeadlineExceededError):
        one_engine.segment(_picture(1, 1), "mug", deadline_s=0.25, on_stage=dawdle)
    assert seen[:2] == STAGES[:2]
    assert "postprocess" not in seen


def test_time_may_run_out_in_the_middle_of_an_answer(
    one_engine: XSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4,000 tokens take minutes; the deadline must be looked at after each."""
    monkeypatch.setattr(xsam.engine, "MAX_NEW_TOKENS", 3900)
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="language"):
        one_engine.segment(_picture(1, 1), Query(task=Task.CHAT, text="talk"), deadline_s=1.5)
    assert time.monotonic() - started < 10.0


def test_stages_are_announced_in_order(one_engine: XSam) -> None:
    seen: list[str] = []
    one_engine.segment(_picture(), "mug", on_stage=seen.append)
    assert seen == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_request_can_be_taken_back_at_every_stage(one_engine: XSam, stage: str) -> None:
    def cancel(now: str) -> None:
        if now == stage:
            raise RequestCancelledError("changed my mind")

    with pytest.raises(RequestCancelledError, match="changed my mind"):
        one_engine.segment(_picture(1, 1), "mug", on_stage=cancel)
    assert one_engine.segment(_picture(1, 1), "mug").query.text == "mug"


def test_waiting_for_another_request_counts(one_engine: XSam) -> None:
    busy, done = threading.Event(), threading.Event()

    def hold(stage: str) -> None:
        busy.set()
        assert done.wait(30)

    other = threading.Thread(
        target=one_engine.segment, args=(_picture(1, 1), "mug"), kwargs={"on_stage": hold}
    )
    other.start()
    try:
        assert busy.wait(30)
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError, match="busy"):
            one_engine.segment(_picture(1, 1), "mug", deadline_s=0.1)
        assert time.monotonic() - started < 5.0
    finally:
        done.set()
        other.join(30)
    assert one_engine.segment(_picture(1, 1), "mug", deadline_s=60.0)


# ------------------------------------------------------------------------------- generated answers


@pytest.fixture
def say(one_engine: XSam, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the model say something: random weights never say `<SEG>`."""
    generate = xsam.engine.generate
    _, tokenizer = _parts("a")

    def force(text: str) -> None:
        forced: Sequence[int] = tokenizer.encode(text, add_special_tokens=False)
        monkeypatch.setattr(xsam.engine, "generate", functools.partial(generate, forced_ids=forced))

    return force


def test_phrases_of_a_caption_become_segments(one_engine: XSam, say: Callable[[str], None]) -> None:
    say("I see <p>a red cube</p> and <p>a mug</p>. The segmentation mask is <SEG>.<|end|>")
    result = one_engine.segment(_picture(), Query(task=Task.GROUNDED_CONVERSATION))
    assert result.status is Status.FOUND
    assert result.phrases == ("a red cube", "a mug")
    assert sorted(result.segments.labels) == ["a mug", "a red cube"]
    assert [result.phrases[i] for i in result.segments.label_indices] == list(result.segments.labels)
    assert result.text == "I see a red cube and a mug."


def test_an_explanation_with_phrases_still_answers_the_question(
    one_engine: XSam, say: Callable[[str], None]
) -> None:
    """A phrase in the explanation made a second condition for which there was no label: `IndexError`."""
    say("Because <p>a mug</p> is hot. The segmentation mask is <SEG>.<|end|>")
    query = Query(text="What is hot?", explain=True)
    result = one_engine.segment(_picture(), query)
    assert result.segments.labels == ("What is hot?",)
    assert result.text == "Because a mug is hot."
    say("Because a mug is hot. The segmentation mask is <SEG>.<|end|>")
    assert one_engine.segment(_picture(), query).segments.labels == ("What is hot?",)


def test_chat_may_point_at_things(one_engine: XSam, say: Callable[[str], None]) -> None:
    """It, too, was an `IndexError`; a single phrase was labelled with the user's own words."""
    say("<p>a mug</p> and <p>a cube</p> <SEG>.<|end|>")
    result = one_engine.segment(_picture(), Query(task=Task.CHAT, text="What is there?"))
    assert sorted(result.segments.labels) == ["a cube", "a mug"]
    assert result.text == "a mug and a cube."


@pytest.mark.parametrize(
    "answer",
    [
        "I see <p>a mug</p>.<|end|>",
        "I see <p>a mug</p> <SEG> <SEG>.<|end|>",
        "I see <p>a mug <SEG>.<|end|>",
        "It is <SEG>.<|end|>",
    ],
)
def test_without_exactly_one_seg_and_a_phrase_there_is_no_mask(
    one_engine: XSam, say: Callable[[str], None], answer: str
) -> None:
    say(answer)
    result = one_engine.segment(_picture(), Query(task=Task.GROUNDED_CONVERSATION))
    assert result.status is Status.NOT_FOUND
    assert len(result) == 0
    assert "no mask" in result.message
    assert "<" not in result.text


def test_a_phrase_that_was_opened_twice(one_engine: XSam, say: Callable[[str], None]) -> None:
    """The label once held a tag: "a <p>mug"."""
    say("<p>a <p>mug</p> and <p>a cube</p> <SEG>.")
    result = one_engine.segment(_picture(), Query(task=Task.GROUNDED_CONVERSATION))
    assert result.phrases == ("mug", "a cube")
    assert sorted(result.segments.labels) == ["a cube", "mug"]


def test_text_is_heard_while_it_is_generated(one_engine: XSam, say: Callable[[str], None]) -> None:
    say("I see <p>a mug</p> here. The segmentation mask is <SEG>.<|end|>")
    heard: list[tuple[int, str]] = []
    mug, caption = one_engine.segment(
        _picture(),
        [Query(text="mug"), Query(task=Task.GROUNDED_CONVERSATION)],
        on_text=lambda index, text: heard.append((index, text)),
    )
    assert {index for index, _ in heard} == {1}  # a template is not generated
    texts = [text for _, text in heard]
    assert texts[-1] == caption.text == "I see a mug here."
    assert any(text.endswith("a mug") for text in texts)
    assert not any("<" in text for text in texts)
    assert mug.text == ""


def test_an_explanation_ends_with_its_mask(one_engine: XSam, say: Callable[[str], None]) -> None:
    """What would follow `<SEG>` is not generated; a second `<SEG>` cannot take the mask away."""
    heard: list[str] = []
    say("Because it is hot. The segmentation mask is <SEG>. And so on <SEG>.<|end|>")
    result = one_engine.segment(
        _picture(), Query(text="What is hot?", explain=True), on_text=lambda _, text: heard.append(text)
    )
    assert result.segments.labels == ("What is hot?",)
    assert result.text == heard[-1] == "Because it is hot."


# ------------------------------------------------------------------------------------------- hints


def test_words_the_model_does_not_know_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = XSam(_parts("a")[0], build_tiny_tokenizer(), model_id="words")
    result = engine.segment(_picture(), "the purple xylophone of zanzibar")
    assert "xylophone, zanzibar" in result.hint
    assert "purple" not in result.hint
    assert engine.segment(_picture(), "What can I drink from?").hint == ""


def test_hyphens_do_not_make_a_word_unknown() -> None:
    """The model is asked for "teddy bear", but the hint said that it does not know "teddy-bear"."""
    engine = XSam(_parts("a")[0], build_tiny_tokenizer(), model_id="words")
    assert engine.segment(_picture(), Query(thing_classes=("Teddy-Bear",))).hint == ""
