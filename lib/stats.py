"""Figures and their intervals from per-token NLLs: perplexities, ΔPPL, ranks, thresholds, fits.

An `nll` is float32 `[n_chunks, n_ctx - 1]`, as the evaluator returns it. Every interval is a 95 % percentile
bootstrap. All figures of one token set are resampled with the same draws, so that a difference between two plans is
paired: what the text alone adds to both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy.optimize import curve_fit
from scipy.stats import rankdata

from lib.errors import InputError

LEVEL = 0.95
DRAWS = 2000
LIMITS = (1.1, 1.5, 2.0)
MIN_CHUNKS = 16
BLOCK = 64

Interval = list
Head = tuple[int, int]


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


def ppl(nll: np.ndarray) -> float:
    """Perplexity: exp of the mean next-token NLL over all predicted tokens, summed in float64."""
    nll = checked(nll)
    return math.exp(nll.sum(dtype=np.float64) / nll.size)


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


def quotient(above: np.ndarray, below: np.ndarray, base: np.ndarray, resampler: Resampler) -> tuple[float, Interval]:
    """ΔPPL of `above` / ΔPPL of `below`, as for the zero/mean ratio, with its paired interval.

    A resample in which the lower ΔPPL is not positive counts as unbounded, so an end of the interval may be None.
    """
    return (
        quotient_value(ppl(above) / ppl(base) - 1, ppl(below) / ppl(base) - 1),
        interval(_quotients(resampler.relative(above, base) - 1, resampler.relative(below, base) - 1)),
    )


def quotient_value(above: float, below: float) -> float | None:
    """above / below; None where below is 0."""
    return above / below if below else None


def _quotients(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.where(above > 0, np.inf, 0.0))


def constant_share(
    zero: np.ndarray, mean: np.ndarray, base: np.ndarray, resampler: Resampler
) -> tuple[float | None, Interval | None]:
    """Share of a head's effect that its mean keeps, 1 − ΔPPL(mean) / ΔPPL(zero); None where zeroing does no harm."""
    lost = ppl(zero) / ppl(base) - 1
    lost_draws = resampler.relative(zero, base) - 1
    if lost <= 0 or (lost_draws <= 0).any():
        return (None if lost <= 0 else 1 - (ppl(mean) / ppl(base) - 1) / lost), None
    shares = 1 - (resampler.relative(mean, base) - 1) / lost_draws
    return 1 - (ppl(mean) / ppl(base) - 1) / lost, interval(shares)


def ladder(ns: Sequence[int], nlls: Sequence[np.ndarray], resampler: Resampler) -> tuple[list[dict], np.ndarray]:
    """Rows `{n, ppl, ppl_ci, ratio, ratio_ci}` against the first of `nlls` (n = 0), and ratio draws `[n, draws]`."""
    if len(ns) != len(nlls) or not ns or ns[0] != 0:
        raise InputError(f"ladder of {len(ns)} steps {list(ns)[:3]}… and {len(nlls)} scores; it starts with n = 0")
    base = ppl(nlls[0])
    draws = np.stack([resampler.ppl(nll) for nll in nlls])
    relative = draws / draws[0]
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
    ns = np.asarray(ns)
    result = {}
    for limit in limits:
        reached = np.where(draws <= limit, ns[:, None], 0).max(axis=0)
        result[str(limit)] = [int(end) for end in interval(reached, measured_only=True)]
    return result


def ranking(heads: Sequence[Head], deltas: Sequence[float]) -> list[list[int]]:
    """Heads by |ΔPPL|, smallest first; equal ones by (layer, head): `[[layer, head], …]`."""
    order = sorted(zip(heads, deltas, strict=True), key=lambda item: (abs(item[1]), tuple(item[0])))
    return [[int(layer), int(head)] for (layer, head), _ in order]


def ranks(values: Sequence[float]) -> list[int]:
    """Rank of each value, 1 the largest; equal values keep their order."""
    order = np.argsort(-np.asarray(values, dtype=float), kind="stable")
    result = np.empty(len(order), dtype=int)
    result[order] = np.arange(1, len(order) + 1)
    return result.tolist()


