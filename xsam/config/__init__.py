"""Model configuration: settings, their schema, and the two sizes of the project."""

from xsam.config.presets import full_config, tiny_config
from xsam.config.schema import SPECIAL_TOKENS
from xsam.config.settings import RegionSamplerConfig, XSamConfig

__all__ = [
    "IMAGE_ID",
    "REGION_ID",
    "SPECIAL_TOKENS",
    "RegionSamplerConfig",
    "XSamConfig",
    "full_config",
    "tiny_config",
]

IMAGE_ID = -200  # placeholders among token ids, replaced by the features of an image or a region
REGION_ID = -300
