"""What is shipped has licenses that a product can live with, and the page that lists them is up to date."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.documents import ROOT, read
from xsam.version import __version__

# Linking exceptions (of GCC's run-time library, LLVM) and the LGPL are none of these.
STRONG_COPYLEFT = re.compile(
    r"(?<!L)\b(?:A?GPL|GNU (?:Affero )?General Public License)(?!.*exception)", re.IGNORECASE
)


@pytest.fixture(scope="module")
def dependencies() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependencies", ROOT / "scripts" / "dependencies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "strong"),
    [
        ("GPL-3.0-or-later", True),
        ("MIT AND AGPL-3.0-only", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v2", False),
        ("BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("Mozilla Public License 2.0 (MPL 2.0)", False),
    ],
)
def test_strong_copyleft_is_recognized(text: str, strong: bool) -> None:
    assert bool(STRONG_COPYLEFT.search(text)) == strong


def test_nothing_that_all_installs_is_under_the_gpl(dependencies: ModuleType) -> None:
    """PyAV's wheel has x264 and x265: the page says so, and `all` leaves it out."""
    licenses = {name: dependencies.license_of(name) for name in dependencies.shipped()}
    assert STRONG_COPYLEFT.search(licenses.pop("av"))
    included = re.search(r'^all = \["xsam\[([\w,]+)\]"\]$', read("pyproject.toml"), re.MULTILINE)
    assert included is not None
    assert "media" not in included[1].split(",")
    assert len(licenses) > 50
    assert {"torch", "langchain", "mcp", "accelerate", "numpy", "tomli"} <= set(licenses)
    assert not {name: text for name, text in licenses.items() if STRONG_COPYLEFT.search(text)}


def test_tools_for_development_and_ros_are_not_shipped(dependencies: ModuleType) -> None:
    assert not {"pytest", "mypy", "mkdocs", "uv", "ros-jazzy-rclpy"} & dependencies.shipped()


def test_page_is_up_to_date(dependencies: ModuleType) -> None:
    assert read("docs/licenses.md") == dependencies.page_text(), "run: make licenses"


def test_what_is_shipped_is_locked(dependencies: ModuleType) -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", read("requirements/all.lock"), re.MULTILINE))
    assert dependencies.shipped() <= locked


def test_the_bill_of_materials_names_versions_hashes_and_licenses(
    dependencies: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `make release` hands to the CycloneDX tool, and what it adds to the file of that tool."""
    dependencies.pins()
    pins = capsys.readouterr().out
    blocks = re.split(r"^(?=[a-z0-9])", pins, flags=re.MULTILINE)[1:]
    assert {"torch", "numpy", "langchain-core"} <= {block.partition("==")[0] for block in blocks}
    assert not re.search(r"^(pytest|ruff|ros-)", pins, flags=re.MULTILINE)
    assert all("--hash=sha256:" in block for block in blocks)

    components = [
        {"bom-ref": f"requirements-L{line}", "name": name} for line, name in enumerate(("numpy", "torch"))
    ]
    bom = tmp_path / "bom.json"
    root = {"bom-ref": "root-component", "name": "xsam"}
    content = {
        "metadata": {"component": root},
        "components": components,
        "dependencies": [{"ref": "root-component"}, {"ref": "requirements-L0"}],
    }
    bom.write_text(json.dumps(content))
    dependencies.complete(bom)
    completed = json.loads(bom.read_text())
    assert completed["metadata"]["component"]["version"] == __version__
    licenses = [component["licenses"][0]["license"]["name"] for component in completed["components"]]
    assert all("BSD" in name for name in licenses), "NumPy and PyTorch are under BSD licenses"
    assert completed["dependencies"][0]["dependsOn"] == ["requirements-L0", "requirements-L1"]
    assert "dependsOn" not in completed["dependencies"][1]
