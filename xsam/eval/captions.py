"""Agreement of a generated caption with reference captions, in plain Python.

The published scores of grounded conversation are METEOR and CIDEr from pycocoevalcap, which starts a Java
tokenizer. The two scores here do not: `content_f1`, which is easy to interpret and defined for a single
caption, and CIDEr-D for comparison with the literature. Both split words with one regular expression instead
of the Penn Treebank rules, so CIDEr-D may differ from pycocoevalcap's in the third digit if captions contain
hyphens or apostrophes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_GramWeights = dict[tuple[str, ...], float]
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
"""Words that `content_f1` ignores: articles, conjunctions, prepositions, pronouns, auxiliaries."""


def split_words(text: str) -> list[str]:
    """Split text into lowercase words without punctuation."""
    return _WORD.findall(text.lower())


def content_f1(candidate: str, reference: str) -> float:
    """Compute the F1 score of two texts' content words as multisets, in [0, 1]; 1 if both have none."""
    first, second = (
        Counter(word for word in split_words(text) if word not in FUNCTION_WORDS)
        for text in (candidate, reference)
    )
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float | None:
    """Compute CIDEr-D of a corpus (Vedantam et al., arXiv 1411.5726), without stemming.

    Args:
        candidates: one caption per image.
        references: one or more captions per image.

    Returns:
        Mean over the images, from 0 to 10; None for fewer than two images, because words are weighted by the
        number of images whose references contain them.
    """
    if len(candidates) != len(references) or not all(references):
        raise ValueError("every candidate needs at least one reference")
    if len(candidates) < 2:
        return None
    counted = [[_ngrams(text) for text in texts] for texts in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for texts in counted:
        frequency.update({gram for text in texts for gram in text})
    log_images = math.log(len(candidates))

    def weights(grams: Counter[tuple[str, ...]]) -> list[_GramWeights]:
        by_length: list[_GramWeights] = [{} for _ in range(_MAX_N)]
        for gram, count in grams.items():
            by_length[len(gram) - 1][gram] = count * (log_images - math.log(max(1, frequency[gram])))
        return by_length

    total = 0.0
    for candidate, captions, texts in zip(candidates, references, counted, strict=True):
        candidate_weights = weights(_ngrams(candidate))
        for caption, grams in zip(captions, texts, strict=True):
            gap = len(split_words(candidate)) - len(split_words(caption))
            similarity = sum(map(_clipped_cosine, candidate_weights, weights(grams))) / _MAX_N
            total += 10 * similarity * math.exp(-(gap**2) / (2 * _SIGMA**2)) / len(captions)
    return total / len(candidates)


def _ngrams(text: str) -> Counter[tuple[str, ...]]:
    words = split_words(text)
    return Counter(
        tuple(words[start : start + n]) for n in range(1, _MAX_N + 1) for start in range(len(words) - n + 1)
    )


def _clipped_cosine(candidate: _GramWeights, reference: _GramWeights) -> float:
    """Compute a cosine in which a repeated word counts at most as often as it occurs in the reference."""
    norm = math.hypot(*candidate.values()) * math.hypot(*reference.values())
    shared = [gram for gram in candidate if gram in reference]
    product = sum(min(candidate[gram], reference[gram]) * reference[gram] for gram in shared)
    return product / norm if norm else 0.0
