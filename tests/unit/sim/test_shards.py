from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xsam.sim import shards
from xsam.sim.annotate import annotate
from xsam.sim.render import render
from xsam.sim.scene import sample_scene
from xsam.sim.shards import app, load_shards, render_shards, shard_path, training_image_hw

SIZE = 48


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    render_shards(folder, start=20, count=7, size=SIZE, shard_size=3)
    return folder


def test_round_trip(directory: Path) -> None:
    loaded = load_shards(directory)
    assert len(loaded) == 7
    assert loaded.seeds.tolist() == list(range(20, 27))
    for row, seed in enumerate(loaded.seeds.tolist()):
        height, width = loaded.image_hw[row].tolist()
        assert (height, width) == training_image_hw(seed, SIZE)
        scene = sample_scene(seed)
        view = render(scene, image_hw=(height, width))
        np.testing.assert_array_equal(loaded.rgb[row, :height, :width], view.rgb)
        np.testing.assert_array_equal(loaded.instance_ids[row, :height, :width], view.instance_ids)
        np.testing.assert_array_equal(loaded.stuff_ids[row, :height, :width], view.stuff_ids)
        for array in (loaded.rgb, loaded.instance_ids, loaded.stuff_ids):
            assert not array[row, height:].any()
            assert not array[row, :, width:].any()
        fresh = annotate(scene, view)
        assert [a.box_xyxy for a in loaded.annotations[row]] == [a.box_xyxy for a in fresh]
        for stored, item in zip(loaded.annotations[row], fresh, strict=True):
            assert (stored.category, stored.color, stored.labeled) == (
                item.category,
                item.color,
                item.labeled,
            )
            assert stored.position_camera_m == pytest.approx(item.position_camera_m, abs=1e-4)


def test_files_need_no_pickle_and_leave_nothing_behind(directory: Path) -> None:
    assert sorted(path.name for path in directory.iterdir()) == [
        "scenes_00000020_00003.npz",
        "scenes_00000023_00003.npz",
        "scenes_00000026_00001.npz",
    ]
    with np.load(directory / "scenes_00000020_00003.npz", allow_pickle=False) as shard:
        assert {
            name: (shard[name].shape, shard[name].dtype.name)
            for name in shard.files
            if name != "annotations_json"
        } == {
            "rgb": ((3, SIZE, SIZE, 3), "uint8"),
            "instance_ids": ((3, SIZE, SIZE), "uint8"),
            "stuff_ids": ((3, SIZE, SIZE), "uint8"),
            "image_hw": ((3, 2), "int64"),
            "seeds": ((3,), "int64"),
            "format_version": ((), "int64"),
        }


def test_limit_stops_inside_a_shard(directory: Path) -> None:
    loaded = load_shards(directory, limit=4)
    assert len(loaded) == len(loaded.rgb) == len(loaded.annotations) == 4
    assert not loaded.rgb.flags.writeable


def test_finished_shards_are_skipped_and_a_broken_run_is_resumed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []

    def counting_sample(seed: int) -> object:
        rendered.append(seed)
        if seed == 32:
            raise KeyboardInterrupt
        return sample_scene(seed)

    folder = directory.parent / "resumed"
    monkeypatch.setattr(shards, "sample_scene", counting_sample)
    with pytest.raises(KeyboardInterrupt):
        render_shards(folder, start=30, count=4, size=SIZE, shard_size=2)
    assert [path.name for path in folder.iterdir()] == ["scenes_00000030_00002.npz"]
    monkeypatch.setattr(shards, "sample_scene", lambda seed: rendered.append(seed) or sample_scene(seed))
    rendered.clear()
    paths = render_shards(folder, start=30, count=4, size=SIZE, shard_size=2)
    assert rendered == [32, 33]
    assert paths == [shard_path(folder, 30, 2), shard_path(folder, 32, 2)]


def test_most_pictures_are_wide() -> None:
    shapes = [training_image_hw(seed, 192) for seed in range(500)]
    assert set(shapes) == {(144, 192), (192, 192)}
    assert 0.65 < sum(height == 144 for height, _ in shapes) / 500 < 0.75


def test_errors_are_told(tmp_path: Path, directory: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no scenes"):
        load_shards(tmp_path)
    with pytest.raises(ValueError, match="bad range"):
        render_shards(tmp_path, start=0, count=0, size=SIZE)
    render_shards(tmp_path, start=0, count=1, size=SIZE)
    render_shards(tmp_path, start=1, count=1, size=2 * SIZE)
    with pytest.raises(ValueError, match="expected"):
        load_shards(tmp_path)


def test_command_line(tmp_path: Path) -> None:
    arguments = ["--start", "5", "--count", "2", "--size", "32", "--out", str(tmp_path / "deep" / "out")]
    app(arguments, standalone_mode=False)
    assert load_shards(tmp_path / "deep" / "out").seeds.tolist() == [5, 6]


def test_several_processes_render_the_same(directory: Path, tmp_path: Path) -> None:
    paths = render_shards(tmp_path, start=20, count=7, size=SIZE, shard_size=3, processes=2)
    assert [path.name for path in paths] == sorted(path.name for path in directory.iterdir())
    alone, together = load_shards(directory), load_shards(tmp_path)
    np.testing.assert_array_equal(alone.rgb, together.rgb)
    assert alone.annotations == together.annotations
