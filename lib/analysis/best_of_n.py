"""How repetitive a token sequence is, and what the best of N samples is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import comb

from lib.analysis.bootstrap import DRAWS, Interval, interval
from lib.errors import InputError


def first_best_of(ppl: np.ndarray, ns: Sequence[int]) -> list[float]:
    """As published: the smallest PPL of the first N samples, mean over prompts; ppl `[n_prompts, n_samples]`."""
    ppl = _checked(ppl, ns)
    return [float(ppl[:, :n].min(axis=1).mean()) for n in ns]


def expected_best_of(ppl: np.ndarray, ns: Sequence[int]) -> list[float]:
    """The smallest PPL of N samples, mean over all subsets of N of the M samples and over prompts.

    Exact by order statistics: the k-th smallest of M is the least of a subset with probability C(M − k, N − 1)/C(M, N).
    ppl: `[n_prompts, M]`.
    """
    ppl = _checked(ppl, ns)
    return [float(value) for value in (np.sort(ppl, axis=1) @ _weights(ppl.shape[1], ns)).mean(axis=0)]


def best_of_draws(ppl: np.ndarray, ns: Sequence[int], seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Bootstrap of `expected_best_of` over prompts and, within each prompt, over samples: `[draws, len(ns)]`.

    Conditions drawn with the same seed and shape are paired by prompt. A resample of samples holds some of them twice,
    so its best of N is a little worse than that of N different ones; the draws are moved by that known difference,
    which leaves the spread and centres it on the estimate.
    """
    ppl = _checked(ppl, ns)
    n_prompts, n_samples = ppl.shape
    rng = np.random.default_rng(seed)
    weights = _weights(n_samples, ns)
    result = np.empty((draws, len(ns)))
    for i in range(draws):
        prompts = rng.integers(n_prompts, size=n_prompts)
        samples = rng.integers(n_samples, size=(n_prompts, n_samples))
        result[i] = (np.sort(ppl[prompts[:, None], samples], axis=1) @ weights).mean(axis=0)
    return result + (expected_best_of(ppl, ns) - _mean_over_resamples(ppl, ns))


def expected_best_of_ci(
    ppl: np.ndarray, ns: Sequence[int], seed: int = 0, draws: int = DRAWS
) -> tuple[list[float], list[Interval]]:
    """`expected_best_of` with intervals over prompts and samples, one for each N."""
    spread = best_of_draws(ppl, ns, seed, draws)
    return expected_best_of(ppl, ns), [interval(column) for column in spread.T]


def best_of_difference(
    a: np.ndarray, n_a: int, b: np.ndarray, n_b: int, seed: int = 0, draws: int = DRAWS
) -> tuple[float, Interval]:
    """Expected best of n_a of condition `a` minus best of n_b of condition `b`, paired by prompt: below 0, `a` wins."""
    if np.shape(a) != np.shape(b):
        raise InputError(f"samples of shape {list(np.shape(a))} and {list(np.shape(b))}; the same prompts are needed")
    value = expected_best_of(a, [n_a])[0] - expected_best_of(b, [n_b])[0]
    spread = best_of_draws(a, [n_a], seed, draws)[:, 0] - best_of_draws(b, [n_b], seed, draws)[:, 0]
    return value, interval(spread)


def _weights(n_samples: int, ns: Sequence[int]) -> np.ndarray:
    k = np.arange(1, n_samples + 1)[:, None]
    n = np.asarray(ns)[None, :]
    return comb(n_samples - k, n - 1) / comb(n_samples, n)  # [n_samples, len(ns)]


def _mean_over_resamples(ppl: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    """Expectation of the resampled statistic: N subsets without replacement of M draws are N draws with replacement."""
    n_samples = ppl.shape[1]
    k = np.arange(n_samples + 1)[:, None] / n_samples
    survival = (1 - k) ** np.asarray(ns)[None, :]  # P(least of N draws is above the k-th smallest)
    return (np.sort(ppl, axis=1) @ (survival[:-1] - survival[1:])).mean(axis=0)


def _checked(ppl: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    ppl = np.asarray(ppl, dtype=np.float64)
    if ppl.ndim != 2 or ppl.size == 0 or not np.isfinite(ppl).all():
        raise InputError(f"sample PPLs of shape {list(ppl.shape)}; finite ones, [n_prompts, n_samples], are needed")
    if len(ns) == 0 or min(ns) < 1 or max(ns) > ppl.shape[1]:
        raise InputError(f"best of {list(ns)}; between 1 and the {ppl.shape[1]} samples of each prompt")
    return ppl
