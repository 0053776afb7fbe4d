"""Pre-render scenes to files, and load them for training.

    python -m xsam.sim.shards --start 0 --count 24000 --size 256 --out scenes --shard-size 500

A shard `scenes_<first seed>_<count>.npz` holds n scenes of consecutive seeds, without pickle:

    rgb               (n, S, S, 3) uint8, zero to the right of and below the image
    instance_ids      (n, S, S) uint8, 0 = no object, i + 1 = object i
    stuff_ids         (n, S, S) uint8, see `render.STUFF_NAMES`, 0 in the padding
    image_hw          (n, 2) int64, height and width of the image inside the S x S square
    seeds             (n,) int64
    annotations_json  (B,) uint8, UTF-8 text: a list of n lists of `ObjectAnnotation` records
    format_version    () int64

About 70 % of the images are S wide and 3/4 S high, the shape of a 4:3 camera image whose longest edge is
resized to S; the others are square. The shape depends only on the seed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from tqdm import tqdm

from xsam.console import ErrorCommand
from xsam.sim.annotate import ObjectAnnotation, annotate
from xsam.sim.render import render
from xsam.sim.scene import sample_scene

FORMAT_VERSION = 1

_LANDSCAPE_SHARE = 0.7
_SHARD_NAME = re.compile(r"scenes_(\d{8})_(\d{5})\.npz")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneShards:
    """Pre-rendered scenes in memory; all fields have n entries, and arrays are read-only.

    Attributes:
        rgb: (n, S, S, 3) uint8.
        instance_ids: (n, S, S) uint8.
        stuff_ids: (n, S, S) uint8.
        image_hw: (n, 2) int64, size of the image inside the padded square.
        seeds: (n,) int64.
        annotations: the visible objects of each scene.
    """

    rgb: NDArray[np.uint8]
    instance_ids: NDArray[np.uint8]
    stuff_ids: NDArray[np.uint8]
    image_hw: NDArray[np.int64]
    seeds: NDArray[np.int64]
    annotations: tuple[tuple[ObjectAnnotation, ...], ...]

    def __len__(self) -> int:
        return len(self.seeds)


def training_image_hw(seed: int, size: int) -> tuple[int, int]:
    """Return the (H, W) of the image rendered for a seed: 4:3 landscape for most, square for the others."""
    draw = np.random.default_rng(np.random.SeedSequence([seed, 43])).random()
    return (size * 3 // 4, size) if draw < _LANDSCAPE_SHARE else (size, size)


def shard_path(directory: Path, first_seed: int, count: int) -> Path:
    """Return the path of the shard of these seeds."""
    return directory / f"scenes_{first_seed:08d}_{count:05d}.npz"


def _to_record(item: ObjectAnnotation) -> dict[str, object]:
    return {
        key: [round(v, 5) for v in value]
        if isinstance(value, tuple)
        else round(value, 5)
        if isinstance(value, float)
        else value
        for key, value in asdict(item).items()
    }


def _from_record(record: dict[str, object]) -> ObjectAnnotation:
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    return ObjectAnnotation(**fields)  # type: ignore[arg-type]


def render_shard(path: Path, seeds: range, size: int, *, progress: tqdm | None = None) -> None:
    """Render the scenes of the given seeds and write them to a file atomically."""
    count = len(seeds)
    rgb = np.zeros((count, size, size, 3), np.uint8)
    instance_ids = np.zeros((count, size, size), np.uint8)
    stuff_ids = np.zeros((count, size, size), np.uint8)
    image_hw = np.zeros((count, 2), np.int64)
    records = []
    for row, seed in enumerate(seeds):
        height, width = image_hw[row] = training_image_hw(seed, size)
        scene = sample_scene(seed)
        view = render(scene, image_hw=(int(height), int(width)))
        rgb[row, :height, :width] = view.rgb
        instance_ids[row, :height, :width] = view.instance_ids
        stuff_ids[row, :height, :width] = view.stuff_ids
        records.append([_to_record(item) for item in annotate(scene, view)])
        if progress is not None:
            progress.update()
    text = json.dumps(records, separators=(",", ":")).encode()
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            np.savez_compressed(
                file,
                rgb=rgb,
                instance_ids=instance_ids,
                stuff_ids=stuff_ids,
                image_hw=image_hw,
                seeds=np.asarray(seeds, np.int64),
                annotations_json=np.frombuffer(text, np.uint8),
                format_version=np.int64(FORMAT_VERSION),
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def render_shards(
    directory: Path,
    *,
    start: int,
    count: int,
    size: int,
    shard_size: int = 500,
    processes: int = 1,
    show_progress: bool = False,
) -> list[Path]:
    """Render `count` consecutive seeds; existing shards are kept.

    Args:
        directory: receives the shards.
        start: first seed.
        count: number of scenes.
        size: longest edge of the images, in pixels.
        shard_size: scenes per file.
        processes: number of processes that render shards at the same time.
        show_progress: show a progress bar on stderr.

    Returns:
        The paths of all shards in the range.

    Raises:
        ValueError: `count`, `size`, `shard_size` or `processes` is not positive, or `start` is negative.
    """
    if start < 0 or count < 1 or size < 4 or shard_size < 1 or processes < 1:
        raise ValueError(f"bad range: start {start}, count {count}, size {size}, shard_size {shard_size}")
    directory.mkdir(parents=True, exist_ok=True)
    ranges = [
        range(first, min(first + shard_size, start + count))
        for first in range(start, start + count, shard_size)
    ]
    paths = [shard_path(directory, seeds.start, len(seeds)) for seeds in ranges]
    missing = [(path, seeds) for path, seeds in zip(paths, ranges, strict=True) if not path.exists()]
    done = count - sum(len(seeds) for _, seeds in missing)
    with tqdm(
        total=count, initial=done, unit="scene", disable=not show_progress, mininterval=10.0
    ) as progress:
        if processes == 1:
            for path, seeds in missing:
                render_shard(path, seeds, size, progress=progress)
            return paths
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            futures = {pool.submit(render_shard, path, seeds, size): len(seeds) for path, seeds in missing}
            for future in as_completed(futures):
                future.result()
                progress.update(futures[future])
    return paths


def load_shards(directory: str | Path, limit: int | None = None) -> SceneShards:
    """Load all shards of a directory in seed order.

    Args:
        directory: output directory of `render_shards`.
        limit: maximum number of scenes.

    Raises:
        FileNotFoundError: there is no shard.
        ValueError: a shard has an unsupported format version, or its size differs from the first shard's.
    """
    folder = Path(directory)
    named = sorted(
        (found, path) for path in folder.glob("*.npz") if (found := _shard_range(path)) is not None
    )
    if not named:
        raise FileNotFoundError(f"no scenes_*.npz in {folder}")
    selected, total = [], 0
    for (_, count), path in named:
        if limit is not None and total >= limit:
            break
        selected.append((path, count if limit is None else min(count, limit - total)))
        total += selected[-1][1]
    arrays: dict[str, NDArray[np.generic]] = {}
    annotations: list[tuple[ObjectAnnotation, ...]] = []
    row = 0
    for path, count in selected:
        with np.load(path, allow_pickle=False) as shard:
            version = int(shard["format_version"])
            if version != FORMAT_VERSION:
                raise ValueError(f"{path} has format {version}, expected {FORMAT_VERSION}")
            for name in ("rgb", "instance_ids", "stuff_ids", "image_hw", "seeds"):
                part = shard[name][:count]
                if name not in arrays:  # filled in place; concatenating would need twice the memory
                    arrays[name] = np.empty((total, *part.shape[1:]), part.dtype)
                if part.shape[1:] != arrays[name].shape[1:]:
                    expected = arrays[name].shape[1:]
                    raise ValueError(f"{path}: {name} has shape {part.shape}, expected (n, *{expected})")
                arrays[name][row : row + count] = part
            records = json.loads(shard["annotations_json"].tobytes())
        annotations += [tuple(_from_record(record) for record in scene) for scene in records[:count]]
        row += count
    for array in arrays.values():
        array.flags.writeable = False
    return SceneShards(annotations=tuple(annotations), **arrays)  # type: ignore[arg-type]


def _shard_range(path: Path) -> tuple[int, int] | None:
    match = _SHARD_NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else None


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=ErrorCommand)
def main(
    start: Annotated[int, typer.Option(min=0, help="First seed.")],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    size: Annotated[int, typer.Option(min=16, max=4096, help="Longest edge of the images, in pixels.")] = 256,
    shard_size: Annotated[int, typer.Option(min=1, help="Scenes per file.")] = 500,
    processes: Annotated[int, typer.Option(min=1, help="Files rendered at the same time.")] = 1,
) -> None:
    """Pre-render simulated scenes."""
    render_shards(
        out,
        start=start,
        count=count,
        size=size,
        shard_size=shard_size,
        processes=processes,
        show_progress=True,
    )


if __name__ == "__main__":
    app()
