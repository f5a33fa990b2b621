"""Tables of the earlier phases from scores: one head at a time, and heads piled up along a ranking."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import curve_fit
from scipy.stats import rankdata

from lib.analysis.bootstrap import Interval, Resampler, interval
from lib.analysis.perplexity import ppl
from lib.engine.interventions import Plan
from lib.errors import InputError
from lib.results.sections.terms import LIMITS

EXTRA_STEPS = (5, 15, 25, 35)


def steps(ladder: Sequence[int], n_max: int) -> list[int]:
    """The ladder with the finer steps of the earlier phases, ending at `n_max`."""
    return sorted({n for n in (*ladder, *EXTRA_STEPS) if n < n_max} | {n_max})


def head_rows(
    heads: Sequence[Head], nlls: Sequence[np.ndarray], base: np.ndarray, resampler: Resampler
) -> list[dict[str, Any]]:
    """`[{layer, head, ppl, delta, delta_ci}]`, one for each head's scores against `base`, paired."""
    nlls = list(nlls)
    below = ppl(base)
    return [
        {"layer": layer, "head": head, "ppl": ppl(nll), "delta": ppl(nll) / below - 1, "delta_ci": interval(draws)}
        for (layer, head), nll, draws in zip(heads, nlls, resampler.relatives(nlls, base) - 1, strict=True)
    ]


def places(rows: Sequence[Mapping[str, Any]]) -> list[Head]:
    return [(row["layer"], row["head"]) for row in rows]


def deltas(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["delta"] for row in rows]


def order(rows: Sequence[Mapping[str, Any]]) -> Any:
    """`(layer, head)` of the rows, smallest |ΔPPL| first."""
    return [tuple(place) for place in ranking(places(rows), deltas(rows))]


def best_per_head(scans: Any) -> Any:
    """For each head the mode that leaves the lowest PPL: `[{layer, head, mode, delta}]`; `scans` maps mode to rows."""
    best = []
    for rows in zip(*scans.values(), strict=True):
        mode, row = min(zip(scans, rows, strict=True), key=lambda pair: pair[1]["delta"])
        best.append({"layer": row["layer"], "head": row["head"], "mode": mode, "delta": row["delta"]})
    return best


def drift(piles: Any, scores: Mapping[Plan, np.ndarray], exact: Any) -> Any:
    """What a coarser dtype costs: `[{n_linearized, ppl, ppl_exact, ppl_drift, delta, delta_exact, delta_drift}]`.

    piles: `{n: Plan}`, n = 0 among them; scores and exact: the same chunks in the run's dtype and in float32.
    """
    base, base_exact = ppl(scores[piles[0]]), ppl(exact[piles[0]])
    rows = []
    for n, plan in piles.items():
        own, own_exact = ppl(scores[plan]), ppl(exact[plan])
        delta, delta_exact = own / base - 1, own_exact / base_exact - 1
        row = {"n_linearized": n, "ppl": own, "ppl_exact": own_exact, "ppl_drift": own / own_exact - 1}
        rows.append(row | {"delta": delta, "delta_exact": delta_exact, "delta_drift": delta - delta_exact})
    return rows


def pile(ordered: Any, ns: Iterable[int]) -> Any:
    """`{n: Plan}` of the first n of `ordered`, which holds `(layer, head, mode)`."""
    return {n: Plan(tuple(ordered[:n])) for n in ns}


def curve(piles: Any, scores: Mapping[Plan, np.ndarray], resampler: Resampler) -> Any:
    """Plans piled up, from their scores: `{cumulative, thresholds, thresholds_ci, crossings, crossings_ci}`."""
    ns = list(piles)
    rows, draws = ladder(ns, [scores[plan] for plan in piles.values()], resampler)
    ratios = [row["ratio"] for row in rows]
    return {
        "cumulative": rows,
        "thresholds": thresholds(ns, ratios),
        "thresholds_ci": thresholds_ci(ns, draws),
        "crossings": crossings(ns, ratios),
        "crossings_ci": crossings_ci(ns, draws),
    }


Head = tuple[int, int]


def ladder(ns: Sequence[int], nlls: Sequence[np.ndarray], resampler: Resampler) -> tuple[list[dict], np.ndarray]:
    """Rows `{n, ppl, ppl_ci, ratio, ratio_ci}` against the first of `nlls` (n = 0), and ratio draws `[n, draws]`."""
    if len(ns) != len(nlls) or not ns or ns[0] != 0:
        raise InputError(f"ladder of {len(ns)} steps {list(ns)[:3]}… and {len(nlls)} scores; it starts with n = 0")
    base = ppl(nlls[0])
    draws = np.exp(resampler.means(nlls))
    relative = resampler.relatives(nlls, nlls[0])
    rows = []
    for n, nll, own, rel in zip(ns, nlls, draws, relative, strict=True):
        value = ppl(nll)
        rows.append({"n": n, "ppl": value, "ppl_ci": interval(own), "ratio": value / base, "ratio_ci": interval(rel)})
    return rows, relative


