"""Every shortcut of the network against the stock blocks and the long way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

import xsam.model.blocks.sam
from support.stock import stock_pixel_decoder, stock_sam, stock_siglip
from tests.unit.model.small import WINDOW, noise_features
from xsam.model.blocks.parts import ACTIVATIONS, activate
from xsam.model.encoders import sam_hidden_states, siglip_hidden_state
from xsam.model.language import cache_prefix, following_states, generate, packed_hidden_states
from xsam.model.pixel_decoder import decode_pixels, sample_weighted
from xsam.model.precision import NarrowEmbedding, NarrowLinear, store_weights_as
from xsam.model.xsam import XSamModel, pad_conditions


def _close(actual: Tensor, expected: Tensor, relative: float = 2e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * float(expected.abs().max()))


# -------------------------------------------------------------------------------- language model


@pytest.mark.parametrize("room", [0, 500])
@pytest.mark.parametrize("length", [7, WINDOW + 10])
def test_texts_behind_a_cached_prefix(
    model: XSamModel, noise: Callable[..., Tensor], length: int, room: int
) -> None:
    """The prefix is longer than the window, and calls repeat, so the scratch space is never empty."""
    width = model.config.llm.hidden_size
    prefix = noise(2, length, width)
    cache = cache_prefix(model.llm, prefix, room=room)
    assert cache.length == length
    for lengths in ((5, 70, 1, 17), (3,), (2, 2)):
        texts = [noise(2, n, width) for n in lengths]
        _, expected = packed_hidden_states(model.llm, prefix, texts)
        for states, wanted in zip(following_states(model.llm, cache, texts), expected, strict=True):
            _close(states, wanted)


def test_generation_behind_a_cached_prefix(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    width = model.config.llm.hidden_size
    prefix, prompt = noise(WINDOW - 4, width), noise(6, width)
    whole = generate(model.llm, torch.cat([prefix, prompt]), max_new_tokens=9, stop_ids=())
    cache = cache_prefix(model.llm, prefix[None])
    for _ in range(2):
        part = generate(model.llm, prompt, max_new_tokens=9, stop_ids=(), prefix=cache)
        assert part.token_ids == whole.token_ids
        _close(part.hidden_states, whole.hidden_states[len(prefix) :])


def test_a_final_token_ends_generation_with_its_state(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    prompt = noise(6, model.config.llm.hidden_size)
    free = generate(model.llm, prompt, max_new_tokens=6, stop_ids=())
    final = free.token_ids[2]
    count = free.token_ids.index(final) + 1
    ended = generate(model.llm, prompt, max_new_tokens=6, stop_ids=(), final_ids=[final])
    assert ended.token_ids == free.token_ids[:count]
    _close(ended.hidden_states, free.hidden_states[: 6 + count])


def test_nbytes_counts_what_is_allocated(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    config = model.config.llm
    cache = cache_prefix(model.llm, noise(1, 7, config.hidden_size), room=5)
    one = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads) * 4
    assert cache.nbytes == config.num_hidden_layers * 2 * 12 * one
    cache.reserve(20)
    assert (cache.capacity, cache.nbytes) == (27, config.num_hidden_layers * 2 * 27 * one)


# ------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("pieces", [1, 20_000, 1 << 30])
def test_sam_layers_equal_the_stock_layers(
    model: XSamModel, noise: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """Computed whole, by heads, and row by row; windows do not fill the grid evenly."""
    monkeypatch.setitem(xsam.model.blocks.sam.BIAS_BYTES, "cpu", pieces)
    side = model.config.sam.image_size
    encoder = model.segmentor.encoder
    window = model.config.sam.window_size
    assert (side // model.config.sam.patch_size) % window, "no window needs filling up"
    pixels, wanted = noise(2, 3, side, side), (0, 1, len(encoder.layers))
    with torch.no_grad():
        fast = sam_hidden_states(encoder, pixels, wanted)
        expected = stock_sam(model)(pixels, output_hidden_states=True).hidden_states
    trained = sam_hidden_states(encoder, pixels, wanted)
    for index in wanted:
        _close(fast[index], expected[index])
        _close(trained[index], expected[index])
        assert fast[index].is_contiguous()  # else each layer copies its input to normalize it, and to add


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_change_a_tensor_only_without_gradients(name: str, noise: Callable[..., Tensor]) -> None:
    activation, x = ACTIVATIONS[name], noise(3, 40)
    expected, kept = activation(x), x.clone()
    with torch.enable_grad():
        assert torch.equal(activate(activation, x), expected)
    assert torch.equal(x, kept)
    with torch.no_grad():
        changed = activate(activation, x)
    assert torch.equal(changed, expected)
    assert changed.data_ptr() == x.data_ptr() or name == "quick_gelu"


def test_siglip_layers_equal_the_stock_layers(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    side = model.config.vision_encoder.image_size
    pixels = noise(2, 3, side, side)
    expected = stock_siglip(model)(pixels, output_hidden_states=True).hidden_states
    for select in (-1, -2):
        _close(siglip_hidden_state(model.vision_encoder, pixels, select), expected[select])


@pytest.mark.parametrize("training", [False, True])
def test_the_pixel_decoder_equals_the_stock_one(
    model: XSamModel, noise: Callable[..., Tensor], training: bool
) -> None:
    side = model.config.sam.image_size
    with torch.no_grad():
        pyramid = model.encode_segmentation(noise(2, 3, side, side)).pyramid
    with torch.set_grad_enabled(training):
        scales, mask_features = decode_pixels(model.segmentor.pixel_decoder, pyramid)
    stock = stock_pixel_decoder(model)(pyramid)
    _close(mask_features, stock.mask_features)
    for scale, expected in zip(scales, stock.multi_scale_features, strict=True):
        _close(scale, expected)


@pytest.mark.parametrize("reach", [0.3, 3.0, 40.0])
def test_weighted_samples_equal_bilinear_sampling(noise: Callable[..., Tensor], reach: float) -> None:
    """Maps of different shapes, samples on borders and far outside."""
    sizes, heads, points, queries = [(3, 5), (7, 2), (1, 1)], 2, 4, 11
    count = sum(h * w for h, w in sizes)
    value, centers = noise(count, heads, 3), noise(queries, 2).sigmoid()
    offsets = noise(queries, heads, len(sizes), points, 2) * reach
    offsets[0] = 0.0
    centers[0] = torch.tensor([1.0, 0.0])
    weights = noise(queries, heads, len(sizes) * points).softmax(dim=-1)
    shape = torch.tensor([[w, h] for h, w in sizes], dtype=torch.float32)
    expected = multi_scale_deformable_attention(
        value[None],
        sizes,
        (centers[:, None, None, None] + offsets / shape[:, None])[None],
        weights.unflatten(-1, (len(sizes), points))[None],
    )[0]
    _close(sample_weighted(value, sizes, centers, offsets, weights), expected)


# --------------------------------------------------------------------------------- mask decoder


@torch.no_grad()
def test_the_answer_is_the_last_stage(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    config = model.config
    features = noise_features(model, noise, 1)
    hidden = config.mask2former.hidden_dim
    conditions, valid = pad_conditions([noise(2, hidden), noise(1, hidden), noise(3, hidden)])
    prompts = noise(1, 3, hidden), conditions[None], valid[None]
    last = model.decode(features, *prompts)[-1]
    answer = model.predict(model.decoder_memory(features), *prompts)
    _close(answer.mask_logits, last.mask_logits, 1e-4)
    kept = torch.isfinite(last.class_logits)
    assert torch.equal(kept, torch.isfinite(answer.class_logits))
    _close(answer.class_logits[kept], last.class_logits[kept], 1e-4)


# ------------------------------------------------------------------------------ narrow weights


@pytest.mark.parametrize("rows", [1, 4, 5, 40])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_stored_layer_computes_with_the_stored_weights(
    noise: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, rows: int, dtype: torch.dtype
) -> None:
    """With few rows the input is rounded too, as hardware would; with more it is not."""
    monkeypatch.setattr("xsam.model.precision.CHUNK_BYTES", 7 * 24 * 4)  # chunks of 7 of 30 rows
    layer = torch.nn.Linear(24, 30)
    layer.weight.data = noise(30, 24).to(dtype)
    layer.bias.data = noise(30)
    layer.__class__ = NarrowLinear
    x = noise(rows, 24)[None]
    expected = x @ layer.weight.float().T + layer.bias
    _close(layer(x), expected, 1e-2 if rows <= 4 else 1e-6)
    assert layer(x).dtype is torch.float32


def test_what_is_stored_narrow(noise: Callable[..., Tensor]) -> None:
    model = torch.nn.ModuleDict(
        {
            "words": torch.nn.Embedding(5, 4),
            "queries": torch.nn.Embedding(5, 4),
            "linear": torch.nn.Linear(4, 4),
            "norm": torch.nn.LayerNorm(4),
        }
    ).to(torch.bfloat16)
    store_weights_as(model, model["words"], torch.bfloat16)
    narrow = {name for name, p in model.named_parameters() if p.dtype is torch.bfloat16}
    assert narrow == {"words.weight", "linear.weight"}
    assert isinstance(model["words"], NarrowEmbedding)
    assert model["words"](torch.tensor([1])).dtype is torch.float32
    assert set(model.state_dict()) == {
        "words.weight",
        "queries.weight",
        "linear.weight",
        "linear.bias",
        "norm.weight",
        "norm.bias",
    }
