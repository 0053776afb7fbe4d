"""Estimated number of tokens of a text, because the providers' tokenizers are downloads, and differ."""

from __future__ import annotations

import math
import re

_PIECES = re.compile(r"[^\W\d_]+|\d{1,3}|[^\w\s]+|_")


def estimate_tokens(text: str) -> int:
    """Return the larger of a quarter of the characters and the number of words, digit triples and sign runs.

    The first is too low for JSON. tests/agent/test_tokens.py compares the estimate with four real tokenizers.
    """
    return math.ceil(max(len(text) / 4, len(_PIECES.findall(text))))
