"""Ids, bounds and threads of the scene store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from xsam import Frame, MaskRle
from xsam_agent_tools import ImageFullError, Scene, SceneObject, SceneStore, StaleIdError, UnknownIdError

FRAME = Frame(rgb=np.zeros((40, 50, 3), np.uint8))  # 6000 bytes


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
    store = SceneStore()
    first, second = _add(store, objects=2), _add(store)
    assert [item.object_id for item in first.objects] == ["f1/m1", "f1/m2"]
    assert second.image_id == "f2"
    grown = store.add_objects("f1", [_object("plate")])
    assert [item.mark for item in grown.objects] == [1, 2, 3]
    scene, found = store.object("f1/m3")
    assert (scene.image_id, found.label) == ("f1", "plate")
    assert store.scene("f1").objects == grown.objects


def test_count_bound_drops_the_least_recently_used() -> None:
    store = SceneStore(max_images=3)
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
    store = SceneStore(max_bytes=20_000)
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
    kept = _add_item(SceneStore(), item)
    assert kept.mask == item.mask
    assert kept.mask.nbytes == len(item.mask.counts)


def _add_item(store: SceneStore, item: SceneObject) -> SceneObject:
    scene = store.add_scene(
        camera="front", frame_id="", stamp_ns=1, image_hw=(40, 50), frame=FRAME, objects=[item]
    )
    return scene.objects[0]


def test_pixels_that_exceed_the_bound_are_left_out_but_the_objects_kept() -> None:
    store = SceneStore(max_bytes=5000)
    scene = _add(store)
    assert scene.frame is None
    assert store.object("f1/m1")[1].label == "mug"
    assert store.nbytes < 5000


@pytest.mark.parametrize(
    "image_id", ["", "f", "f0", "f2", "7", "g1", "f1x", "f-1", "f٣", "f" + "9" * 40, "F1"]
)
def test_ids_that_never_were(image_id: str) -> None:
    store = SceneStore()
    _add(store)
    with pytest.raises(UnknownIdError):
        store.scene(image_id)
    with pytest.raises(UnknownIdError):
        store.object(image_id + "/m1")


def test_object_id_that_never_was_names_those_there_are() -> None:
    store = SceneStore()
    _add(store, objects=2)
    for object_id in ("f1", "f1/m3", "f1/m0", "f1/"):
        with pytest.raises(UnknownIdError, match="f1/m1, f1/m2"):
            store.object(object_id)


def test_objects_on_one_image_are_bounded() -> None:
    store = SceneStore(max_objects_per_image=3)
    _add(store, objects=2)
    with pytest.raises(ImageFullError):
        store.add_objects("f1", [_object()] * 2)
    assert len(store.scene("f1").objects) == 2
    with pytest.raises(ImageFullError):
        _add(store, objects=4)
    assert _add(store).image_id == "f2"


def test_first_number_keeps_old_conversations_apart() -> None:
    store = SceneStore(first_number=100)
    assert _add(store).image_id == "f100"
    with pytest.raises(UnknownIdError):
        store.scene("f1")


def test_bounds_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        SceneStore(max_images=0)


def test_kept_and_dropped_objects() -> None:
    store = SceneStore()
    _add(store, objects=3)
    assert [o.mark for o in store.keep("f1", {"f1/m1", "f1/m3"}).shown] == [1, 3]
    assert store.object("f1/m2")[1].dropped
    assert [o.mark for o in store.scene("f1").objects] == [1, 2, 3]
    assert [o.mark for o in store.keep("f1", {"f1/m2"}).shown] == [2]
    assert store.add_objects("f1", [_object()]).shown[-1].object_id == "f1/m4"
    with pytest.raises(UnknownIdError):
        store.keep("f2", set())


def test_the_newest_image_of_a_camera() -> None:
    store = SceneStore(max_images=12)
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
    store = SceneStore(max_images=1)
    _add(store)
    child = replace(_object(), parent_id="f1/m1")
    store.add_scene(camera="front", frame_id="", stamp_ns=1, image_hw=(40, 50), objects=[child])
    assert store.object("f2/m1")[1].parent_id == "f1/m1"
    with pytest.raises(StaleIdError):
        store.object("f1/m1")


def test_threads_never_share_an_id() -> None:
    store = SceneStore(max_images=50)
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
