"""Resamples of text, and the intervals that come from them.

An `nll` is float32 `[n_chunks, n_ctx - 1]`, as the evaluator returns it. Every interval is a 95 % bootstrap interval.
All figures of one token set are resampled with the same draws, so that a difference between two plans is paired: what
the text alone adds to both cancels.

What is resampled is the document, because tokens of one document are alike: a cluster bootstrap. Documents are few and
of unequal size, so three things are done that a plain percentile bootstrap leaves out, and without which it covers too
seldom (`tests/test_coverage.py` holds both to it):

- the mean NLL is linearised around its estimate, so that a resample without the largest document does not change its
  own denominator: ln PPL* = ln PPL + Σ (w − 1) (sum − mean · count) / N;
- a unit with the share h of all tokens has its residual divided by 1 − h, as the jackknife does (CR3; Bell and
  McCaffrey 2002);
- the spread is that of Student's t with G* − 1 degrees of freedom instead of the normal law's, G* = (Σ size)² / Σ size²
  being the effective number of units (Kish 1965; Carter, Schnepel and Steigerwald 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import norm, t

from lib.errors import InputError

LEVEL = 0.95
DRAWS = 2000
MIN_DOCUMENTS = 4.0  # effective ones
MIN_CHUNKS = 16
MAX_UNITS = 1024
BLOCK = 64
BLOCK_GROWTH = 1.7  # chunks of a block, per cube root of their number: the best for neighbours that correlate by 0.6

Interval = list


def checked(nll: np.ndarray) -> np.ndarray:
    """`nll` as an array `[n_chunks, n_ctx - 1]`; InputError where it is empty, of another rank or not finite."""
    nll = np.asarray(nll)
    if nll.ndim != 2 or nll.size == 0:
        raise InputError(f"nll has shape {list(nll.shape)}; [n_chunks, n_ctx - 1] with at least one token is needed")
    finite = np.isfinite(nll)
    if not finite.all():
        chunk, position = np.argwhere(~finite)[0]
        raise InputError(
            f"nll holds {nll[chunk, position]} at chunk {chunk}, position {position}; every token needs a finite score"
        )
    return nll


def interval(draws: np.ndarray, level: float = LEVEL, measured_only: bool = False) -> Interval:
    """Percentile interval `[lo, hi]` of `draws`; with `measured_only` the ends are values that were drawn.

    An end that is infinite becomes None: the figure is unbounded on that side.
    """
    draws = np.asarray(draws, dtype=np.float64)
    if np.isnan(draws).any():
        raise InputError("a bootstrap draw is NaN; the figure is not defined on a resample of these tokens")
    tails = [(1 - level) / 2, (1 + level) / 2]
    measured_only = measured_only or not np.isfinite(draws).all()
    ends = np.quantile(draws, tails, method="inverted_cdf" if measured_only else "linear")
    return [float(end) if np.isfinite(end) else None for end in ends]


@dataclass(frozen=True)
class Units:
    """What is resampled: `of_token`, the unit of each token [n_tokens], and how long a block of them is.

    kind `document`: whole documents. `chunks`: circular moving blocks of `length` whole chunks. `tokens`: blocks of
    `length` positions within the chunks.
    """

    kind: str
    of_token: np.ndarray
    length: int | None = None

    @classmethod
    def choose(cls, n_chunks: int, n_ctx: int, documents: np.ndarray | None = None) -> Units:
        """Documents where there are four effective ones or more, else blocks of chunks where there are 16 chunks.

        Fewer chunks of fewer documents cannot speak of other text; then blocks within the chunks are taken, whose
        intervals say how sure a figure is on these very chunks, and no more.
        """
        if documents is not None:
            of_token = np.unique(documents.reshape(-1), return_inverse=True)[1]
            n = int(of_token.max()) + 1
            of_token = of_token * MAX_UNITS // n if n > MAX_UNITS else of_token  # neighbours joined
            if effective_number(np.bincount(of_token)) >= MIN_DOCUMENTS:
                return cls("document", of_token)
        token = np.arange(n_chunks * n_ctx)
        if n_chunks >= MIN_CHUNKS:
            return cls("chunks", token // n_ctx, round(BLOCK_GROWTH * n_chunks ** (1 / 3)))
        block = min(BLOCK, max(2, n_ctx // 8))
        return cls("tokens", token // block, block)

    @property
    def scope(self) -> str:
        """What an interval speaks of: `other_text` of the same kind, or `these_chunks` alone."""
        return "these_chunks" if self.kind == "tokens" else "other_text"

    def about(self) -> dict:
        """`{unit, length, n_units, n_effective, scope}`."""
        sizes = self.sizes
        n = len(sizes)
        return {
            "unit": self.kind,
            "length": self.length,
            "n_units": n,
            "n_effective": n / self.length if self.kind == "chunks" and self.length else effective_number(sizes),
            "scope": self.scope,
        }

    @property
    def sizes(self) -> np.ndarray:
        return np.bincount(self.of_token).astype(np.float64)

    def weights(self, seed: int, draws: int) -> np.ndarray:
        """Weights [draws, n_units] around 1, spread as far as so few units of such sizes call for."""
        sizes = self.sizes
        n = len(sizes)
        rng = np.random.default_rng([seed, n])  # sets of other sizes draw independently
        if self.kind == "chunks" and self.length:
            n_blocks = n / self.length
            starts = rng.integers(n, size=(draws, math.ceil(n_blocks)))
            times = np.zeros((draws, n + self.length))
            np.add.at(times, (np.arange(draws)[:, None], starts), 1.0)
            np.subtract.at(times, (np.arange(draws)[:, None], starts + self.length), 1.0)
            times = times.cumsum(axis=1)
            times[:, : self.length] += times[:, n:]
            times = times[:, :n] / times[:, :n].mean(axis=1, keepdims=True)
            share, n_effective = 1 / n_blocks, n_blocks
        else:
            times = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
            share, n_effective, n_blocks = sizes / sizes.sum(), effective_number(sizes), n
        leverage = math.sqrt((n_blocks - 1) / n_blocks) / (1 - share)
        return 1 + student_over_normal(n_effective) * leverage * (times - 1)


def effective_number(sizes: np.ndarray) -> float:
    """Number of units of equal size that vary as much as units of these sizes do: (Σ size)² / Σ size²."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


