"""Writing of image files. Functions import OpenCV, so that `xsam --help` does not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xsam.errors import InvalidQueryError
from xsam.weights.files import replace_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_output(path: Path, source: Path) -> None:
    """Check where an image will be written, before the work is done.

    Raises:
        InvalidQueryError: the file name has no suffix of an image format, or it is the input.
        OSError: there is a folder of this name, or the file cannot be written.
    """
    import numpy as np

    if _encode(path, np.zeros((4, 4, 3), np.uint8)) is None:
        raise InvalidQueryError(f"cannot write an image as {path.name!r}", hint="use .png or .jpg")
    if path.exists() and source.exists() and path.samefile(source):
        raise InvalidQueryError(f"{path} is the input image", hint="write the result to another file")
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))


def write_image(path: Path, image: NDArray[Any]) -> None:
    """Write uint8 RGB (H, W, 3) or uint16 (H, W); on an error, what was under this name before stays.

    Raises:
        OSError: the file cannot be written.
    """
    content = _encode(path, image)
    if content is None:
        raise OSError(errno.EINVAL, "cannot write an image of this format", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)


def _encode(path: Path, image: NDArray[Any]) -> bytes | None:
    """Return the content of an image file; None if OpenCV does not write color images with this suffix."""
    import cv2
    import numpy as np

    pixels = np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image
    try:
        done, content = cv2.imencode(path.suffix, pixels)
    except cv2.error:
        return None
    return bytes(content) if done else None
