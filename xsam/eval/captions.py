"""How well a generated caption agrees with reference captions, in plain Python.

The published numbers of grounded conversation are METEOR and CIDEr of pycocoevalcap, which starts a Java
tokenizer. Here are two scores that need none: `content_f1`, which can be read without a manual and exists
for a single caption, and CIDEr-D for comparison with the literature. Both split words with one regular
expression instead of the Penn Treebank rules, so that CIDEr-D may differ from pycocoevalcap's in the
third digit when captions hold hyphens or apostrophes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_MAX_N = 4
_SIGMA = 6.0

_ARTICLES = {"a", "an", "the", "this", "that", "these", "those", "some"}
_LINKS = {"and", "or", "but", "as", "while", "which", "who", "what", "there", "here"}
_PREPOSITIONS = {
    "of",
    "in",
    "on",
    "at",
    "by",
    "to",
    "from",
    "with",
    "for",
    "into",
    "over",
    "under",
    "near",
    "next",
}
_AUXILIARIES = {"am", "is", "are", "was", "were", "be", "been", "being", "has", "have", "had", "can"}
_PRONOUNS = {"i", "you", "he", "she", "it", "we", "they", "my", "your", "his", "her", "its", "our", "their"}
FUNCTION_WORDS = frozenset(_ARTICLES | _LINKS | _PREPOSITIONS | _AUXILIARIES | _PRONOUNS)
"""Words that `content_f1` does not count: articles, conjunctions, prepositions, pronouns, auxiliaries."""


def words(text: str) -> list[str]:
    """Lower-case words of a text, without punctuation."""
    return _WORD.findall(text.lower())


def content_f1(candidate: str, reference: str) -> float:
    """F1 of the content words of two texts as multisets, in [0, 1]; two texts without any give 1."""
    first, second = (
        Counter(word for word in words(text) if word not in FUNCTION_WORDS) for text in (candidate, reference)
    )
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float | None:
    """CIDEr-D of a corpus (Vedantam et al., arXiv 1411.5726), without stemming.

    Args:
        candidates: one caption a picture.
        references: one caption or several for each picture.

    Returns:
        Mean over the pictures, from 0 to 10. None for fewer than two pictures: words get their weight
        from how few pictures' references hold them.
    """
    if len(candidates) != len(references) or not all(references):
        raise ValueError("every candidate needs at least one reference")
    if len(candidates) < 2:
        return None
    counted = [[_ngrams(text) for text in texts] for texts in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for texts in counted:
        frequency.update({gram for text in texts for gram in text})
    log_pictures = math.log(len(candidates))

    def weights(grams: Counter[tuple[str, ...]]) -> list[dict[tuple[str, ...], float]]:
        by_length: list[dict[tuple[str, ...], float]] = [{} for _ in range(_MAX_N)]
        for gram, count in grams.items():
            by_length[len(gram) - 1][gram] = count * (log_pictures - math.log(max(1, frequency[gram])))
        return by_length

    total = 0.0
    for candidate, captions, texts in zip(candidates, references, counted, strict=True):
        mine = weights(_ngrams(candidate))
        for caption, grams in zip(captions, texts, strict=True):
            gap = len(words(candidate)) - len(words(caption))
            alike = sum(map(_clipped_cosine, mine, weights(grams))) / _MAX_N
            total += 10 * alike * math.exp(-(gap**2) / (2 * _SIGMA**2)) / len(captions)
    return total / len(candidates)


def _ngrams(text: str) -> Counter[tuple[str, ...]]:
    split = words(text)
    return Counter(
        tuple(split[start : start + n]) for n in range(1, _MAX_N + 1) for start in range(len(split) - n + 1)
    )


def _clipped_cosine(mine: dict[tuple[str, ...], float], theirs: dict[tuple[str, ...], float]) -> float:
    """Cosine in which a repeated word counts at most as often as the reference has it."""
    norm = math.hypot(*mine.values()) * math.hypot(*theirs.values())
    product = sum(min(value, theirs[gram]) * theirs[gram] for gram, value in mine.items() if gram in theirs)
    return product / norm if norm else 0.0
