"""What `XSam.load` and `XSam.segment` accept, and whose the arrays are afterwards."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.engine.asking import GOLDEN, assert_same, parts, picture
from xsam import (
    CheckpointError,
    Frame,
    InvalidImageError,
    InvalidOptionError,
    InvalidQueryError,
    ModelError,
    Query,
    XSam,
)

# --------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, 'device must be "auto", "cpu", "cuda"'),
        ({"device": 5}, "device must be"),
        ({"device": "cuda:99"}, "device must be"),
        ({"llm_device": "tpu"}, "llm_device must be"),
        ({"dtype": "bf16"}, "dtype must be one of 'auto', 'float32', 'bfloat16', 'float16', got 'bf16'"),
        ({"dtype": torch.float16}, "dtype must be one of"),
        ({"llm_weights": "int4"}, "llm_weights must be one of 'as_loaded', 'int8', 'bfloat16', got 'int4'"),
        ({"compiled": "yes"}, "compiled must be true or false, got 'yes'"),
        ({"threads": 0}, "threads must be an integer from 1 to 4096 or null, got 0"),
        ({"threads": 2.5}, "threads must be"),
        ({"threads": True}, "threads must be"),
        ({"frame_cache_mib": -1}, "frame_cache_mib must be a number from 0"),
        ({"frame_cache_mib": float("nan")}, "frame_cache_mib must be a number from 0 to 1e+09, got nan"),
        ({"frame_cache_mib": "2048"}, "frame_cache_mib must be"),
    ],
)
def test_options_are_checked_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    """Some were raw errors of PyTorch, `int4` was ignored, and `threads=0` failed with the first request."""
    with pytest.raises(InvalidOptionError) as caught:
        XSam.load("/nowhere", **options)
    assert message in caught.value.message


def test_all_wrong_options_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"dtype must be .*; threads must be"):
        XSam.load("tiny", dtype="half", threads=-1)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [5, None, b"tiny", ["tiny"]])
def test_a_model_that_is_no_name_and_no_path(model: Any) -> None:
    with pytest.raises(InvalidOptionError, match="model must be a name or a path"):
        XSam.load(model)


@pytest.mark.parametrize("model", ["", ".", "..", "tiny/..", "~nobody_here/model", "a\0b", "x" * 5000])
def test_paths_that_are_no_model(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "." and ".." were looked up beside the shipped models, and opened the package's own folder."""
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(CheckpointError) as caught:
        XSam.load(model)
    assert "assets" not in caught.value.message


def test_a_weight_file_is_no_model() -> None:
    with pytest.raises(CheckpointError, match="is a file") as caught:
        XSam.load(GOLDEN / "a" / "model.safetensors")
    assert "xsam convert" in caught.value.hint


def test_what_loading_raises_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TypeError("unexpected keyword\nand more")

    monkeypatch.setattr("xsam.engine.load_checkpoint", fail)
    with pytest.raises(CheckpointError, match=r"cannot load .*tiny: TypeError: unexpected keyword$"):
        XSam.load("tiny")


def test_loading_never_touches_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"loading connects to {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert XSam.load(GOLDEN / "a", device="cpu").segment(picture(), "mug").found


# ------------------------------------------------------------------------- what a caller may pass


def test_images_may_be_paths_or_pillow_images(one_engine: XSam, tmp_path: Path) -> None:
    expected = one_engine.segment(picture(), "mug")
    path = tmp_path / "picture.png"
    with Image.fromarray(picture()) as image:
        image.save(path)
        for source in (path, str(path), image, image.convert("RGBA")):
            assert_same(one_engine.segment(source, "mug"), expected, 1e-6)
    with pytest.raises(InvalidImageError, match="cannot read"):
        one_engine.segment(tmp_path / "nothing.png", "mug")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_pillow_images_are_refused(one_engine: XSam, mode: str) -> None:
    """Pillow's own conversion to RGB makes them white."""
    with pytest.raises(InvalidImageError, match="which is not 8-bit") as caught:
        one_engine.segment(Image.new(mode, (20, 10)), "mug")
    assert "0…255" in caught.value.hint


