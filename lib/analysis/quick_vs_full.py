"""Section V5 and the sampling part of V1: how far the figures on the quick tokens lie from those on the full ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from lib.analysis.bootstrap import checked, interval
from lib.analysis.windows import by_kind, percentile
from lib.errors import InputError

DRIVERS = 2  # figures of the comparison that are named as its drivers


def difference(quick: float, full: float, scale: float | None = None) -> float | None:
    """(full − quick) / |scale|, scale = quick unless given; None where it is 0 or a figure is missing."""
    scale = quick if scale is None else scale
    if quick is None or full is None or not scale:
        return None
    return (full - quick) / abs(scale)


def compare(v1: Mapping, v2: Mapping, v3: Mapping, v4: Mapping) -> dict:
    """Section V5 from sections V1–V4: how far the figures on the quick tokens lie from those on the full ones.

    Compared are the baseline PPL, the ten heads' ΔPPL, the focus head's zero, mean and zero/mean figures and every
    ratio of the ladder but n = 0, the last against |ratio − 1|. Over +5 % on average the quick estimate was
    optimistic, under −5 % pessimistic. The conclusions hold when no threshold moves by more than 10 heads. Beside the
    mean, which is the published definition, stand the median, the two largest differences and the mean without them,
    and the mean without the focus head's second count (it is among the ten). coverage: of the sections' figures, by
    kind.
    """
    rows = [("ppl", v1["ppl_2k"], v1["ppl_full"], None)]
    rows += [
        (f"zero:L{row['layer']}H{row['head']}", row["delta_ppl_2k"], row["delta_ppl_full"], None) for row in v2["top10"]
    ]
    rows += [
        (f"focus:{name}", v3[f"{key}_2k"], v3[f"{key}_full"], None)
        for name, key in (("zero", "zero_delta_ppl"), ("mean", "mean_delta_ppl"), ("reduction", "reduction"))
    ]
    full = {row["n_linearized"]: row["ratio"] for row in v4["cumulative"]}
    rows += [
        (f"ratio:{row['n_linearized']}", row["ratio"], full[row["n_linearized"]], row["ratio"] - 1)
        for row in v4["cumulative_2k"]
        if row["n_linearized"] and row["n_linearized"] in full
    ]
    comparisons = [
        {"what": what, "quick": quick, "full": measured, "difference": difference(quick, measured, scale)}
        for what, quick, measured, scale in rows
    ]
    known = {row["what"]: row["difference"] for row in comparisons if row["difference"] is not None}
    average = float(np.mean(list(known.values())))
    focus = (v3["zero_delta_ppl_2k"], v3["zero_delta_ppl_full"])
    twice = [what for what, quick, measured, _ in rows if what.startswith("zero:") and (quick, measured) == focus]
    drivers = sorted(known, key=lambda what: -abs(known[what]))[:DRIVERS]
    shifts = [abs(v4["thresholds_full"][limit] - n) for limit, n in v4["thresholds_2k"].items()]
    return {
        "comparisons": comparisons,
        "mean_diff_pct": 100 * average,
        "median_diff_pct": 100 * float(np.median(list(known.values()))),
        "drivers": [{"what": what, "difference": known[what]} for what in drivers],
        "mean_without_drivers_pct": _mean_pct(known, drivers),
        "counted_twice": [what.removeprefix("zero:") for what in twice],
        "mean_counted_once_pct": _mean_pct(known, twice),
        "bias": "optimistic" if average > 0.05 else "pessimistic" if average < -0.05 else "agree",
        "conclusions_maintained": max(shifts) <= 10,
        "thresholds_2k": dict(v4["thresholds_2k"]),
        "thresholds_full": dict(v4["thresholds_full"]),
        "max_threshold_shift": max(shifts),
        "coverage": by_kind([*v1["coverage"], *v2["coverage"], *v3["coverage"], *sum(v4["coverage"].values(), [])]),
    }


def _mean_pct(known: Mapping[str, float], left_out: list[str]) -> float | None:
    """Mean of the differences but those left out, in %; None where nothing remains."""
    rest = [value for what, value in known.items() if what not in left_out]
    return 100 * float(np.mean(rest)) if rest else None


def sampling(nll: np.ndarray, n_quick: int, seed: int = 0, draws: int = 20_000) -> dict:
    """How far the PPL of `n_quick` chunks lies from the full set's merely because few chunks were taken.

    nll: baseline scores of the full set, `[n_chunks, n_ctx - 1]`; the quick set is its first `n_quick` chunks.
    spread, spread_random: 95 % of the PPLs of `n_quick` neighbouring chunks, and of any `n_quick` chunks (all
    combinations up to `draws` of them, else that many random ones).
    percentile, percentile_random: where the quick PPL falls among them, 0–100 (equal ones count half).
    share_as_far: share of the random choices whose ln PPL is at least as far from the full set's.
    typical_shift, observed_shift: root mean square and actual value of PPL / PPL(full) − 1.
    explained: sampling alone explains the shift, that is share_as_far is at least 5 %.
    """
    nll = checked(nll)
    n_chunks = len(nll)
    if not 1 <= n_quick <= n_chunks:
        raise InputError(f"n_quick={n_quick}; between 1 and the {n_chunks} chunks of the full set")
    mean = nll.mean(axis=1, dtype=np.float64)
    whole, quick = mean.mean(), mean[:n_quick].mean()
    windows = np.convolve(mean, np.full(n_quick, 1 / n_quick), mode="valid")
    if math.comb(n_chunks, n_quick) <= max(draws, 50_000):
        choice = np.array(list(combinations(range(n_chunks), n_quick)))
    else:
        rng = np.random.default_rng(seed)
        choice = np.argsort(rng.random((draws, n_chunks)), axis=1)[:, :n_quick]
    random = mean[choice].mean(axis=1)
    as_far = float((np.abs(random - whole) >= abs(quick - whole) - 1e-12).mean())
    return {
        "spread": interval(np.exp(windows)),
        "spread_random": interval(np.exp(random)),
        "percentile": percentile(windows, quick),
        "percentile_random": percentile(random, quick),
        "share_as_far": as_far,
        "typical_shift": float(np.sqrt(np.mean(np.expm1(random - whole) ** 2))),
        "observed_shift": math.expm1(quick - whole),
        "explained": as_far >= 0.05,
        "n_windows": len(windows),
        "n_random": len(random),
    }
