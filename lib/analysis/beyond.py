"""What perplexity does not see: predictions that have moved, copying, position, and text of another domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lib.analysis import context
from lib.analysis.bootstrap import Resampler, interval
from lib.analysis.perplexity import ratio


def moved(kl: np.ndarray, agrees: np.ndarray, resampler: Resampler) -> dict[str, Any]:
    """Mean KL to the untouched model and share of tokens with the same most likely one, with intervals.

    kl, agrees: [n_chunks, n_ctx - 1].
    """
    found: dict[str, Any] = {}
    for name, values in (("kl", kl), ("agreement", agrees)):
        found[name] = float(np.mean(values, dtype=np.float64))
        found[f"{name}_ci"] = interval(resampler.means([values])[0])
    return found


def copied(probes: Sequence[Mapping[str, Sequence[float]]], seed: int = 0, draws: int = 2000) -> list[dict[str, Any]]:
    """Copying of several plans on the same sequences, the untouched model first, resampled together.

    `kept` is the share of the untouched model's gain that is left: None where that gains nothing.
    """
    n = len(probes[0]["gain"])
    times = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=draws) / n
    gains = np.array([probe["gain"] for probe in probes])
    gain_draws = gains @ times.T
    gains_surely = gain_draws[0].min() > 0
    rows = []
    for probe, gain, drawn in zip(probes, gains, gain_draws, strict=True):
        row: dict[str, Any] = {"gain": float(gain.mean()), "gain_ci": interval(drawn)}
        for side in ("first", "second"):
            right = np.asarray(probe[side])
            row |= {side: float(right.mean()), f"{side}_ci": interval(times @ right)}
        row["kept"] = float(gain.mean() / gains[0].mean()) if gains_surely else None
        row["kept_ci"] = interval(drawn / gain_draws[0]) if gains_surely else None
        rows.append(row)
    return rows


def by_position(nlls: Sequence[np.ndarray], base: np.ndarray, resampler: Resampler) -> dict[str, Any]:
    """`{bins, ratios: [plan][bin], ratios_ci}` of plans scored as `nlls`, against `base`."""
    places = context.bins(resampler.n_ctx)
    spans = [context.spans(nll, base, resampler, places) for nll in nlls]
    return {
        "bins": [list(place) for place in places],
        "ratios": [span["ratio"] for span in spans],
        "ratios_ci": [span["ratio_ci"] for span in spans],
    }


def elsewhere(nlls: Sequence[np.ndarray], resampler: Resampler) -> list[dict[str, Any]]:
    """PPL ratios on text of another domain, to the first of `nlls`."""
    rows = []
    for nll in nlls:
        value, ends = ratio(nll, nlls[0], resampler)
        rows.append({"other_ratio": value, "other_ratio_ci": ends})
    return rows


def first_break(rows: Sequence[Mapping[str, Any]], kept: float) -> int | None:
    """The first rung from which on copying has surely lost more than it may: the interval of `kept` ends below."""
    for row in rows[1:]:
        if row["kept_ci"] is not None and row["kept_ci"][1] < kept:
            return row["n_linearized"]
    return None


def first_told(rows: Sequence[Mapping[str, Any]], limit: float) -> int | None:
    """The first rung whose PPL ratio surely passes `limit`."""
    return next((row["n_linearized"] for row in rows if row["ratio_ci"][0] > limit), None)
