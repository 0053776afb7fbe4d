"""Download the released checkpoint, and the small files that it needs, from the Hugging Face hub.

`xsam.weights.releases` lists what is downloaded.
The first download writes the commit that it found, and the sha256 of every file, to `xsam_download.json` in
the output folder; later runs fetch that commit and check every file against it. `--revision REPO=COMMIT` sets
a commit from the start.

`huggingface_hub` transfers the files and resumes. This module adds the lock file, the checks of hashes and
free disk space, and errors that say what to do. No PyTorch is needed.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from xsam.errors import DownloadError, InvalidOptionError
from xsam.weights.files import sha256_of_file
from xsam.weights.releases import (
    PHI3,
    QWEN3_VL,
    REPOSITORIES,
    STAGE,
    X2SAM,
    X2SAM_REPOSITORIES,
    X2SAM_STAGE,
    XSAM,
    HubRepository,
)

LOCK_NAME = "xsam_download.json"
LOCK_FORMAT = 1
SPARE_DISK_BYTES = 1_000_000_000
_TIMEOUT_S = 30.0
_TRANSPORT_PACKAGES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "hf_xet")


@dataclass(frozen=True, slots=True, kw_only=True)
class _RepositoryContent:
    """The files to download from a repository at one commit."""

    revision: str  # as requested
    commit: str
    sizes: Mapping[str, int]  # path in the repository → bytes
    sha256: Mapping[str, str]  # of the large files, according to the hub


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadReport:
    """Summary of the output folder after a download."""

    out: Path
    commits: Mapping[str, str]  # repository → commit
    file_count: int
    size_bytes: int
    fetched: tuple[str, ...]  # repositories that needed the network; empty = all files were there and correct


def download(
    out: Path,
    *,
    revisions: Mapping[str, str] | None = None,
    repositories: Sequence[HubRepository] = REPOSITORIES,
    endpoint: str | None = None,
) -> DownloadReport:
    """Fetch missing files, check all of them, and write the lock file.

    Interrupted downloads resume. No network is needed when all files are there and unchanged.

    Args:
        out: output folder; each repository gets a folder in it.
        revisions: repository → commit, tag or branch, instead of the listed one.
        repositories: what to download.
        endpoint: address of the hub or a mirror; None = `HF_ENDPOINT`, else huggingface.co.

    Raises:
        InvalidOptionError: a revision is of a repository that is not downloaded, does not exist, or is not
            that of the folder.
        DownloadError: no network, no access, not enough disk space, a file that changed, …
    """
    pins = dict(revisions or {})
    unknown = sorted(pins.keys() - {repo.repo_id for repo in repositories})
    if unknown:
        raise InvalidOptionError(
            f"nothing is downloaded from {', '.join(unknown)}",
            hint=f"revisions can be given for {', '.join(repo.repo_id for repo in repositories)}",
        )
    with _disk_errors(out):
        lock = _read_lock(out)
        _check_pins(pins, lock, out)
        incomplete = [repo for repo in repositories if not _is_complete(repo, lock, out)]
        contents = {repo.repo_id: _list_content(repo, pins, lock, out, endpoint) for repo in incomplete}
        _check_disk(out, incomplete, contents)
        for repo in incomplete:
            content = contents[repo.repo_id]
            _fetch(repo, content, out, endpoint)
            locked_files = lock.get(repo.repo_id, {}).get("files", {})
            lock[repo.repo_id] = {
                "revision": content.revision,
                "commit": content.commit,
                "files": _hash_files(repo, content, locked_files, out),
            }
            _write_lock(lock, out)
    files = [entry for repo in repositories for entry in lock[repo.repo_id]["files"].values()]
    return DownloadReport(
        out=out,
        commits={repo.repo_id: lock[repo.repo_id]["commit"] for repo in repositories},
        file_count=len(files),
        size_bytes=sum(entry["size"] for entry in files),
        fetched=tuple(repo.repo_id for repo in incomplete),
    )


def manual_download_hint(out: Path, repo: HubRepository = XSAM) -> str:
    """Explain how to get the files without a network connection.

    Args:
        out: output folder of the download.
        repo: one of the repositories of the release.
    """
    hub = "https://huggingface.co"
    if repo in X2SAM_REPOSITORIES:
        return (
            "without a network: run `xsam download x2sam` on another computer and copy the folder here, or "
            f"put {X2SAM_STAGE}/ of {hub}/{X2SAM.repo_id} into {out / X2SAM.folder}/ and all files of "
            f"{hub}/{QWEN3_VL.repo_id} into {out / QWEN3_VL.folder}/; then run `xsam convert`"
        )
    return (
        "without a network: run `xsam download` on another computer and copy the folder here, or put "
        f"{STAGE}/ of {hub}/{XSAM.repo_id} into {out / XSAM.folder}/ and tokenizer.json and "
        f"tokenizer_config.json of {hub}/{PHI3.repo_id} into {out / PHI3.folder}/; then run `xsam convert`"
    )


def _read_lock(out: Path) -> dict[str, Any]:
    """Read the lock file: repository → revision, commit and files; {} if there is none."""
    path = out / LOCK_NAME
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != LOCK_FORMAT:
            raise ValueError(f"format {content['format']} instead of {LOCK_FORMAT}")
        lock: dict[str, Any] = content["repositories"]
        for entry in lock.values():
            if not isinstance(entry["commit"], str) or not isinstance(entry.get("revision", ""), str):
                raise TypeError("a commit or revision is not text")
            for name, file in entry["files"].items():
                _check_file_name(name)
                if type(file["size"]) is not int or not isinstance(file["sha256"], str):
                    raise TypeError(f"size or sha256 of {name} has another type")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DownloadError(
            f"{path} is damaged: {error}",
            hint="delete it; the next run checks all files and writes a new one",
        ) from error
    return lock


def _write_lock(lock: Mapping[str, Any], out: Path) -> None:
    content = {"format": LOCK_FORMAT, "repositories": lock}
    unfinished = out / f"{LOCK_NAME}.part"
    unfinished.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(out / LOCK_NAME)


def _check_pins(pins: Mapping[str, str], lock: Mapping[str, Any], out: Path) -> None:
    """Raise an error if the folder already has another revision than the requested one."""
    for repo_id, revision in pins.items():
        entry = lock.get(repo_id)
        if entry and entry.get("revision") != revision and not entry["commit"].startswith(revision):
            raise InvalidOptionError(
                f"{out} contains commit {entry['commit']} of {repo_id}, not {revision}",
                hint=f"give another --out, or delete {out / LOCK_NAME} to fetch the other revision",
            )


def _is_complete(repo: HubRepository, lock: Mapping[str, Any], out: Path) -> bool:
    """Tell whether all files in the lock are there; raise an error if one of them changed."""
    entry = lock.get(repo.repo_id)
    if entry is None:
        return False
    folder = out / repo.folder
    present = {name: file for name, file in entry["files"].items() if (folder / name).is_file()}
    changed = [
        name
        for name, file in present.items()
        if (folder / name).stat().st_size != file["size"] or sha256_of_file(folder / name) != file["sha256"]
    ]
    if changed:
        raise DownloadError(
            f"{len(changed)} file(s) in {folder} changed since the download: {', '.join(changed[:10])}",
            hint="delete them and run the command again: it fetches them again",
        )
    return len(present) == len(entry["files"])


def _list_content(
    repo: HubRepository, pins: Mapping[str, str], lock: Mapping[str, Any], out: Path, endpoint: str | None
) -> _RepositoryContent:
    """List what the repository contains, without downloading anything."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined] # documented

    entry = lock.get(repo.repo_id, {})
    requested = pins.get(repo.repo_id) or entry.get("revision") or repo.revision
    revision = entry.get("commit") or requested
    with _hub_errors(repo, revision, out):
        info = HfApi(endpoint=endpoint).model_info(
            repo.repo_id, revision=revision, files_metadata=True, timeout=_TIMEOUT_S
        )
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    names = list(filter_repo_objects(siblings, allow_patterns=list(repo.patterns)))
    if not names or info.sha is None:
        raise DownloadError(
            f"{repo.repo_id} at {revision} has none of {', '.join(repo.patterns)}",
            hint="its layout changed; give an older commit with --revision",
        )
    for name in names:
        _check_file_name(name)
    large = {name: siblings[name].lfs for name in names}
    return _RepositoryContent(
        revision=requested,
        commit=info.sha,
        sizes={name: siblings[name].size or 0 for name in names},
        sha256={name: lfs.sha256 for name, lfs in large.items() if lfs is not None},
    )


