"""`python -m benchmarks.labels` at the smallest size, and that its detector learns what it is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.labels.__main__ import app
from benchmarks.labels.clips import HW, Example
from benchmarks.labels.detector import SmallDetector, generalized_iou, loss_of, targets
from benchmarks.labels.quality import label_quality
from benchmarks.labels.training import ap50, train

pytestmark = pytest.mark.slow


def test_smallest_size() -> None:
    """Both kinds of labels, other seeds than the default ones."""
    arguments = "--clips 3900000:2 --held-out 3950000:1 --length 3 --every 1 --steps 2 --seeds 1 --threads 1"
    result = CliRunner().invoke(app, [*arguments.split(), "--classes", "mug,bowl", "--others", "ball"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["train_frames"] == 6
    assert report["held_out_frames"] == 3
    assert 0.0 <= report["ap50_true"] <= 1.0
    assert report["objects_labeled"] + report["objects_ignored"] + report["objects_missed"] == pytest.approx(
        1, abs=0.01
    )
    same = CliRunner().invoke(app, ["--clips", "5:3", "--held-out", "7:1"])
    assert same.exit_code == 2


def square(left: int, top: int, *, name: str = "mug", labels: bool = True) -> Example:
    rgb = np.full((*HW, 3), 90, np.uint8)
    rgb[top : top + 60, left : left + 60] = (220, 30, 30) if name == "mug" else (30, 30, 220)
    box = (float(left), float(top), left + 60.0, top + 60.0)
    return Example(rgb=rgb, objects=((name, box),) if labels else (), ignored=() if labels else (("", box),))


def test_it_learns_what_it_is_told() -> None:
    torch.set_num_threads(1)
    places = [
        (20, 20, "mug"),
        (200, 40, "bowl"),
        (90, 130, "mug"),
        (180, 150, "bowl"),
        (60, 60, "bowl"),
        (230, 120, "mug"),
    ]
    examples = [square(left, top, name=name) for left, top, name in places] * 3
    model = train(examples, ["mug", "bowl"], steps=40, seed=0, log=print)
    assert ap50(model, [square(120, 90), square(40, 100, name="bowl")], ["mug", "bowl"]) > 0.9


def test_what_is_ignored_teaches_nothing() -> None:
    torch.manual_seed(0)
    box = torch.tensor([[32.0, 32.0, 64.0, 64.0]])
    none, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    logits = torch.zeros(1, 2, 24, 32, requires_grad=True)
    edges = torch.ones(1, 4, 24, 32)
    loss_of(logits, edges, *targets([none], [no_labels], [box], categories=2, hw=(24, 32))).backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, 8:16, 8:16] == 0).all()
    assert (logits.grad[:, :, :8] > 0).all()
    # A label in the region counts, for its category.
    logits = torch.zeros(1, 2, 24, 32, requires_grad=True)
    drawn = targets([box], [torch.tensor([1])], [box], categories=2, hw=(24, 32))
    loss_of(logits, edges, *drawn).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1, 12, 12] < 0
    assert logits.grad[0, 0, 12, 12] == 0


def test_generalized_iou_of_boxes_apart() -> None:
    """Two unit squares with a gap of one: the hull is 3, the union 2."""
    first, second = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    assert generalized_iou(first, second).item() == pytest.approx(-1 / 3)
    assert generalized_iou(first, first).item() == pytest.approx(1.0)


def test_the_detector_keeps_its_stride() -> None:
    heat, edges = SmallDetector(3).eval()(torch.zeros(1, 3, 96, 128))
    assert heat.shape == (1, 3, 24, 32)
    assert edges.shape == (1, 4, 24, 32)
    assert (edges > 0).all()


def test_quality_by_hand() -> None:
    right = square(20, 20)
    assert label_quality([right], [right])["labels_right"] == 1.0
    ignored = label_quality([square(20, 20, labels=False)], [right])
    assert (ignored["objects_ignored"], ignored["objects_labeled"]) == (1.0, 0.0)
    wrong = label_quality([square(20, 20, name="bowl")], [right])
    assert (wrong["labels_wrong_class"], wrong["objects_missed"]) == (1.0, 1.0)
    assert label_quality([square(70, 20)], [right])["labels_poor"] == 0.0  # they share a tenth at most
    assert label_quality([square(60, 20)], [right])["labels_poor"] == 1.0
    assert label_quality([square(200, 150)], [right])["labels_of_nothing"] == 1.0
