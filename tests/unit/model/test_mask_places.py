"""The places of masks, as the mask decoder's queries are told them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.unit.model.small import noise_features
from xsam.errors import TrainingConfigError
from xsam.model.mask_decoder import place_code
from xsam.model.xsam import XSamModel
from xsam.train.run import with_mask_places

SURE = 30.0


def _code(rows: slice, columns: slice, size: tuple[int, int] = (8, 16)) -> Tensor:
    logits = torch.full(size, -SURE)
    logits[rows, columns] = SURE
    return place_code(logits)


def test_center_spread_and_area() -> None:
    # Columns 12 … 15 of 16 have the centers 0.5625, 0.6875, 0.8125, 0.9375; rows 0 and 1 of 8 −0.875, −0.625.
    x, spread_x, y, spread_y, area = _code(slice(0, 2), slice(12, 16))[:5].tolist()
    assert (x, y) == pytest.approx((0.75, -0.75), abs=1e-4)
    assert spread_x == pytest.approx(math.sqrt((0.1875**2 + 0.0625**2) / 2), abs=1e-4)
    assert spread_y == pytest.approx(0.125, abs=1e-4)
    assert area == pytest.approx(math.log(1 / 16 + 1e-4) / 4, abs=1e-3)


def test_sines_of_the_center() -> None:
    code = _code(slice(0, 2), slice(12, 16))
    expected = [0.75 * math.pi / 2, -0.75 * math.pi / 2, 0.75 * math.pi, -0.75 * math.pi]
    assert code[5:9].tolist() == pytest.approx([math.sin(a) for a in expected], abs=1e-4)
    assert code[13:17].tolist() == pytest.approx([math.cos(a) for a in expected], abs=1e-4)


def test_the_mirror_image_has_the_opposite_column() -> None:
    left, right = _code(slice(2, 5), slice(1, 4)), _code(slice(2, 5), slice(12, 15))
    assert left[0] == pytest.approx(-float(right[0]), abs=1e-5)
    assert torch.allclose(left[1:5], right[1:5], atol=1e-5)


def test_an_empty_mask_has_a_finite_place() -> None:
    assert place_code(torch.full((3, 8, 8), -200.0)).isfinite().all()


@pytest.fixture
def placed(model: XSamModel) -> XSamModel:
    torch.manual_seed(0)
    return with_mask_places(model).requires_grad_(False).eval()


def test_only_the_last_stage_is_computed_alike(placed: XSamModel, noise: Callable[..., Tensor]) -> None:
    features = noise_features(placed, noise, 2)
    width = placed.config.mask2former.hidden_dim
    prompts = (noise(2, 3, width), noise(2, 3, 2, width), torch.ones(2, 3, 2, dtype=torch.bool))
    stage = placed.decode(features, *prompts)[-1]
    answer = placed.predict(placed.decoder_memory(features), *prompts)
    scale = float(stage.mask_logits.abs().max())
    torch.testing.assert_close(answer.mask_logits, stage.mask_logits, rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(answer.class_logits, stage.class_logits, rtol=0, atol=1e-3)


def test_the_queries_know_where_their_masks_are(
    model: XSamModel, placed: XSamModel, noise: Callable[..., Tensor]
) -> None:
    """The same weights with and without: the new layer is the only difference, and it has an effect."""
    new = {name for name, _ in placed.named_parameters()} - {name for name, _ in model.named_parameters()}
    assert new == {"segmentor.decoder.mask_places.weight", "segmentor.decoder.mask_places.bias"}
    features = noise_features(model, noise, 1)
    width = model.config.mask2former.hidden_dim
    prompts = (noise(1, 1, width), noise(1, 1, 1, width), torch.ones(1, 1, 1, dtype=torch.bool))
    before, after = (net.decode(features, *prompts)[-1].states for net in (model, placed))
    assert (before - after).abs().max() > 0.01
    for parameter in placed.segmentor.decoder.mask_places.parameters():  # type: ignore[union-attr]
        parameter.zero_()
    again = placed.decode(features, *prompts)[-1].states
    torch.testing.assert_close(again, before)


def test_growing_twice_changes_nothing(placed: XSamModel) -> None:
    assert with_mask_places(placed) is placed


def test_x2sam_has_none() -> None:
    with pytest.raises(TrainingConfigError, match="X2SAM has no mask places"):
        with_mask_places(torch.nn.Module())  # type: ignore[arg-type]
