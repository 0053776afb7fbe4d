"""Text of the simulator's language, split into words."""

from __future__ import annotations

import re

_WORD = re.compile(r"</?p>|[a-z]+|[^\sa-z]")


def split_words(text: str) -> list[str]:
    """Split text into words, punctuation marks, and phrase tags."""
    return _WORD.findall(text)
