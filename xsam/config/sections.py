"""Tables of the settings of `config.json`, section by section: names, types and ranges.

The sections for `transformers` list the arguments of its configuration classes that are accepted. What older
releases of `transformers` wrote beside them has no effect here and is dropped.
"""

from __future__ import annotations

from xsam.config.fields import Choice, Field, Flag, Ignored, Items, Number, Whole

SPECIAL_TOKENS = ("<SEG>", "<p>", "</p>")
SECTIONS = ("llm", "vision_encoder", "sam", "mask2former", "xsam")

_IGNORED = Ignored()
WIDTH = Whole(1, 65_536)
LAYERS = Whole(1, 256)
HEADS = Whole(1, 256)
_EPSILON = Number(1e-12, 0.1)
_DROPOUT = Number(0.0, 0.99)
_STD = Number(0.0, 10.0)
_WEIGHT = Number(0.0, 1e6)
_TOKEN_ID = Whole(0, 10_000_000, optional=True)
ACTIVATION = Choice(
    "silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu"
)
MAX_IMAGE_SIDE = 4096
_IMAGE_SIDE = Whole(8, MAX_IMAGE_SIDE)
_PATCH_SIDE = Whole(4, 64)

# Arguments of every configuration class, most of them from releases before 5.0, which wrote all of them.
COMMON: dict[str, Field] = dict.fromkeys(
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

LANGUAGE: dict[str, Field] = {
    **COMMON,
    "vocab_size": Whole(8, 1_000_000),
    "hidden_size": WIDTH,
    "intermediate_size": Whole(1, 262_144),
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": Whole(1, 256, optional=True),
    "attention_dropout": _DROPOUT,
    "hidden_act": ACTIVATION,
    "max_position_embeddings": Whole(16, 1_048_576),
    "initializer_range": _STD,
    "rms_norm_eps": _EPSILON,
    "use_cache": _IGNORED,
    "bos_token_id": _TOKEN_ID,
    "eos_token_id": _TOKEN_ID,
    "pad_token_id": _TOKEN_ID,
    "rope_theta": Number(1.0, 1e9),
    "rope_scaling": Choice(None),
    "rope_parameters": _IGNORED,  # a table of its own, see `check_config`
    "attention_bias": Choice(False),
}
_PHI3: dict[str, Field] = {
    **LANGUAGE,
    "resid_pdrop": _DROPOUT,
    "embd_pdrop": _DROPOUT,
    "original_max_position_embeddings": Whole(16, 1_048_576),
    "tie_word_embeddings": Choice(False),
    "sliding_window": Whole(1, 1_048_576, optional=True),
    "partial_rotary_factor": Number(0.01, 1.0),
    "auto_map": _IGNORED,  # of the published configuration
}
QWEN3: dict[str, Field] = {
    **LANGUAGE,
    "head_dim": Whole(2, 4096),
    "tie_word_embeddings": Flag(),
    # The published models have a window that is switched off.
    "use_sliding_window": Choice(False),
    "sliding_window": _IGNORED,
    "max_window_layers": _IGNORED,
    "layer_types": Items(Choice("full_attention"), 1, 256),
}
LANGUAGE_MODELS = {"phi3": _PHI3, "qwen3": QWEN3}
ROPE: dict[str, Field] = {
    "rope_type": Choice("default"),
    "rope_theta": Number(1.0, 1e9),
    "partial_rotary_factor": Number(0.01, 1.0),
}
VISION: dict[str, Field] = {
    **COMMON,
    "hidden_size": WIDTH,
    "intermediate_size": Whole(1, 262_144),
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_channels": Choice(3),
    "image_size": _IMAGE_SIDE,
    "patch_size": _PATCH_SIDE,
    "hidden_act": ACTIVATION,
    "layer_norm_eps": _EPSILON,
    "attention_dropout": _DROPOUT,
    "vision_use_head": Flag(),
}
SAM: dict[str, Field] = {
    **COMMON,
    "hidden_size": WIDTH,
    "output_channels": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_channels": Choice(3),
    "image_size": _IMAGE_SIDE,
    "patch_size": _PATCH_SIDE,
    "hidden_act": ACTIVATION,
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
SAM_WITH_PARTS: dict[str, Field] = {
    **COMMON,
    **dict.fromkeys(("vision_config", "prompt_encoder_config", "mask_decoder_config"), _IGNORED),
    "initializer_range": _STD,
}
MASK2FORMER: dict[str, Field] = {
    **COMMON,
    "feature_size": WIDTH,
    "mask_feature_size": WIDTH,
    "hidden_dim": WIDTH,
    "encoder_feedforward_dim": Whole(1, 262_144),
    "activation_function": ACTIVATION,
    "encoder_layers": LAYERS,
    "decoder_layers": Whole(2, 256),
    "num_attention_heads": HEADS,
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
XSAM: dict[str, Field] = {
    "visual_select_layer": Whole(-256, -1),
    "extra_select_layers": Items(Whole(0, 256), 1, 16),
    "connector_hidden_dim": WIDTH,
    "connector_scale_factor": Items(Choice(4, 2, 1, 0.5, 0.25, 0.125), 3, 8),
    "downsample_ratio": Choice(1.0, 0.5, 0.25, 0.125),
    "logit_clamp": Number(0.1, 1e4),
    "vision_resample": Choice("bilinear", "bicubic"),
    "bos_before_user": Flag(),
    "empty_thinking": Flag(),
    "reject_below": Number(0.0, 1.0),
    "instance_threshold": Number(0.0, 1.0),
    "mask_places": Flag(),
    "one_mask_per_object": Flag(),
    "sampler": _IGNORED,  # a table of its own, see `check_config`
    "calibration": _IGNORED,  # likewise, see `check_calibration`
    # Fixed here, variable in the released code.
    "special_tokens": Choice(SPECIAL_TOKENS),
    "connector_type": Choice("conv"),
    "projector_depth": Choice(2),
    "cond_type": Choice("phrase"),
    "bg_embeds": Choice(True),
    "visual_select_indx": Choice(0),
    "ptoken_shift": Choice(0),
}
FIXED = (
    *("special_tokens", "connector_type", "projector_depth", "cond_type", "bg_embeds"),
    *("visual_select_indx", "ptoken_shift"),
)
SAMPLER: dict[str, Field] = {
    "type": _IGNORED,
    "num_sample_point": Whole(1, 65_536),
    "pooling_mode": Choice("mean", "max"),
    "pooling_kernel_size": Whole(1, 65_536, optional=True),
    "pooling_output_size": Whole(1, 65_536, optional=True),
}
NOT_OURS = (
    *("backbone", "backbone_config", "backbone_kwargs", "use_backbone", "use_pretrained_backbone"),
    *("use_timm_backbone", "num_feature_levels", "use_repeat_cond", "use_text_cross_attn", "attn_method"),
    *("rope_scaling", "attention_bias", "use_sliding_window", "layer_types"),
)