def thresholds(ns: Sequence[int], ratios: Sequence[float], limits: Iterable[float] = LIMITS) -> dict[str, int]:
    """For each limit the largest measured n whose PPL ratio is at most it (0 where none is): `{"1.1": n, …}`."""
    return {
        str(limit): max((int(n) for n, r in zip(ns, ratios, strict=True) if r <= limit), default=0) for limit in limits
    }


def thresholds_ci(ns: Sequence[int], draws: np.ndarray, limits: Iterable[float] = LIMITS) -> dict[str, Interval]:
    """Intervals of the thresholds from ratio draws `[len(ns), draws]`; their ends are measured n."""
    rungs = np.asarray(ns)
    result = {}
    for limit in limits:
        reached = np.where(draws <= limit, rungs[:, None], 0).max(axis=0)
        result[str(limit)] = [int(end) for end in interval(reached, measured_only=True)]
    return result


def crossings(ns: Sequence[int], ratios: Sequence[float], limits: Iterable[float] = LIMITS) -> dict[str, float]:
    """For each limit the number of heads at which the PPL ratio passes it for good, between the measured rungs.

    ln ratio is taken as straight between rungs and made monotone from the right, so that a crossing lies between the
    threshold of `thresholds` and the next rung; the last rung where the limit is never passed.
    """
    return {str(limit): float(crossing_draws(ns, np.asarray(ratios, float)[:, None], limit)[0]) for limit in limits}


def crossings_ci(ns: Sequence[int], draws: np.ndarray, limits: Iterable[float] = LIMITS) -> dict[str, Interval]:
    """Intervals of the crossings from ratio draws `[len(ns), draws]`."""
    return {str(limit): interval(crossing_draws(ns, draws, limit)) for limit in limits}


def all_crossing_draws(ns: Sequence[int], draws: np.ndarray) -> dict[str, np.ndarray]:
    """`crossing_draws` at every limit, `{limit: [draws]}`."""
    return {str(limit): crossing_draws(ns, draws, limit) for limit in LIMITS}


def shifts_ci(quick: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """Intervals of how far the crossings move from one token set to another, each with draws of its own."""
    return {limit: interval(other[limit] - own) for limit, own in quick.items()}


def crossing_draws(ns: Sequence[int], ratios: np.ndarray, limit: float) -> np.ndarray:
    """Crossings [draws] of ratios [len(ns), draws]; n = 0, at which the ratio is 1, comes first."""
    rungs = np.asarray(ns, dtype=float)
    height = np.minimum.accumulate(np.log(ratios)[::-1])[::-1] - np.log(limit)
    below = (height <= 0).sum(axis=0) - 1  # the last rung within the limit
    after = np.minimum(below + 1, len(rungs) - 1)
    low, high = (np.take_along_axis(height, at[None], axis=0)[0] for at in (below, after))
    rise = np.where(after > below, high - low, 1.0)
    return rungs[below] + np.where(after > below, -low / rise, 0.0) * (rungs[after] - rungs[below])


def ranking(heads: Sequence[Head], deltas: Sequence[float]) -> list[list[int]]:
    """Heads by |ΔPPL|, smallest first; equal ones by (layer, head): `[[layer, head], …]`."""
    order = sorted(zip(heads, deltas, strict=True), key=lambda item: (abs(item[1]), tuple(item[0])))
    return [[int(layer), int(head)] for (layer, head), _ in order]


def ranks(values: Sequence[float]) -> list[int]:
    """Rank of each value, 1 the largest; equal values keep their order."""
    return rankdata(-np.asarray(values, dtype=float), method="ordinal").astype(int).tolist()


def ranks_ci(draws: np.ndarray) -> list[Interval]:
    """Interval of each figure's rank (1 the largest) from draws `[n_figures, draws]`."""
    places = rankdata(-np.asarray(draws), method="ordinal", axis=0)
    return [[int(end) for end in interval(row, measured_only=True)] for row in places]


def kept(record: Mapping[str, Any], about: Mapping[str, Any], n: int) -> dict[str, Any]:
    """What the report shows of a record of `head_study`: `{about, model, text, n_chunks, n_heads, rows}`.

    about: where it is from (`dated.about`); rows: the record's, of the `n` most harmful heads.
    """
    return {
        "about": about,
        "model": record["provenance"]["model"]["name"],
        "text": record["text"]["name"],
        "n_chunks": record["text"]["n_chunks"],
        "n_heads": len(record["rows"]),
        "rows": record["rows"][:n],
    }


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where one side is constant."""
    return _nullable(_row_correlation(np.asarray(a, float)[:, None], np.asarray(b, float)[:, None])[0])


def spearman_ci(a: np.ndarray, b: np.ndarray) -> Interval | None:
    """Interval of Spearman's correlation from draws `[n_figures, draws]` of both sides; None where not defined."""
    draws = _row_correlation(np.asarray(a, float), np.asarray(b, float))
    return None if np.isnan(draws).any() else interval(draws)


def _row_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.shape != b.shape or len(a) < 2:
        raise InputError(
            f"rank correlation of {len(a)} and {len(b)} figures; the same two or more on both sides needed"
        )
    a, b = (rankdata(side, axis=0) - (len(side) + 1) / 2 for side in (a, b))
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), norm, out=np.full(norm.shape, np.nan), where=norm > 0)


