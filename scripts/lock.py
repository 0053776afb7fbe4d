"""Resolve the lock files with uv: one exact version of everything, with hashes, for Python 3.10 to 3.12.

    .venv/bin/python scripts/lock.py                      # after a change of the inputs
    .venv/bin/python scripts/lock.py --upgrade ruff mypy  # newest versions that the inputs allow

The inputs are pyproject.toml with all extras and requirements/ros.in. Versions that are locked already stay,
unless --upgrade names them. `uv lock` would not do: the ROS wheels are no dependencies of the project.

requirements/all.lock    everything that runs on a CPU
requirements/cuda.lock   what PyTorch's build from the package index needs besides; CPU builds do not
requirements/release.lock  the tool that writes the bill of materials of a release, from release.in
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALL = ROOT / "requirements" / "all.lock"
CUDA = ROOT / "requirements" / "cuda.lock"
RELEASE = ROOT / "requirements" / "release.lock"
INPUTS = ("--all-extras", "pyproject.toml", "requirements/ros.in")
OLDEST_PYTHON = "3.10"

# CPU builds of PyTorch have the same version but are not on the package index; machines without a GPU may
# offer one. Their hashes are added to those of the index.
TORCH_CPU_BUILDS = {
    "2.13.0": ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",),  # Python 3.11, x86_64
}

_CUDA_PREFIXES = ("cuda-", "nvidia-", "triton")
_OTHER_PLATFORMS = re.compile(r"sys_platform == '(?:win32|emscripten|darwin)'")
_PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[\w.]+)")


def main() -> None:
    """Write the lock files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--upgrade", nargs="*", default=[], metavar="NAME", help="packages to upgrade")
    upgrade = parser.parse_args().upgrade

    blocks = resolve(upgrade, INPUTS, ALL, CUDA)
    release = resolve(upgrade, ("requirements/release.in",), RELEASE)
    cuda = [block for block in blocks if block.startswith(_CUDA_PREFIXES)]
    rest = [with_cpu_builds(block) for block in blocks if not block.startswith(_CUDA_PREFIXES)]
    for path, content in ((ALL, rest), (CUDA, cuda), (RELEASE, release)):
        header = f"# Made by scripts/lock.py, do not edit by hand: {len(content)} pins with their hashes.\n"
        path.write_text(header + "".join(content), encoding="utf-8")
        print(f"wrote {len(content)} pins to {path.relative_to(ROOT)}")


def resolve(upgrade: list[str], inputs: Sequence[str], *locks: Path) -> list[str]:
    """Return one block of lines for each pin that Linux needs: the requirement and its hashes."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "requirements.txt"  # uv prefers the versions that it finds there
        output.write_text("".join(lock.read_text() for lock in locks if lock.exists()), "utf-8")
        command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--universal"]
        command += ["--generate-hashes", "--no-header", "--no-annotate", "--python-version", OLDEST_PYTHON]
        command += [f"--upgrade-package={name}" for name in upgrade]
        command += [*inputs, "--output-file", str(output)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        blocks = re.split(r"^(?=\S)", output.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        return [block for block in blocks if not _OTHER_PLATFORMS.search(block)]


def with_cpu_builds(block: str) -> str:
    """Add the hashes of PyTorch's CPU builds to its pin."""
    pin = _PIN.match(block)
    if pin is None or pin["name"] != "torch":
        return block
    if pin["version"] not in TORCH_CPU_BUILDS:
        print(
            f"lock: TORCH_CPU_BUILDS in {__file__} has no hashes for torch {pin['version']}", file=sys.stderr
        )
    missing = [digest for digest in TORCH_CPU_BUILDS.get(pin["version"], ()) if digest not in block]
    return block.rstrip("\n") + "".join(f" \\\n    --hash=sha256:{digest}" for digest in missing) + "\n"


if __name__ == "__main__":
    main()
