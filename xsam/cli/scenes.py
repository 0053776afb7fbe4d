"""`xsam scenes`: render a simulated scene with its ground truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from numpy.typing import NDArray


def scenes(
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scene.")] = 2_000_000,
    width: Annotated[int, typer.Option(min=16, max=4096, help="In pixels.")] = 640,
    height: Annotated[int, typer.Option(min=16, max=4096, help="In pixels.")] = 480,
) -> None:
    """Render a simulated table-top scene with its ground truth."""
    for path in _write_scene(seed, out, (height, width)):
        typer.echo(str(path))


def _write_scene(seed: int, out: Path, image_hw: tuple[int, int]) -> list[Path]:
    """Write color (8 bit), depth in mm (16 bit, 0 = none), instance ids (16 bit, 0 = none) and ground truth.

    Returns:
        The paths of the four files.
    """
    from dataclasses import asdict

    import numpy as np

    from xsam.media.image_files import write_image
    from xsam.sim import annotate, language, render, sample_scene
    from xsam.weights.files import replace_file

    scene = sample_scene(seed)
    view = render(scene, image_hw=image_hw)
    items = annotate(scene, view)
    phrases = (
        *language.referring_expressions(items, image_hw[1]),
        *language.reasoning_questions(items),
        *language.absent_expressions(items, np.random.default_rng(seed)),
    )
    truth = {
        "seed": seed,
        "image_hw": image_hw,
        "intrinsics": view.intrinsics.tolist(),
        "world_from_camera": view.world_from_camera.tolist(),
        "depth_unit_m": 0.001,
        "objects": [asdict(item) for item in items],
        "expressions": [asdict(phrase) for phrase in phrases],
        "caption": asdict(language.grounded_caption(items)),
    }
    depth_mm = np.clip(np.round(view.depth_m * 1000.0), 0, 65535).astype(np.uint16)
    stem = f"scene_{seed:07d}"
    images: list[tuple[str, NDArray[Any]]]
    images = [("rgb", view.rgb), ("depth_mm", depth_mm), ("instances", view.instance_ids)]
    for name, image in images:
        write_image(out / f"{stem}_{name}.png", image)
    truth_file = out / f"{stem}_truth.json"
    replace_file(truth_file, (json.dumps(truth, indent=2) + "\n").encode())
    return [*(out / f"{stem}_{name}.png" for name, _ in images), truth_file]
