"""Training prompts drawn from simulated scenes: true, complete, and readable by the tiny model."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.data.scene_truth import SceneTruth, meant, phrases
from xsam.config import REGION_ID
from xsam.data.scene_prompts import STUFF, TASK_SHARES, ScenePrompt, draw_kinds, draw_prompts, random_region
from xsam.inference.chat_format import ChatFormat
from xsam.inference.prompt_masks import PROMPT_RADIUS_SHARE
from xsam.inference.prompts import tokenize
from xsam.sim.annotate import annotate
from xsam.sim.household import CATEGORIES
from xsam.sim.render import STUFF_NAMES, render
from xsam.sim.scene import VALIDATION_SEEDS, sample_scene
from xsam.train.tokenizer import build_tiny_tokenizer
from xsam.types.nouns import plural
from xsam.types.requests import PromptKind

SEEDS = VALIDATION_SEEDS[:8]
KINDS = tuple(TASK_SHARES)
DRAWS = 4
HEIGHT, WIDTH = 72, 96


@functools.cache
def samples() -> tuple[SceneTruth, ...]:
    found = []
    for seed in SEEDS:
        scene = sample_scene(seed)
        view = render(scene, image_hw=(HEIGHT, WIDTH))
        found.append(SceneTruth(view.rgb, view.instance_ids, view.stuff_ids, annotate(scene, view)))
    return tuple(found)


@functools.cache
def drawn() -> tuple[tuple[SceneTruth, ScenePrompt], ...]:
    """Draw several prompts of every kind for every scene and its mirror image."""
    pairs = []
    for number, sample in enumerate(samples()):
        for flip, seen in enumerate((sample, sample.mirrored())):
            rng = np.random.default_rng([number, flip])
            pairs += [
                (seen, prompt)
                for _ in range(DRAWS)
                for prompt in draw_prompts(seen.annotations, seen.instance_ids, rng, KINDS)
            ]
    return tuple(pairs)


# ------------------------------------------------------------------------------------- targets


def test_all_kinds_are_drawn() -> None:
    kinds = Counter(prompt.kind for _, prompt in drawn())
    wanted = {"category", "interactive", "visual_grounded", "grounded_conversation", "reasoning"}
    assert wanted <= kinds.keys()
    assert {"explained_reasoning", "extreme_x", "absent_category"} <= kinds.keys()


def test_targets_are_labeled_objects_of_the_picture() -> None:
    for sample, prompt in drawn():
        visible = set(np.unique(sample.instance_ids).tolist()) - {0}
        for ids in prompt.targets:
            assert set(ids) <= visible & sample.labeled().keys()
            assert len(set(ids)) == len(ids)


def test_every_target_has_a_condition() -> None:
    tokenizer = build_tiny_tokenizer()
    for _, prompt in drawn():
        tokens = tokenize(tokenizer, prompt.conversation)
        assert tokens.num_conditions == len(prompt.targets) == len(phrases(prompt.conversation))
        assert int(tokens.seg_ids.max(initial=-1)) + 1 == 1
        assert tokens.answer_start < tokens.answer_end
        assert int((tokens.input_ids == REGION_ID).sum()) == len(prompt.regions)
        assert set(prompt.stuff_targets) <= set(range(len(prompt.targets)))


def test_the_model_knows_every_word_it_is_taught() -> None:
    tokenizer = build_tiny_tokenizer()
    for _, prompt in drawn():
        ids = tokenize(tokenizer, prompt.conversation, ChatFormat(bos=True)).input_ids
        assert tokenizer.unk_token_id not in ids.tolist(), prompt.conversation


def test_categories_mean_all_of_their_objects() -> None:
    """A category refers to all of its objects and nothing else; "red mug" to the red ones."""
    checked = Counter[str]()
    for sample, prompt in drawn():
        if "following categories" not in prompt.conversation.question:
            continue
        for index, (name, ids) in enumerate(zip(phrases(prompt.conversation), prompt.targets, strict=True)):
            if name in STUFF:
                assert ids == ()
                assert STUFF_NAMES[prompt.stuff_targets[index]] == name
                checked["stuff"] += 1
                continue
            assert index not in prompt.stuff_targets
            meant = {
                number
                for number, item in sample.labeled().items()
                if name in (item.category, f"{item.color} {item.category}")
            }
            assert set(ids) == meant
            checked["present" if ids else "absent"] += 1
    assert min(checked[name] for name in ("stuff", "present", "absent")) > 5


def test_absent_phrases_mean_nothing() -> None:
    absent = [(s, p) for s, p in drawn() if p.kind.startswith("absent")]
    assert absent
    for sample, prompt in absent:
        assert prompt.targets == ((),)
        (text,) = phrases(prompt.conversation)
        if prompt.kind in ("absent_category", "absent_color_category"):
            assert not any(text.endswith(item.category) for item in sample.annotations)


def test_captions_name_what_they_point_at() -> None:
    captions = [(s, p) for s, p in drawn() if p.kind == "grounded_conversation"]
    assert captions
    for sample, prompt in captions:
        order = []
        for phrase, ids in zip(phrases(prompt.conversation), prompt.targets, strict=True):
            items = [sample.labeled()[number] for number in ids]
            assert len({(item.color, item.category) for item in items}) == 1
            noun = items[0].category if len(items) == 1 else plural(items[0].category)
            assert phrase.endswith(f"{items[0].color} {noun}")
            order.append((CATEGORIES.index(items[0].category), items[0].color))
        assert order == sorted(set(order))
        assert prompt.conversation.answer.endswith("The segmentation mask is <SEG>.<|end|>")


# ----------------------------------------------------------------------------- left and right


@pytest.mark.parametrize("flip", [False, True])
def test_left_and_right_are_those_of_the_picture(flip: bool) -> None:
    """This holds for mirrored images and annotations, too."""
    kinds = Counter[str]()
    for number, sample in enumerate(samples()):
        seen = sample.mirrored() if flip else sample
        rng = np.random.default_rng([9, number])
        for prompt in draw_prompts(seen.annotations, seen.instance_ids, rng, ["referring"] * 60):
            (text,) = phrases(prompt.conversation)
            expected = meant(seen, text.removeprefix("the "))
            if expected is not None:
                assert list(prompt.targets[0]) == expected, text
                kinds[prompt.kind] += 1
    assert kinds["extreme_x"] > 5
    assert kinds["relation"] > 5


# ------------------------------------------------------------------------------------- regions


def _near(mask: NDArray[np.bool_], reach_px: int) -> NDArray[np.bool_]:
    """Return the mask dilated by a square."""
    padded = np.pad(mask, reach_px)
    shifts = range(2 * reach_px + 1)
    grown = [padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]] for dy in shifts for dx in shifts]
    return np.any(grown, axis=0)


def test_regions_lie_on_what_they_mean() -> None:
    regions = [(s, p) for s, p in drawn() if p.regions]
    assert {prompt.kind for _, prompt in regions} == {"interactive", "visual_grounded"}
    for sample, prompt in regions:
        assert len(prompt.regions) == len(prompt.targets)
        for region, ids in zip(prompt.regions, prompt.targets, strict=True):
            assert region.shape == (HEIGHT, WIDTH)
            overlap = [int((region & (sample.instance_ids == number)).sum()) for number in ids]
            assert max(overlap) > 0
            categories = {sample.labeled()[number].category for number in ids}
            assert len(categories) == 1
            if prompt.kind == "interactive":
                assert len(ids) == 1
            else:  # one example represents its whole category
                (category,) = categories
                everyone = {n for n, item in sample.labeled().items() if item.category == category}
                assert set(ids) == everyone


def test_people_point_at_objects_in_every_way() -> None:
    kinds = Counter[PromptKind]()
    for sample in samples():
        rng = np.random.default_rng(4)
        for number, item in sample.labeled().items():
            mask = sample.instance_ids == number
            for _ in range(12):
                prompt = random_region(mask, rng)
                prompt.check_inside((HEIGHT, WIDTH))
                assert prompt.positive
                kinds[prompt.kind] += 1
                if prompt.points_xy is not None:
                    columns, rows = prompt.points_xy.astype(int).T
                    assert mask[rows, columns].all()
                elif prompt.mask is not None:
                    np.testing.assert_array_equal(prompt.mask, mask)
                else:
                    assert prompt.box_xyxy is not None
                    assert np.abs(np.subtract(prompt.box_xyxy, item.box_xyxy)).max() <= 2
    assert set(kinds) == set(PromptKind)


def test_an_interactive_region_stays_near_its_object() -> None:
    reach = max(2, round(PROMPT_RADIUS_SHARE * WIDTH)) + 1
    for sample, prompt in drawn():
        if prompt.kind == "interactive":
            ((number,),) = prompt.targets
            item = sample.labeled()[number]
            x_min, y_min, x_max, y_max = item.box_xyxy
            box = np.zeros((HEIGHT, WIDTH), np.bool_)
            box[y_min:y_max, x_min:x_max] = True
            assert not (prompt.regions[0] & ~_near(box, reach)).any()


def test_kinds_follow_their_shares() -> None:
    counts = Counter(draw_kinds(np.random.default_rng(0), 4000))
    assert set(counts) == set(TASK_SHARES)
    for kind, share in TASK_SHARES.items():
        assert counts[kind] / 4000 == pytest.approx(share / sum(TASK_SHARES.values()), abs=0.03)
