"""All settings of `config.json`: names, types and ranges, and what must fit together.

Everything is checked before any tensor is made. The four sections for `transformers` accept the listed
arguments of its configuration classes and nothing else, so a file can neither select a backbone from the hub
nor set an attribute that changes how a class behaves. What older releases of `transformers` wrote beside them
has no effect here and is dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from xsam.config.fields import check_section, nearest, shown
from xsam.config.sections import (
    FIXED,
    LANGUAGE_MODELS,
    MASK2FORMER,
    NOT_OURS,
    ROPE,
    SAM,
    SAM_WITH_PARTS,
    SAMPLER,
    SECTIONS,
    SPECIAL_TOKENS,
    VISION,
    XSAM,
)
from xsam.errors import CheckpointError

__all__ = ["MAX_PROBLEMS_SHOWN", "SECTIONS", "SPECIAL_TOKENS", "build_config", "check_config", "misfits"]

MAX_PROBLEMS_SHOWN = 6
_HINT = "correct the file, or take the config.json that came with the weights"
_Config = TypeVar("_Config")


def build_config(
    build: Callable[[], _Config], problems: Sequence[str], misfits: Callable[[_Config], Sequence[str]]
) -> _Config:
    """Build a configuration from checked sections.

    Args:
        build: makes the configuration, with classes of `transformers`.
        problems: what is wrong with the single values; nothing is built if there is any.
        misfits: returns what does not fit together.

    Raises:
        CheckpointError: something is wrong; the message names the first problems.
    """
    if problems:
        raise _refusal(problems)
    try:
        config = build()
        problems = misfits(config)
    except Exception as error:  # what the classes of transformers do not accept
        raise CheckpointError(
            f"config.json is not a configuration of X-SAM: {next(iter(str(error).splitlines()), '')}",
            hint=_HINT,
        ) from error
    if problems:
        raise _refusal(problems)
    return config


def _refusal(problems: Sequence[str]) -> CheckpointError:
    listed = "; ".join(problems[:MAX_PROBLEMS_SHOWN])
    more = f"; and {len(problems) - MAX_PROBLEMS_SHOWN} more" if len(problems) > MAX_PROBLEMS_SHOWN else ""
    return CheckpointError(f"config.json is not a configuration of X-SAM: {listed}{more}", hint=_HINT)


def check_config(data: Any) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Check the content of `config.json` against the tables.

    Returns:
        Section → the settings to build it from, and everything that is wrong. The sections are those of the
        file, and `sampler`; only if nothing is wrong may they be used.
    """
    if not isinstance(data, Mapping):
        return {}, [f"it must be an object with the sections {', '.join(SECTIONS)}, not {shown(data)}"]
    missing = [name for name in SECTIONS if name not in data]
    if missing:
        return {}, [f"it lacks the section(s) {', '.join(missing)}"]
    problems = [
        f"the section {str(name)[:60]} is unknown{nearest(name, SECTIONS)}"
        for name in data
        if name not in SECTIONS
    ]
    sam = data["sam"]
    if isinstance(sam, Mapping) and "vision_config" in sam:
        check_section("sam", sam, SAM_WITH_PARTS, problems)
        sam = sam["vision_config"]
    language = _language_model(data["llm"], problems)
    sections = {
        "llm": {
            **check_section("llm", data["llm"], LANGUAGE_MODELS[language], problems),
            "model_type": language,
        },
        "vision_encoder": check_section("vision_encoder", data["vision_encoder"], VISION, problems),
        "sam": check_section("sam", sam, SAM, problems),
        "mask2former": check_section("mask2former", data["mask2former"], MASK2FORMER, problems),
        "xsam": check_section("xsam", data["xsam"], XSAM, problems),
    }
    for parent, name, table in (("llm", "rope_parameters", ROPE), ("xsam", "sampler", SAMPLER)):
        given = data[parent].get(name) if isinstance(data[parent], Mapping) else None
        if given is not None or name == "sampler":
            values = check_section(f"{parent}.{name}", {} if given is None else given, table, problems)
            sections[name] = values
    if rope := sections.pop("rope_parameters", None):
        sections["llm"]["rope_parameters"] = {"rope_type": "default", **rope}
    for section in sections.values():
        for name in (*NOT_OURS, *FIXED):
            section.pop(name, None)
    return sections, problems


def _language_model(section: Any, problems: list[str]) -> str:
    """Return the kind of language model that a section names; Phi-3 if it names none."""
    name = section.get("model_type", "phi3") if isinstance(section, Mapping) else "phi3"
    if isinstance(name, str) and name in LANGUAGE_MODELS:
        return name
    problems.append(f"llm.model_type must be one of {', '.join(LANGUAGE_MODELS)}, got {shown(name)}")
    return "phi3"


