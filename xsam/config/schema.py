"""All settings of `config.json`: names, types and ranges, and what must fit together.

Everything is checked before any tensor is made. The four sections for `transformers` accept the listed
arguments of its configuration classes and nothing else, so a file can neither select a backbone from the hub
nor set an attribute that changes how a class behaves. What older releases of `transformers` wrote beside them
has no effect here and is dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from xsam.config.fields import (
    Choice,
    Field,
    Flag,
    Ignored,
    Items,
    Number,
    Whole,
    check_section,
    nearest,
    shown,
)

SPECIAL_TOKENS = ("<SEG>", "<p>", "</p>")
SECTIONS = ("llm", "vision_encoder", "sam", "mask2former", "xsam")
MAX_PROBLEMS_SHOWN = 6

_IGNORED = Ignored()
_WIDTH = Whole(1, 65_536)
_LAYERS = Whole(1, 256)
_HEADS = Whole(1, 256)
_EPSILON = Number(1e-12, 0.1)
_DROPOUT = Number(0.0, 0.99)
_STD = Number(0.0, 10.0)
_WEIGHT = Number(0.0, 1e6)
_TOKEN_ID = Whole(0, 10_000_000, optional=True)
_ACTIVATION = Choice(
    "silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu"
)
_IMAGE_SIDE = Whole(8, 4096)
_PATCH_SIDE = Whole(4, 64)

# Arguments of every configuration class, most of them from releases before 5.0, which wrote all of them.
_COMMON: dict[str, Field] = dict.fromkeys(
    (
        *("model_type", "transformers_version", "architectures", "_name_or_path", "torchscript", "dtype"),
        *("torch_dtype", "pruned_heads", "return_dict", "output_hidden_states", "output_attentions"),
        *("tie_word_embeddings", "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder", "id2label"),
        *("cross_attention_hidden_size", "add_cross_attention", "tie_encoder_decoder", "finetuning_task"),
        *("label2id", "task_specific_params", "problem_type", "tokenizer_class", "prefix", "bos_token_id"),
        *("pad_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id", "max_length"),
        *("min_length", "do_sample", "early_stopping", "num_beams", "temperature", "top_k", "top_p"),
        *("typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "output_scores"),
        *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id"),
        *("return_dict_in_generate", "forced_eos_token_id", "remove_invalid_values", "suppress_tokens"),
        *("exponential_decay_length_penalty", "begin_suppress_tokens", "num_beam_groups"),
        *("diversity_penalty", "tf_legacy_loss", "use_bfloat16"),
    ),
    _IGNORED,
)

_LLM: dict[str, Field] = {
    **_COMMON,
    "vocab_size": Whole(8, 1_000_000),
    "hidden_size": _WIDTH,
    "intermediate_size": Whole(1, 262_144),
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": Whole(1, 256, optional=True),
    "resid_pdrop": _DROPOUT,
    "embd_pdrop": _DROPOUT,
    "attention_dropout": _DROPOUT,
    "hidden_act": _ACTIVATION,
    "max_position_embeddings": Whole(16, 1_048_576),
    "original_max_position_embeddings": Whole(16, 1_048_576),
    "initializer_range": _STD,
    "rms_norm_eps": _EPSILON,
    "use_cache": _IGNORED,
    "tie_word_embeddings": Choice(False),
    "bos_token_id": _TOKEN_ID,
    "eos_token_id": _TOKEN_ID,
    "pad_token_id": _TOKEN_ID,
    "sliding_window": Whole(1, 1_048_576, optional=True),
    "rope_theta": Number(1.0, 1e9),
    "partial_rotary_factor": Number(0.01, 1.0),
    "rope_scaling": Choice(None),
    "rope_parameters": _IGNORED,  # a table of its own, see `check_config`
    # of the published Phi-3 configuration
    "auto_map": _IGNORED,
    "attention_bias": Choice(False),
}
_ROPE: dict[str, Field] = {
    "rope_type": Choice("default"),
    "rope_theta": Number(1.0, 1e9),
    "partial_rotary_factor": Number(0.01, 1.0),
}
_VISION: dict[str, Field] = {
    **_COMMON,
    "hidden_size": _WIDTH,
    "intermediate_size": Whole(1, 262_144),
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_channels": Choice(3),
    "image_size": _IMAGE_SIDE,
    "patch_size": _PATCH_SIDE,
    "hidden_act": _ACTIVATION,
    "layer_norm_eps": _EPSILON,
    "attention_dropout": _DROPOUT,
    "vision_use_head": Flag(),
}
_SAM: dict[str, Field] = {
    **_COMMON,
    "hidden_size": _WIDTH,
    "output_channels": _WIDTH,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_channels": Choice(3),
    "image_size": _IMAGE_SIDE,
    "patch_size": _PATCH_SIDE,
    "hidden_act": _ACTIVATION,
    "layer_norm_eps": _EPSILON,
    "attention_dropout": _DROPOUT,
    "initializer_range": _STD,
    "qkv_bias": Flag(),
    "mlp_ratio": Number(0.1, 64.0),
    "use_abs_pos": Flag(),
    "use_rel_pos": Flag(),
    "window_size": Whole(0, 1024),
    "global_attn_indexes": Items(Whole(0, 255), 0, 256),
    "num_pos_feats": Whole(1, 16_384),
    "mlp_dim": Whole(1, 262_144, optional=True),
    "scale": _IGNORED,  # derived
}
_SAM_WITH_PARTS: dict[str, Field] = {
    **_COMMON,
    **dict.fromkeys(("vision_config", "prompt_encoder_config", "mask_decoder_config"), _IGNORED),
    "initializer_range": _STD,
}
_MASK2FORMER: dict[str, Field] = {
    **_COMMON,
    "feature_size": _WIDTH,
    "mask_feature_size": _WIDTH,
    "hidden_dim": _WIDTH,
    "encoder_feedforward_dim": Whole(1, 262_144),
    "activation_function": _ACTIVATION,
    "encoder_layers": _LAYERS,
    "decoder_layers": Whole(2, 256),
    "num_attention_heads": _HEADS,
    "dropout": _DROPOUT,
    "dim_feedforward": Whole(1, 262_144),
    "pre_norm": Choice(False),
    "enforce_input_projection": Flag(),
    "common_stride": Choice(1, 2, 4, 8, 16, 32, 64),
    "ignore_value": Whole(0, 65_535),
    "num_queries": Whole(1, 10_000),
    "no_object_weight": _WEIGHT,
    "class_weight": _WEIGHT,
    "mask_weight": _WEIGHT,
    "dice_weight": _WEIGHT,
    "train_num_points": Whole(1, 1_000_000),
    "oversample_ratio": Number(1.0, 1000.0),
    "importance_sample_ratio": Number(0.0, 1.0),
    "init_std": _STD,
    "init_xavier_std": _STD,
    "use_auxiliary_loss": Flag(),
    "feature_strides": Items(Choice(1, 2, 4, 8, 16, 32, 64), 3, 8),
    "output_auxiliary_logits": _IGNORED,
    # The backbone is X-SAM's own encoder. A name here would be looked up on the hub.
    "backbone": Choice(None),
    "backbone_config": _IGNORED,
    "backbone_kwargs": Choice(None, {}),
    "use_backbone": Choice(False),
    "use_pretrained_backbone": Choice(False),
    "use_timm_backbone": Choice(False),
    # What the released code added: first what changes the network, then what only changes training.
    "num_feature_levels": Choice(3),
    "use_repeat_cond": Choice(False),
    "use_text_cross_attn": Choice(False),
    "attn_method": Choice("discrete"),
    **dict.fromkeys(
        (
            *("image_size", "feature_channels", "num_hidden_layers", "background_label", "ignore_label"),
            *("temporal_weight", "use_sample_point", "use_nolabel_cls_loss", "use_zero_init", "alpha"),
            *("gamma", "loss_cls_type", "head_cls_type", "offset_scale", "attn_implementation"),
        ),
        _IGNORED,
    ),
}
_XSAM: dict[str, Field] = {
    "visual_select_layer": Whole(-256, -1),
    "extra_select_layers": Items(Whole(0, 256), 1, 16),
    "connector_hidden_dim": _WIDTH,
    "connector_scale_factor": Items(Choice(4, 2, 1, 0.5, 0.25, 0.125), 3, 8),
    "downsample_ratio": Choice(1.0, 0.5, 0.25, 0.125),
    "logit_clamp": Number(0.1, 1e4),
    "vision_resample": Choice("bilinear", "bicubic"),
    "bos_before_user": Flag(),
    "reject_below": Number(0.0, 1.0),
    "instance_threshold": Number(0.0, 1.0),
    "one_mask_per_object": Flag(),
    "sampler": _IGNORED,  # a table of its own, see `check_config`
    # Fixed here, variable in the released code.
    "special_tokens": Choice(SPECIAL_TOKENS),
    "connector_type": Choice("conv"),
    "projector_depth": Choice(2),
    "cond_type": Choice("phrase"),
    "bg_embeds": Choice(True),
    "visual_select_indx": Choice(0),
    "ptoken_shift": Choice(0),
}
_FIXED = (
    *("special_tokens", "connector_type", "projector_depth", "cond_type", "bg_embeds"),
    *("visual_select_indx", "ptoken_shift"),
)
_SAMPLER: dict[str, Field] = {
    "type": _IGNORED,
    "num_sample_point": Whole(1, 65_536),
    "pooling_mode": Choice("mean", "max"),
    "pooling_kernel_size": Whole(1, 65_536, optional=True),
    "pooling_output_size": Whole(1, 65_536, optional=True),
}
_NOT_OURS = (
    *("backbone", "backbone_config", "backbone_kwargs", "use_backbone", "use_pretrained_backbone"),
    *("use_timm_backbone", "num_feature_levels", "use_repeat_cond", "use_text_cross_attn", "attn_method"),
    *("rope_scaling", "attention_bias"),
)


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
        check_section("sam", sam, _SAM_WITH_PARTS, problems)
        sam = sam["vision_config"]
    sections = {
        "llm": check_section("llm", data["llm"], _LLM, problems),
        "vision_encoder": check_section("vision_encoder", data["vision_encoder"], _VISION, problems),
        "sam": check_section("sam", sam, _SAM, problems),
        "mask2former": check_section("mask2former", data["mask2former"], _MASK2FORMER, problems),
        "xsam": check_section("xsam", data["xsam"], _XSAM, problems),
    }
    for parent, name, table in (("llm", "rope_parameters", _ROPE), ("xsam", "sampler", _SAMPLER)):
        given = data[parent].get(name) if isinstance(data[parent], Mapping) else None
        if given is not None or name == "sampler":
            values = check_section(f"{parent}.{name}", {} if given is None else given, table, problems)
            sections[name] = values
    if rope := sections.pop("rope_parameters", None):
        sections["llm"]["rope_parameters"] = {"rope_type": "default", **rope}
    for section in sections.values():
        for name in (*_NOT_OURS, *_FIXED):
            section.pop(name, None)
    return sections, problems


def misfits(config: Any) -> list[str]:
    """Return what does not fit together in a configuration whose single values are all allowed."""
    llm, vision, sam, masks = config.llm, config.vision_encoder, config.sam, config.mask2former
    sampler = config.sampler
    grid, step = sam.image_size // sam.patch_size, round(1 / config.downsample_ratio)
    groups = llm.num_key_value_heads or llm.num_attention_heads
    head = llm.hidden_size // llm.num_attention_heads
    rotary = int(head * (llm.rope_parameters or {}).get("partial_rotary_factor", 1.0))
    scales = config.connector_scale_factor
    strides = masks.feature_strides[-3:]
    finer = (min(strides) // masks.common_stride).bit_length() - 1
    rules = (
        (llm.hidden_size % llm.num_attention_heads == 0, "llm.hidden_size must be a multiple of the heads"),
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
