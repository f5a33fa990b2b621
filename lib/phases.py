"""Tables of the earlier phases from scores: one head at a time, and heads piled up along a ranking."""

from lib import stats
from lib.interventions import Plan

EXTRA_STEPS = (5, 15, 25, 35)


def steps(ladder, n_max):
    """The ladder with the finer steps of the earlier phases, ending at `n_max`."""
    return sorted({n for n in (*ladder, *EXTRA_STEPS) if n < n_max} | {n_max})


def head_rows(heads, nlls, base, resampler):
    """`[{layer, head, ppl, delta, delta_ci}]`, one for each head's scores against `base`, paired."""
    rows = []
    for (layer, head), nll in zip(heads, nlls, strict=True):
        delta, delta_ci = stats.delta(nll, base, resampler)
        rows.append({"layer": layer, "head": head, "ppl": stats.ppl(nll), "delta": delta, "delta_ci": delta_ci})
    return rows


def places(rows):
    return [(row["layer"], row["head"]) for row in rows]


def deltas(rows):
    return [row["delta"] for row in rows]


def order(rows):
    """`(layer, head)` of the rows, smallest |ΔPPL| first."""
    return [tuple(place) for place in stats.ranking(places(rows), deltas(rows))]


def best_per_head(scans):
    """For each head the mode that leaves the lowest PPL: `[{layer, head, mode, delta}]`; `scans` maps mode to rows."""
    best = []
    for rows in zip(*scans.values(), strict=True):
        mode, row = min(zip(scans, rows, strict=True), key=lambda pair: pair[1]["delta"])
        best.append({"layer": row["layer"], "head": row["head"], "mode": mode, "delta": row["delta"]})
    return best


def drift(piles, scores, exact):
    """What a coarser dtype costs: `[{n_linearized, ppl, ppl_exact, ppl_drift, delta, delta_exact, delta_drift}]`.

    piles: `{n: Plan}`, n = 0 among them; scores and exact: the same chunks in the run's dtype and in float32.
    """
    rows = []
    for n, plan in piles.items():
        ppl, ppl_exact = stats.ppl(scores[plan]), stats.ppl(exact[plan])
        delta, delta_exact = ppl / stats.ppl(scores[piles[0]]) - 1, ppl_exact / stats.ppl(exact[piles[0]]) - 1
        row = {"n_linearized": n, "ppl": ppl, "ppl_exact": ppl_exact, "ppl_drift": ppl / ppl_exact - 1}
        rows.append(row | {"delta": delta, "delta_exact": delta_exact, "delta_drift": delta - delta_exact})
    return rows


def pile(ordered, ns):
    """`{n: Plan}` of the first n of `ordered`, which holds `(layer, head, mode)`."""
    return {n: Plan(tuple(ordered[:n])) for n in ns}


def curve(piles, scores, resampler):
    """`{cumulative, thresholds, thresholds_ci}` of plans piled up, from their scores."""
    ns = list(piles)
    rows, draws = stats.ladder(ns, [scores[plan] for plan in piles.values()], resampler)
    return {
        "cumulative": rows,
        "thresholds": stats.thresholds(ns, [row["ratio"] for row in rows]),
        "thresholds_ci": stats.thresholds_ci(ns, draws),
    }
