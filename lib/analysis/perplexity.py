"""Figures from per-token NLLs, each with its paired interval: perplexities, ΔPPL, ratios and what is made of them."""

from __future__ import annotations

import math

import numpy as np

from lib.analysis.bootstrap import Interval, Resampler, checked, interval


def ppl(nll: np.ndarray) -> float:
    """Perplexity: exp of the mean next-token NLL over all predicted tokens, summed in float64."""
    nll = checked(nll)
    return math.exp(nll.sum(dtype=np.float64) / nll.size)


def ppl_ci(nll: np.ndarray, resampler: Resampler) -> tuple[float, Interval]:
    """PPL with its interval."""
    return ppl(nll), interval(resampler.ppl(nll))


def delta(nll: np.ndarray, base: np.ndarray, resampler: Resampler) -> tuple[float, Interval]:
    """Relative ΔPPL, (PPL − baseline) / baseline, with its paired interval."""
    return ppl(nll) / ppl(base) - 1, interval(resampler.relative(nll, base) - 1)


def ratio(nll: np.ndarray, base: np.ndarray, resampler: Resampler) -> tuple[float, Interval]:
    """PPL ratio to the baseline with its paired interval."""
    return ppl(nll) / ppl(base), interval(resampler.relative(nll, base))


def change(old: float, new: float, old_draws: np.ndarray, new_draws: np.ndarray) -> tuple[float, Interval]:
    """Relative change (new − old) / |old| between two token sets, each resampled on its own."""
    return (new - old) / abs(old), interval((new_draws - old_draws) / np.abs(old_draws))


def quotient(
    above: np.ndarray, below: np.ndarray, base: np.ndarray, resampler: Resampler
) -> tuple[float | None, Interval]:
    """ΔPPL of `above` / ΔPPL of `below`, as for the zero/mean ratio, with its paired interval.

    A resample in which the lower ΔPPL is not positive counts as unbounded, so an end of the interval may be None.
    """
    return (
        quotient_value(ppl(above) / ppl(base) - 1, ppl(below) / ppl(base) - 1),
        interval(quotients(resampler.relative(above, base) - 1, resampler.relative(below, base) - 1)),
    )


def quotient_value(above: float, below: float) -> float | None:
    """above / below; None where below is 0."""
    return above / below if below else None


def quotients(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below resample by resample; unbounded where `below` is not positive and `above` is, else 0."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.where(above > 0, np.inf, 0.0))


def constant_share(
    zero: np.ndarray, mean: np.ndarray, base: np.ndarray, resampler: Resampler
) -> tuple[float | None, Interval | None]:
    """Share of a head's effect that its mean keeps, 1 − ΔPPL(mean) / ΔPPL(zero); None where zeroing does no harm."""
    share, draws = _share(zero, mean, base, resampler)
    return share, None if draws is None else interval(draws)


Scored = tuple[np.ndarray, np.ndarray, np.ndarray, Resampler]  # zeroed, at its mean, baseline; of one token set


def constant_share_change(quick: Scored, full: Scored) -> tuple[float | None, Interval | None]:
    """`constant_share` on the full tokens minus that on the quick ones, each token set resampled on its own."""
    (few, few_draws), (many, many_draws) = _share(*quick), _share(*full)
    change = None if few is None or many is None else many - few
    return change, None if few_draws is None or many_draws is None else interval(many_draws - few_draws)


def _share(
    zero: np.ndarray, mean: np.ndarray, base: np.ndarray, resampler: Resampler
) -> tuple[float | None, np.ndarray | None]:
    """The share and its draws; no draws where zeroing does no harm in one of them."""
    lost, lost_draws = ppl(zero) / ppl(base) - 1, resampler.relative(zero, base) - 1
    share = None if lost <= 0 else 1 - (ppl(mean) / ppl(base) - 1) / lost
    if share is None or (lost_draws <= 0).any():
        return share, None
    return share, 1 - (resampler.relative(mean, base) - 1) / lost_draws


def rise(
    longer: tuple[np.ndarray, np.ndarray],
    shorter: tuple[np.ndarray, np.ndarray],
    resamplers: tuple[Resampler, Resampler],
) -> tuple[float, Interval]:
    """Ratio at the longer context minus the ratio at the shorter, paired over the same text.

    longer, shorter: `(nll, base)` at each length; resamplers: those of `context_resamplers` for the two lengths.
    """
    values = [ppl(nll) / ppl(base) for nll, base in (longer, shorter)]
    draws = [r.relative(nll, base) for r, (nll, base) in zip(resamplers, (longer, shorter), strict=True)]
    return values[0] - values[1], interval(draws[0] - draws[1])


def is_noise(ends: Interval) -> bool:
    """Whether an interval of a difference contains 0."""
    lo, hi = ends
    return (lo is None or lo <= 0) and (hi is None or hi >= 0)
