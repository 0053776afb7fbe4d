"""The engine with a network of the second family; its weights are random, so only the way is checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from support.golden import GOLDEN_X2SAM
from xsam import InvalidQueryError, Query, Status, Task, VisualPrompt, XSam
from xsam.config import X2SamConfig

FOLDER = GOLDEN_X2SAM / "x2a"
QUERIES = (
    Query(text="the red cube"),
    Query(text="what can be lifted?"),
    Query(thing_classes=("mug", "person")),
    Query(thing_classes=("bird",), stuff_classes=("water", "sky")),
    Query(prompts=(VisualPrompt.point(20, 20),)),
    Query(prompts=(VisualPrompt.point(20, 20), VisualPrompt.box(5, 5, 40, 30)), task=Task.VISUAL_GROUNDED),
    Query(text="hello", task=Task.CHAT),
)


@pytest.fixture(scope="module")
def engine() -> XSam:
    return XSam.load(FOLDER)


@pytest.fixture(scope="module")
def rgb() -> NDArray[np.uint8]:
    return np.asarray(Image.open(FOLDER / "image.png").convert("RGB"))


def test_the_family_is_chosen_by_the_configuration(engine: XSam) -> None:
    assert isinstance(engine.config, X2SamConfig)
    assert engine.model_id == "x2a"


@pytest.mark.slow
def test_every_kind_of_query_is_answered_alone_as_together(engine: XSam, rgb: NDArray[np.uint8]) -> None:
    together = engine.segment(rgb, QUERIES)
    assert [result.code for result in together] == [""] * len(QUERIES)
    fresh = XSam.load(FOLDER, frame_cache_mib=0)
    for query, result in zip(QUERIES, together, strict=True):
        alone = fresh.segment(rgb, query)
        assert alone.segments.labels == result.segments.labels
        np.testing.assert_allclose(alone.segments.scores, result.segments.scores, rtol=2e-3)
        assert result.masks.shape[1:] == rgb.shape[:2]


def test_the_next_prompt_reads_neither_image_nor_clip_again(
    rgb: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = XSam.load(FOLDER)
    first = engine.segment(rgb, "the red cube")
    calls: list[str] = []
    from xsam.model.x2sam import X2SamModel

    monkeypatch.setattr(X2SamModel, "visual_tokens", lambda *_: calls.append("vision"))
    monkeypatch.setattr(X2SamModel, "encode_frames", lambda *_, **__: calls.append("encoder"))
    again = engine.segment(rgb, "the red cube")
    assert calls == []
    np.testing.assert_array_equal(first.segments.scores, again.segments.scores)


def test_an_image_takes_tokens_by_its_size(engine: XSam) -> None:
    """640×480 takes 300 tokens and 1920×1080 takes 943 (41 · 23), as in the reference."""
    from xsam.inference.family import X2SamFamily
    from xsam.model.x2sam import X2SamModel

    with torch.device("meta"):
        family = X2SamFamily(X2SamModel(engine.config))
    assert family.count_image_tokens((480, 640)) == 300
    assert family.count_image_tokens((1080, 1920)) == 943


def test_categories_without_room_are_read_in_passes(engine: XSam, rgb: NDArray[np.uint8]) -> None:
    names = tuple(f"thing number {index} of many" for index in range(250))
    assert engine.segment(rgb, Query(thing_classes=names)).status is not Status.REFUSED


def test_a_query_without_room_is_refused(
    engine: XSam, rgb: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = engine.config
    assert isinstance(config, X2SamConfig)
    monkeypatch.setattr(config.vlm.text_config, "max_position_embeddings", 300)
    with pytest.raises(InvalidQueryError, match="tokens"):
        engine.segment(rgb, Query(text="x y z " * 330))
