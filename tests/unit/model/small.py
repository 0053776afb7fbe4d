"""Helpers shared by the network tests, besides the fixtures."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from xsam.model.xsam import ImageFeatures, XSamModel

WINDOW = 60  # sliding window of golden model c in positions; a has none


def noise_features(model: XSamModel, noise: Callable[..., Tensor], batch: int) -> ImageFeatures:
    """Return image features of noise."""
    side, seg_side = model.config.vision_encoder.image_size, model.config.sam.image_size
    return model.encode_image(noise(batch, 3, side, side), noise(batch, 3, seg_side, seg_side))
