"""The sizes of the project: the published ones, and one that trains and runs on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsam.config.settings import RegionSamplerConfig, XSamConfig
from xsam.config.x2sam import X2SamConfig

if TYPE_CHECKING:  # imported by the functions that need it: it loads PyTorch
    from transformers import Mask2FormerConfig


def full_config(*, released: bool = True) -> XSamConfig:
    """Return the published size: Phi-3-mini, SigLIP2-so400m/14-384, SAM ViT-L, Mask2Former with 200 queries.

    Args:
        released: the layout of the published checkpoint (one token a region, clamp ±500) instead of the
            current one (64 tokens a region, clamp ±50).
    """
    from transformers import Phi3Config, SamVisionConfig, SiglipVisionConfig

    sampler = (
        RegionSamplerConfig(pooling_mode="max", pooling_kernel_size=None, pooling_output_size=1)
        if released
        else RegionSamplerConfig()
    )
    return XSamConfig(
        llm=Phi3Config(
            vocab_size=32014,
            hidden_size=3072,
            intermediate_size=8192,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            original_max_position_embeddings=4096,
            sliding_window=2047,
            rope_theta=10000.0,
            bos_token_id=1,
            eos_token_id=32000,
            pad_token_id=32000,
        ),
        vision_encoder=SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
        ),
        sam=SamVisionConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            global_attn_indexes=[5, 11, 17, 23],
            num_pos_feats=128,
            image_size=1024,
            patch_size=16,
            window_size=14,
            output_channels=256,
        ),
        mask2former=_full_mask2former(),
        logit_clamp=500.0 if released else 50.0,
        sampler=sampler,
    )


def _full_mask2former() -> Mask2FormerConfig:
    from transformers import Mask2FormerConfig

    return Mask2FormerConfig(
        feature_size=256,
        mask_feature_size=256,
        hidden_dim=256,
        encoder_feedforward_dim=1024,
        dim_feedforward=2048,
        encoder_layers=6,
        decoder_layers=10,
        num_attention_heads=8,
        num_queries=200,
        feature_strides=[4, 8, 16, 32],
        common_stride=4,
        dropout=0.0,
    )


def full_x2sam_config() -> X2SamConfig:
    """Return the published size of X2SAM: Qwen3-VL-4B, SAM 2.1 Hiera-L, Mask2Former with 200 queries."""
    from transformers import Qwen3VLConfig, Sam2VisionConfig

    return X2SamConfig(
        vlm=Qwen3VLConfig(
            vision_config={
                "depth": 24,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_heads": 16,
                "patch_size": 16,
                "out_hidden_size": 2560,
                "num_position_embeddings": 2304,
                "deepstack_visual_indexes": [5, 11, 17],
            },
            text_config={
                "vocab_size": 151_672,
                "hidden_size": 2560,
                "intermediate_size": 9728,
                "num_hidden_layers": 36,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "max_position_embeddings": 262_144,
                "rope_parameters": {"rope_type": "default", "rope_theta": 5_000_000.0},
                "tie_word_embeddings": True,
                "bos_token_id": 151_643,
                "eos_token_id": 151_645,
            },
            tie_word_embeddings=True,
        ),
        sam2=Sam2VisionConfig(
            backbone_config={
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 144,
                "num_attention_heads": 2,
                "image_size": [1024, 1024],
                "window_positional_embedding_background_size": [7, 7],
                "blocks_per_stage": [2, 6, 36, 4],
                "embed_dim_per_stage": [144, 288, 576, 1152],
                "num_attention_heads_per_stage": [2, 4, 8, 16],
                "window_size_per_stage": [8, 4, 16, 8],
                "global_attention_blocks": [23, 33, 43],
            },
            backbone_channel_list=[1152, 576, 288, 144],
            fpn_hidden_size=256,
        ),
        mask2former=_full_mask2former(),
    )


def tiny_config(*, vocab_size: int) -> XSamConfig:
    """Return the same architecture at a size that trains and runs on a CPU (about 4 M parameters).

    256×256 SAM branch with 8-pixel patches (32² tokens, masks at 64²), 96×96 SigLIP branch (64 tokens), a
    three-layer Phi-3 and four tokens a region. The connector has one more level than at full size: the finest
    one only feeds the mask features, which saves the deformable attention and the decoder three quarters of
    their tokens.
    """
    from transformers import Mask2FormerConfig, Phi3Config, SamVisionConfig, SiglipVisionConfig

    return XSamConfig(
        llm=Phi3Config(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            original_max_position_embeddings=1024,
            sliding_window=None,
            rope_theta=10000.0,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
        ),
        vision_encoder=SiglipVisionConfig(
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=96,
            patch_size=12,
        ),
        sam=SamVisionConfig(
            hidden_size=128,
            num_hidden_layers=5,
            num_attention_heads=4,
            global_attn_indexes=[2, 4],
            use_rel_pos=False,  # a third of the encoder's time at this size
            num_pos_feats=8,
            image_size=256,
            patch_size=8,
            window_size=8,
            output_channels=16,
            mlp_dim=384,
        ),
        mask2former=Mask2FormerConfig(
            feature_size=64,
            mask_feature_size=64,
            hidden_dim=128,
            encoder_feedforward_dim=192,
            dim_feedforward=384,
            encoder_layers=1,
            decoder_layers=4,
            num_attention_heads=4,
            num_queries=24,
            feature_strides=[4, 8, 16, 32],
            common_stride=4,
            dropout=0.0,
        ),
        extra_select_layers=(2, 3, 4, 5),
        connector_scale_factor=(2, 1, 0.5, 0.25),
        connector_hidden_dim=48,
        mask_places=True,
        one_mask_per_object=True,
        reject_below=0.15,
        instance_threshold=0.3,
        sampler=RegionSamplerConfig(pooling_mode="mean", pooling_kernel_size=64),
    )
