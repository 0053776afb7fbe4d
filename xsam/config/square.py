"""The square that a segmentation encoder reads, and where an image lies in it."""

from __future__ import annotations

from dataclasses import dataclass


def scaled_hw(image_hw: tuple[int, int], longest_px: int) -> tuple[int, int]:
    """Return the size (H, W) after the longest edge is resized to `longest_px`; at least one pixel each."""
    scale = longest_px / max(image_hw)
    height, width = (max(1, int(side * scale + 0.5)) for side in image_hw)
    return (height, width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """Input of an encoder: the image is resized into its upper left corner, the rest is zero."""

    side: int  # pixels
    keep_ratio: bool = True  # False = the image is squashed to fill the square

    def scaled_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size (H, W) of an image inside the square."""
        return scaled_hw(image_hw, self.side) if self.keep_ratio else (self.side, self.side)