@cache
def student_over_normal(n: float) -> float:
    """How much wider than the normal law's a 95 % interval from `n` units has to be; at least one degree of freedom."""
    tail = (1 + LEVEL) / 2
    return float(t.ppf(tail, max(n - 1, 1.0)) / norm.ppf(tail))


@cache
def small_sample_level(n: int) -> float:
    """The level at which the percentiles of a mean's bootstrap over `n` values are 95 % intervals (Hesterberg 2015)."""
    if n < 2:
        return LEVEL
    return float(1 - 2 * norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf((1 + LEVEL) / 2, n - 1)))


class Resampler:
    """Bootstrap weights over units of text, drawn once: everything computed through one resampler is paired.

    n_chunks, n_ctx: shape of the tokens. documents: each token's document, [n_chunks, n_ctx]. units: to choose what is
    resampled by hand; weights: drawn for those units elsewhere.
    """

    def __init__(
        self,
        n_chunks: int,
        n_ctx: int,
        seed: int = 0,
        draws: int = DRAWS,
        documents: np.ndarray | None = None,
        units: Units | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        if n_chunks < 1 or n_ctx < 2:
            raise InputError(f"n_chunks={n_chunks}, n_ctx={n_ctx}; at least one chunk of two tokens is needed")
        if draws < 2:
            raise InputError(f"draws={draws}; a bootstrap needs at least 2")
        if documents is not None and np.shape(documents) != (n_chunks, n_ctx):
            raise InputError(f"documents of shape {list(np.shape(documents))}; {[n_chunks, n_ctx]} are needed")
        self.n_chunks, self.n_ctx, self.draws = n_chunks, n_ctx, draws
        self.units = Units.choose(n_chunks, n_ctx, documents) if units is None else units
        self.unit_of = self.units.of_token.reshape(n_chunks, n_ctx)[:, 1:]  # of the token that a position predicts
        self.n_units = len(self.units.sizes) if weights is None else weights.shape[1]
        if self.n_units < 2:
            raise InputError(f"{n_chunks} chunk(s) of {n_ctx} tokens give one unit; resampling needs two or more")
        self.weights = self.units.weights(seed, draws) if weights is None else weights

    @classmethod
    def of(cls, nll: np.ndarray, seed: int = 0, draws: int = DRAWS, documents: np.ndarray | None = None) -> Resampler:
        """The resampler for tokens scored as `nll`."""
        n_chunks, n_predicted = checked(nll).shape
        return cls(n_chunks, n_predicted + 1, seed, draws, documents)

    @classmethod
    def by_chunk(cls, n_chunks: int, n_ctx: int, seed: int = 0, draws: int = DRAWS) -> Resampler:
        """With each chunk a unit of its own, as if no document went on into the next: to see what the unit is worth."""
        return cls(n_chunks, n_ctx, seed, draws, np.repeat(np.arange(n_chunks), n_ctx).reshape(n_chunks, n_ctx))

    def means(self, values: Sequence[np.ndarray], columns: slice = slice(None)) -> np.ndarray:
        """Mean over tokens of each of several `values` [n_chunks, n] on every resample, float64 `[len(values), draws]`.

        columns: which of the n_ctx - 1 predicted positions they belong to.
        """
        unit = self.unit_of[:, columns]
        residuals, centre = [], []
        counts = np.bincount(unit.ravel(), minlength=self.n_units)
        for value in values:
            value = checked(value)
            if value.shape != unit.shape:
                raise InputError(f"nll has shape {list(value.shape)}; this resampler is for {list(unit.shape)}")
            sums = np.bincount(unit.ravel(), weights=value.ravel(), minlength=self.n_units)
            centre.append(sums.sum() / unit.size)
            residuals.append((sums - centre[-1] * counts) / unit.size)
        return np.asarray(centre)[:, None] + np.stack(residuals) @ (self.weights - 1).T

    def ppl(self, nll: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """PPL on every resample, float64 `[draws]`."""
        return np.exp(self.means([nll], columns)[0])

    def relative(self, nll: np.ndarray, base: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """PPL ratio to `base` on every resample, float64 `[draws]`; exactly 1 where both are the same array."""
        return self.relatives([nll], base, columns)[0]

    def relatives(self, nlls: Sequence[np.ndarray], base: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """`relative` for several, float64 `[len(nlls), draws]`."""
        base = np.asarray(base, dtype=np.float64)
        return np.exp(self.means([np.asarray(nll) - base for nll in nlls], columns))


def context_resamplers(
    shapes: Mapping[int, int], seed: int = 0, draws: int = DRAWS, documents: np.ndarray | None = None
) -> dict[int, Resampler]:
    """Resamplers that stay paired over one text cut at several lengths: `{n_ctx: n_chunks}` -> `{n_ctx: Resampler}`.

    documents: of the text's tokens, one after the other. The units are chosen at the longest length and are the same
    spans of text, with the same weights, at each.
    """
    longest = max(shapes)
    n_tokens = max(length * n for length, n in shapes.items())
    n_whole = min(length * n for length, n in shapes.items()) // longest
    documents = None if documents is None else np.asarray(documents).reshape(-1)[:n_tokens]
    units = Units.choose(n_whole, longest, documents)
    of_token = np.pad(units.of_token, (0, n_tokens - len(units.of_token)), "edge")
    weights = units.weights(seed, draws)
    return {
        length: Resampler(
            n, length, seed, draws, units=Units(units.kind, of_token[: n * length], units.length), weights=weights
        )
        for length, n in shapes.items()
    }


def mean_ci(values: Sequence[float], seed: int = 0, draws: int = DRAWS) -> tuple[float, Interval]:
    """Mean of one figure per prompt, with its bootstrap interval over prompts."""
    return _statistic_ci(values, np.mean, seed, draws, small_sample_level(np.size(values)))


def median_ci(values: Sequence[float], seed: int = 0, draws: int = DRAWS) -> tuple[float, Interval]:
    """Median of repeated timings, with its bootstrap interval over repeats."""
    return _statistic_ci(values, np.median, seed, draws)


def _statistic_ci(
    values: Sequence[float], statistic: Callable, seed: int, draws: int, level: float = LEVEL
) -> tuple[float, Interval]:
    own = np.asarray(values, dtype=np.float64)
    if own.ndim != 1 or own.size == 0 or not np.isfinite(own).all():
        raise InputError(f"{own.size} values, shape {list(own.shape)}; one or more finite numbers are needed")
    index = np.random.default_rng(seed).integers(own.size, size=(draws, own.size))
    return float(statistic(own)), interval(statistic(own[index], axis=1), level)
