"""Right and wrong answers: shares with intervals, paired comparisons, votes and selections.

The unit is the problem. `right` is bool `[n_problems]`; conditions compared with each other answer the same problems,
so that what makes a problem hard cancels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

from lib.analysis.bootstrap import DRAWS, LEVEL, Interval, interval
from lib.errors import InputError

Right = Sequence[bool] | np.ndarray
ABOVE, ALIKE, BELOW = "above", "alike", "below"


def accuracy(right: Right) -> tuple[float, Interval]:
    """Share of right answers (0–1) with Wilson's interval."""
    right = _checked(right)
    found = binomtest(int(right.sum()), len(right))
    return found.statistic, list(found.proportion_ci(method="wilson"))


def mcnemar(a: Right, b: Right) -> float:
    """Two-sided exact p that `a` and `b` are right equally often, told by the problems that only one of them solves."""
    a, b = _pair(a, b)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def difference(a: Right, b: Right, seed: int = 0, draws: int = DRAWS) -> tuple[float, Interval]:
    """Accuracy of `a` minus that of `b`, with the paired bootstrap interval over problems."""
    a, b = _pair(a, b)
    gap = a.astype(np.float64) - b
    counts = [int((gap == value).sum()) for value in (1, 0, -1)]
    resampled = np.random.default_rng(seed).multinomial(len(gap), np.array(counts) / len(gap), size=draws)
    return float(gap.mean()), interval((resampled[:, 0] - resampled[:, 2]) / len(gap))


def comparison(a: Right, b: Right, seed: int = 0, draws: int = DRAWS) -> dict:
    """`{difference, difference_ci, p, verdict}` of `a` against `b`.

    The verdict is above or below where the interval leaves out 0 and p is under 0.05, for with few problems the
    interval is too narrow; else alike.
    """
    value, ends = difference(a, b, seed, draws)
    p = mcnemar(a, b)
    apart = p < 1 - LEVEL
    verdict = ABOVE if apart and ends[0] > 0 else BELOW if apart and ends[1] < 0 else ALIKE
    return {"difference": value, "difference_ci": ends, "p": p, "verdict": verdict}


def majority(answers: Sequence[Sequence[str]], n: int) -> list[str]:
    """The most frequent of the first `n` answers to each problem `[n_problems]`, the earliest where several are."""
    _check_n(answers, n)
    return [Counter(row[:n]).most_common(1)[0][0] for row in answers]


def likeliest(answers: Sequence[Sequence[str]], log_likelihood: np.ndarray, n: int) -> list[str]:
    """Of the first `n` answers to each problem that of the highest log-likelihood `[n_problems, n_samples]`."""
    _check_n(answers, n)
    best = np.asarray(log_likelihood)[:, :n].argmax(1)
    return [row[i] for row, i in zip(answers, best, strict=True)]


def reach(verdicts: Sequence[str], allowed: Sequence[str]) -> int | None:
    """Index of the last rung up to which every verdict is among `allowed`; None where the first is not."""
    last = None
    for i, verdict in enumerate(verdicts):
        if verdict not in allowed:
            break
        last = i
    return last


def _checked(right: Right) -> np.ndarray:
    right = np.asarray(right)
    if right.ndim != 1 or right.size == 0 or right.dtype != bool:
        raise InputError(f"answers of shape {list(right.shape)}, {right.dtype}; one bool for each problem is needed")
    return right


def _pair(a: Right, b: Right) -> tuple[np.ndarray, np.ndarray]:
    a, b = _checked(a), _checked(b)
    if a.shape != b.shape:
        raise InputError(f"answers to {len(a)} and to {len(b)} problems; the same problems are needed")
    return a, b


def _check_n(answers: Sequence[Sequence[str]], n: int) -> None:
    fewest = min(len(row) for row in answers)
    if not 1 <= n <= fewest:
        raise InputError(f"{n} of {fewest} samples; between 1 and {fewest}")
