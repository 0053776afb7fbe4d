"""Image files as people have them: deep, huge, of other formats, and things that are no image files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xsam import InvalidImageError
from xsam.inference.images import as_rgb, decode_image, read_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(("bits", "noted"), [(10, True), (12, True), (14, True), (16, False)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_deep_pixels_are_scaled_by_the_bits_in_use(
    tmp_path: Path, bits: int, noted: bool, channels: int, suffix: str
) -> None:
    deep = np.round(RAMP.astype(np.float64) / 255 * (2**bits - 1)).astype(np.uint16)
    stored = deep if channels == 1 else np.dstack([deep] * channels)
    path = tmp_path / f"deep{suffix}"
    assert cv2.imwrite(str(path), stored)
    notes: list[str] = []
    assert np.array_equal(read_image(path, notes), np.dstack([RAMP] * 3))
    assert [f"only {bits} of its 16 bits" in note for note in notes] == [True] * noted


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    with pytest.raises(InvalidImageError, match="not a regular file"):
        read_image(path)


def test_a_device_is_not_read_into_memory() -> None:
    with pytest.raises(InvalidImageError, match="not a regular file"):
        read_image(Path("/dev/zero"))


def test_a_file_of_many_gigabytes_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as stream:
        stream.truncate(10**11)
    with pytest.raises(InvalidImageError, match=r"has 100\.0 GB, at most 1\.1 GB"):
        read_image(path)


@pytest.mark.parametrize("kind", ["TGA", "ICO", "PCX"])
def test_formats_that_only_pillow_reads(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    Image.fromarray(np.dstack([RAMP] * 3)).save(path, kind)
    assert np.array_equal(as_rgb(path), np.dstack([RAMP] * 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>log in</html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"%PDF-1.7", "PDF"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (bytes(2000), "not an image"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(InvalidImageError, match=message):
        read_image(path)


@pytest.mark.parametrize(
    "pixels", [np.full((8, 8, 3), 0.5, np.float32), np.full((8, 8), 0.5, np.float32)], ids=["color", "gray"]
)
def test_floating_point_pixels_have_no_known_range(tmp_path: Path, pixels: NDArray[np.float32]) -> None:
    path = tmp_path / "image.tiff"
    assert cv2.imwrite(str(path), pixels)
    with pytest.raises(InvalidImageError, match=r"range is not known|not 8-bit"):
        read_image(path)


@pytest.mark.slow
def test_a_large_image_is_refused_in_the_words_of_this_project(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (16_000, 16_000)).save(path)
    with pytest.raises(InvalidImageError, match="at most 178 megapixels are allowed"):
        read_image(path)


def test_a_side_of_a_pillow_image_is_checked_before_it_is_converted() -> None:
    with pytest.raises(InvalidImageError, match=r"20000×2, sides up to 16384"):
        as_rgb(Image.new("1", (20_000, 2)))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_file_that_is_cut_off_is_refused(suffix: str, share: float) -> None:
    """The part that arrived was segmented as if it were the whole picture."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    content = bytes(cv2.imencode(suffix, pixels)[1])
    with pytest.raises(InvalidImageError, match="the image"):
        decode_image(content[: int(len(content) * share)], whole=True)
    np.testing.assert_array_equal(decode_image(content, whole=True), decode_image(content))


@pytest.mark.parametrize("whole", [False, True])
def test_a_jpeg_file_of_many_scans_is_refused(whole: bool) -> None:
    """Only the server counted them; each one goes over the whole image again."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    file = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert decode_image(file, whole=whole).shape == (64, 96, 3)
    start = file.index(b"\xff\xda")
    bomb = file[:start] + file[start:-2] * 100 + file[-2:]
    with pytest.raises(InvalidImageError, match="more than 64 scans"):
        decode_image(bomb, whole=whole)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 20}])
def test_a_server_sees_a_jpeg_as_a_local_model_does(mode: str, options: dict[str, Any]) -> None:
    """Two decoders rounded some colors differently."""
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(content, "JPEG", **options)
    file = content.getvalue()
    np.testing.assert_array_equal(decode_image(file, whole=True), decode_image(file))


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_16_bits_are_brightened_in_whole_files_too(shape: tuple[int, ...]) -> None:
    notes: list[str] = []
    content = bytes(cv2.imencode(".png", np.full(shape, 3000, np.uint16))[1])
    assert decode_image(content, notes, whole=True).max() == 187
    assert notes == ["the image uses only 12 of its 16 bits and was brightened to match"]
    with pytest.raises(InvalidImageError):
        decode_image(content[: len(content) * 6 // 10], whole=True)


COLORS = np.zeros((20, 30, 3), np.uint8)
COLORS[:10], COLORS[10:], COLORS[:, :9, 1] = (200, 30, 30), (20, 120, 220), 250


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_pictures_are_turned_as_they_are_shown(
    tmp_path: Path, suffix: str, orientation: int, turns: int
) -> None:
    path = tmp_path / f"photo.{suffix}"
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(COLORS).save(path, exif=exif, quality=100)
    shown = np.rot90(COLORS, turns)
    pixels = read_image(path)
    assert pixels.shape == shown.shape
    assert np.abs(pixels.astype(int) - shown).mean() < 12


@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", "jpg"), ("CMYK", "tif"), ("P", "png"), ("P", "gif"), ("RGBA", "png")]
)
def test_colors_of_every_mode(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    image = Image.fromarray(COLORS)
    converted = image.quantize(16) if mode == "P" else image.convert(mode)
    converted.save(path, **({"quality": 100} if suffix == "jpg" else {}))
    notes: list[str] = []
    assert np.abs(read_image(path, notes).astype(int) - COLORS).mean() < 6
    assert not notes


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_frame_is_used_and_said_so(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"animation.{suffix}"
    first, second = Image.fromarray(COLORS), Image.fromarray(255 - COLORS)
    options = {"webp": {"lossless": True}, "tif": {}}.get(suffix, {"duration": 100})
    first.save(path, save_all=True, append_images=[second], **options)
    notes: list[str] = []
    assert np.abs(read_image(path, notes).astype(int) - COLORS).mean() < 6
    assert notes == [f"{path.name} has 2 frames or pages, of which the first is used"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "gif", "avif", "jp2"])
def test_a_picture_that_is_cut_off_is_an_error(tmp_path: Path, suffix: str) -> None:
    """Half a picture would be segmented with confidence."""
    path = tmp_path / f"picture.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InvalidImageError):
        read_image(path)
