"""Settings of X2SAM's `config.json`: names, types and ranges, and what must fit together.

See `xsam.config.schema` for the rules. The section `sam2` holds the encoder in `vision_config` and the memory
beside it; what belongs to SAM 2's own prompts and mask decoder is accepted and has no effect.
"""

from __future__ import annotations

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
from xsam.config.sections import (
    ACTIVATION,
    COMMON,
    HEADS,
    LAYERS,
    MASK2FORMER,
    NOT_OURS,
    QWEN3,
    ROPE,
    SAMPLER,
    SPECIAL_TOKENS,
    WIDTH,
)

X2SAM_SECTIONS = ("vlm", "sam2", "mask2former", "x2sam", "processors")
_IGNORED = Ignored()
_EPSILON = Number(1e-12, 0.1)
_STD = Number(0.0, 10.0)
_PAIR = Items(Whole(1, 4096), 2, 2)
_STAGES = Items(Whole(1, 65_536), 4, 4)
_PIXELS = Whole(1, 1 << 30)

_VLM: dict[str, Field] = {
    **COMMON,
    **dict.fromkeys(("vision_config", "text_config"), _IGNORED),  # tables of their own
    **dict.fromkeys(
        ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
        Whole(0, 10_000_000),
    ),
    "tie_word_embeddings": Flag(),
}
_VLM_VISION: dict[str, Field] = {
    **COMMON,
    "depth": LAYERS,
    "hidden_size": WIDTH,
    "hidden_act": ACTIVATION,
    "intermediate_size": Whole(1, 262_144),
    "num_heads": HEADS,
    "in_channels": Choice(3),
    "patch_size": Whole(4, 64),
    "spatial_merge_size": Whole(1, 8),
    "temporal_patch_size": Choice(2),
    "out_hidden_size": WIDTH,
    "num_position_embeddings": Whole(1, 65_536),
    "deepstack_visual_indexes": Items(Whole(0, 255), 0, 16),
    "initializer_range": _STD,
    "rope_parameters": _IGNORED,
}
_VLM_TEXT: dict[str, Field] = {
    **QWEN3,
    "rope_scaling": _IGNORED,  # the three axes always have the same positions here
}
_SAM2: dict[str, Field] = {
    **COMMON,
    **dict.fromkeys(("vision_config", "prompt_encoder_config", "mask_decoder_config"), _IGNORED),
    "initializer_range": _STD,
    "num_maskmem": Whole(1, 64),
    "memory_encoder_hidden_size": WIDTH,
    "memory_attention_num_layers": LAYERS,
    "memory_attention_num_attention_heads": HEADS,
    "memory_attention_feed_forward_hidden_size": Whole(1, 262_144),
    "mask_downsampler_scale_strides": Items(Choice(1, 2, 4, 8, 16), 1, 1),
    "sigmoid_scale_for_mem_enc": Number(-1e3, 1e3),
    "sigmoid_bias_for_mem_enc": Number(-1e3, 1e3),
    "feature_downsampler_scale_strides": Items(Choice(1, 2, 4, 8, 16), 3, 3),
    "memory_fuser_num_layers": LAYERS,
    "memory_fuser_intermediate_dim": Whole(1, 65_536),
    "memory_fuser_kernel_size": Choice(1, 3, 5, 7, 9, 11),
    # Fixed here, variable in the released code.
    "memory_attention_downsample_rate": Choice(1),
    "memory_attention_feed_forward_hidden_act": Choice("relu"),
    "memory_attention_rope_theta": Choice(10_000),
    "mask_downsampler_kernel_size": Choice(3),
    "mask_downsampler_stride": Choice(2),
    "mask_downsampler_padding": Choice(1),
    "mask_downsampler_hidden_act": Choice("gelu"),
    "feature_downsampler_kernel_size": Choice(3),
    "feature_downsampler_stride": Choice(2),
    "feature_downsampler_padding": Choice(1),
    "feature_downsampler_hidden_act": Choice("gelu"),
    "memory_fuser_hidden_act": Choice("gelu"),
    "use_mask_guidance": Choice(True),
    "use_class_guidance": Choice(True),
    # Derived, of training only, or of parts that are not used.
    **dict.fromkeys(
        (
            *("image_size", "multimask_output_in_sam", "multimask_min_pt_num", "multimask_max_pt_num"),
            *("multimask_output_for_tracking", "max_object_pointers_in_encoder"),
            *("enable_occlusion_spatial_embedding", "enable_temporal_pos_encoding_for_object_pointers"),
            *("memory_attention_hidden_size", "memory_attention_dropout", "memory_attention_rope_dropout"),
            *("memory_attention_query_rope_feat_sizes", "memory_attention_rope_feat_sizes"),
            *("memory_encoder_num_queries", "memory_encoder_output_channels"),
            *("mask_downsampler_input_channels", "mask_downsampler_output_channels"),
            *("mask_downsampler_embed_dim", "mask_downsampler_total_stride"),
            *("feature_downsampler_total_stride", "memory_fuser_embed_dim", "memory_fuser_padding"),
            "memory_fuser_layer_scale_init_value",
        ),
        _IGNORED,
    ),
}
_SAM2_VISION: dict[str, Field] = {
    **COMMON,
    "backbone_config": _IGNORED,  # a table of its own
    "backbone_channel_list": _STAGES,
    "fpn_hidden_size": WIDTH,
    "fpn_kernel_size": Choice(1),
    "fpn_stride": Choice(1),
    "fpn_padding": Choice(0),
    "fpn_top_down_levels": Items(Whole(0, 3), 0, 4),
    "num_feature_levels": Choice(3),
    "hidden_act": ACTIVATION,
    "layer_norm_eps": _EPSILON,
    "initializer_range": _STD,
    **dict.fromkeys(("backbone_feature_sizes", "image_size", "patch_size", "hidden_size"), _IGNORED),
}
_HIERA: dict[str, Field] = {
    **COMMON,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_channels": Choice(3),
    "image_size": _PAIR,
    "patch_kernel_size": _PAIR,
    "patch_stride": _PAIR,
    "patch_padding": Items(Whole(0, 64), 2, 2),
    "query_stride": Choice((2, 2)),
    "window_positional_embedding_background_size": _PAIR,
    "num_query_pool_stages": Choice(3),
    "blocks_per_stage": Items(LAYERS, 4, 4),
    "embed_dim_per_stage": _STAGES,
    "num_attention_heads_per_stage": Items(HEADS, 4, 4),
    "window_size_per_stage": Items(Whole(1, 1024), 4, 4),
    "global_attention_blocks": Items(Whole(0, 255), 0, 256),
    "mlp_ratio": Number(0.1, 64.0),
    "hidden_act": ACTIVATION,
    "layer_norm_eps": _EPSILON,
    "initializer_range": _STD,
}
_MASK2FORMER: dict[str, Field] = {**MASK2FORMER, "use_text_cross_attn": Choice(True)}
_X2SAM: dict[str, Field] = {
    "downsample_ratio": Choice(1.0, 0.5, 0.25, 0.125),
    "logit_clamp": Number(0.1, 1e4),
    "reject_below": Number(0.0, 1.0),
    "instance_threshold": Number(0.0, 1.0),
    "one_mask_per_object": Flag(),
    "sampler": _IGNORED,  # a table of its own
    "calibration": _IGNORED,  # likewise, see `check_calibration`
    # Fixed here, variable in the released code, or of training only.
    "special_tokens": Choice(SPECIAL_TOKENS),
    "cond_type": Choice("phrase"),
    "ptoken_shift": Choice(0),
    "visual_select_layer": Choice(-2),
    "projector_depth": Choice(2),
    "use_dual_encoder": Choice(False),
    "connector_type": Choice(None),
    "bg_embeds": Choice(True),
    **dict.fromkeys(("num_maskmem", "base_vocab_size", "lora"), _IGNORED),
}
_X2SAM_OWN = (
    "downsample_ratio",
    "logit_clamp",
    "reject_below",
    "instance_threshold",
    "one_mask_per_object",
)
_SAMPLER: dict[str, Field] = {**SAMPLER, "input_feat": Choice("extra_pixel_values")}
_PROCESSORS: dict[str, Field] = dict.fromkeys(("image", "video", "sam2"), _IGNORED)
_PIXEL_FIELDS: dict[str, Field] = {
    "patch_size": _IGNORED,
    "temporal_patch_size": Choice(2),
    "merge_size": _IGNORED,
    "image_mean": Choice((0.5, 0.5, 0.5)),
    "image_std": Choice((0.5, 0.5, 0.5)),
    "resample": Choice(3),
    "size": _IGNORED,
    "effective_min_pixels": _PIXELS,
    "effective_max_pixels": _PIXELS,
}
_SAM2_PIXELS: dict[str, Field] = {
    "size": _IGNORED,
    "pad_size": _IGNORED,
    "resample": Choice(2),
    "image_mean": Choice((0.485, 0.456, 0.406)),
    "image_std": Choice((0.229, 0.224, 0.225)),
}


