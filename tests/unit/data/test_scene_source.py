"""Rendered scenes as training samples: the text matches the image, mirrored or not."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.data.scene_truth import SceneTruth, meant, phrases
from xsam.data.samples import NO_CONDITION, PromptedImage, TrainPrompt
from xsam.data.scene_prompts import STUFF, TASK_SHARES
from xsam.data.scene_source import DIALOGUE, SceneSource
from xsam.inference.chat_format import END_TAG, IMAGE_TAG
from xsam.sim.conversation import KIND_SHARES
from xsam.sim.household import ALL_COLORS, CATEGORIES
from xsam.sim.render import STUFF_NAMES
from xsam.sim.shards import SceneShards

EVERYTHING = {**TASK_SHARES, DIALOGUE: 0.3}


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _seen(shards: SceneShards, index: int, *, flipped: bool = False) -> SceneTruth:
    """Return the scene as stored, without its padding."""
    height, width = shards.image_hw[index]
    arrays = (a[index, :height, :width] for a in (shards.rgb, shards.instance_ids, shards.stuff_ids))
    sample = SceneTruth(*arrays, shards.annotations[index])
    return sample.mirrored() if flipped else sample


def _instances(picture: PromptedImage, seen: SceneTruth) -> list[int]:
    """Return the instance id under each mask, from its pixels; −1 for a surface."""
    found = []
    for mask in picture.masks:
        (number,) = np.unique(seen.instance_ids[mask])
        if number:
            assert np.array_equal(mask, seen.instance_ids == number)
        found.append(int(number) or -1)
    return found


def _by_condition(prompt: TrainPrompt, instances: list[int]) -> list[set[int]]:
    count = len(phrases(prompt.conversation))
    assert set(prompt.labels.tolist()) <= {NO_CONDITION, *range(count)}
    return [{instances[n] for n in np.flatnonzero(prompt.labels == k)} for k in range(count)]


# ---------------------------------------------------------------------------------------- truth


def test_masks_are_the_labeled_objects_and_the_surfaces(shards: SceneShards) -> None:
    source = SceneSource(shards, augment=False)
    assert len(source) == len(shards)
    assert source.class_names == (*CATEGORIES, *STUFF)
    for index in range(len(source)):
        seen = _seen(shards, index)
        picture = source.sample(index, _rng(index))
        assert np.array_equal(picture.rgb, seen.rgb)
        labeled = seen.labeled()
        instances = _instances(picture, seen)
        assert [n for n in instances if n > 0] == list(labeled)
        for mask, number, label, color in zip(
            picture.masks, instances, picture.classes, picture.attributes["color"], strict=True
        ):
            if number > 0:
                assert source.class_names[label] == labeled[number].category
                assert ALL_COLORS[color] == labeled[number].color
            else:
                (surface,) = np.unique(seen.stuff_ids[mask])
                assert source.class_names[label] == STUFF_NAMES[surface]
                assert np.array_equal(mask, seen.stuff_ids == surface)
                assert color == -1
        assert {STUFF_NAMES[i] for i in np.unique(seen.stuff_ids) if i} == {
            source.class_names[label] for label in picture.classes[len(labeled) :]
        }


def test_labels_match_the_phrases(shards: SceneShards) -> None:
    source = SceneSource(shards, shares={"category": 1.0, "grounded_conversation": 0.4}, augment=False)
    checked = Counter[str]()
    for index in range(len(source)):
        seen = _seen(shards, index)
        picture = source.sample(index, _rng(1, index), prompts=6)
        assert len(picture.prompts) == 6
        instances, labeled = _instances(picture, seen), seen.labeled()
        for prompt in picture.prompts:
            for name, found in zip(
                phrases(prompt.conversation), _by_condition(prompt, instances), strict=True
            ):
                if name in STUFF:
                    rows = np.flatnonzero(prompt.labels == phrases(prompt.conversation).index(name))
                    assert [source.class_names[picture.classes[n]] for n in rows] == [name] * len(rows)
                    checked["stuff"] += len(rows)
                elif prompt.kind == "category_list":
                    fitting = {
                        n
                        for n, item in labeled.items()
                        if name in (item.category, f"{item.color} {item.category}")
                    }
                    assert found == fitting, name
                    checked["present" if found else "absent"] += 1
                else:
                    (appearance,) = {(labeled[n].color, labeled[n].category) for n in found}
                    assert appearance[0] in name
                    checked["caption"] += 1
    assert min(checked[kind] for kind in ("stuff", "present", "absent", "caption")) > 5


def test_regions_are_labeled_with_what_they_lie_on(shards: SceneShards) -> None:
    source = SceneSource(shards, shares={"interactive": 1.0, "visual_grounded": 1.0})
    kinds = Counter[str]()
    for index in range(len(source)):
        for prompt in (picture := source.sample(index, _rng(2, index), prompts=6)).prompts:
            assert len(prompt.regions) == len(phrases(prompt.conversation))
            kinds[prompt.kind] += 1
            for k, region in enumerate(prompt.regions):
                chosen = picture.masks[prompt.labels == k]
                assert (chosen & region).any()
                assert len(set(picture.classes[prompt.labels == k])) == 1
    assert set(kinds) == {"interactive", "visual_grounded"}


@pytest.mark.parametrize("augment", [False, True])
def test_left_and_right_stay_true_in_the_mirror(shards: SceneShards, augment: bool) -> None:
    """Image, masks, regions and text must be mirrored together, or "left" would teach right."""
    source = SceneSource(shards, shares={"referring": 1.0}, augment=augment)
    turned, checked = Counter[bool](), Counter[bool]()
    for index in range(len(source)):
        for draw in range(4):
            picture = source.sample(index, _rng(3, index, draw), prompts=8)
            gray = picture.rgb.mean(axis=2).ravel()
            likeness = [
                np.corrcoef(gray, _seen(shards, index, flipped=flip).rgb.mean(axis=2).ravel())[0, 1]
                for flip in (False, True)
            ]
            assert max(likeness) > 0.9
            flipped = likeness[1] > likeness[0]
            turned[flipped] += 1
            seen = _seen(shards, index, flipped=flipped)
            instances = _instances(picture, seen)
            for prompt in picture.prompts:
                (text,) = phrases(prompt.conversation)
                expected = meant(seen, text.removeprefix("the "))
                if expected is not None:
                    assert _by_condition(prompt, instances) == [set(expected)], text
                    checked[flipped] += 1
    assert set(turned) == ({True, False} if augment else {False})
    assert all(checked[flipped] > 20 for flipped in turned)


def test_light_and_color_change_but_nothing_else(shards: SceneShards) -> None:
    """Pixels of equal brightness stay equal, and darker ones stay darker."""
    seed = next(seed for seed in range(20) if _rng(seed).random() > 0.5)  # not mirrored
    plain, changed = (
        SceneSource(shards, augment=augment).sample(0, _rng(seed)).rgb for augment in (False, True)
    )
    assert np.abs(changed.astype(int) - plain).mean() > 1
    for before, after in zip(plain.reshape(-1, 3).T, changed.reshape(-1, 3).T, strict=True):
        pairs = sorted(set(zip(before.tolist(), after.tolist(), strict=True)))
        old, new = zip(*pairs, strict=True)
        assert len(set(old)) == len(old)
        assert list(new) == sorted(new)


# -------------------------------------------------------------------------- what does not count


def _unlabeled(shards: SceneShards, index: int, instance: int) -> SceneShards:
    """Return the same scenes with one object unlabeled, so that no text may mention it."""
    annotations = [
        tuple(
            dataclasses.replace(item, labeled=False) if i == index and item.instance_id == instance else item
            for item in scene
        )
        for i, scene in enumerate(shards.annotations)
    ]
    return dataclasses.replace(shards, annotations=tuple(annotations))


def test_unlabeled_objects_are_ignored(shards: SceneShards) -> None:
    index, hidden = next(
        (i, item)
        for i, scene in enumerate(shards.annotations)
        for item in scene
        if item.labeled and sum(other.labeled for other in scene) > 2
    )
    before = SceneSource(shards, augment=False).sample(index, _rng(0))
    changed = _unlabeled(shards, index, hidden.instance_id)
    after = SceneSource(changed, augment=False).sample(index, _rng(0))
    is_hidden = _seen(shards, index).instance_ids == hidden.instance_id
    assert before.ignored is not None
    assert after.ignored is not None
    assert not before.ignored[is_hidden].any()
    np.testing.assert_array_equal(after.ignored, before.ignored | is_hidden)
    assert len(after.masks) == len(before.masks) - 1
    assert not (after.masks & after.ignored).any()
    turned = SceneSource(changed, augment=True)
    draws = [turned.sample(index, _rng(seed)).ignored for seed in range(6)]
    wanted = {after.ignored.tobytes(), np.ascontiguousarray(after.ignored[:, ::-1]).tobytes()}
    assert {ignored.tobytes() for ignored in draws if ignored is not None} == wanted


def test_dialogue_has_no_masks(shards: SceneShards) -> None:
    source = SceneSource(shards, shares={DIALOGUE: 1.0})
    kinds = Counter[str]()
    for index in range(len(source)):
        picture = source.sample(index, _rng(6, index), prompts=5)
        assert len(picture.prompts) == 5
        for prompt in picture.prompts:
            assert not prompt.has_mask
            assert not prompt.regions
            assert (prompt.labels == NO_CONDITION).all()
            assert IMAGE_TAG in prompt.conversation.question
            assert prompt.conversation.answer.endswith(f".{END_TAG}")
            assert not phrases(prompt.conversation)
            kinds[prompt.kind] += 1
    assert len(kinds) > 4
    assert set(kinds) <= {f"dialogue_{kind}" for kind in KIND_SHARES}


def test_segmentation_prompts_have_a_mask_answer(shards: SceneShards) -> None:
    picture = SceneSource(shards, shares=TASK_SHARES).sample(0, _rng(0), prompts=40)
    assert all(prompt.has_mask for prompt in picture.prompts)


# ------------------------------------------------------------------------------------- drawing


def _same(first: PromptedImage, second: PromptedImage) -> bool:
    def arrays(picture: PromptedImage) -> list[NDArray[np.generic]]:
        regions = [region for prompt in picture.prompts for region in prompt.regions]
        return [picture.rgb, picture.masks, picture.classes, *(p.labels for p in picture.prompts), *regions]

    texts = [[(p.kind, p.conversation) for p in picture.prompts] for picture in (first, second)]
    return texts[0] == texts[1] and all(
        np.array_equal(a, b) for a, b in zip(arrays(first), arrays(second), strict=True)
    )


def test_the_generator_alone_decides(shards: SceneShards) -> None:
    source = SceneSource(shards, shares=EVERYTHING)
    first = source.sample(2, _rng(8), prompts=6)
    np.random.default_rng().random()
    source.sample(1, _rng(9), prompts=3)
    assert _same(first, source.sample(2, _rng(8), prompts=6))
    assert _same(first, SceneSource(shards, shares=EVERYTHING).sample(2, _rng(8), prompts=6))
    others = [source.sample(2, _rng(seed), prompts=6) for seed in range(10, 14)]
    texts = {tuple(p.conversation.question for p in other.prompts) for other in (first, *others)}
    assert len(texts) == 5


@pytest.mark.parametrize(
    "shares", [{"interactive": 1.0, DIALOGUE: 3.0}, {"interactive": 3.0, "category": 1.0}]
)
def test_kinds_come_in_their_shares(shards: SceneShards, shares: Mapping[str, float]) -> None:
    source = SceneSource(shards, shares=shares, augment=False)
    (first, _), count = shares, 0
    for index in range(4):
        drawn = source.sample(index, _rng(11, index), prompts=100).prompts
        assert len(drawn) == 100
        count += sum(prompt.kind == first for prompt in drawn)
    expected = 400 * shares[first] / sum(shares.values())
    assert count == pytest.approx(expected, abs=4 * np.sqrt(400 * 3 / 16))  # four standard deviations


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"referring": 1.0, "poetry": 0.5}, "poetry"),
        ({}, "positive"),
        ({"referring": 0.0}, "positive"),
        ({"referring": 2.0, "absent": -1.0}, "positive"),
    ],
)
def test_shares_that_make_no_sense_are_refused(
    shards: SceneShards, shares: Mapping[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SceneSource(shards, shares=shares)


def test_an_empty_table_still_gives_prompts(shards: SceneShards) -> None:
    """With no objects, prompts ask for surfaces, and for phrases that match nothing."""
    side = shards.rgb.shape[1]
    empty = SceneShards(
        rgb=shards.rgb[:1],
        instance_ids=np.zeros((1, side, side), np.uint8),
        stuff_ids=np.ones((1, side, side), np.uint8),
        image_hw=np.array([[side, side]]),
        seeds=shards.seeds[:1],
        annotations=((),),
    )
    picture = SceneSource(empty, shares=EVERYTHING).sample(0, _rng(0), prompts=30)
    assert len(picture.masks) == 1
    assert len(picture.prompts) == 30
    for prompt in picture.prompts:
        for k, name in enumerate(phrases(prompt.conversation)):
            assert (prompt.labels == k).any() == (name == "table"), name