def ranks_ci(draws: np.ndarray) -> list[Interval]:
    """Interval of each figure's rank (1 the largest) from draws `[n_figures, draws]`."""
    order = np.argsort(-np.asarray(draws), axis=0, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.broadcast_to(np.arange(1, len(order) + 1)[:, None], order.shape), axis=0)
    return [[int(end) for end in interval(row, measured_only=True)] for row in places]


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
    deltas = np.asarray(deltas, dtype=float)
    if deltas.size == 0 or not np.isfinite(deltas).all():
        raise InputError(f"{deltas.size} ΔPPLs, {int((~np.isfinite(deltas)).sum())} not finite; finite ones are needed")
    return {
        "under_1pct": int((np.abs(deltas) < 0.01).sum()),
        "under_10pct": int((np.abs(deltas) < 0.1).sum()),
        "negative": int((deltas < 0).sum()),
        "mean": float(deltas.mean()),
        "median": float(np.median(deltas)),
        "max": float(deltas.max()),
    }


def layer_means(heads: Sequence[Head], deltas: Sequence[float]) -> list[float]:
    """Mean ΔPPL of the heads of each layer, from layer 0 to the last one named."""
    by_layer: dict[int, list[float]] = {}
    for (layer, _), value in zip(heads, deltas, strict=True):
        by_layer.setdefault(layer, []).append(value)
    return [float(np.mean(by_layer[layer])) for layer in sorted(by_layer)]


def rank_law(deltas: Sequence[float]) -> dict:
    """|ΔPPL| = C · rank^−α, least squares on the untransformed values, largest first: `{alpha, C, r2}`."""
    size = np.sort(np.abs(np.asarray(deltas, dtype=float)))[::-1]
    if size.size < 3 or not np.isfinite(size).all():
        raise InputError(f"rank law from {size.size} ΔPPLs; three or more finite ones are needed")
    if size[0] == size[-1]:
        return {"alpha": 0.0, "C": float(size[0]), "r2": None}
    rank = np.arange(1, size.size + 1, dtype=float)
    scale = size[0]
    (c, alpha), _ = curve_fit(lambda r, c, a: c * r**-a, rank, size / scale, p0=(1.0, 1.0), maxfev=10_000)
    spread = float(((size - size.mean()) ** 2).sum())
    residual = size - scale * c * rank**-alpha
    return {"alpha": float(alpha), "C": float(scale * c), "r2": 1 - float((residual**2).sum()) / spread}


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
    optimistic, under −5 % pessimistic. The conclusions hold when no threshold moves by more than 10 heads.
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
    known = [row["difference"] for row in comparisons if row["difference"] is not None]
    average = float(np.mean(known))
    shifts = [abs(v4["thresholds_full"][limit] - n) for limit, n in v4["thresholds_2k"].items()]
    return {
        "comparisons": comparisons,
        "mean_diff_pct": 100 * average,
        "bias": "optimistic" if average > 0.05 else "pessimistic" if average < -0.05 else "agree",
        "conclusions_maintained": max(shifts) <= 10,
        "thresholds_2k": dict(v4["thresholds_2k"]),
        "thresholds_full": dict(v4["thresholds_full"]),
        "max_threshold_shift": max(shifts),
    }


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
        "percentile": _percentile(windows, quick),
        "percentile_random": _percentile(random, quick),
        "share_as_far": as_far,
        "typical_shift": float(np.sqrt(np.mean(np.expm1(random - whole) ** 2))),
        "observed_shift": math.expm1(quick - whole),
        "explained": as_far >= 0.05,
        "n_windows": len(windows),
        "n_random": len(random),
    }


def _percentile(values: np.ndarray, value: float) -> float:
    below, equal = values < value - 1e-12, np.abs(values - value) <= 1e-12
    return 100 * float(below.mean() + equal.mean() / 2)


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
