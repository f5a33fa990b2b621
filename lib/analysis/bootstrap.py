"""Figures and their intervals from per-token NLLs: perplexities, ΔPPL, ranks, thresholds, fits.

An `nll` is float32 `[n_chunks, n_ctx - 1]`, as the evaluator returns it. Every interval is a 95 % percentile
bootstrap. All figures of one token set are resampled with the same draws, so that a difference between two plans is
paired: what the text alone adds to both cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lib.errors import InputError

LEVEL = 0.95
DRAWS = 2000
MIN_CHUNKS = 16
BLOCK = 64

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


class Resampler:
    """Bootstrap weights over units of text, drawn once: everything computed through one resampler is paired.

    Units are whole chunks where there are at least 16. Fewer cannot be resampled (two chunks have three distinct
    resamples), so then the units are non-overlapping blocks of 64 positions inside the chunks, or an eighth of a
    chunk if that is shorter. Blocks of one chunk share their subject, so such intervals are about this text and
    rather too narrow for other text.

    n_chunks, n_ctx: shape of the tokens. block: tokens per unit, to choose the units by hand. units: join whatever
    lies beyond this many units to the last one.
    """

    def __init__(
        self,
        n_chunks: int,
        n_ctx: int,
        seed: int = 0,
        draws: int = DRAWS,
        block: int | None = None,
        units: int | None = None,
    ):
        if n_chunks < 1 or n_ctx < 2:
            raise InputError(f"n_chunks={n_chunks}, n_ctx={n_ctx}; at least one chunk of two tokens is needed")
        if draws < 2:
            raise InputError(f"draws={draws}; a bootstrap needs at least 2")
        if block is None:
            block = n_ctx if n_chunks >= MIN_CHUNKS else min(BLOCK, max(2, n_ctx // 8))
        if block < 2:
            raise InputError(f"block={block}; a unit needs at least 2 tokens")
        self.n_chunks, self.n_ctx, self.block, self.draws = n_chunks, n_ctx, block, draws
        token = np.arange(n_chunks)[:, None] * n_ctx + np.arange(1, n_ctx)  # the token that position predicts
        unit = (token // block).ravel()
        if units is not None:
            unit = np.minimum(unit, units - 1)
        self.unit_of = unit
        self.n_units = int(unit[-1]) + 1
        if self.n_units < 2:
            raise InputError(
                f"{n_chunks} chunk(s) of {n_ctx} tokens give one unit of {block}; resampling needs two or more"
            )
        self.counts = np.bincount(unit, minlength=self.n_units).astype(np.float64)
        rng = np.random.default_rng([seed, self.n_units])  # sets of other sizes draw independently
        self.weights = rng.multinomial(self.n_units, np.full(self.n_units, 1 / self.n_units), size=draws).astype(float)
        self._total = self.weights @ self.counts

    @classmethod
    def of(cls, nll: np.ndarray, seed: int = 0, draws: int = DRAWS, block: int | None = None) -> Resampler:
        """The resampler for tokens scored as `nll`."""
        n_chunks, n_predicted = checked(nll).shape
        return cls(n_chunks, n_predicted + 1, seed, draws, block)

    @property
    def unit(self) -> str:
        return "chunk" if self.block == self.n_ctx else f"{self.block} tokens"

    def ppl(self, nll: np.ndarray) -> np.ndarray:
        """PPL on every resample, float64 `[draws]`."""
        nll = checked(nll)
        if nll.shape != (self.n_chunks, self.n_ctx - 1):
            raise InputError(
                f"nll has shape {list(nll.shape)}; this resampler is for {[self.n_chunks, self.n_ctx - 1]}"
            )
        sums = np.bincount(self.unit_of, weights=nll.ravel(), minlength=self.n_units)
        return np.exp(self.weights @ sums / self._total)

    def relative(self, nll: np.ndarray, base: np.ndarray) -> np.ndarray:
        """PPL ratio to `base` on every resample, float64 `[draws]`; exactly 1 where both are the same array."""
        return self.ppl(nll) / self.ppl(base)


def context_resamplers(shapes: Mapping[int, int], seed: int = 0, draws: int = DRAWS) -> dict[int, Resampler]:
    """Resamplers that stay paired over one text cut at several lengths: `{n_ctx: n_chunks}` -> `{n_ctx: Resampler}`.

    Units are spans of the longest length (shorter ones where they are fewer than 16), the same spans at each length.
    """
    longest = max(shapes)
    n_tokens = min(length * n for length, n in shapes.items())
    block = longest if n_tokens // longest >= MIN_CHUNKS else min(BLOCK, max(2, longest // 8))
    units = n_tokens // block
    return {length: Resampler(n, length, seed, draws, block, units) for length, n in shapes.items()}


def mean_ci(values: Sequence[float], seed: int = 0, draws: int = DRAWS) -> tuple[float, Interval]:
    """Mean of one figure per prompt, with its bootstrap interval over prompts."""
    return _statistic_ci(values, np.mean, seed, draws)


def median_ci(values: Sequence[float], seed: int = 0, draws: int = DRAWS) -> tuple[float, Interval]:
    """Median of repeated timings, with its bootstrap interval over repeats."""
    return _statistic_ci(values, np.median, seed, draws)


def _statistic_ci(values: Sequence[float], statistic: Callable, seed: int, draws: int) -> tuple[float, Interval]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise InputError(f"{values.size} values, shape {list(values.shape)}; one or more finite numbers are needed")
    index = np.random.default_rng(seed).integers(values.size, size=(draws, values.size))
    return float(statistic(values)), interval(statistic(values[index], axis=1))
