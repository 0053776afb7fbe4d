"""Deterministic table-top scenes: renderer, annotations, and templated language.

    scene = sample_scene(seed)                       # objects, room, light, camera
    view = render(scene, image_hw=(480, 640))        # color, depth, instance and surface ids
    annotations = annotate(scene, view)              # one record for each visible object
    phrases = language.referring_expressions(annotations, width_px=640)

Requires only NumPy and OpenCV.
"""

from xsam.sim.annotate import ObjectAnnotation, annotate, mirror, unlabeled_ids
from xsam.sim.camera import PinholeCamera
from xsam.sim.household import CATEGORIES, COLORS
from xsam.sim.render import STUFF_NAMES, RenderedView, render
from xsam.sim.scene import (
    TEST_SEEDS,
    TRAIN_SEEDS,
    VALIDATION_SEEDS,
    SceneConfig,
    TableScene,
    orbit_camera,
    sample_scene,
)

__all__ = [
    "CATEGORIES",
    "COLORS",
    "STUFF_NAMES",
    "TEST_SEEDS",
    "TRAIN_SEEDS",
    "VALIDATION_SEEDS",
    "ObjectAnnotation",
    "PinholeCamera",
    "RenderedView",
    "SceneConfig",
    "TableScene",
    "annotate",
    "mirror",
    "orbit_camera",
    "render",
    "sample_scene",
    "unlabeled_ids",
]