def test_queries_may_be_texts(one_engine: XSam) -> None:
    results = one_engine.segment(picture(), ["mug", Query(text="cube")])
    assert [result.query.text for result in results] == ["mug", "cube"]
    assert [len(one_engine.segment(picture(), kind)) for kind in (("mug",), iter(["mug"]))] == [1, 1]  # type: ignore[arg-type, call-overload]


@pytest.mark.parametrize(
    "queries",
    [5, 2.5, None, b"mug", {"mug": 1}, {"mug", "cup"}, [5], ["mug", None], [b"mug"], np.array("mug")],
)
def test_queries_of_other_types(one_engine: XSam, queries: Any) -> None:
    with pytest.raises(InvalidQueryError):
        one_engine.segment(picture(), queries)


@pytest.mark.parametrize("deadline_s", [float("nan"), "soon", True, [1]])
def test_deadlines_that_are_no_number(one_engine: XSam, deadline_s: Any) -> None:
    with pytest.raises(InvalidQueryError, match="the deadline must be a number of seconds"):
        one_engine.segment(picture(), "mug", deadline_s=deadline_s)


def test_a_buffer_may_be_used_again(one_engine: XSam) -> None:
    """The frame cache held what came into the buffer later: picture A was answered with B's features."""
    other = np.ascontiguousarray(picture()[::-1, ::-1])
    expected = [one_engine.segment(image.copy(), "mug") for image in (picture(), other)]
    buffer = picture().copy()
    first = Frame(rgb=buffer, depth_m=np.ones(buffer.shape[:2], np.float32))
    buffer[:] = other
    assert_same(one_engine.segment(first, "mug"), expected[0], 1e-6)
    assert_same(one_engine.segment(Frame(rgb=buffer), "mug"), expected[1], 1e-6)

    def overwrite(stage: str) -> None:
        if stage == "encode":
            buffer[:] = 0

    fresh = XSam(*parts("a"), model_id="a")
    buffer[:] = picture()
    assert_same(fresh.segment(buffer, "mug", on_stage=overwrite), expected[0], 1e-6)
    assert_same(fresh.segment(picture(), "mug"), expected[0], 1e-6)


def test_a_repeated_category_does_not_share_its_score(one_engine: XSam) -> None:
    once = one_engine.segment(picture(), Query(thing_classes=("mug", "cube"), score_threshold=0.0))
    query = Query(thing_classes=("mug", "Mug ", "mug", "cube"), score_threshold=0.0)
    repeated = one_engine.segment(picture(), query)
    assert repeated.query is query
    assert repeated.segments.scores.tolist() == once.segments.scores.tolist()
    assert repeated.segments.labels == once.segments.labels
    assert [query.thing_classes[i] for i in repeated.segments.label_indices] == list(once.segments.labels)
    with pytest.raises(InvalidQueryError, match="as a thing and as stuff"):
        one_engine.segment(picture(), Query(thing_classes=("table",), stuff_classes=("Table",)))


def test_a_forked_process_is_told_so(one_engine: XSam, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its threads PyTorch never came back, deadline or not."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)
        started = time.monotonic()
        with pytest.raises(ModelError, match="before this process was forked") as caught:
            one_engine.segment(picture(), "mug", deadline_s=5.0)
    assert "spawn" in caught.value.hint
    assert time.monotonic() - started < 1.0


def test_a_child_process_ends(one_engine: XSam) -> None:
    """The real thing: a request in flight on another thread holds the lock when the process is forked."""
    held, done = threading.Event(), threading.Event()

    def hold(_: str) -> None:
        held.set()
        done.wait(30)

    other = threading.Thread(target=one_engine.segment, args=(picture(), "mug"), kwargs={"on_stage": hold})
    other.start()
    try:
        assert held.wait(30)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of forking with threads, from Python 3.12 on
            child = os.fork()
        if child == 0:
            try:
                one_engine.segment(picture(), "mug")
            except ModelError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(_wait_for(child)) == 7
    finally:
        done.set()
        other.join(30)


def _wait_for(child: int, deadline_s: float = 20.0) -> int:
    """Return the status of a child process; kill it if it does not end."""
    ends_s = time.monotonic() + deadline_s
    while time.monotonic() < ends_s:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            return status
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]
