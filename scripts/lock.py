"""Write requirements/all.lock: one exact version of everything, for each supported Python.

The inputs are the dependencies and extras of pyproject.toml and requirements/ros.in. pip resolves
them once for each interpreter without installing anything; where the answers differ, the line gets
a marker. Versions already in the lock file stay, unless they are named with --upgrade.

`pip freeze` would not do: the ROS wheels contain packages that are no projects of the index.

    .venv/bin/python scripts/lock.py                      # after a change of the inputs
    .venv/bin/python scripts/lock.py --upgrade ruff mypy  # newest versions the inputs admit
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib  # in the standard library since Python 3.11

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "all.lock"
PYTHONS = ("3.10", "3.11", "3.12")
PINNED_BY_TORCH = ("cuda-", "nvidia-", "triton")  # absent from CPU builds, so not ours to pin

HEADER = """\
# Every package of the development environment: made by scripts/lock.py, do not edit by hand.
# PyTorch's CUDA packages are left out: PyTorch pins them itself, and its CPU builds have none.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--upgrade", nargs="*", default=[], metavar="NAME", help="packages whose pin is dropped"
    )
    upgrade = {normalize(name) for name in parser.parse_args().upgrade}

    kept = [line for line in read_lines(LOCK) if normalize(re.split(r"[=\s]", line)[0]) not in upgrade]
    wanted = project_requirements() + read_lines(ROOT / "requirements" / "ros.in")
    versions: dict[str, dict[str, str]] = {}
    for python in PYTHONS:
        for name, version in resolve(python, wanted, kept).items():
            versions.setdefault(name, {})[python] = version
    lines = [line for name in sorted(versions) for line in pins(name, versions[name])]
    LOCK.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {len(lines)} pins to {LOCK.relative_to(ROOT)}")


def read_lines(path: Path) -> list[str]:
    """The requirements in a file, without comments."""
    if not path.exists():
        return []
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def project_requirements() -> list[str]:
    """The base dependencies and those of all extras, without references of the project to itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return sorted({item for group in groups for item in group if not item.startswith("xsam[")})


def resolve(python: str, wanted: list[str], constraints: list[str]) -> dict[str, str]:
    """Name → version of what pip would install into an empty environment of that Python."""
    interpreter = shutil.which(f"python{python}")
    if interpreter is None:
        sys.exit(f"python{python} is not on the PATH; the lock file covers {', '.join(PYTHONS)}")
    print(f"resolving for Python {python} …", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for kind, lines in (("wanted", wanted), ("constraints", constraints)):
            files[kind] = Path(folder) / f"{kind}.txt"
            files[kind].write_text("\n".join(lines) + "\n", encoding="utf-8")
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet", "--no-input"]
        command += ["--dry-run", "--ignore-installed", "--report", str(report)]
        command += ["-r", str(files["wanted"]), "-c", str(files["constraints"])]
        subprocess.run(command, check=True)
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
    found = {normalize(item["metadata"]["name"]): item["metadata"]["version"] for item in installs}
    # A local label such as +cpu names one build of a version; the pin is for all of them.
    return {
        name: version.split("+")[0]
        for name, version in found.items()
        if name != "pip" and not name.startswith(PINNED_BY_TORCH)
    }


def pins(name: str, version_by_python: dict[str, str]) -> list[str]:
    """The lines for one package: a plain pin if all Pythons agree, else one a version with a marker."""
    if set(version_by_python) == set(PYTHONS) and len(set(version_by_python.values())) == 1:
        return [f"{name}=={version_by_python[PYTHONS[0]]}"]
    return [
        f'{name}=={version} ; python_version {"==" if len(pythons) == 1 else "in"} "{" ".join(pythons)}"'
        for version in dict.fromkeys(version_by_python.values())
        for pythons in [[python for python in PYTHONS if version_by_python.get(python) == version]]
    ]


def normalize(name: str) -> str:
    """The spelling of a package name by which the index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
