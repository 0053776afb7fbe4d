"""The distortion of a lens: what a pinhole camera's matrix does not describe."""

from __future__ import annotations

import math
from dataclasses import dataclass

_COEFFICIENTS = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (5, 8, 12, 14),
    "equidistant": (4,),
}
"""Number of coefficients by model, in the order of OpenCV."""

LENS_MODELS = tuple(_COEFFICIENTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LensDistortion:
    """Model and coefficients, with the names of `sensor_msgs/CameraInfo` and the order of OpenCV.

    Attributes:
        model: "plumb_bob" (k1, k2, p1, p2, k3), "rational_polynomial" (… k4, k5, k6, and thin prism
            coefficients) or "equidistant" (k1, k2, k3, k4 of a fisheye lens).
        coefficients: finite numbers.
    """

    model: str
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = _COEFFICIENTS.get(self.model)
        if counts is None:
            raise ValueError(f"unknown lens model {self.model[:40]!r}; known: {', '.join(LENS_MODELS)}")
        if len(self.coefficients) not in counts:
            allowed = " or ".join(map(str, counts))
            raise ValueError(
                f"lens model {self.model} has {allowed} coefficients, got {len(self.coefficients)}"
            )
        if not all(map(math.isfinite, self.coefficients)):
            raise ValueError(f"lens coefficients must be finite, got {self.coefficients}")
