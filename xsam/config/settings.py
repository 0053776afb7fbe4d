"""Model configuration: four stock sub-configurations and X-SAM's own settings.

`config.json` of a checkpoint folder has the keys `llm`, `vision_encoder`, `sam`, `mask2former` and `xsam`.
The first four contain the arguments of `transformers`' configuration classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from xsam.config.calibration import Calibration, check_calibration
from xsam.config.json_files import JsonConfig
from xsam.config.schema import SPECIAL_TOKENS, build_config, check_config, misfits
from xsam.config.square import Square

if TYPE_CHECKING:  # imported by the functions that need it: it loads PyTorch
    from transformers import Mask2FormerConfig, Phi3Config, Qwen3Config, SamVisionConfig, SiglipVisionConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSamplerConfig:
    """Settings of the region sampler, which turns a region into tokens.

    `mean` averages groups of `pooling_kernel_size` points (64 tokens a region, current layout); `max` pools
    all points to one token (released checkpoint).
    """

    num_sample_point: int = 256
    pooling_mode: Literal["mean", "max"] = "mean"
    pooling_kernel_size: int | None = 4
    pooling_output_size: int | None = None

    @property
    def tokens_per_region(self) -> int:
        if self.pooling_output_size is not None:
            return self.pooling_output_size
        return self.num_sample_point // (self.pooling_kernel_size or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class XSamConfig(JsonConfig):
    """All settings that determine the model's tensors and arithmetic, and its default thresholds."""

    llm: Phi3Config | Qwen3Config
    vision_encoder: SiglipVisionConfig
    sam: SamVisionConfig
    mask2former: Mask2FormerConfig
    visual_select_layer: int = -2
    extra_select_layers: tuple[int, ...] = (6, 12, 18, 24)
    connector_hidden_dim: int = 512
    connector_scale_factor: tuple[float, ...] = (2, 1, 0.5)
    downsample_ratio: float = 0.5
    logit_clamp: float = 50.0
    vision_resample: Literal["bilinear", "bicubic"] = "bilinear"
    bos_before_user: bool = True
    empty_thinking: bool = False  # Qwen3 trained with an empty block of thoughts before each answer
    reject_below: float = 0.0  # default threshold of single-phrase tasks; 0 = never "not found"
    instance_threshold: float = 0.5  # default threshold of category and visual-grounded queries
    mask_places: bool = False  # the decoder's queries are told where their masks are (see ADR 18)
    one_mask_per_object: bool = False  # trained with one mask for each object that a phrase refers to
    sampler: RegionSamplerConfig = field(default_factory=RegionSamplerConfig)
    calibration: Calibration | None = None  # None = scores are taken as they are

    @property
    def connector_layers(self) -> tuple[int, ...]:
        """SAM hidden states that feed the connector: the last ones, one for each scale."""
        return self.extra_select_layers[-len(self.connector_scale_factor) :]

    @property
    def square(self) -> Square:
        """Input of the SAM branch."""
        return Square(side=self.sam.image_size)

    @property
    def num_image_tokens(self) -> int:
        """Number of tokens of an image: SigLIP tokens followed by pixel-shuffled SAM tokens."""
        siglip = (self.vision_encoder.image_size // self.vision_encoder.patch_size) ** 2
        sam = int(self.sam.image_size // self.sam.patch_size * self.downsample_ratio) ** 2
        return int(siglip + sam)

    def to_dict(self) -> dict[str, Any]:
        """Convert to the content of `config.json`."""
        own = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("llm", "vision_encoder", "sam", "mask2former", "sampler", "calibration")
        }
        if self.calibration is not None:
            own["calibration"] = self.calibration.to_dict()
        return {
            "llm": self.llm.to_diff_dict(),
            "vision_encoder": self.vision_encoder.to_diff_dict(),
            "sam": self.sam.to_diff_dict(),
            "mask2former": self.mask2former.to_diff_dict(),
            "xsam": {**own, "special_tokens": list(SPECIAL_TOKENS), "sampler": asdict(self.sampler)},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> XSamConfig:
        """Build from the content of `config.json`.

        Raises:
            CheckpointError: a section is missing, or settings are unknown, out of range, or do not fit
                together; see `xsam.config.schema`.
        """
        sections, problems = check_config(data)
        calibration = check_calibration(data.get("xsam"), problems) if sections else None
        config: XSamConfig = build_config(
            lambda: cls._from_sections(sections, calibration), problems, misfits
        )
        return config

    @classmethod
    def _from_sections(
        cls, sections: Mapping[str, Mapping[str, Any]], calibration: Calibration | None
    ) -> XSamConfig:
        from transformers import AutoConfig, Mask2FormerConfig, SamVisionConfig, SiglipVisionConfig

        language = dict(sections["llm"])
        kind = language.pop("model_type")
        sampler = RegionSamplerConfig(**sections["sampler"])
        # The released layout (one token a region) was trained with the wider clamp.
        defaults = {
            "logit_clamp": 500.0 if sampler.pooling_mode == "max" else 50.0,
            "bos_before_user": kind == "phi3",
        }
        return cls(
            llm=AutoConfig.for_model(kind, **language),
            vision_encoder=SiglipVisionConfig(**sections["vision_encoder"]),
            sam=SamVisionConfig(**sections["sam"]),
            mask2former=Mask2FormerConfig(**sections["mask2former"]),
            sampler=sampler,
            calibration=calibration,
            **{**defaults, **sections["xsam"]},
        )
