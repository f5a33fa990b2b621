"""How repetitive a token sequence is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.analysis.bootstrap import DRAWS, mean_ci
from lib.errors import InputError


def distinct_n(ids: Sequence[int], n: int = 2) -> float:
    """Different n-grams / n-grams, 0–1; 1 where nothing repeats. A text without any n-gram counts as 1."""
    grams = _ngrams(ids, n)
    return len(set(grams)) / len(grams) if grams else 1.0


def repeated_share(ids: Sequence[int], n: int = 4) -> float:
    """Share (0–1) of n-grams that occurred before in the sequence; 0 for a text without any n-gram."""
    return 1 - distinct_n(ids, n)


def longest_repeat(ids: Sequence[int]) -> int:
    """Tokens of the longest span that occurs at two different places, which may overlap; 0 where no token repeats."""
    text = np.asarray(ids)
    best = 0
    for shift in range(1, len(text)):
        if len(text) - shift <= best:
            break
        best = max(best, _longest_run(text[shift:] == text[:-shift]))
    return best


def repetition(texts: Sequence[Sequence[int]], seed: int = 0, draws: int = DRAWS) -> dict:
    """Means over texts: `{distinct_2, longest_repeat, repeated_4gram_share, repeated_4gram_share_ci}`."""
    if len(texts) == 0:
        raise InputError("no text to measure; at least one sequence of token ids is needed")
    share, ends = mean_ci([repeated_share(ids, 4) for ids in texts], seed, draws)
    return {
        "distinct_2": float(np.mean([distinct_n(ids, 2) for ids in texts])),
        "longest_repeat": float(np.mean([longest_repeat(ids) for ids in texts])),
        "repeated_4gram_share": share,
        "repeated_4gram_share_ci": ends,
    }


def _ngrams(ids: Sequence[int], n: int) -> list[tuple]:
    ids = [int(token) for token in ids]
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def _longest_run(mask: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))
