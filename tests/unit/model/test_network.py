"""Network shortcuts against the long way: packed prompts, shared decoding, cached generation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from support.stock import stock_language
from tests.unit.model.small import WINDOW, noise_features
from xsam.config import IMAGE_ID, REGION_ID, RegionSamplerConfig
from xsam.model.language import generate, packed_hidden_states
from xsam.model.mask_decoder import _visible_pixels
from xsam.model.region_sampler import region_points, sample_regions
from xsam.model.xsam import XSamModel, pad_conditions, span_means

# -------------------------------------------------------------------------------------- language


def test_packed_texts_equal_separate_passes(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    """The prefix is longer than the window of c, and its texts end inside and outside of it."""
    width = model.config.llm.hidden_size
    prefix, texts = noise(2, WINDOW + 10, width), [noise(2, length, width) for length in (5, 70, 1, 17)]
    first, packed = packed_hidden_states(model.llm, prefix, texts)
    stock = stock_language(model.llm)
    for text, states in zip(texts, packed, strict=True):
        alone = stock.model(inputs_embeds=torch.cat([prefix, text], dim=1), use_cache=False)
        torch.testing.assert_close(
            states, alone.last_hidden_state[:, prefix.shape[1] :], atol=2e-4, rtol=2e-4
        )
        torch.testing.assert_close(first, alone.last_hidden_state[:, : prefix.shape[1]], atol=2e-4, rtol=2e-4)


def test_the_window_ends_where_it_should(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    """A token exactly one window back is invisible to one layer, so it reaches fewer layers deep."""
    width, layers = model.config.llm.hidden_size, model.config.llm.num_hidden_layers
    prefix, text = noise(1, layers * WINDOW, width), noise(1, 1, width)
    other = prefix.clone()
    other[:, 0] += 1.0
    with_one, with_other = (packed_hidden_states(model.llm, p, [text])[1][0] for p in (prefix, other))
    sees_it = not torch.equal(with_one, with_other)
    assert sees_it is (model.config.llm.sliding_window is None)


def test_generation_stops_at_a_stop_token(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    prompt = noise(9, model.config.llm.hidden_size)
    free = generate(model.llm, prompt, max_new_tokens=6, stop_ids=())
    assert len(free.token_ids) == 6
    assert len(free.hidden_states) == 9 + 6 - 1
    stop = free.token_ids[2]
    first = free.token_ids.index(stop)
    stopped = generate(model.llm, prompt, max_new_tokens=6, stop_ids=(99999, stop))
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert len(stopped.hidden_states) == 9 + first
    torch.testing.assert_close(stopped.hidden_states, free.hidden_states[: 9 + first])


def test_generated_states_equal_one_pass_over_the_whole(
    model: XSamModel, noise: Callable[..., Tensor]
) -> None:
    """With the cache of a sliding window, over more tokens than the window holds."""
    prompt = noise(WINDOW - 4, model.config.llm.hidden_size)
    forced = [7, 300, 12, 45, 8, 9, 10, 11, 33]
    states = generate(model.llm, prompt, max_new_tokens=3, stop_ids=(), forced_ids=forced).hidden_states
    words = model.llm.model.embed_tokens(torch.tensor(forced[:-1]))
    whole = (
        stock_language(model.llm)
        .model(inputs_embeds=torch.cat([prompt, words])[None], use_cache=False)
        .last_hidden_state[0]
    )
    torch.testing.assert_close(states, whole, atol=2e-4, rtol=2e-4)


def test_generation_takes_the_likeliest_token(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    prompt = noise(5, model.config.llm.hidden_size)
    seen: list[int] = []
    answer = generate(model.llm, prompt, max_new_tokens=3, stop_ids=(), on_token=seen.append)
    assert seen == answer.token_ids
    logits = model.llm.lm_head(answer.hidden_states[4:])
    assert logits.argmax(dim=-1).tolist() == answer.token_ids


def test_a_listener_may_stop_generation(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    def give_up(_: int) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        generate(
            model.llm, noise(5, model.config.llm.hidden_size), max_new_tokens=3, stop_ids=(), on_token=give_up
        )


# --------------------------------------------------------------------------------------- decoding


@torch.no_grad()
def test_prompts_decoded_together_equal_one_by_one(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    config = model.config
    features = noise_features(model, noise, 2)
    hidden, counts = config.mask2former.hidden_dim, (3, 1, 4)
    seg_embeds = noise(2, len(counts), hidden)
    per_image = [[noise(count, hidden) for count in counts] for _ in range(2)]
    padded = [pad_conditions(means) for means in per_image]
    conditions, valid = (torch.stack(parts) for parts in zip(*padded, strict=True))
    together = model.decode(features, seg_embeds, conditions, valid)
    assert len(together) == len(model.segmentor.decoder.decoder.layers) + 1
    for p, count in enumerate(counts):
        own = torch.stack([means[p] for means in per_image])[:, None]
        alone = model.decode(
            features, seg_embeds[:, p : p + 1], own, torch.ones(2, 1, count, dtype=torch.bool)
        )
        for stage, single in zip(together, alone, strict=True):
            logits = stage.class_logits[:, p]
            assert logits.shape[-1] == max(counts) + 1
            assert torch.isneginf(logits[..., count:-1]).all()
            kept = torch.cat([logits[..., :count], logits[..., -1:]], dim=-1)
            torch.testing.assert_close(kept, single.class_logits[:, 0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(
                stage.mask_logits[:, p], single.mask_logits[:, 0], atol=1e-3, rtol=1e-4
            )


def test_a_query_without_a_mask_looks_everywhere() -> None:
    """Only that query: attention to nothing would be NaN, and the others stay within their masks."""
    logits = torch.full((1, 2, 2, 2, 4), -3.0)  # one image, two prompts of two queries, 2×4 pixels
    logits[0, 0, 1, 0, 3] = 3.0
    logits[0, 1, 0, 1, :2] = 3.0
    visible = _visible_pixels(logits)
    assert visible.shape == (1, 1, 4, 8)
    assert visible[0, 0].int().tolist() == [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]


@torch.no_grad()
def test_the_prompt_changes_the_masks(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    config = model.config
    features = noise_features(model, noise, 1)
    seg, conditions = (
        noise(1, 2, config.mask2former.hidden_dim),
        noise(1, 2, 1, config.mask2former.hidden_dim),
    )
    answer = model.decode(features, seg, conditions, torch.ones(1, 2, 1, dtype=torch.bool))[-1]
    assert (answer.mask_logits[0, 0] - answer.mask_logits[0, 1]).abs().max() > 0.01


# ---------------------------------------------------------------------------------------- regions


def _region(*rows: str) -> Tensor:
    return torch.tensor([[c == "#" for c in row] for row in rows], dtype=torch.uint8)


def _cells(points: Tensor, size: tuple[int, int]) -> set[tuple[int, int]]:
    scaled = points * torch.tensor(size)
    assert torch.equal(scaled, scaled.round())
    return {(int(row), int(column)) for row, column in scaled}


@pytest.mark.parametrize("count", [1, 3, 4, 7, 256])
def test_points_lie_inside_the_region(count: int) -> None:
    """Sizes are powers of two, so that dividing and multiplying back is exact."""
    mask = _region("........", "..###...", "......##", "........")
    inside = {(1, 2), (1, 3), (1, 4), (2, 6), (2, 7)}
    points = region_points(mask, count)
    assert points.shape == (count, 2)
    assert points.dtype == torch.float32
    assert _cells(points, (4, 8)) <= inside
    if count >= 5:
        assert _cells(points, (4, 8)) == inside
    assert torch.equal(points, region_points(mask.clone(), count))


def test_few_points_are_spread_over_a_large_region() -> None:
    mask = torch.zeros(16, 32, dtype=torch.uint8)
    mask[4:12] = 1
    rows = {row for row, _ in _cells(region_points(mask, 8), (16, 32))}
    assert rows == set(range(4, 12))


def test_random_points_lie_inside_and_repeat_with_their_generator() -> None:
    mask = _region("........", "..###...", "......##", "........")
    inside = {(1, 2), (1, 3), (1, 4), (2, 6), (2, 7)}

    def draw(seed: int, count: int) -> Tensor:
        return region_points(mask, count, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1, 9), draw(1, 9))
    assert not torch.equal(draw(1, 9), draw(2, 9))
    assert _cells(draw(1, 9), (4, 8)) == inside  # all of them, and some twice
    assert len(_cells(draw(1, 4), (4, 8))) == 4  # none of them twice


def test_features_are_read_at_row_and_column() -> None:
    """Channel 0 holds the column, channel 1 the row; swapped coordinates once gave mirrored regions."""
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(9.0), indexing="ij")
    features = torch.stack([columns, rows])[None]
    points = torch.tensor([[[0.0, 0.0], [0.25, 0.5], [0.5, 1.0], [1.0, 0.125]]])  # (row, column)
    config = RegionSamplerConfig(num_sample_point=4, pooling_mode="mean", pooling_kernel_size=1)
    expected = torch.tensor([[[0.0, 0.0], [4.0, 1.0], [8.0, 2.0], [1.0, 4.0]]])
    torch.testing.assert_close(sample_regions(features, points, config), expected)
    pairs = RegionSamplerConfig(num_sample_point=4, pooling_mode="mean", pooling_kernel_size=2)
    torch.testing.assert_close(
        sample_regions(features, points, pairs), torch.tensor([[[2.0, 0.5], [4.5, 3.0]]])
    )
    highest = RegionSamplerConfig(
        num_sample_point=4, pooling_mode="max", pooling_kernel_size=None, pooling_output_size=1
    )
    torch.testing.assert_close(sample_regions(features, points, highest), torch.tensor([[[8.0, 4.0]]]))


def test_each_region_reads_its_own_map() -> None:
    features = torch.stack([torch.full((2, 3, 3), 1.0), torch.full((2, 3, 3), 2.0)])
    config = RegionSamplerConfig(num_sample_point=4, pooling_mode="mean", pooling_kernel_size=4)
    assert sample_regions(features, torch.rand(2, 4, 2), config).mean(dim=(1, 2)).tolist() == [1.0, 2.0]


# ------------------------------------------------------------------------------------- small parts


def test_a_condition_is_the_mean_of_its_span() -> None:
    states = torch.tensor([[[1.0, 10.0], [3.0, 20.0], [5.0, 60.0], [100.0, 100.0], [7.0, 0.0]]])
    (means,) = span_means(states, [torch.tensor([1, 0, 0, -1])])
    assert means.tolist() == [[4.0, 40.0], [1.0, 10.0]]
    (none,) = span_means(states, [torch.tensor([-1, -1])])
    assert none.shape == (0, 2)


def test_conditions_are_padded_at_the_end() -> None:
    padded, valid = pad_conditions([torch.ones(1, 2), torch.full((3, 2), 2.0)])
    assert padded.tolist() == [[[1, 1], [0, 0], [0, 0]], [[2, 2], [2, 2], [2, 2]]]
    assert valid.tolist() == [[True, False, False], [True, True, True]]


def test_placeholders_are_filled_in_order(model: XSamModel) -> None:
    width = model.config.llm.hidden_size
    ids = torch.tensor([5, IMAGE_ID, IMAGE_ID, 6, REGION_ID, REGION_ID, 7, REGION_ID, REGION_ID])
    image = torch.stack([torch.full((width,), value) for value in (100.0, 101.0)])
    regions = torch.stack([torch.full((2, width), value) for value in (200.0, 201.0)])
    regions[:, 1] += 0.5
    embeds = model.embed(ids, image, regions)
    assert embeds[[1, 2, 4, 5, 7, 8], 0].tolist() == [100, 101, 200, 200.5, 201, 201.5]
    words = model.llm.model.embed_tokens(torch.tensor([5, 6, 7]))
    assert torch.equal(embeds[[0, 3, 6]], words)