def _nullable(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def summary(deltas: Sequence[float]) -> dict:
    """Counts and moments of signed ΔPPLs: `{under_1pct, under_10pct, negative, mean, median, max}`."""
    own = np.asarray(deltas, dtype=float)
    if own.size == 0 or not np.isfinite(own).all():
        raise InputError(f"{own.size} ΔPPLs, {int((~np.isfinite(own)).sum())} not finite; finite ones are needed")
    return {
        "under_1pct": int((np.abs(own) < 0.01).sum()),
        "under_10pct": int((np.abs(own) < 0.1).sum()),
        "negative": int((own < 0).sum()),
        "mean": float(own.mean()),
        "median": float(np.median(own)),
        "max": float(own.max()),
    }


def layer_means(heads: Sequence[Head], deltas: Sequence[float]) -> list[float]:
    """Mean ΔPPL of the heads of each layer, from layer 0 to the last one named."""
    by_layer: dict[int, list[float]] = {}
    for (layer, _), value in zip(heads, deltas, strict=True):
        by_layer.setdefault(layer, []).append(value)
    return [float(np.mean(by_layer[layer])) for layer in sorted(by_layer)]


def layer0_share(heads: Sequence[Head], deltas: np.ndarray) -> np.ndarray:
    """Layer 0's share of Σ|ΔPPL|, from ΔPPLs `[len(heads)]` or their draws `[len(heads), draws]`."""
    size = np.abs(np.asarray(deltas, dtype=float))
    first = np.array([layer == 0 for layer, _ in heads])
    return size[first].sum(axis=0) / size.sum(axis=0)


def rank_law_ci(draws: np.ndarray, step: float = 0.01) -> Interval:
    """Interval of the rank law's α from draws `[n_heads, draws]`, by the same least squares, α from 0 to 6.

    Open to both sides where fewer than three heads are ranked.
    """
    if len(draws) < 3:
        return [None, None]
    size = np.sort(np.abs(np.asarray(draws, dtype=float)), axis=0)[::-1]
    rank = np.arange(1, len(size) + 1, dtype=float)
    alphas = np.arange(0, 6 + step, step)
    basis = rank ** -alphas[:, None]  # [n_alphas, n_heads]
    explained = (basis @ size) ** 2 / (basis**2).sum(axis=1)[:, None]  # what C at its best takes off the squares
    return interval(alphas[explained.argmax(axis=0)])


def paired(rows: Sequence[np.ndarray], others: Sequence[np.ndarray], base: np.ndarray, resampler: Resampler) -> dict:
    """ΔPPL of heads under one mode minus under another, head by head, each of `rows` and `others` a head's scores.

    `{mean, mean_ci, median, median_ci, lower, of}` over heads, from the same resamples of text on both sides; lower:
    the number of heads, of so many, that the first mode leaves with the lower PPL.
    """
    below = ppl(base)
    values = np.array([(ppl(a) - ppl(b)) / below for a, b in zip(rows, others, strict=True)])
    draws = resampler.relatives(rows, base) - resampler.relatives(others, base)
    return {
        "mean": float(values.mean()),
        "mean_ci": interval(draws.mean(axis=0)),
        "median": float(np.median(values)),
        "median_ci": interval(np.median(draws, axis=0)),
        "lower": int((values < 0).sum()),
        "of": len(values),
    }


def rank_law(deltas: Sequence[float]) -> dict:
    """|ΔPPL| = C · rank^−α, least squares on the untransformed values, largest first: `{alpha, C, r2}`.

    All three are None where fewer than three heads are ranked.
    """
    size = np.sort(np.abs(np.asarray(deltas, dtype=float)))[::-1]
    if not np.isfinite(size).all():
        raise InputError(f"rank law from {size.size} ΔPPLs, not all finite; finite ones are needed")
    if size.size < 3:
        return {"alpha": None, "C": None, "r2": None}
    if size[0] == size[-1]:
        return {"alpha": 0.0, "C": float(size[0]), "r2": None}
    rank = np.arange(1, size.size + 1, dtype=float)
    scale = size[0]
    (c, alpha), _ = curve_fit(lambda r, c, a: c * r**-a, rank, size / scale, p0=(1.0, 1.0), maxfev=10_000)
    spread = float(((size - size.mean()) ** 2).sum())
    residual = size - scale * c * rank**-alpha
    return {"alpha": float(alpha), "C": float(scale * c), "r2": 1 - float((residual**2).sum()) / spread}
