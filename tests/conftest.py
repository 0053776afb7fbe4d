"""Settings for all tests: no network, Hypothesis profiles, and a loud list of skipped optional suites."""

from __future__ import annotations

import os

# One thread for each worker of pytest-xdist: PyTorch's threads would wait for each other's cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# Tests download nothing; anything that tries fails at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("LANGSMITH_TRACING", "false")

# Deadlines of single examples fail on busy machines; every test has its own time-out. `project` takes the
# same examples on every run; `make test-nightly` takes other ones, with --hypothesis-profile=nightly.
settings.register_profile("project", deadline=None, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("project")

_MISSING = ("could not import", "not installed", "no ROS environment")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse test ids that differ from process to process: parallel workers would not agree on them."""
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"test ids with an address in memory, give them `ids`: {unstable[:3]}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the suites that were skipped because something is not installed, and how to run them."""
    reasons: dict[str, set[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            path, _, reason = report.longrepr
            if any(text in reason for text in _MISSING):
                path = os.path.relpath(path, terminalreporter.config.rootpath)
                reasons.setdefault(path, set()).add(reason.removeprefix("Skipped: "))
    if not reasons:
        return
    terminalreporter.section("OPTIONAL SUITES THAT DID NOT RUN", sep="!", yellow=True, bold=True)
    for path in sorted(reasons):
        command = "colcon test, on a ROS installation" if path.startswith("tests/ros") else "make test-extras"
        terminalreporter.line(f"{path}: {'; '.join(sorted(reasons[path]))} → {command}")
