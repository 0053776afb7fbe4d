"""JSON, packed records and images: what is read, and how errors name the position."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.unit.data.readers.disk import write_image
from xsam.data.readers.files import (
    Layout,
    PackedRecords,
    find_image,
    iterate_json_list,
    read_json,
    read_rgb,
    require_file,
    require_folder,
    take,
    take_size,
)
from xsam.errors import DatasetError, InvalidImageError, MissingDataError, RecordError
from xsam.inference.images import as_rgb, read_image

LAYOUT = Layout(dataset="Toy", folders="toy.json and toys/", published="https://example.org/toy")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=4))
@pytest.mark.slow
def test_packed_records_come_back_as_they_were(records: list[Any]) -> None:
    packed = PackedRecords(iter(records))
    assert len(packed) == len(records)
    assert [packed[index] for index in range(len(packed))] == records


@pytest.mark.parametrize("index", [-1, 2])
def test_there_is_no_record_beyond_the_ends(index: int) -> None:
    with pytest.raises(IndexError):
        PackedRecords(["a", "b"])[index]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("records", [[], [[]], [1], [{"a": "], ["}, [2, [3]], "ü"]])
def test_a_list_is_read_element_by_element(tmp_path: Path, records: list[Any], indent: int | None) -> None:
    path = tmp_path / "list.json"
    path.write_text(f" \n{json.dumps(records, indent=indent, ensure_ascii=False)}\n", encoding="utf-8")
    assert list(iterate_json_list(path)) == records


@pytest.mark.parametrize("text", ["", "{}", "[1 2]", "[1, ", "[1", "[1, ]", '["a]'])
def test_what_is_no_list_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"list\.json"):
        list(iterate_json_list(path))


@pytest.mark.parametrize("content", [b"", b'{"a": ', b'"\xff"', b"[" * 100_000])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"data\.json is not valid JSON"):
        read_json(path)


def test_fields_are_checked() -> None:
    record = {"id": 3, "name": "cup", "crowd": True}
    assert take(record, "id", int, "here") == 3
    assert take(record, "name", (int, str), "here") == "cup"
    with pytest.raises(RecordError, match="here: the field 'area' is missing"):
        take(record, "area", int, "here")
    with pytest.raises(RecordError, match="here: 'name' must be int or list, not str"):
        take(record, "name", (int, list), "here")
    with pytest.raises(RecordError, match="'crowd' must be int, not bool"):
        take(record, "crowd", int, "here")
    with pytest.raises(RecordError, match="here: expected a mapping, got list"):
        take([record], "id", int, "here")
    with pytest.raises(RecordError, match="here: height and width must be positive"):
        take_size({"height": 0, "width": 4}, "here")


def test_a_missing_path_comes_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"Toy: .*toy\.json does not exist") as caught:
        require_file(tmp_path / "toy.json", LAYOUT)
    assert caught.value.hint == "expected: toy.json and toys/; published at https://example.org/toy"
    with pytest.raises(MissingDataError, match="toys does not exist"):
        require_folder(tmp_path / "toys", LAYOUT)
    (tmp_path / "toys").mkdir()
    assert require_folder(str(tmp_path / "toys"), LAYOUT) == tmp_path / "toys"
    with pytest.raises(MissingDataError):
        require_file(tmp_path / "toys", LAYOUT)


def test_a_picture_may_be_named_with_its_folder(tmp_path: Path) -> None:
    for name in ("train2017/1.jpg", "val2017/2.jpg"):
        write_image(tmp_path / name, seed=0)
    train = tmp_path / "train2017"
    assert find_image(train, "1.jpg", LAYOUT) == train / "1.jpg"
    assert find_image(tmp_path, "val2017/2.jpg", LAYOUT).samefile(tmp_path / "val2017/2.jpg")
    assert find_image(train, "train2017/1.jpg", LAYOUT).samefile(train / "1.jpg")
    assert find_image(train, "val2017/2.jpg", LAYOUT).samefile(tmp_path / "val2017/2.jpg")
    write_image(tmp_path / "3.jpg", seed=0)
    with pytest.raises(MissingDataError, match=r"train2017/3\.jpg"):
        find_image(train, "3.jpg", LAYOUT)


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    rgb = write_image(tmp_path / "a.jpg", seed=1)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg", "here"), rgb)


def test_gray_pictures_get_three_channels(tmp_path: Path) -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "gray.png", "here"), np.stack([gray] * 3, axis=-1))


def test_palettes_with_transparency_are_read(tmp_path: Path) -> None:
    """Pillow warned about them, which is an error where warnings are."""
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([level for index in range(256) for level in (index, 2 * index % 256, 7)])
    image.save(tmp_path / "palette.png", transparency=bytes([0, 99, 255]))
    expected = np.stack([indices, 2 * indices, np.full_like(indices, 7)], axis=-1)
    np.testing.assert_array_equal(read_rgb(tmp_path / "palette.png", "here"), expected)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), expected)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_gray_pictures_of_more_bits_are_scaled(tmp_path: Path, bits: int) -> None:
    """They are neither clipped to white nor nearly black, whatever bits of the container are in use."""
    gray = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(gray).save(tmp_path / "deep.png")
    expected = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.png", "here"), expected)
    Image.fromarray(gray.astype(np.int32)).save(tmp_path / "deep.tiff")
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.tiff", "here"), expected)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(("suffix", "channels"), [(".png", 3), (".png", 4), (".tiff", 3)])
def test_color_pictures_of_more_bits_are_scaled(
    tmp_path: Path, suffix: str, bits: int, channels: int
) -> None:
    """Of 12 bits in 16, Pillow keeps the upper 4: pictures for training and evaluation were nearly black."""
    levels = np.random.default_rng(bits).permuted(
        np.arange(256).repeat(channels).reshape(16, 16, channels), axis=0
    )
    levels[0, 0, :3] = 255  # the largest value says how many bits there are
    deep = np.round(levels * ((2**bits - 1) / 255)).astype(np.uint16)
    path = tmp_path / f"deep{suffix}"
    assert cv2.imwrite(str(path), deep[..., [2, 1, 0, 3][:channels]])
    expected = levels[..., :3].astype(np.uint8)
    np.testing.assert_array_equal(read_rgb(path, "here"), expected)
    np.testing.assert_array_equal(read_image(path), expected)
    with Image.open(path) as image, pytest.raises(InvalidImageError, match="more than 8 bits"):
        as_rgb(image)


def test_a_deep_picture_is_turned_like_others(tmp_path: Path) -> None:
    deep = np.zeros((12, 16, 3), np.uint16)
    deep[:6] = 4095
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), deep)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to look at it
    tagged = exif.tobytes().removeprefix(b"Exif\0\0")
    content = path.read_bytes()
    chunk = b"eXIf" + tagged
    path.write_bytes(
        content[:33]
        + len(tagged).to_bytes(4, "big")
        + chunk
        + zlib.crc32(chunk).to_bytes(4, "big")
        + content[33:]
    )
    rgb = read_rgb(path, "here")
    assert (rgb.shape, rgb[0].min(), rgb[-1].max()) == ((12, 16, 3), 255, 0)
    turned = read_rgb(path, "here", upright=True)
    assert (turned.shape, turned[:, -1].min(), turned[:, 0].max()) == ((16, 12, 3), 255, 0)


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(RecordError, match="floating-point"):
        read_rgb(tmp_path / "float.tiff", "here")
    Image.fromarray(np.full((3, 4), 70_000, np.int32)).save(tmp_path / "deep.tiff")
    with pytest.raises(RecordError, match="more than 16 bits"):
        read_rgb(tmp_path / "deep.tiff", "here")


def test_a_picture_is_not_turned_by_its_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to look at it
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[:6] = 255
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    rgb = read_rgb(tmp_path / "turned.jpg", "here")
    assert rgb.shape == (12, 16, 3)
    assert rgb[0].min() > 200
    assert rgb[-1].max() < 50
    assert read_rgb(tmp_path / "turned.jpg", "here", upright=True).shape == (16, 12, 3)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "cut.jpg", seed=0)
    content = (tmp_path / "cut.jpg").read_bytes()
    for damaged in (content[:60], b"no picture"):
        (tmp_path / "cut.jpg").write_bytes(damaged)
        with pytest.raises(RecordError, match=r"image 7: cannot read the image .*cut\.jpg"):
            read_rgb(tmp_path / "cut.jpg", "image 7")
