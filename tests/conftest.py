"""Settings for all tests: no network, and the same examples on every run."""

from __future__ import annotations

import os

from hypothesis import settings

# Nothing is downloaded in tests; what tries gets an error at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("LANGSMITH_TRACING", "false")

# Deadlines of single examples fail on busy machines; every test has its own time-out.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
