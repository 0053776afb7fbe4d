"""Model configuration: settings, their schema, and the sizes of the project."""

from typing import TypeAlias

from xsam.config.presets import full_config, tiny_config
from xsam.config.schema import SPECIAL_TOKENS
from xsam.config.settings import RegionSamplerConfig, XSamConfig
from xsam.config.x2sam import X2SamConfig

ModelConfig: TypeAlias = XSamConfig | X2SamConfig

__all__ = [
    "IMAGE_ID",
    "REGION_ID",
    "SPECIAL_TOKENS",
    "ModelConfig",
    "RegionSamplerConfig",
    "X2SamConfig",
    "XSamConfig",
    "full_config",
    "tiny_config",
]

IMAGE_ID = -200  # placeholders among token ids, replaced by the features of an image or a region
REGION_ID = -300
