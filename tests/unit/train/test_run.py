"""From a recipe to a run, and from each stage to the next."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.train.small import small_model
from xsam.data.readers import MissingDataError
from xsam.errors import CheckpointError, InvalidOptionError, TrainingConfigError
from xsam.sim.shards import SceneShards
from xsam.train.command import app
from xsam.train.run import build_model, open_configured, parse_overrides, train
from xsam.train.stages import SourceConfig, Stage, StageConfig
from xsam.train.trainer import Trainer
from xsam.weights.checkpoint import load_checkpoint, read_tensors, save_checkpoint

SHORT: dict[str, Any] = {
    "minutes": 0,
    "steps": 2,
    "batch_size": 2,
    "prompts_per_image": 3,
    "log_every": 1,
    "validate_every": 2,
    "validate_pictures": 2,
}


# ---------------------------------------------------------------------------------------- sources


def _scenes(**options: Any) -> SourceConfig:
    return SourceConfig(kind="scenes", name="table", options=options)


def test_scenes_are_opened_in_the_data_folder(data: Path, shards: SceneShards) -> None:
    source = open_configured(_scenes(folder="train", shares={"referring": 1.0}), data, augment=True)
    assert source.name == "table"
    assert len(source) == len(shards)
    assert len(open_configured(_scenes(folder="train", limit=3), data, augment=False)) == 3
    unnamed = SourceConfig(kind="scenes", options={"folder": "val"})
    assert open_configured(unnamed, data, augment=False).name == "scenes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "folder"),
        ({"folder": "train", "size": 3}, "size"),
        ({"folder": "train", "shares": {"poetry": 1.0}}, "'table': unknown prompt kinds .'poetry'."),
        ({"folder": "train", "shares": {}}, "'table': shares must be positive"),
    ],
)
def test_scenes_that_cannot_be_opened(data: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingConfigError, match=message):
        open_configured(_scenes(**options), data, augment=True)


def test_scenes_that_are_missing(data: Path) -> None:
    with pytest.raises(MissingDataError, match="no scenes_") as caught:
        open_configured(_scenes(folder="test"), data, augment=True)
    assert "xsam.sim.shards" in caught.value.hint


def test_other_kinds_are_data_sets_on_disk(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="unknown dataset kind 'imagenet'"):
        open_configured(SourceConfig(kind="imagenet"), tmp_path, augment=True)
    options = {"annotations": "coco/panoptic.json", "masks": "coco/masks", "images": "coco/images"}
    with pytest.raises(MissingDataError) as caught:
        open_configured(SourceConfig(kind="coco_panoptic", options=options), tmp_path, augment=True)
    assert str(tmp_path / "coco" / "panoptic.json") in str(caught.value)


# ------------------------------------------------------------------------------------------ model


def test_first_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return build_model(StageConfig(stage=Stage.SEGMENTOR, steps=1, seed=seed), None)[0].state_dict()

    first = weights(3)
    torch.rand(7)
    again, other = weights(3), weights(4)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["llm.lm_head.weight"], other["llm.lm_head.weight"])
    assert not torch.equal(first["llm_projector.model.0.weight"], other["llm_projector.model.0.weight"])


def test_a_run_may_start_from_a_checkpoint_of_any_size(tokenizer: Any, tmp_path: Path) -> None:
    small = small_model(len(tokenizer))
    save_checkpoint(small, tokenizer, tmp_path, dtype=torch.float16)
    model, loaded_tokenizer = build_model(StageConfig(stage=Stage.MIXED, model="full", steps=1), tmp_path)
    assert model.dtype == torch.float32
    assert model.config.llm.hidden_size == small.config.llm.hidden_size
    torch.testing.assert_close(model.bg_embeds.weight, small.bg_embeds.weight, atol=1e-2, rtol=1e-2)
    assert loaded_tokenizer.get_vocab() == tokenizer.get_vocab()


def test_the_full_size_needs_a_checkpoint(tmp_path: Path) -> None:
    config = StageConfig(stage=Stage.MIXED, model="full", steps=1)
    with pytest.raises(TrainingConfigError, match="starts from a checkpoint"):
        build_model(config, None)
    with pytest.raises(CheckpointError):
        build_model(config, tmp_path / "nowhere")


# -------------------------------------------------------------------------------- command and run


def test_overrides_are_yaml() -> None:
    values = ["steps=3", "learning-rate=1e-4", "sampling={mode: mask}", "trainable=[llm.]", "validation="]
    assert parse_overrides(values) == {
        "steps": 3,
        "learning_rate": "1e-4",  # read as a number with the recipe
        "sampling": {"mode": "mask"},
        "trainable": ["llm."],
        "validation": None,
    }


@pytest.mark.parametrize("text", ["steps", "=3", "betas=[0.9"])
def test_overrides_of_another_shape(text: str) -> None:
    with pytest.raises(TrainingConfigError) as caught:
        parse_overrides([text])
    assert repr(text) in caught.value.message


def test_a_run_needs_a_source(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingConfigError, match="tiny/stage1 names no source"):
        train("tiny/stage1", data=data, out=tmp_path, overrides={"sources": []})


@pytest.fixture(scope="module")
def stages(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run two steps of every stage of the tiny recipe, and record what each started from."""
    out = tmp_path_factory.mktemp("runs")
    begun: dict[str, dict[str, Tensor]] = {}
    fit = Trainer.fit

    def kept(self: Trainer) -> None:
        module = self.accelerator.unwrap_model(self.module)
        begun[self.out.name] = {name: value.clone() for name, value in module.state_dict().items()}
        fit(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", kept)
        arguments = [f"--set={name}={value}" for name, value in SHORT.items()]
        for number in (1, 2, 3):
            name = f"stage{number}"
            chain = ["--init", str(out / f"stage{number - 1}" / "checkpoint")] if number > 1 else []
            heads = [f"--heads={out / f'stage{earlier}'}" for earlier in range(1, number)]
            folders = ["--data", str(data), "--out", str(out / name), "--cpu"]
            app([f"tiny/{name}", *folders, *chain, *heads, *arguments], standalone_mode=False)
    return {"out": out, "begun": begun}


@pytest.mark.slow
@pytest.mark.timeout(400)  # the fixture trains three stages
@pytest.mark.usefixtures("single_process")
def test_each_stage_goes_on_from_the_one_before(stages: dict[str, Any]) -> None:
    out, begun = stages["out"], stages["begun"]
    for number in (1, 2):
        left = read_tensors(out / f"stage{number}" / "checkpoint")
        for name, value in left.items():
            assert torch.equal(begun[f"stage{number + 1}"][f"model.{name}"], value), name
    model, _ = load_checkpoint(out / "stage3" / "checkpoint")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.slow
@pytest.mark.timeout(400)  # the fixture trains three stages
@pytest.mark.usefixtures("single_process")
def test_stages_change_what_they_train(stages: dict[str, Any]) -> None:
    out, begun = stages["out"], stages["begun"]
    changed = {}
    for number in (1, 2, 3):
        after = read_tensors(out / f"stage{number}" / "checkpoint")
        before = begun[f"stage{number}"]
        changed[number] = {
            n.split(".")[0] for n, v in after.items() if not torch.equal(v, before[f"model.{n}"])
        }
    assert changed[1] == {"segmentor", "seg_connector", "bg_embeds"}
    assert changed[2] == {"vision_encoder", "visual_projector", "seg_projector", "llm", "llm_projector"}
    assert changed[3] == changed[1] | changed[2]


@pytest.mark.slow
@pytest.mark.timeout(400)  # the fixture trains three stages
@pytest.mark.usefixtures("single_process")
def test_training_heads_go_on_learning(stages: dict[str, Any]) -> None:
    """Class and color are predicted in stages 1 and 3, the coarse mask in stages 2 and 3.

    The language model's image tokens are asked for the first time in stage 3.
    """
    out, begun = stages["out"], stages["begun"]
    first, second = (read_tensors(out / f"stage{n}" / "heads.safetensors") for n in (1, 2))
    assert {name.split(".")[0] for name in first} == {"closed_set", "attributes"}
    assert {name.split(".")[0] for name in second} == {"grounding"}
    third = {name: value for name, value in begun["stage3"].items() if not name.startswith("model.")}
    new = {name for name in third if name.startswith("attributes.tokens.")}
    assert len(new) == 2
    for name in third.keys() - new:
        assert torch.equal(third[name], {**first, **second}[name]), name
    assert {name.split(".")[0] for name in third} == {"attributes", "grounding"}
    shipped = read_tensors(out / "stage3" / "checkpoint")
    assert not any(name.startswith(("attributes", "grounding")) for name in shipped)


@pytest.mark.slow
@pytest.mark.timeout(400)  # the fixture trains three stages
@pytest.mark.usefixtures("single_process")
def test_a_run_says_whether_it_continues(
    stages: dict[str, Any], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stages["out"] / "stage1", tmp_path / "stage1")
    capsys.readouterr()
    train("tiny/stage1", data=data, out=tmp_path / "stage1", overrides=SHORT, cpu=True)
    output = capsys.readouterr().out
    assert "tiny/stage1: resuming at step 2;" in output
    assert "images: scenes 8" in output
