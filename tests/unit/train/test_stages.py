"""Recipes: valid and invalid YAML, and the shipped recipes load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from xsam.errors import TrainingConfigError
from xsam.train.losses import LossWeights, MaskSampling
from xsam.train.stages import RECIPES, SourceConfig, Stage, StageConfig, read_stage

SHIPPED = sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.rglob("*.yaml"))


def _write(folder: Path, text: str) -> Path:
    file = folder / "stage.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def _refused(folder: Path, text: str, **overrides: Any) -> str:
    with pytest.raises(TrainingConfigError) as caught:
        read_stage(_write(folder, text), overrides)
    assert str(folder / "stage.yaml") in caught.value.message
    return str(caught.value)


# ----------------------------------------------------------------------------------- what is read


def test_every_field_arrives(tmp_path: Path) -> None:
    text = """
stage: alignment
model: full
sources:
  - {kind: scenes, name: a, options: {folder: x, shares: {referring: 1}}}
  - {kind: llava}
validation: {kind: scenes}
balance: 0.2
epochs: 2
batch_size: 3
optimizer: muon
learning_rate: 1e-4
betas: [0.8, 0.95]
gradient_checkpointing: true
trainable: [llm., seg_projector.]
losses: {mask: 1, no_object: 0.2}
sampling: {mode: mask, match_stride: 2}
attributes: {color: 11}
"""
    config = read_stage(_write(tmp_path, text))
    assert config == StageConfig(
        stage=Stage.ALIGNMENT,
        model="full",
        sources=(
            SourceConfig(kind="scenes", name="a", options={"folder": "x", "shares": {"referring": 1}}),
            SourceConfig(kind="llava"),
        ),
        validation=SourceConfig(kind="scenes"),
        balance=0.2,
        epochs=2.0,
        batch_size=3,
        optimizer="muon",
        learning_rate=0.0001,
        betas=(0.8, 0.95),
        gradient_checkpointing=True,
        trainable=("llm.", "seg_projector."),
        losses=LossWeights(mask=1.0, no_object=0.2),
        sampling=MaskSampling(mode="mask", match_stride=2),
        attributes={"color": 11},
    )


def test_numbers_as_yaml_writes_them(tmp_path: Path) -> None:
    """YAML 1.1 reads `1e-4` as a string, and `3` as an integer."""
    assert yaml.safe_load("x: 1e-4") == {"x": "1e-4"}
    config = read_stage(_write(tmp_path, "{stage: mixed, steps: 3, learning_rate: 1e-4, clip_norm: 3}"))
    assert config.learning_rate == 0.0001
    assert config.clip_norm == 3.0
    assert isinstance(config.clip_norm, float)


def test_precision_no_is_a_word(tmp_path: Path) -> None:
    """YAML 1.1 reads a bare `no` as false."""
    assert read_stage(_write(tmp_path, "{stage: mixed, steps: 3, precision: no}")).precision == "no"
    assert "auto, no, bf16, fp16" in _refused(tmp_path, "{stage: mixed, steps: 3, precision: yes}")


def test_what_is_given_replaces_the_file(tmp_path: Path) -> None:
    file = _write(tmp_path, "{stage: mixed, minutes: 30, sampling: {mode: mask}, learning_rate: 2e-4}")
    config = read_stage(file, {"minutes": 0, "steps": 7, "sampling": {"num_points": 5}, "validation": None})
    assert (config.minutes, config.steps, config.learning_rate) == (0.0, 7, 2e-4)
    assert config.sampling == MaskSampling(num_points=5)
    assert read_stage(file).minutes == 30.0


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_can_be_read(name: str) -> None:
    config = read_stage(name)
    assert name.split("/", maxsplit=1)[0] == config.model
    stages = {"1": Stage.SEGMENTOR, "2": Stage.ALIGNMENT, "3": Stage.MIXED, "d": Stage.MIXED}
    assert config.stage is stages[name[-1]]
    assert config.sources
    assert config.validation is not None


def test_both_sizes_have_three_stages() -> None:
    stages = [f"{size}/stage{number}" for size in ("full", "tiny") for number in (1, 2, 3)]
    assert sorted([*stages, "full/x2sam_stage3", "tiny/continued"]) == SHIPPED


def test_full_recipes_are_the_papers() -> None:
    """Learning rate, epochs, batch size and clipping of section 4; the encoders learn a tenth as fast."""
    first, second, third = (read_stage(f"full/stage{number}") for number in (1, 2, 3))
    assert [(c.epochs, c.batch_size, c.learning_rate) for c in (first, second, third)] == [
        (36, 4, 1e-4),
        (1, 16, 1e-3),
        (1, 4, 4e-5),
    ]
    assert (first.clip_norm, second.clip_norm, third.clip_norm) == (0.01, 1.0, 1.0)
    for config in (first, second, third):
        assert (config.optimizer, config.betas, config.weight_decay) == ("adamw", (0.9, 0.999), 0.05)
        assert (config.warmup, config.final_lr, config.encoder_lr_factor) == (0.03, 0.0, 0.1)
        assert config.losses == LossWeights(classification=2.0, mask=5.0, dice=5.0, no_object=0.1)
        assert config.sampling == MaskSampling(mode="points", num_points=12544)
    assert third.balance == 0.1


def test_a_folder_of_the_recipes_name_is_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are often kept in `tiny/stage1`."""
    (tmp_path / "tiny" / "stage1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert read_stage("tiny/stage1").stage is Stage.SEGMENTOR


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "fragments"),
    [
        ("batchsize: 3", ("unknown field(s) batchsize", "batch_size")),
        ("losses: {masks: 3}", ("unknown field(s) masks", "no_object")),
        ("sources: [{kind: a, folder: b}]", ("unknown field(s) folder", "options")),
        ("sources: [{name: a}]", ("missing field(s) kind",)),
        ("stage: stage1", ("segmentor, alignment, mixed", "'stage1'")),
        ("model: huge", ("tiny, full", "'huge'")),
        ("optimizer: sgd", ("adamw, muon",)),
        ("sampling: {mode: pixels}", ("points, label, mask",)),
        ("learning_rate: fast", ("learning_rate must be a number", "'fast'")),
        ("learning_rate: true", ("learning_rate must be a number",)),
        ("learning_rate: .nan", ("learning_rate must be a number",)),
        ("learning_rate: [1]", ("learning_rate must be a number",)),
        ("batch_size: 2.5", ("batch_size must be int", "2.5")),
        ("batch_size: true", ("batch_size must be int",)),
        ("gradient_checkpointing: 1", ("gradient_checkpointing must be bool",)),
        ("betas: 0.9", ("betas must be a list",)),
        ("betas: [0.9]", ("betas must be 2 values",)),
        ("betas: [0.9, x]", ("betas[1] must be a number",)),
        ("trainable: llm.", ("trainable must be a list",)),
        ("trainable: [3]", ("trainable[0] must be str",)),
        ("losses: 3", ("losses must be fields with values",)),
        ("sources: {kind: scenes}", ("sources must be a list",)),
        ("sources: [scenes]", ("sources[0] must be fields with values",)),
        ("validation: scenes", ("validation must be fields with values",)),
        ("attributes: [color]", ("attributes must be names with values",)),
        ("attributes: {color: many}", ("attributes.color must be int",)),
        ("batch_size: 0", ("batch_size must be an integer from 1 to 65536, got 0",)),
        ("warmup: 1", ("warmup and ema_decay must be below 1",)),
        ("learning_rate: -1", ("learning_rate must be a number from 0 to 10, got -1.0",)),
        ("weight_decay: -0.1", ("weight_decay must be",)),
        ("ema_decay: 2\nclip_norm: -1", ("ema_decay must be", "clip_norm must be")),
        ("betas: [0.9, 1]", ("betas must be numbers from 0 to below 1",)),
        ("seed: -1", ("seed must be an integer from 0",)),
        ("seed: 99999999999999999999999", ("seed must be", "got a very large integer")),
        ("workers: -1", ("workers must be",)),
        ("balance: 5", ("balance must be",)),
        ("losses: {dice: -5}", ("losses.dice must be",)),
        ("sampling: {num_points: 0}", ("sampling.num_points must be",)),
        ("sampling: {importance_ratio: 2}", ("sampling.importance_ratio must be",)),
        ("frozen: [llm.]", ("frozen_until",)),
        ("frozen_until: 0.5", ("frozen_until",)),
    ],
)
def test_recipes_are_checked(tmp_path: Path, fields: str, fragments: tuple[str, ...]) -> None:
    stage = "" if fields.startswith("stage:") else "stage: mixed\n"
    message = _refused(tmp_path, f"{stage}steps: 5\n{fields}\n")
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("length", ["", "steps: 0", "steps: 3\nminutes: 1", "epochs: 1\nminutes: 1"])
def test_a_run_has_exactly_one_length(tmp_path: Path, length: str) -> None:
    assert "exactly one of steps, epochs, and minutes" in _refused(tmp_path, f"stage: mixed\n{length}\n")


def test_overrides_are_checked_like_the_file(tmp_path: Path) -> None:
    text = "{stage: mixed, steps: 5}"
    assert "unknown field(s) step" in _refused(tmp_path, text, step=3)
    assert "steps must be int" in _refused(tmp_path, text, steps="many")
    assert "exactly one" in _refused(tmp_path, text, minutes=3)


def test_a_stage_must_be_named(tmp_path: Path) -> None:
    assert "missing field(s) stage" in _refused(tmp_path, "steps: 5")


@pytest.mark.slow
def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    assert "not YAML" in _refused(tmp_path, "stage: [")
    assert "fields with values" in _refused(tmp_path, "- mixed")
    assert "fields with values" in _refused(tmp_path, "")
    assert "nested too deeply" in _refused(tmp_path, "[" * 20_000)
    assert "more than 1 MiB" in _refused(tmp_path, "# comment\n" * 200_000)
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(TrainingConfigError, match=r"binary\.yaml is not YAML"):
        read_stage(tmp_path / "binary.yaml")
    with pytest.raises(TrainingConfigError, match="no such recipe: tiny/stage9") as caught:
        read_stage("tiny/stage9")
    assert "tiny/stage1" in caught.value.hint