def misfits(config: Any) -> list[str]:
    """Return what does not fit together in a configuration whose single values are all allowed."""
    llm, vision, sam, masks = config.llm, config.vision_encoder, config.sam, config.mask2former
    sampler = config.sampler
    grid, step = sam.image_size // sam.patch_size, round(1 / config.downsample_ratio)
    groups = llm.num_key_value_heads or llm.num_attention_heads
    head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
    rotary = int(head * (llm.rope_parameters or {}).get("partial_rotary_factor", 1.0))
    scales = config.connector_scale_factor
    strides = masks.feature_strides[-3:]
    finer = (min(strides) // masks.common_stride).bit_length() - 1
    rules = (
        (
            hasattr(llm, "head_dim") or llm.hidden_size % llm.num_attention_heads == 0,
            "llm.hidden_size must be a multiple of the heads",
        ),
        (
            llm.num_attention_heads % groups == 0,
            "llm.num_attention_heads must be a multiple of num_key_value_heads",
        ),
        (rotary >= 2 and rotary % 2 == 0, "the rotary part of a head of llm must have an even size"),
        (
            all(
                t is None or t < llm.vocab_size
                for t in (llm.bos_token_id, llm.eos_token_id, llm.pad_token_id)
            ),
            "the token ids of llm must be below llm.vocab_size",
        ),
        (
            config.num_image_tokens + sampler.tokens_per_region + 64 <= llm.max_position_embeddings,
            f"llm.max_position_embeddings has no room for an image of {config.num_image_tokens} tokens, a "
            "region and a text",
        ),
        (
            vision.hidden_size % vision.num_attention_heads == 0,
            "vision_encoder.hidden_size must be a multiple of the heads",
        ),
        (
            vision.patch_size <= vision.image_size,
            "vision_encoder.patch_size must not be larger than the image",
        ),
        (
            -config.visual_select_layer <= vision.num_hidden_layers + 1,
            "xsam.visual_select_layer is before the first layer of vision_encoder",
        ),
        (sam.hidden_size % sam.num_attention_heads == 0, "sam.hidden_size must be a multiple of the heads"),
        (sam.image_size % sam.patch_size == 0, "sam.image_size must be a multiple of patch_size"),
        (
            all(index < sam.num_hidden_layers for index in sam.global_attn_indexes),
            "sam.global_attn_indexes names a layer that does not exist",
        ),
        (
            -config.visual_select_layer <= sam.num_hidden_layers + 1,
            "xsam.visual_select_layer is before the first layer of sam",
        ),
        (
            all(layer <= sam.num_hidden_layers for layer in config.extra_select_layers),
            "xsam.extra_select_layers names a layer that sam does not have",
        ),
        (
            len(config.extra_select_layers) >= len(scales),
            "xsam.extra_select_layers needs a layer for each connector_scale_factor",
        ),
        (
            all(coarse * 2 == fine for fine, coarse in itertools.pairwise(scales)),
            "each xsam.connector_scale_factor must be half of the one before",
        ),
        (grid % step == 0, "the grid of sam must be a multiple of 1 / xsam.downsample_ratio"),
        (
            all(grid * scale >= 1 and grid * scale % 1 == 0 for scale in scales),
            "the grid of sam must be a multiple of every 1 / connector_scale_factor",
        ),
        (
            all(
                sam.hidden_size * scale % 1 == 0 and sam.hidden_size * scale % scale**2 == 0
                for scale in scales
            ),
            "sam.hidden_size must be divisible by every connector_scale_factor",
        ),
        (masks.feature_size % 32 == 0, "mask2former.feature_size must be a multiple of 32"),
        (
            masks.feature_size % masks.num_attention_heads == 0
            and masks.hidden_dim % masks.num_attention_heads == 0,
            "mask2former.feature_size and hidden_dim must be multiples of the heads",
        ),
        (masks.hidden_dim % 2 == 0, "mask2former.hidden_dim must be even"),
        (
            min(strides) >= masks.common_stride and finer <= len(scales),
            "mask2former.feature_strides do not fit common_stride and the levels of the connector",
        ),
        (
            sampler.pooling_mode == "max"
            or (
                sampler.pooling_output_size is None
                and sampler.num_sample_point >= (sampler.pooling_kernel_size or 1)
            ),
            "xsam.sampler with mean pooling needs a kernel of at most num_sample_point and no output size",
        ),
        (
            sampler.pooling_mode == "mean"
            or (sampler.pooling_kernel_size is None and sampler.pooling_output_size is not None),
            "xsam.sampler with max pooling has an output size, and no kernel",
        ),
        (
            (sampler.pooling_output_size or 1) <= sampler.num_sample_point,
            "xsam.sampler.pooling_output_size must not be larger than num_sample_point",
        ),
    )
    return [problem for fits, problem in rules if not fits]