def _check_file_name(name: str) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DownloadError(f"the file name {name!r} points outside its folder", hint="nothing was written")


def _check_disk(
    out: Path, repositories: Sequence[HubRepository], contents: Mapping[str, _RepositoryContent]
) -> None:
    """Raise an error unless the files that are still missing fit on the disk."""
    needed = 0
    for repo in repositories:
        folder = out / repo.folder
        sizes = contents[repo.repo_id].sizes
        needed += sum(size for name, size in sizes.items() if not (folder / name).is_file())
        needed -= sum(part.stat().st_size for part in folder.glob(".cache/huggingface/**/*.incomplete"))
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if needed > 0 and free < needed + SPARE_DISK_BYTES:
        raise DownloadError(
            f"{out} has {free / 1e9:.1f} GB free, the download takes {needed / 1e9:.1f} GB",
            hint="free some space or give --out on another disk; `xsam convert` needs as much again",
        )


def _fetch(repo: HubRepository, content: _RepositoryContent, out: Path, endpoint: str | None) -> None:
    from huggingface_hub import snapshot_download

    with _hub_errors(repo, content.commit, out):
        snapshot_download(
            repo.repo_id,
            revision=content.commit,
            local_dir=out / repo.folder,
            allow_patterns=list(repo.patterns),
            endpoint=endpoint,
        )


