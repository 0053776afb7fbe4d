"""Ids, bounds and threads of the scene store."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from xsam import Frame, MaskRle
from xsam_agent_tools import ImageFullError, Scene, SceneObject, SceneStore, StaleIdError, UnknownIdError

FRAME = Frame(rgb=np.zeros((40, 50, 3), np.uint8))  # 6000 bytes


def _store(**bounds: int) -> SceneStore:
    return SceneStore(run="", **bounds)  # so that the first image is "f1"


def _object(label: str = "mug") -> SceneObject:
    mask = MaskRle.encode(np.eye(40, 50, dtype=np.bool_))
    return SceneObject(
        query=label, label=label, score=0.5, box_xyxy=(0, 0, 40, 40), center_xy=(1, 1), mask=mask
    )


def _add(store: SceneStore, *, objects: int = 1, frame: Frame | None = FRAME) -> Scene:
    return store.add_scene(
        camera="front", frame_id="", stamp_ns=1, image_hw=(40, 50), frame=frame, objects=[_object()] * objects
    )


def test_ids_count_on_and_lead_back() -> None:
    store = _store()
    first, second = _add(store, objects=2), _add(store)
    assert [item.object_id for item in first.objects] == ["f1/m1", "f1/m2"]
    assert second.image_id == "f2"
    grown = store.add_objects("f1", [_object("plate")])
    assert [item.mark for item in grown.objects] == [1, 2, 3]
    scene, found = store.object("f1/m3")
    assert (scene.image_id, found.label) == ("f1", "plate")
    assert store.scene("f1").objects == grown.objects


def test_count_bound_drops_the_least_recently_used() -> None:
    store = _store(max_images=3)
    for _ in range(3):
        _add(store)
    store.object("f1/m1")  # counts as a use
    _add(store)
    assert len(store) == 3
    store.scene("f1")
    with pytest.raises(StaleIdError, match="f2"):
        store.scene("f2")
    with pytest.raises(StaleIdError):
        store.object("f2/m1")
    with pytest.raises(StaleIdError):
        store.add_objects("f2", [_object()])


def test_memory_bound() -> None:
    store = _store(max_bytes=20_000)
    for _ in range(10):
        scene = _add(store)
        assert store.nbytes <= 20_000
        assert store.scene(scene.image_id).frame is FRAME
    assert len(store) == 3
    assert store.nbytes == sum(store.scene(f"f{n}").nbytes for n in (8, 9, 10))
    for _ in range(30):
        store.add_objects("f10", [_object()])
    assert store.nbytes <= 20_000
    assert len(store) < 3


def test_the_store_keeps_no_decoded_crops() -> None:
    """A mask from the engine comes with its crop, which is 100 times its code and not part of the bound."""
    item = _object()
    item.mask.crop()
    kept = _add_item(_store(), item)
    assert kept.mask == item.mask
    assert kept.mask.nbytes == len(item.mask.counts)


def _add_item(store: SceneStore, item: SceneObject) -> SceneObject:
    scene = store.add_scene(
        camera="front", frame_id="", stamp_ns=1, image_hw=(40, 50), frame=FRAME, objects=[item]
    )
    return scene.objects[0]


def test_pixels_that_exceed_the_bound_are_left_out_but_the_objects_kept() -> None:
    store = _store(max_bytes=5000)
    scene = _add(store)
    assert scene.frame is None
    assert store.object("f1/m1")[1].label == "mug"
    assert store.nbytes < 5000


@pytest.mark.parametrize(
    "image_id", ["", "f", "f0", "f2", "7", "g1", "f1x", "f-1", "f٣", "f" + "9" * 40, "F1"]
)
def test_ids_that_never_were(image_id: str) -> None:
    store = _store()
    _add(store)
    with pytest.raises(UnknownIdError):
        store.scene(image_id)
    with pytest.raises(UnknownIdError):
        store.object(image_id + "/m1")


def test_object_id_that_never_was_names_those_there_are() -> None:
    store = _store()
    _add(store, objects=2)
    for object_id in ("f1", "f1/m3", "f1/m0", "f1/"):
        with pytest.raises(UnknownIdError, match="f1/m1, f1/m2"):
            store.object(object_id)


def test_objects_on_one_image_are_bounded() -> None:
    store = _store(max_objects_per_image=3)
    _add(store, objects=2)
    with pytest.raises(ImageFullError):
        store.add_objects("f1", [_object()] * 2)
    assert len(store.scene("f1").objects) == 2
    with pytest.raises(ImageFullError):
        _add(store, objects=4)
    assert _add(store).image_id == "f2"


def test_ids_of_another_run_are_stale_and_never_name_another_image() -> None:
    """Ids began with f1 in every process: "f1/m1" of a resumed conversation named something else."""
    former, store = SceneStore(), SceneStore()
    old, new = _add(former), _add(store)
    assert old.image_id != new.image_id
    for lookup in (store.scene, store.object, lambda i: store.add_objects(i, [_object()])):
        with pytest.raises(StaleIdError, match="earlier run") as caught:
            lookup(old.image_id)
        assert "look again" in caught.value.hint
    with pytest.raises(StaleIdError):
        store.object(old.objects[0].object_id)
    assert store.object(new.objects[0].object_id)[0] is store.scene(new.image_id)


def test_ids_without_their_letters_are_unknown_and_not_guessed() -> None:
    store = SceneStore()
    image_id = _add(store).image_id
    letters = image_id[2:]
    for wrong in ("f1", "f2", f"f2{letters}", f"f1{letters[:-1]}", f"f1{letters}x"):
        with pytest.raises(UnknownIdError, match=letters):
            store.scene(wrong)


def test_a_forked_process_hands_out_ids_of_its_own() -> None:
    store = SceneStore()
    _add(store)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(send, _add(store).image_id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    in_child = os.read(receive, 100).decode()
    assert in_child.startswith("f")
    with pytest.raises(StaleIdError):
        store.scene(in_child)
    assert _add(store).image_id != in_child


@pytest.mark.parametrize("run", ["A", "x1", "a" * 17, "f/m"])
def test_letters_of_a_run(run: str) -> None:
    with pytest.raises(ValueError, match="lowercase letters"):
        SceneStore(run=run)


def test_bounds_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        _store(max_images=0)


def test_kept_and_dropped_objects() -> None:
    store = _store()
    _add(store, objects=3)
    assert [o.mark for o in store.keep("f1", {"f1/m1", "f1/m3"}).shown] == [1, 3]
    assert store.object("f1/m2")[1].dropped
    assert [o.mark for o in store.scene("f1").objects] == [1, 2, 3]
    assert [o.mark for o in store.keep("f1", {"f1/m2"}).shown] == [2]
    assert store.add_objects("f1", [_object()]).shown[-1].object_id == "f1/m4"
    with pytest.raises(UnknownIdError):
        store.keep("f2", set())


def test_the_newest_image_of_a_camera() -> None:
    store = _store(max_images=12)
    for _ in range(11):  # "f9" is not newer than "f11"
        _add(store)
    store.scene("f3")
    newest = store.newest("front")
    assert newest is not None
    assert newest.image_id == "f11"
    assert store.newest("wrist") is None
    _add(store)
    _add(store)
    assert len(store) == 12
    with pytest.raises(StaleIdError):  # requesting the newest does not count as a use of the older ones
        store.scene("f1")


def test_a_parent_may_be_gone() -> None:
    store = _store(max_images=1)
    _add(store)
    child = replace(_object(), parent_id="f1/m1")
    store.add_scene(camera="front", frame_id="", stamp_ns=1, image_hw=(40, 50), objects=[child])
    assert store.object("f2/m1")[1].parent_id == "f1/m1"
    with pytest.raises(StaleIdError):
        store.object("f1/m1")


def test_threads_never_share_an_id() -> None:
    store = _store(max_images=50)
    _add(store)

    def work(_: int) -> tuple[str, list[str]]:
        image_id = _add(store, frame=None).image_id
        grown = store.add_objects("f1", [_object()])
        return image_id, [grown.objects[-1].object_id]

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(work, range(100)))
    assert len({image_id for image_id, _ in done}) == 100
    assert len({ids[0] for _, ids in done}) == 100
    assert len(store) == 50
    assert len(store.scene("f1").objects) == 101
