"""Facts stated in several files agree, and no file contains traces of a particular machine."""

from __future__ import annotations

import os
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

import xsam
from tests.docs.documents import ROOT, read, tracked_files

# Assembled from parts so that this file does not match itself.
_HOMES = "|".join(["home", "root", "Users", "work"])
MACHINE_PATH = re.compile(rf"(?<![\w.$}}~*-])/(?:{_HOMES})/[\w.]")
INDEX_OPTION = re.compile("--(?:extra-)?" + r"index-url|--find" + r"-links|files\.python" + "hosted")


def text_of(path: Path) -> str | None:
    """Return the text of a file, or None if it is binary."""
    data = path.read_bytes()
    if b"\0" in data[:4096]:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("pattern", [MACHINE_PATH, INDEX_OPTION], ids=["machine path", "package index"])
def test_no_traces_of_a_machine(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked_files()
        if path.suffix != ".ipynb"
        for match in [pattern.search(text_of(path) or "")]
        if match
    ]
    assert not found


def test_version_is_the_same_everywhere() -> None:
    package = ET.parse(ROOT / "package.xml").getroot().findtext("version")
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    cited = yaml.safe_load(read("CITATION.cff"))["version"]
    assert package == newest[1] == cited == xsam.__version__


def test_address_of_the_project_is_the_same_everywhere() -> None:
    files = ("package.xml", "pyproject.toml", "CITATION.cff", ".github/ISSUE_TEMPLATE/config.yml")
    addresses = {
        address for file in files for address in re.findall(r"https://github\.com/\w+/\w+", read(file))
    }
    assert len(addresses) == 1


def test_ros_package_and_distribution_have_the_same_license() -> None:
    assert ET.parse(ROOT / "package.xml").getroot().findtext("license") == "Apache-2.0"
    assert 'license = "Apache-2.0"' in read("pyproject.toml")
    assert "Version 2.0, January 2004" in read("LICENSE")


def test_programs_are_executable() -> None:
    """Files that begin with #! are run by name, so git must record them as executable."""
    plain = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.read_bytes()[:2] == b"#!" and not path.stat().st_mode & 0o100
    ]
    assert not plain


def test_bytecode_is_kept_but_not_beside_the_sources() -> None:
    """Some container images set PYTHONDONTWRITEBYTECODE: each process then compiles PyTorch again."""
    code = "import sys; print(sys.dont_write_bytecode, sys.pycache_prefix)"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPYCACHEPREFIX", None)
    done = subprocess.run(
        [ROOT / "scripts" / "run_in_env.sh", "python", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["False", str(ROOT / ".venv" / "pycache")]


@pytest.mark.parametrize("lock", ["all", "cuda", "release"])
def test_locked_versions_are_exact_and_have_hashes(lock: str) -> None:
    pin = re.compile(r"[a-z0-9-]+==[\w.]+( ; [\w.'*<>=!() ]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n")
    header, *pins = re.split(r"^(?=\S)", read(f"requirements/{lock}.lock"), flags=re.MULTILINE)[1:]
    assert header.startswith("#")
    assert [text for text in pins if not pin.fullmatch(text)] == []
