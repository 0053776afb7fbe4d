"""The download against a small hub on this computer: what it fetches, checks, refuses and reports."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

from tests.unit.weights.fake_hub import FakeHub
from xsam import DownloadError, InvalidOptionError
from xsam.weights import download as module
from xsam.weights.download import LOCK_NAME, download
from xsam.weights.releases import PHI3, REPOSITORIES, STAGE, XSAM, HubRepository

WEIGHTS = f"{STAGE}/xsam_phi3/pytorch_model.bin"


def _commit(number: int) -> str:
    return f"{number:040x}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeHub().serving() as fake:
        yield fake


MODEL = HubRepository(repo_id="hao9610/X-SAM", folder="X-SAM", revision="main", patterns=XSAM.patterns)
TOKENIZER = HubRepository(
    repo_id="microsoft/Phi-3-mini-4k-instruct",
    folder="Phi-3-mini-4k-instruct",
    revision=_commit(7),
    patterns=PHI3.patterns,
)
TWO = (MODEL, TOKENIZER)


@pytest.fixture
def filled(hub: FakeHub) -> FakeHub:
    hub.publish(
        MODEL.repo_id,
        _commit(1),
        {
            "README.md": b"read me",
            WEIGHTS: b"weights" * 1000,
            f"{STAGE}/xsam_phi3/config.py": b"code",
            "s1_seg_finetune/pytorch_model.bin": b"not this",
            "vgdseg_annotations/data.json": b"{}",
        },
    )
    files = {
        "tokenizer.json": b"{}",
        "model-00001-of-00002.safetensors": b"x",
        "model.safetensors.index.json": b"",
    }
    hub.publish(TOKENIZER.repo_id, _commit(7), {**files, "config.json": b"{}"}, main=False)
    return hub


def _fetch(hub: FakeHub, out: Path, **options: Any) -> module.DownloadReport:
    return download(out, repositories=TWO, endpoint=hub.endpoint, **options)


def _failure(hub: FakeHub, out: Path, **options: Any) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        _fetch(hub, out, **options)
    return caught.value


def _refusal(hub: FakeHub, out: Path, **options: Any) -> InvalidOptionError:
    with pytest.raises(InvalidOptionError) as caught:
        _fetch(hub, out, **options)
    return caught.value


def _files(folder: Path) -> set[str]:
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name for name in found if "/.cache/" not in name}


# -- what is fetched


def test_matching_files_are_fetched_and_locked(filled: FakeHub, tmp_path: Path) -> None:
    report = _fetch(filled, tmp_path / "out")
    phi = "Phi-3-mini-4k-instruct"
    assert _files(tmp_path / "out") == {
        LOCK_NAME,
        "X-SAM/README.md",
        f"X-SAM/{WEIGHTS}",
        f"{phi}/tokenizer.json",
        f"{phi}/config.json",
    }
    assert report.commits == {MODEL.repo_id: _commit(1), TOKENIZER.repo_id: _commit(7)}
    assert report.fetched == (MODEL.repo_id, TOKENIZER.repo_id)
    assert (report.file_count, report.size_bytes) == (4, 7 + 7000 + 2 + 2)
    lock = json.loads((tmp_path / "out" / LOCK_NAME).read_text())["repositories"]
    assert lock[MODEL.repo_id]["commit"] == _commit(1)
    assert lock[MODEL.repo_id]["files"][WEIGHTS] == {
        "size": 7000,
        "sha256": hashlib.sha256(b"weights" * 1000).hexdigest(),
    }


def test_a_second_run_needs_no_network(filled: FakeHub, tmp_path: Path) -> None:
    first = _fetch(filled, tmp_path / "out")
    filled.requests.clear()
    second = _fetch(filled, tmp_path / "out")
    assert filled.requests == []
    assert second.fetched == ()
    assert (second.commits, second.size_bytes) == (first.commits, first.size_bytes)


def test_a_missing_file_is_fetched_from_the_same_commit(filled: FakeHub, tmp_path: Path) -> None:
    """`main` has moved to another commit in the meantime."""
    _fetch(filled, tmp_path / "out")
    filled.publish(MODEL.repo_id, _commit(2), {"README.md": b"new", WEIGHTS: b"other weights"})
    weights = tmp_path / "out" / "X-SAM" / WEIGHTS
    weights.unlink()
    report = _fetch(filled, tmp_path / "out")
    assert report.fetched == (MODEL.repo_id,)
    assert report.commits[MODEL.repo_id] == _commit(1)
    assert weights.read_bytes() == b"weights" * 1000


def test_a_changed_file_is_reported(filled: FakeHub, tmp_path: Path) -> None:
    _fetch(filled, tmp_path / "out")
    weights = tmp_path / "out" / "X-SAM" / WEIGHTS
    weights.write_bytes(b"Weights" * 1000)  # the same size
    error = _failure(filled, tmp_path / "out")
    assert "1 file(s)" in error.message
    assert error.message.endswith(f"changed since the download: {WEIGHTS}")
    weights.unlink()
    assert _fetch(filled, tmp_path / "out").fetched == (MODEL.repo_id,)


def test_content_that_differs_from_the_hubs_hash_is_refused(filled: FakeHub, tmp_path: Path) -> None:
    filled.spoiled.add(WEIGHTS)
    error = _failure(filled, tmp_path / "out")
    assert WEIGHTS in error.message
    assert "differ from the hub's" in error.message
    assert not (tmp_path / "out" / LOCK_NAME).exists()


# -- revisions


def test_a_revision_can_be_named(filled: FakeHub, tmp_path: Path) -> None:
    filled.publish(MODEL.repo_id, _commit(2), {WEIGHTS: b"newer"})
    report = _fetch(filled, tmp_path / "out", revisions={MODEL.repo_id: _commit(1)})
    assert report.commits[MODEL.repo_id] == _commit(1)
    _fetch(filled, tmp_path / "out", revisions={MODEL.repo_id: _commit(1)})
    error = _refusal(filled, tmp_path / "out", revisions={MODEL.repo_id: _commit(2)})
    assert f"contains commit {_commit(1)}" in error.message
    assert LOCK_NAME in error.hint


def test_a_branch_can_be_named_twice(filled: FakeHub, tmp_path: Path) -> None:
    for _ in range(2):
        report = _fetch(filled, tmp_path / "out", revisions={MODEL.repo_id: "main"})
    assert report.commits[MODEL.repo_id] == _commit(1)


def test_revisions_of_unknown_repositories_are_refused(filled: FakeHub, tmp_path: Path) -> None:
    error = _refusal(filled, tmp_path / "out", revisions={"some/other": "main"})
    assert "nothing is downloaded from some/other" in error.message
    assert filled.requests == []


def test_a_revision_that_is_not_there(filled: FakeHub, tmp_path: Path) -> None:
    error = _refusal(filled, tmp_path / "out", revisions={MODEL.repo_id: _commit(99)})
    assert error.message == f"{MODEL.repo_id} has no revision {_commit(99)}"
    assert f"--revision {MODEL.repo_id}=COMMIT" in error.hint


def test_a_layout_that_changed(filled: FakeHub, tmp_path: Path) -> None:
    filled.publish(MODEL.repo_id, _commit(1), {"weights/new_name.bin": b"x"})
    assert "has none of" in _failure(filled, tmp_path / "out").message


# -- what goes wrong


@pytest.mark.parametrize(
    ("status", "code", "message", "hint"),
    [
        (403, "GatedRepo", "is gated", "accept its terms at https://huggingface.co/hao9610/X-SAM"),
        (404, "RepoNotFound", "the hub has no hao9610/X-SAM that you may read", "without a network"),
        (500, "", "the hub returned HTTP 500 for hao9610/X-SAM", "resumes"),
        (429, "", "the hub returned HTTP 429 for hao9610/X-SAM", "resumes"),
    ],
)
def test_refusals_of_the_hub(
    filled: FakeHub, tmp_path: Path, status: int, code: str, message: str, hint: str
) -> None:
    filled.errors[MODEL.repo_id] = (status, code)
    error = _failure(filled, tmp_path / "out")
    assert message in error.message
    assert hint in error.hint
    assert "\n" not in str(error)


def test_without_a_network_the_hint_lists_what_to_copy(filled: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot reach the hub for hao9610/X-SAM") as caught:
        download(tmp_path / "out", repositories=TWO, endpoint="http://127.0.0.1:9")  # nobody listens there
    for part in (
        f"{STAGE}/",
        str(tmp_path / "out" / "X-SAM"),
        "tokenizer.json",
        "xsam convert",
        "it resumes",
    ):
        assert part in caught.value.hint


def test_offline_mode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="switched off by HF_HUB_OFFLINE") as caught:
        download(tmp_path / "out")
    assert "copy the folder here" in caught.value.hint


def test_too_little_disk_space_is_detected_first(
    filled: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = module.SPARE_DISK_BYTES + 7000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    error = _failure(filled, tmp_path / "out")
    assert "has 1.0 GB free, the download takes 0.0 GB" in error.message
    assert not any("/resolve/" in path for path in filled.requests)
    # What an interrupted download left is not needed again.
    part = tmp_path / "out" / "X-SAM" / ".cache" / "huggingface" / "download" / "w.bin.0123.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    assert _fetch(filled, tmp_path / "out").file_count == 4


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk of .* is full"),
        (RuntimeError("Data processing error: No space left on device"), "the disk of .* is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot use .*: Permission denied"),
        (ConnectionResetError("connection reset by peer"), "cannot reach the hub for .*: connection reset"),
    ],
)
def test_failures_while_files_arrive(
    filled: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert re.search(message, _failure(filled, tmp_path / "out").message)


def test_bugs_are_not_reported_as_download_errors(
    filled: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object, **__: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", mistaken)
    with pytest.raises(TypeError, match="a bug"):
        _fetch(filled, tmp_path / "out")


def test_files_that_never_arrived_are_named(
    filled: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client returns an old folder, incomplete or not, when the connection breaks."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: "")
    error = _failure(filled, tmp_path / "out")
    assert "2 file(s) of hao9610/X-SAM are missing" in error.message
    assert "run the command again" in error.hint


@pytest.mark.parametrize("name", [f"{STAGE}/../../pytorch_model.bin", f"/{STAGE}/pytorch_model.bin"])
def test_names_that_leave_the_folder_are_refused(filled: FakeHub, tmp_path: Path, name: str) -> None:
    loose = HubRepository(
        repo_id=MODEL.repo_id, folder="X-SAM", revision="main", patterns=("*pytorch_model.bin",)
    )
    filled.publish(MODEL.repo_id, _commit(1), {name: b"x"})
    with pytest.raises(DownloadError, match="points outside its folder"):
        download(tmp_path / "out", repositories=(loose,), endpoint=filled.endpoint)
    assert not any("/resolve/" in path for path in filled.requests)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": 99, "repositories": {}}',
        '{"format": 1, "repositories": {"hao9610/X-SAM": {"commit": "1"}}}',
        '{"format": 1, "repositories": {"hao9610/X-SAM": {"commit": "1", "files": {"a": {"size": 1}}}}}',
        "[" * 100_000,
        '{"format": 1, "repositories": {"hao9610/X-SAM": {"commit": 5, "files": {}}}}',
        '{"format": 1, "repositories": {"hao9610/X-SAM": {"commit": "1", "revision": 5, "files": {}}}}',
        '{"format": 1, "repositories": {"X": {"commit": "1", "files": {"a": {"size": true, "sha256": ""}}}}}',
    ],
)
def test_a_damaged_lock_file_is_reported(filled: FakeHub, tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_NAME).write_text(content)
    error = _failure(filled, tmp_path)
    assert f"{LOCK_NAME} is damaged" in error.message
    assert "delete it" in error.hint


def test_an_output_that_is_a_file(filled: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    assert "cannot use" in _failure(filled, tmp_path / "out").message


def test_manually_copied_files_are_kept(filled: FakeHub, tmp_path: Path) -> None:
    """Large files are compared by their hash and not fetched again."""
    _fetch(filled, tmp_path / "there")
    out = tmp_path / "here"
    weights = out / "X-SAM" / WEIGHTS
    weights.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "there" / "X-SAM" / WEIGHTS, weights)
    written = weights.stat().st_mtime_ns
    assert _fetch(filled, out).file_count == 4
    assert weights.stat().st_mtime_ns == written


# -- the list


def test_the_list_of_repositories() -> None:
    assert [repo.repo_id for repo in REPOSITORIES] == [
        "hao9610/X-SAM",
        "microsoft/Phi-3-mini-4k-instruct",
        "google/siglip2-so400m-patch14-384",
        "facebook/sam-vit-large",
        "facebook/mask2former-swin-large-coco-panoptic",
    ]
    assert len({repo.folder for repo in REPOSITORIES}) == len(REPOSITORIES)
    pinned = {repo.repo_id for repo in REPOSITORIES if re.fullmatch("[0-9a-f]{40}", repo.revision)}
    assert {repo.repo_id for repo in REPOSITORIES} - pinned == {"hao9610/X-SAM"}
    assert XSAM.revision == "main"


def test_only_the_first_repository_brings_weights() -> None:
    published = ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "tf_model.h5"]
    for repo in REPOSITORIES[1:]:
        assert list(filter_repo_objects(published, allow_patterns=list(repo.patterns))) == []
    assert list(filter_repo_objects([WEIGHTS], allow_patterns=list(XSAM.patterns))) == [WEIGHTS]
