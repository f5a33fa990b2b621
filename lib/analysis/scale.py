"""How the figures of a ladder move with a model's size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from lib.analysis import head_effects
from lib.results.sections import terms

LIMITS = (1.01, 1.02, 1.05, *terms.LIMITS)
LAST_SHARE = 0.1
FIGURES = ("half", "1.01", "1.02", "1.05", "1.1", "1.5", "2.0", "layer_0_share", "alpha", "last_share", "log_ratio")


def shares(ns: Sequence[int], ratios: Sequence[float], n_rankable: int) -> dict[str, float]:
    """Thresholds as shares of the heads outside layer 0, between rungs: `{"half": …, "1.01": …, …}`.

    `half` is where half of the whole ladder's log PPL is lost, which every model reaches; the others are 1 where a
    limit is never passed.
    """
    limits = {"half": max(ratios[-1], 1.0) ** 0.5} | {str(limit): limit for limit in LIMITS}
    found = head_effects.crossings(ns, ratios, limits.values())
    return {name: found[str(limit)] / n_rankable for name, limit in limits.items()}


def price_of_the_last(ns: Sequence[int], ratios: Sequence[float]) -> float | None:
    """Share of the whole ladder's log PPL that its last tenth of heads costs; None where the ladder costs nothing."""
    whole = math.log(ratios[-1])
    if whole <= 0:
        return None
    before = np.interp(ns[-1] - max(1, round(LAST_SHARE * ns[-1])), ns, np.log(ratios))
    return float((whole - before) / whole)


def row(name: str, n_params: int, ladder: Sequence[Mapping], zeroed: Sequence[Mapping], n_rankable: int) -> dict:
    """One model's figures from its ladder `[{n, ratio}]` and its heads zeroed one at a time `[{layer, delta}]`."""
    ns, ratios = [rung["n"] for rung in ladder], [rung["ratio"] for rung in ladder]
    sizes = [(head["layer"], abs(head["delta"])) for head in zeroed]
    return {
        "name": name,
        "n_params": n_params,
        "shares": shares(ns, ratios, n_rankable),
        "layer_0_share": sum(size for layer, size in sizes if layer == 0) / sum(size for _, size in sizes),
        "alpha": head_effects.rank_law([head["delta"] for head in zeroed])["alpha"],
        "last_share": price_of_the_last(ns, ratios),
        "ratio_all": ratios[-1],
    }


def figure(model: Mapping, name: str) -> float | None:
    """One of `FIGURES` of a model's row."""
    if name == "log_ratio":
        return math.log(model["ratio_all"])
    return model["shares"][name] if name in model["shares"] else model[name]


def slopes(models: Sequence[Mapping]) -> list[dict]:
    """Least-squares slope of every figure against log10 of the parameters, with Student's 95 % interval.

    One model of one seed is one observation. `capped`: how many of them stand at 1, beyond which a share cannot be
    told; where all do there is no slope. `[{figure, slope, slope_ci, n_models, capped}]`.
    """
    rows = []
    for name in FIGURES:
        points = [(math.log10(m["n_params"]), figure(m, name)) for m in models if figure(m, name) is not None]
        x, y = np.array(points).T if points else (np.array([]), np.array([]))
        capped = int((y >= 1).sum()) if name in ("half", *map(str, LIMITS)) else 0
        found: dict[str, Any] = {
            "figure": name,
            "slope": None,
            "slope_ci": None,
            "n_models": len(points),
            "capped": capped,
        }
        if len(points) >= 4 and len(set(x)) > 1 and len(set(y)) > 1:
            fit = stats.linregress(x, y)
            reach = stats.t.ppf(0.975, len(points) - 2) * fit.stderr
            found |= {"slope": float(fit.slope), "slope_ci": [float(fit.slope - reach), float(fit.slope + reach)]}
        rows.append(found)
    return rows