def check_x2sam_config(data: Any) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Check the content of `config.json` against the tables.

    Returns:
        `vlm`, `sam2`, `mask2former`, `memory`, `pixels`, `sampler` and `x2sam` → arguments to build them
        from, and everything that is wrong. Only if nothing is wrong may they be used.
    """
    from xsam.config.x2sam import MEMORY_KEYS

    if not isinstance(data, Mapping):
        return {}, [f"it must be an object with the sections {', '.join(X2SAM_SECTIONS)}, not {shown(data)}"]
    if missing := [name for name in X2SAM_SECTIONS if name not in data]:
        return {}, [f"it lacks the section(s) {', '.join(missing)}"]
    problems = [
        f"the section {str(name)[:60]} is unknown{nearest(name, X2SAM_SECTIONS)}"
        for name in data
        if name not in X2SAM_SECTIONS
    ]

    def part(table: Mapping[str, Field], *path: str) -> dict[str, Any]:
        section: Any = data
        for key in path:
            section = section.get(key, {}) if isinstance(section, Mapping) else {}
        return check_section(".".join(path), section, table, problems)

    vlm = part(_VLM, "vlm")
    text = part(_VLM_TEXT, "vlm", "text_config")
    rope = part({**ROPE, "mrope_section": _IGNORED, "mrope_interleaved": _IGNORED}, *_rope_path(data))
    theta = {k: v for k, v in {"rope_theta": text.pop("rope_theta", None), **rope}.items() if v is not None}
    text["rope_parameters"] = {**theta, "rope_type": "default"}
    vlm["text_config"] = _without(text)
    vlm["vision_config"] = part(_VLM_VISION, "vlm", "vision_config")
    sam2 = part(_SAM2_VISION, "sam2", "vision_config")
    sam2["backbone_config"] = {
        **part(_HIERA, "sam2", "vision_config", "backbone_config"),
        "model_type": "sam2_hiera_det_model",
    }
    memory = part(_SAM2, "sam2")
    memory = {field: memory[key] for key, field in MEMORY_KEYS.items() if key in memory}
    if "mask_stride" in memory:
        memory["mask_stride"] = memory["mask_stride"][0]
    own = part(_X2SAM, "x2sam")
    sampler = part(_SAMPLER, "x2sam", "sampler")
    sampler.pop("input_feat", None)
    sections = {
        "vlm": _lists(vlm),
        "sam2": _lists(sam2),
        "memory": memory,
        "mask2former": _without(part(_MASK2FORMER, "mask2former")),
        "x2sam": {key: own[key] for key in _X2SAM_OWN if key in own},
        "sampler": sampler,
        "pixels": _pixels(data, part, problems),
    }
    return sections, problems


def _lists(section: dict[str, Any]) -> dict[str, Any]:
    """Turn tuples into lists, which the newer classes of `transformers` insist on."""
    return {
        key: _lists(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in section.items()
    }


def _rope_path(data: Mapping[str, Any]) -> tuple[str, ...]:
    text = data["vlm"].get("text_config", {}) if isinstance(data["vlm"], Mapping) else {}
    old = isinstance(text, Mapping) and isinstance(text.get("rope_scaling"), Mapping)
    return "vlm", "text_config", "rope_scaling" if old else "rope_parameters"


def _without(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in NOT_OURS}


def _pixels(data: Mapping[str, Any], part: Any, problems: list[str]) -> dict[str, Any]:
    part(_PROCESSORS, "processors")
    image = part(_PIXEL_FIELDS, "processors", "image")
    part(_PIXEL_FIELDS, "processors", "video")
    video = part({"shortest_edge": _PIXELS, "longest_edge": _PIXELS}, "processors", "video", "size")
    part(_SAM2_PIXELS, "processors", "sam2")
    side = Whole(8, 4096)
    square = part({"height": side, "width": side, "longest_edge": side}, "processors", "sam2", "size")
    pixels: dict[str, Any] = {"squash": "longest_edge" not in square}
    for name, bounds, low, high in (
        ("image_pixels", image, "effective_min_pixels", "effective_max_pixels"),
        ("video_pixels", video, "shortest_edge", "longest_edge"),
    ):
        if low in bounds and high in bounds:
            pixels[name] = (bounds[low], bounds[high])
            if bounds[low] > bounds[high]:
                problems.append(f"processors: {low} must not be larger than {high}")
    return pixels


def x2sam_misfits(config: Any) -> list[str]:
    """Return what does not fit together in a configuration whose single values are all allowed."""
    text, vision = config.vlm.text_config, config.vlm.vision_config
    hiera, masks, memory = config.sam2.backbone_config, config.mask2former, config.memory
    side = hiera.image_size[0]
    groups = text.num_key_value_heads or text.num_attention_heads
    strides = masks.feature_strides[-3:]
    rules = (
        (text.num_attention_heads % groups == 0, "vlm: the heads must be a multiple of the key-value heads"),
        (text.head_dim % 2 == 0, "vlm.text_config.head_dim must be even"),
        (
            all(t is None or t < text.vocab_size for t in (text.bos_token_id, text.eos_token_id)),
            "the token ids of vlm must be below its vocab_size",
        ),
        (
            vision.hidden_size % (vision.num_heads * 4) == 0,
            "vlm.vision_config.hidden_size must be a multiple of four times the heads",
        ),
        (
            vision.out_hidden_size == text.hidden_size,
            "vlm.vision_config.out_hidden_size must be the width of the text model",
        ),
        (
            round(vision.num_position_embeddings**0.5) ** 2 == vision.num_position_embeddings,
            "vlm.vision_config.num_position_embeddings must be a square number",
        ),
        (
            all(index < vision.depth for index in vision.deepstack_visual_indexes),
            "vlm.vision_config.deepstack_visual_indexes names a block that does not exist",
        ),
        (
            len(vision.deepstack_visual_indexes) <= text.num_hidden_layers,
            "vlm has more deepstack features than layers",
        ),
        (hiera.image_size[0] == hiera.image_size[1], "sam2: the image must be square"),
        (
            side % (hiera.patch_stride[0] * 8) == 0,
            "sam2: the image must be a multiple of eight patches",
        ),
        (
            all(
                dim % heads == 0
                for dim, heads in zip(
                    hiera.embed_dim_per_stage, hiera.num_attention_heads_per_stage, strict=True
                )
            ),
            "sam2: each stage's width must be a multiple of its heads",
        ),
        (
            list(config.sam2.backbone_channel_list) == list(hiera.embed_dim_per_stage)[::-1],
            "sam2: backbone_channel_list must be the widths of the stages, last one first",
        ),
        (
            _pools_evenly(hiera),
            "sam2: a block that pools must be windowed, with an even window",
        ),
        (
            config.sam2.fpn_hidden_size == memory.channels == masks.feature_size == masks.hidden_dim,
            "sam2.fpn_hidden_size, memory_encoder_hidden_size and mask2former's feature_size and hidden_dim "
            "must be equal",
        ),
        (
            memory.channels % (4 * memory.attention_heads) == 0,
            "the memory's channels must be a multiple of four times its heads",
        ),
        (memory.feature_strides[0] == 1, "sam2: the first feature stride must be 1"),
        (
            memory.mask_stride == memory.feature_strides[-1],
            "sam2: the mask stride must be the last feature stride",
        ),
        (masks.feature_size % 32 == 0, "mask2former.feature_size must be a multiple of 32"),
        (
            masks.feature_size % masks.num_attention_heads == 0,
            "mask2former.feature_size must be a multiple of the heads",
        ),
        (
            min(strides) == 2 * masks.common_stride,
            "mask2former.feature_strides must begin with twice the common_stride",
        ),
    )
    return [problem for fits, problem in rules if not fits]


def _pools_evenly(hiera: Any) -> bool:
    """Tell whether each block that pools has windows that it can halve."""
    first, grid = 0, hiera.image_size[0] // hiera.patch_stride[0]
    for stage, blocks in enumerate(hiera.blocks_per_stage):
        window = hiera.window_size_per_stage[stage - 1]
        if stage:
            if first in hiera.global_attention_blocks or (window % 2 and window < grid):
                return False
            grid //= 2
        first += blocks
    return True
