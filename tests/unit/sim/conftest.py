"""A few rendered scenes, shared by all tests of the simulator."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from xsam.sim.annotate import ObjectAnnotation, annotate
from xsam.sim.render import RenderedView, render
from xsam.sim.scene import TEST_SEEDS, TableScene, sample_scene


@dataclass(frozen=True)
class AnnotatedScene:
    scene: TableScene
    view: RenderedView
    annotations: tuple[ObjectAnnotation, ...]


@pytest.fixture(scope="session")
def samples() -> list[AnnotatedScene]:
    found = []
    for seed in TEST_SEEDS[:14]:
        scene = sample_scene(seed)
        view = render(scene, image_hw=(96, 128) if seed % 3 else (128, 128))
        found.append(AnnotatedScene(scene, view, annotate(scene, view)))
    return found
