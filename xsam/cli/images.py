"""Reading and writing of image files. Functions import OpenCV, so that `xsam --help` does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xsam.errors import InvalidImageError, InvalidQueryError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an RGB image (H, W, 3), rotated by its EXIF orientation.

    Raises:
        InvalidImageError: the file cannot be read or is not an image.
    """
    import cv2
    import numpy as np

    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InvalidImageError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        bgr = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except cv2.error:
        bgr = None
    if bgr is None:
        raise InvalidImageError(f"{path} is not an image that OpenCV can read")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def check_suffix(path: Path) -> None:
    """Raise `InvalidQueryError` unless the file name has the suffix of an image format."""
    import cv2

    if not cv2.haveImageWriter(path.name):
        raise InvalidQueryError(f"cannot tell the image format of {path.name!r}", hint="use .png or .jpg")


def write_image(path: Path, image: NDArray[Any]) -> None:
    """Write uint8 RGB (H, W, 3) or uint16 (H, W)."""
    import cv2
    import numpy as np

    pixels = np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
