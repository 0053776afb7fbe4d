"""Configuration of X2SAM: Qwen3-VL, a SAM 2 encoder with memory, and Mask2Former's decoder.

`config.json` of a checkpoint folder has the keys `vlm`, `sam2`, `mask2former`, `x2sam` and `processors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from xsam.config.calibration import Calibration, check_calibration
from xsam.config.json_files import JsonConfig
from xsam.config.schema import build_config
from xsam.config.sections import SPECIAL_TOKENS
from xsam.config.settings import RegionSamplerConfig
from xsam.config.square import Square
from xsam.config.x2sam_schema import check_x2sam_config, x2sam_misfits

if TYPE_CHECKING:  # imported by the functions that need it: it loads PyTorch
    from transformers import Mask2FormerConfig, Qwen3VLConfig, Sam2VisionConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """Settings of the video memory."""

    capacity: int = 5  # frames in the bank
    channels: int = 256
    attention_layers: int = 4
    attention_heads: int = 1
    feed_forward_size: int = 2048
    mask_stride: int = 4  # from mask logits to the memory's maps
    mask_scale: float = 20.0
    mask_bias: float = -10.0
    feature_strides: tuple[int, ...] = (1, 2, 4)  # from each scale to the memory's maps, coarse to fine
    fuser_layers: int = 2
    fuser_size: int = 1024
    fuser_kernel_size: int = 7


# Key of the section `sam2` → field of `MemoryConfig`.
MEMORY_KEYS = {
    "num_maskmem": "capacity",
    "memory_encoder_hidden_size": "channels",
    "memory_attention_num_layers": "attention_layers",
    "memory_attention_num_attention_heads": "attention_heads",
    "memory_attention_feed_forward_hidden_size": "feed_forward_size",
    "mask_downsampler_scale_strides": "mask_stride",
    "sigmoid_scale_for_mem_enc": "mask_scale",
    "sigmoid_bias_for_mem_enc": "mask_bias",
    "feature_downsampler_scale_strides": "feature_strides",
    "memory_fuser_num_layers": "fuser_layers",
    "memory_fuser_intermediate_dim": "fuser_size",
    "memory_fuser_kernel_size": "fuser_kernel_size",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelConfig:
    """Settings of the preprocessing that change results."""

    image_pixels: tuple[int, int] = (3_136, 1_003_520)  # bounds of an image's area for Qwen3-VL
    video_pixels: tuple[int, int] = (4_096, 25_165_824)  # bounds of a clip's volume
    squash: bool = True  # resize to the square of SAM 2; False = keep the aspect ratio and pad


@dataclass(frozen=True, slots=True, kw_only=True)
class X2SamConfig(JsonConfig):
    """All settings that determine the model's tensors and arithmetic, and its default thresholds."""

    vlm: Qwen3VLConfig
    sam2: Sam2VisionConfig
    mask2former: Mask2FormerConfig
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    pixels: PixelConfig = field(default_factory=PixelConfig)
    sampler: RegionSamplerConfig = field(default_factory=RegionSamplerConfig)
    downsample_ratio: float = 0.5
    logit_clamp: float = 50.0
    reject_below: float = 0.0  # default threshold of single-phrase tasks; 0 = never "not found"
    instance_threshold: float = 0.5  # default threshold of category and visual-grounded queries
    one_mask_per_object: bool = False
    calibration: Calibration | None = None  # None = scores are taken as they are

    @property
    def square(self) -> Square:
        """Input of SAM 2's encoder."""
        return Square(side=int(self.sam2.backbone_config.image_size[0]), keep_ratio=not self.pixels.squash)

    def to_dict(self) -> dict[str, Any]:
        """Convert to the content of `config.json`."""
        own = {
            name: getattr(self, name)
            for name in (f.name for f in fields(self))
            if name not in ("vlm", "sam2", "mask2former", "memory", "pixels", "sampler", "calibration")
        }
        if self.calibration is not None:
            own["calibration"] = self.calibration.to_dict()
        memory = asdict(self.memory)
        memory["mask_stride"] = [memory["mask_stride"]]
        side = self.square.side
        return {
            "vlm": self.vlm.to_diff_dict(),
            "sam2": {
                "vision_config": self.sam2.to_diff_dict(),
                **{key: memory[name] for key, name in MEMORY_KEYS.items()},
            },
            "mask2former": self.mask2former.to_diff_dict(),
            "x2sam": {**own, "special_tokens": list(SPECIAL_TOKENS), "sampler": asdict(self.sampler)},
            "processors": {
                "image": dict(
                    zip(
                        ("effective_min_pixels", "effective_max_pixels"),
                        self.pixels.image_pixels,
                        strict=True,
                    )
                ),
                "video": {
                    "size": dict(
                        zip(("shortest_edge", "longest_edge"), self.pixels.video_pixels, strict=True)
                    )
                },
                "sam2": {
                    "size": {"height": side, "width": side} if self.pixels.squash else {"longest_edge": side}
                },
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> X2SamConfig:
        """Build from the content of `config.json`.

        Raises:
            CheckpointError: a section is missing, or settings are unknown, out of range, or do not fit
                together; see `xsam.config.x2sam_schema`.
        """
        sections, problems = check_x2sam_config(data)
        calibration = check_calibration(data.get("x2sam"), problems, owner="x2sam") if sections else None
        config: X2SamConfig = build_config(
            lambda: cls._from_sections(sections, calibration), problems, x2sam_misfits
        )
        return config

    @classmethod
    def _from_sections(cls, sections: Mapping[str, Any], calibration: Calibration | None) -> X2SamConfig:
        from transformers import Mask2FormerConfig, Qwen3VLConfig, Sam2VisionConfig

        return cls(
            vlm=Qwen3VLConfig(**sections["vlm"]),
            sam2=Sam2VisionConfig(**sections["sam2"]),
            mask2former=Mask2FormerConfig(**sections["mask2former"]),
            memory=MemoryConfig(**sections["memory"]),
            pixels=PixelConfig(**sections["pixels"]),
            sampler=RegionSamplerConfig(**sections["sampler"]),
            calibration=calibration,
            **sections["x2sam"],
        )
