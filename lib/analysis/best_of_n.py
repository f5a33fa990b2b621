"""What the best of N samples is worth: chosen by one judge's PPL and scored by the same or by another's.

Where a judge both chooses and scores, the best of N falls with N by construction, even among samples of one quality
(the winner's curse). Chosen by one and scored by the other, it falls only as far as the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import comb

from lib.analysis.bootstrap import DRAWS, Interval, interval
from lib.errors import InputError

BLOCK = 2**22  # samples that are resampled at once


@dataclass(frozen=True)
class BestOf:
    """Expected score of the best of each N of `ns`: `values` [len(ns)] and their resamples `draws` [n, len(ns)].

    Those made with one seed from samples of one `shape` [n_prompts, n_samples] are paired by prompt.
    """

    ns: tuple[int, ...]
    values: np.ndarray
    draws: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls,
        ppl: np.ndarray,
        ns: Sequence[int],
        seed: int = 0,
        draws: int = DRAWS,
        score: np.ndarray | None = None,
    ) -> BestOf:
        """From `ppl` [n_prompts, n_samples], by which one chooses, and `score`, the same unless another judges."""
        values, spread = expected_best_of(ppl, ns, score), best_of_draws(ppl, ns, seed, draws, score)
        return cls(tuple(ns), np.array(values), spread, np.shape(ppl))

    def ci(self) -> list[Interval]:
        """The interval of each value."""
        return [interval(column) for column in self.draws.T]

    def minus(self, n: int, other: BestOf, n_other: int) -> tuple[float, Interval]:
        """Best of `n` minus the other's best of `n_other`, paired by prompt: below 0, this one is ahead."""
        (a, a_draws), (b, b_draws) = self._pair(n, other, n_other)
        return float(a - b), interval(a_draws - b_draws)

    def over(self, n: int, other: BestOf, n_other: int) -> tuple[float, Interval]:
        """Best of `n` relative to the other's best of `n_other`, minus 1, paired by prompt."""
        (a, a_draws), (b, b_draws) = self._pair(n, other, n_other)
        return float(a / b - 1), interval(a_draws / b_draws - 1)

    def _pair(self, n: int, other: Any, n_other: int) -> Any:
        if self.shape != other.shape:
            raise InputError(
                f"samples of shape {list(self.shape)} and {list(other.shape)}; the same prompts are needed"
            )
        if len(self.draws) != len(other.draws):
            raise InputError(f"{len(self.draws)} and {len(other.draws)} resamples; the same are needed")
        i, j = self.ns.index(n), other.ns.index(n_other)
        return (self.values[i], self.draws[:, i]), (other.values[j], other.draws[:, j])


def first_best_of(ppl: np.ndarray, ns: Sequence[int]) -> list[float]:
    """As published: the smallest PPL of the first N samples, mean over prompts; ppl `[n_prompts, n_samples]`."""
    ppl = _checked(ppl, ns)
    return [float(ppl[:, :n].min(axis=1).mean()) for n in ns]


def expected_best_of(ppl: np.ndarray, ns: Sequence[int], score: np.ndarray | None = None) -> list[float]:
    """The score of the sample of smallest PPL among N, mean over all subsets of N of the M samples and over prompts.

    Exact by order statistics: the k-th smallest of M is the least of a subset with probability C(M − k, N − 1)/C(M, N).
    ppl: `[n_prompts, M]`; score: of the same shape, `ppl` itself where it is not given.
    """
    return [float(value) for value in expected_by_prompt(ppl, ns, score).mean(axis=0)]


def expected_by_prompt(ppl: np.ndarray, ns: Sequence[int], score: np.ndarray | None = None) -> np.ndarray:
    """`expected_best_of` of each prompt, `[n_prompts, len(ns)]`."""
    ppl, score = _pair(ppl, score, ns)
    return _by_rank(ppl, score) @ _weights(ppl.shape[1], ns)


def best_of_draws(
    ppl: np.ndarray, ns: Sequence[int], seed: int = 0, draws: int = DRAWS, score: np.ndarray | None = None
) -> np.ndarray:
    """Bootstrap of `expected_best_of` over prompts and, within each prompt, over samples: `[draws, len(ns)]`.

    Conditions drawn with the same seed and shape are paired by prompt. A resample of samples holds some of them twice,
    so its best of N is a little worse than that of N different ones; the draws are moved by that known difference,
    which leaves the spread and centres it on the estimate.
    """
    ppl, score = _pair(ppl, score, ns)
    n_prompts, n_samples = ppl.shape
    rng = np.random.default_rng(seed)
    weights = _weights(n_samples, ns)
    # one draw's prompts, then one number for each of their samples
    high = np.repeat([n_prompts, n_samples], [n_prompts, n_prompts * n_samples])
    result = np.empty((draws, len(ns)))
    step = max(1, BLOCK // len(high))
    for start in range(0, draws, step):
        drawn = rng.integers(high, size=(min(step, draws - start), len(high)))
        prompts = drawn[:, :n_prompts, None]
        samples = drawn[:, n_prompts:].reshape(-1, n_prompts, n_samples)
        chosen = _by_rank(ppl[prompts, samples], None if score is ppl else score[prompts, samples])
        result[start : start + step] = (chosen @ weights).mean(axis=1)
    return result + (expected_best_of(ppl, ns, score) - _mean_over_resamples(ppl, ns, score))


def _weights(n_samples: int, ns: Sequence[int]) -> np.ndarray:
    k = np.arange(1, n_samples + 1)[:, None]
    n = np.asarray(ns)[None, :]
    return comb(n_samples - k, n - 1) / comb(n_samples, n)  # [n_samples, len(ns)]


def _mean_over_resamples(ppl: np.ndarray, ns: Sequence[int], score: np.ndarray) -> np.ndarray:
    """Expectation of the resampled statistic: N subsets without replacement of M draws are N draws with replacement."""
    n_samples = ppl.shape[1]
    k = np.arange(n_samples + 1)[:, None] / n_samples
    survival = (1 - k) ** np.asarray(ns)[None, :]  # P(least of N draws is above the k-th smallest)
    return (_by_rank(ppl, score) @ (survival[:-1] - survival[1:])).mean(axis=0)


def _by_rank(ppl: np.ndarray, score: np.ndarray | None) -> np.ndarray:
    """Scores [..., n_samples] in the order of their PPLs, smallest first."""
    if score is None or score is ppl:
        return np.sort(ppl, axis=-1)
    return np.take_along_axis(score, np.argsort(ppl, axis=-1, kind="stable"), axis=-1)


def _pair(ppl: np.ndarray, score: np.ndarray | None, ns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    if score is None or score is ppl:
        ppl = _checked(ppl, ns)
        return ppl, ppl
    if np.shape(ppl) != np.shape(score):
        raise InputError(f"PPLs of shape {list(np.shape(ppl))}, scores of {list(np.shape(score))}; they must agree")
    return _checked(ppl, ns), _checked(score, ns)


def _checked(ppl: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    ppl = np.asarray(ppl, dtype=np.float64)
    if ppl.ndim != 2 or ppl.size == 0 or not np.isfinite(ppl).all():
        raise InputError(f"sample PPLs of shape {list(ppl.shape)}; finite ones, [n_prompts, n_samples], are needed")
    if len(ns) == 0 or min(ns) < 1 or max(ns) > ppl.shape[1]:
        raise InputError(f"best of {list(ns)}; between 1 and the {ppl.shape[1]} samples of each prompt")
    return ppl
