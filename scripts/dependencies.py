"""What is installed with the wheel and its extras: licenses, and the bill of materials of a release.

    scripts/run_in_env.sh python scripts/dependencies.py page          writes docs/licenses.md
    scripts/run_in_env.sh python scripts/dependencies.py pins          prints the locked versions, with hashes
    scripts/run_in_env.sh python scripts/dependencies.py complete BOM  adds licenses to a CycloneDX file

Tools for development are left out, and so is ROS: the node takes it from the ROS installation.
"""

from __future__ import annotations

import json
import re
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licenses.md"
LOCKS = [ROOT / "requirements" / name for name in ("all.lock", "cuda.lock")]
EXTRAS = frozenset(
    {"model", "remote", "server", "fleet", "agent", "langgraph", "mcp", "train", "bags", "media"}
)
PYTHONS = ("3.10", "3.11", "3.12")

# Packages that some versions of Python do not need, and those whose metadata names no license.
KNOWN = {
    "async-timeout": "Apache-2.0",
    "exceptiongroup": "MIT AND PSF-2.0",
    "setuptools": "MIT",
    "tomli": "MIT",
}
# Wheels that contain code under the GPL, which their metadata does not say; `all` includes none.
GPL_INSIDE = {"av": "BSD-3-Clause; FFmpeg in the wheel LGPL-3.0-or-later, x264 and x265 GPL-2.0-or-later"}

_HEADER = """# Licenses of the dependencies

X-SAM itself is under the Apache License 2.0. `pip install xsam` with all its extras also installs what is
listed here, with the license that each package declares. None declares the GPL. Some wheels contain libraries
that their declaration does not name: NumPy's and SciPy's have GCC's run-time library (GPL with the run-time
library exception), OpenCV's has FFmpeg (LGPL). PyTorch's CUDA build needs NVIDIA's libraries besides
(`requirements/cuda.lock`), which have licenses of their own.

One wheel contains libraries under the GPL: PyAV's (`av`), with the video encoders x264 and x265. Only the
extra `media` installs it, and `all` does not include `media`; without it everything but video files and
cameras works. To give a product with video to others without the GPL, install a PyAV built without these
encoders, such as conda-forge's with the LGPL variant of FFmpeg; videos are then written as MPEG-4.

`make release` writes a bill of materials in CycloneDX format, with the versions and hashes of the lock files.
This page is made by `make licenses`.

| package | license |
|---|---|
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def shipped() -> set[str]:
    """Return the names of all packages that the wheel and its extras need, with any supported Python."""
    names: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [("xsam", EXTRAS)]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        names.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another Python
            continue
        for requirement in map(Requirement, requirements):
            if _applies(requirement, extras):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name in names - {"xsam"} if not name.startswith(("cuda-", "nvidia-", "triton"))}


def license_of(name: str) -> str:
    """Return the license that an installed package declares, as SPDX expression if it does so."""
    # Not from `sys.path`: setuptools adds its own copies of packages to it.
    installed = next(iter(metadata.distributions(name=name, path=[sysconfig.get_path("purelib")])), None)
    if installed is None:
        return KNOWN[name]
    fields = installed.metadata
    if name in GPL_INSIDE:
        return GPL_INSIDE[name]
    if expression := fields.get("License-Expression"):
        return str(expression)
    text = (fields.get("License") or "").strip()
    if text and len(text) < 40 and "\n" not in text:
        return str(text)
    classifiers = [text for text in fields.get_all("Classifier") or [] if text.startswith("License ::")]
    return ", ".join(text.rpartition(" :: ")[2] for text in classifiers) or KNOWN[name]


def page_text() -> str:
    """Return the list of licenses in Markdown."""
    return _HEADER + "".join(f"| {name} | {license_of(name)} |\n" for name in sorted(shipped()))


@app.command()
def page() -> None:
    """Write docs/licenses.md."""
    PAGE.write_text(page_text(), encoding="utf-8")


@app.command()
def pins() -> None:
    """Print the locked versions of what is shipped, with their hashes."""
    names = shipped()
    for lock in LOCKS:
        for block in re.split(r"^(?=[a-z0-9])", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            if block.partition("==")[0] in names or lock.name == "cuda.lock":
                typer.echo(block, nl=False)


@app.command()
def complete(bom: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Add the version of the project and the licenses of the components to a CycloneDX file."""
    content: dict[str, Any] = json.loads(bom.read_text(encoding="utf-8"))
    root = content["metadata"]["component"]
    root["version"] = metadata.version("xsam")
    names = shipped()
    for component in content["components"]:
        if component["name"] in names:
            component["licenses"] = [{"license": {"name": license_of(component["name"])}}]
    for dependency in content["dependencies"]:
        if dependency["ref"] == root["bom-ref"]:
            dependency["dependsOn"] = sorted(component["bom-ref"] for component in content["components"])
    bom.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    return requirement.marker is None or any(
        requirement.marker.evaluate(
            {"python_version": python, "python_full_version": f"{python}.1", "extra": extra}
        )
        for python in PYTHONS
        for extra in (*extras, "")
    )


if __name__ == "__main__":
    app()
