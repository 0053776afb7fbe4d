"""Fetch the released checkpoint and the small files that belong to it from the Hugging Face hub.

`SOURCES` is the one table of what is fetched. Four of its revisions are commits that public code and pages
name; they were written down without asking the hub. For `hao9610/X-SAM` no full commit was known: the table
follows its branch `main`. The first download writes the commit that it met, and the sha256 of every file, to
`xsam_download.json` in the output folder; later runs fetch that commit and check every file against it.
`--revision REPO=COMMIT` names a commit from the start.

Needs `huggingface_hub` only, no PyTorch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from xsam.errors import DownloadError

LOCK_NAME = "xsam_download.json"
LOCK_FORMAT = 1
SPARE_DISK_BYTES = 1_000_000_000
STAGE = "s3_mixed_finetune"  # of the three training stages, the one that answers questions

_TIMEOUT_S = 30.0
_TRANSPORT = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "hf_xet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A repository on the hub and what is wanted of it."""

    repo_id: str
    folder: str  # below the output folder
    revision: str  # a commit, or a branch that the first download turns into one
    patterns: tuple[str, ...]  # `*` also matches "/"


XSAM = Source(
    repo_id="hao9610/X-SAM",
    folder="X-SAM",
    revision="main",
    patterns=(f"{STAGE}/*pytorch_model*", f"{STAGE}/*.safetensors*", "README.md"),
)
PHI3 = Source(
    repo_id="microsoft/Phi-3-mini-4k-instruct",
    folder="Phi-3-mini-4k-instruct",
    revision="0a67737cc96d2554230f90338b163bc6380a2a85",
    patterns=(
        "config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "LICENSE",
    ),
)
SIGLIP = Source(
    repo_id="google/siglip2-so400m-patch14-384",
    folder="siglip2-so400m-patch14-384",
    revision="e8e487298228002f3d8a82e0cd5c8ea9c567f57f",
    patterns=("config.json", "preprocessor_config.json"),
)
SAM = Source(
    repo_id="facebook/sam-vit-large",
    folder="sam-vit-large",
    revision="70009d56dac23ebb3265377257158b1d6ed4c802",
    patterns=("config.json", "preprocessor_config.json"),
)
MASK2FORMER = Source(
    repo_id="facebook/mask2former-swin-large-coco-panoptic",
    folder="mask2former-swin-large-coco-panoptic",
    revision="85b535928a783691eaf27467a573b26d543336ea",
    patterns=("config.json", "preprocessor_config.json"),
)
SOURCES = (XSAM, PHI3, SIGLIP, SAM, MASK2FORMER)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a repository holds at one commit, as far as it is wanted."""

    revision: str  # what was asked for
    commit: str
    sizes: Mapping[str, int]  # path in the repository → bytes
    sha256: Mapping[str, str]  # of the large files, as the hub says


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadReport:
    """What lies in the output folder now."""

    out: Path
    commits: Mapping[str, str]  # repository → commit
    file_count: int
    size_bytes: int
    fetched: tuple[str, ...]  # repositories that needed the network; empty = all was there and right


def download(
    out: Path,
    *,
    revisions: Mapping[str, str] | None = None,
    sources: Sequence[Source] = SOURCES,
    endpoint: str | None = None,
) -> DownloadReport:
    """Fetch what is missing, check everything, and write the lock file.

    Interrupted downloads resume. With complete, unchanged files no network is needed.

    Args:
        out: output folder; each repository gets a folder of its own in it.
        revisions: repository → commit, tag or branch, instead of the table's.
        sources: what to fetch.
        endpoint: address of the hub or a mirror; None = `HF_ENDPOINT`, else huggingface.co.

    Raises:
        DownloadError: no network, no access, not enough disk, a file that is not what it was, …
    """
    pins = dict(revisions or {})
    unknown = sorted(pins.keys() - {source.repo_id for source in sources})
    if unknown:
        raise DownloadError(
            f"nothing is downloaded from {', '.join(unknown)}",
            hint=f"revisions can be given for {', '.join(s.repo_id for s in sources)}",
        )
    with _disk_errors(out):
        lock = _read_lock(out)
        _check_pins(pins, lock, out)
        incomplete = [source for source in sources if not _complete(source, lock, out)]
        plans = {source.repo_id: _plan(source, pins, lock, out, endpoint) for source in incomplete}
        _check_disk(out, incomplete, plans)
        for source in incomplete:
            plan = plans[source.repo_id]
            _fetch(source, plan, out, endpoint)
            known = lock.get(source.repo_id, {}).get("files", {})
            lock[source.repo_id] = {
                "revision": plan.revision,
                "commit": plan.commit,
                "files": _verified(source, plan, known, out),
            }
            _write_lock(lock, out)
    files = [entry for source in sources for entry in lock[source.repo_id]["files"].values()]
    return DownloadReport(
        out=out,
        commits={source.repo_id: lock[source.repo_id]["commit"] for source in sources},
        file_count=len(files),
        size_bytes=sum(entry["size"] for entry in files),
        fetched=tuple(source.repo_id for source in incomplete),
    )


def by_hand(out: Path) -> str:
    """How to do without a network connection."""
    hub = "https://huggingface.co"
    return (
        "without a network: run `xsam download` on another computer and copy its folder here, or put "
        f"{STAGE}/ of {hub}/{XSAM.repo_id} into {out / XSAM.folder}/ and tokenizer.json and "
        f"tokenizer_config.json of {hub}/{PHI3.repo_id} into {out / PHI3.folder}/; then run `xsam convert`"
    )


def _read_lock(out: Path) -> dict[str, Any]:
    path = out / LOCK_NAME
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != LOCK_FORMAT:
            raise ValueError(f"format {content['format']} instead of {LOCK_FORMAT}")
        lock: dict[str, Any] = content["repositories"]
        for entry in lock.values():
            str(entry["commit"])
            for name, file in entry["files"].items():
                _check_name(name)
                int(file["size"]), str(file["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(
            f"{path} is damaged: {error}", hint="delete it; the next run checks the files and writes it anew"
        ) from error
    return lock


def _write_lock(lock: Mapping[str, Any], out: Path) -> None:
    content = {"format": LOCK_FORMAT, "repositories": lock}
    unfinished = out / f"{LOCK_NAME}.part"
    unfinished.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(out / LOCK_NAME)


def _check_pins(pins: Mapping[str, str], lock: Mapping[str, Any], out: Path) -> None:
    for repo_id, revision in pins.items():
        entry = lock.get(repo_id)
        if entry and entry.get("revision") != revision and not entry["commit"].startswith(revision):
            raise DownloadError(
                f"{out} holds commit {entry['commit']} of {repo_id}, not {revision}",
                hint=f"give another --out, or delete {out / LOCK_NAME} to fetch the other revision",
            )


def _complete(source: Source, lock: Mapping[str, Any], out: Path) -> bool:
    """Whether everything the lock lists is there; raises when a file is not what was downloaded."""
    entry = lock.get(source.repo_id)
    if entry is None:
        return False
    folder = out / source.folder
    there = {name: file for name, file in entry["files"].items() if (folder / name).is_file()}
    changed = [
        name
        for name, file in there.items()
        if (folder / name).stat().st_size != file["size"] or _sha256(folder / name) != file["sha256"]
    ]
    if changed:
        raise DownloadError(
            f"{len(changed)} file(s) in {folder} changed since the download: {', '.join(changed[:10])}",
            hint="delete them and run the command again: it fetches them anew",
        )
    return len(there) == len(entry["files"])


def _plan(
    source: Source, pins: Mapping[str, str], lock: Mapping[str, Any], out: Path, endpoint: str | None
) -> _Plan:
    """Ask the hub what the repository holds; nothing is downloaded yet."""
    from huggingface_hub import HfApi

    entry = lock.get(source.repo_id, {})
    asked = pins.get(source.repo_id) or entry.get("revision") or source.revision
    revision = entry.get("commit") or asked
    with _hub_errors(source, revision, out):
        info = HfApi(endpoint=endpoint).model_info(
            source.repo_id, revision=revision, files_metadata=True, timeout=_TIMEOUT_S
        )
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    names = [name for name in siblings if any(fnmatchcase(name, p) for p in source.patterns)]
    if not names or info.sha is None:
        raise DownloadError(
            f"{source.repo_id} at {revision} has none of {', '.join(source.patterns)}",
            hint="its layout changed; give an older commit with --revision",
        )
    for name in names:
        _check_name(name)
    large = {name: siblings[name].lfs for name in names}
    return _Plan(
        revision=asked,
        commit=info.sha,
        sizes={name: siblings[name].size or 0 for name in names},
        sha256={name: lfs.sha256 for name, lfs in large.items() if lfs is not None},
    )


def _check_name(name: str) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DownloadError(f"the file name {name!r} points outside its folder", hint="nothing was written")


def _check_disk(out: Path, sources: Sequence[Source], plans: Mapping[str, _Plan]) -> None:
    needed = 0
    for source in sources:
        folder = out / source.folder
        sizes = plans[source.repo_id].sizes
        needed += sum(size for name, size in sizes.items() if not (folder / name).is_file())
        needed -= sum(part.stat().st_size for part in folder.glob(".cache/huggingface/**/*.incomplete"))
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if needed > 0 and free < needed + SPARE_DISK_BYTES:
        raise DownloadError(
            f"{out} has {free / 1e9:.1f} GB free, the download takes {needed / 1e9:.1f} GB",
            hint="free some space or give --out on another disk; `xsam convert` needs as much again",
        )


def _fetch(source: Source, plan: _Plan, out: Path, endpoint: str | None) -> None:
    from huggingface_hub import snapshot_download

    with _hub_errors(source, plan.commit, out):
        snapshot_download(
            source.repo_id,
            revision=plan.commit,
            local_dir=out / source.folder,
            allow_patterns=list(source.patterns),
            endpoint=endpoint,
        )


def _verified(source: Source, plan: _Plan, known: Mapping[str, Any], out: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file, compared with the hub's numbers and an earlier lock."""
    folder = out / source.folder
    missing = [name for name in plan.sizes if not (folder / name).is_file()]
    if missing:
        raise DownloadError(
            f"{len(missing)} file(s) of {source.repo_id} are missing: {', '.join(missing[:10])}"
        )
    found = {
        name: {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in plan.sizes
    }
    wrong = [
        name
        for name, file in found.items()
        if file["size"] != plan.sizes[name]
        or file["sha256"] != plan.sha256.get(name, file["sha256"])
        or (name in known and file["sha256"] != known[name]["sha256"])
    ]
    if wrong:
        raise DownloadError(
            f"{len(wrong)} file(s) of {source.repo_id} are not what the hub holds: {', '.join(wrong[:10])}",
            hint=f"delete them in {folder} and run the command again",
        )
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
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
def _hub_errors(source: Source, revision: str, out: Path) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence and what to do."""
    from huggingface_hub import constants, errors

    repo_id = source.repo_id
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
            hint=f"it moved, or is private now; {by_hand(out)}",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(
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
        if "No space left on device" in str(error):  # the chunked transfer reports it in words only
            raise _disk_error(OSError(errno.ENOSPC, "No space left on device"), out) from error
        if constants.HF_HUB_OFFLINE:
            raise DownloadError(
                "downloads are switched off by HF_HUB_OFFLINE", hint=f"unset it; {by_hand(out)}"
            ) from error
        response = getattr(error, "response", None)
        if isinstance(error, errors.HfHubHTTPError) and response is not None:
            raise DownloadError(
                f"the hub answered {response.status_code} for {repo_id}",
                hint="try again later: the download resumes",
            ) from error
        if (
            not isinstance(error, (OSError, RuntimeError))
            and type(error).__module__.split(".")[0] not in _TRANSPORT
        ):
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DownloadError(
            f"cannot reach the hub for {repo_id}: {reason}",
            hint=f"check the network and run the command again: it resumes; {by_hand(out)}",
        ) from error