def _hash_files(
    repo: HubRepository, content: _RepositoryContent, locked_files: Mapping[str, Any], out: Path
) -> dict[str, dict[str, Any]]:
    """Return size and sha256 of every file, after comparing them with the hub's and an earlier lock."""
    folder = out / repo.folder
    missing = [name for name in content.sizes if not (folder / name).is_file()]
    if missing:
        raise DownloadError(
            f"{len(missing)} file(s) of {repo.repo_id} are missing: {', '.join(missing[:10])}"
        )
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_of_file(folder / name)}
        for name in content.sizes
    }
    wrong = [
        name
        for name, file in files.items()
        if file["size"] != content.sizes[name]
        or file["sha256"] != content.sha256.get(name, file["sha256"])
        or (name in locked_files and file["sha256"] != locked_files[name]["sha256"])
    ]
    if wrong:
        raise DownloadError(
            f"{len(wrong)} file(s) of {repo.repo_id} differ from the hub's: {', '.join(wrong[:10])}",
            hint=f"delete them in {folder} and run the command again",
        )
    return files


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Raise errors of the file system as `DownloadError`."""
    try:
        yield
    except OSError as error:
        raise _disk_error(error, out) from error


def _disk_error(error: OSError, out: Path) -> DownloadError:
    if error.errno == errno.ENOSPC:
        return DownloadError(
            f"the disk of {out} is full", hint="free some space and run the command again: it resumes"
        )
    return DownloadError(f"cannot use {out}: {error.strerror or error}", hint="give another --out")


@contextmanager
def _hub_errors(repo: HubRepository, revision: str, out: Path) -> Iterator[None]:
    """Raise errors of the hub's client as `DownloadError` with one sentence and what to do."""
    from huggingface_hub import constants, errors

    repo_id = repo.repo_id
    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{repo_id} is gated",
            hint=f"accept its terms at https://huggingface.co/{repo_id}, then log in with `hf auth login`",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"the hub has no {repo_id} that you may read",
            hint=f"it was moved or made private; {manual_download_hint(out, repo)}",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InvalidOptionError(
            f"{repo_id} has no revision {revision}", hint=f"give another one with --revision {repo_id}=COMMIT"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EACCES,
            errno.EROFS,
            errno.EDQUOT,
        ):
            raise _disk_error(error, out) from error
        if "No space left on device" in str(error):  # the chunked transfer only reports it in its message
            raise _disk_error(OSError(errno.ENOSPC, "No space left on device"), out) from error
        if constants.HF_HUB_OFFLINE:
            raise DownloadError(
                "downloads are switched off by HF_HUB_OFFLINE",
                hint=f"unset it; {manual_download_hint(out, repo)}",
            ) from error
        response = getattr(error, "response", None)
        if isinstance(error, errors.HfHubHTTPError) and response is not None:
            raise DownloadError(
                f"the hub returned HTTP {response.status_code} for {repo_id}",
                hint="try again later: the download resumes",
            ) from error
        if (
            not isinstance(error, (OSError, RuntimeError))
            and type(error).__module__.split(".")[0] not in _TRANSPORT_PACKAGES
        ):
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DownloadError(
            f"cannot reach the hub for {repo_id}: {reason}",
            hint="check the network and run the command again: it resumes; "
            + manual_download_hint(out, repo),
        ) from error
