"""The in-process example runs from end to end; the model is a fake that knows the simulator's truth."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import pytest

import xsam
from tests.agent.table import MASKS, new_frame
from xsam import FakeSegmenter
from xsam.sim import annotate, render, sample_scene

EXAMPLE = Path(__file__).parents[2] / "examples" / "agent_in_process.py"


def _load(monkeypatch: pytest.MonkeyPatch, segmenter: FakeSegmenter):
    class Loader:
        @staticmethod
        def load(name: str) -> FakeSegmenter:
            assert name == "tiny"
            return segmenter

    monkeypatch.setitem(xsam.__dict__, "XSam", Loader)  # setattr would load the engine
    spec = importlib.util.spec_from_file_location("agent_in_process", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_simulated_table(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = sample_scene(7)
    view = render(scene, image_hw=(480, 640))
    name, ids = None, view.instance_ids
    masks: dict[str, list] = {}
    for item in annotate(scene, view):
        name = item.category
        masks.setdefault(name, []).append(ids == item.instance_id)
    example = _load(monkeypatch, FakeSegmenter(masks))
    reply = example.main(["--find", name, "unicorn"])
    assert reply.startswith(f"ok; {name} (f1/m1): ")


def test_picture_and_absence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "table.png"
    assert cv2.imwrite(str(path), new_frame().rgb)
    example = _load(monkeypatch, FakeSegmenter(MASKS))
    reply = example.main(["--image", str(path), "--find", "the plate"])
    assert reply == "ok; the plate (f1/m1): center, bottom"
    reply = example.main(["--image", str(path), "--find", "unicorn"])
    assert reply.startswith("no_match; not in this image")
