"""Orders in which heads can give up softmax, and what each is worth on text that it was not chosen on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from lib.analysis import head_effects
from lib.analysis.bootstrap import LEVEL, Resampler, interval
from lib.analysis.perplexity import ppl
from lib.engine.comparing import stacked
from lib.engine.importance import head_importance
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.results.sections.terms import LIMITS

Head = tuple[int, int]
ORDERS = ("abs_delta", "signed_delta", "kl", "gradient", "zero", "restore", "greedy")
ROUNDS = 4
REFERENCE, ON_THE_2K = "abs_delta", {"kl_2k": "ranking"}  # |ΔPPL| on the tokens that an order was chosen on


def chosen(engine: Evaluator, model: PreTrainedModel, heads: Sequence[Head]) -> dict[str, list[Head]]:
    """`{order: heads, the first to go first}`, all from the engine's tokens; `model` is the one that it scores.

    abs_delta: |ΔPPL| of each head alone on ReLU, as in the report's ranking. signed_delta: ΔPPL. kl: KL to the
    untouched model. gradient: `head_importance`. zero: |ΔPPL| of zeroing it. restore: from all heads on ReLU, the KL
    that giving one its softmax back takes away. greedy: in `ROUNDS` rounds, those that add least KL to the heads
    already taken.
    """
    singles = {head: Plan.of("relu", [head]) for head in heads}
    zeroed = {head: Plan.of("zero", [head]) for head in heads}
    everything = Plan.of("relu", heads)
    restored = {head: Plan.of("relu", [other for other in heads if other != head]) for head in heads}
    plans = [Plan(), *singles.values(), *zeroed.values(), everything, *restored.values()]
    found = stacked(engine, plans)
    base = ppl(found[Plan()].nll)
    delta = {head: ppl(found[plan].nll) / base - 1 for head, plan in singles.items()}
    kl = {head: _mean(found[plan].kl) for head, plan in singles.items()}
    lost = {head: ppl(found[plan].nll) / base - 1 for head, plan in zeroed.items()}
    freed = {head: _mean(found[everything].kl) - _mean(found[plan].kl) for head, plan in restored.items()}
    size = head_importance(model, engine.tokens.numpy(force=True))
    return {
        "abs_delta": _ordered(heads, lambda head: abs(delta[head])),
        "signed_delta": _ordered(heads, lambda head: delta[head]),
        "kl": _ordered(heads, lambda head: kl[head]),
        "gradient": _ordered(heads, lambda head: size[head]),
        "zero": _ordered(heads, lambda head: abs(lost[head])),
        "restore": _ordered(heads, lambda head: freed[head]),
        "greedy": _greedy(engine, heads, kl),
    }


def by_kl(engine: Evaluator, heads: Sequence[Head]) -> list[Head]:
    """By the KL to the untouched model of each head alone on ReLU, over all of the engine's tokens."""
    singles = {head: Plan.of("relu", [head]) for head in heads}
    found = stacked(engine, list(singles.values()))
    return _ordered(heads, lambda head: _mean(found[singles[head]].kl))


def _greedy(engine: Evaluator, heads: Sequence[Head], alone: dict[Head, float]) -> list[Head]:
    """Rounds of equal size; in each, every head left is tried on top of those taken."""
    taken: list[Head] = []
    left, cost = list(heads), alone
    for turn in range(ROUNDS):
        if turn:
            tried = {head: Plan.of("relu", [*taken, head]) for head in left}
            found = stacked(engine, list(tried.values()))
            cost = {head: _mean(found[plan].kl) for head, plan in tried.items()}
        left = _ordered(left, cost.__getitem__)
        n = -(-len(left) // (ROUNDS - turn))
        taken, left = taken + left[:n], left[n:]
    return taken


def _ordered(heads: Sequence[Head], cost: Callable[[Head], float]) -> list[Head]:
    return sorted(heads, key=lambda head: (cost(head), head))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64))


def at_random(heads: Sequence[Head], n_orders: int, seed: int) -> list[list[Head]]:
    rng = np.random.default_rng(seed)
    return [[heads[i] for i in rng.permutation(len(heads))] for _ in range(n_orders)]


def climbed(
    orders: Mapping[str, Sequence[Sequence[Head]]],
    ns: Sequence[int],
    scores: Mapping[Plan, np.ndarray],
    resampler: Resampler,
) -> list[dict[str, Any]]:
    """What each order is worth: `orders` maps its name to the heads by each window that chose them (or each draw).

    area: mean log PPL ratio along the whole ladder, trapezoids between the rungs `ns`, averaged over windows;
    crossings: heads within each limit, likewise. Differences are to |ΔPPL|'s order, chosen on the same
    windows (`kl_2k`'s to the report's own, `ranking`), and paired over text; their intervals are widened for as many
    comparisons as there are (Bonferroni). `ladder`: the mean ratio at each rung.
    """
    figures = {name: [_figures(order, ns, scores, resampler) for order in own] for name, own in orders.items()}
    areas = {name: [np.mean([f[i] for f in own], axis=0) for i in (0, 1)] for name, own in figures.items()}
    level = 1 - (1 - LEVEL) / max(1, len(orders) - 1)
    rows = []
    for name, own in figures.items():
        value, drawn = areas[name]
        logs = np.mean([f[2] for f in own], axis=0)
        log_draws = np.mean([f[3] for f in own], axis=0)
        row: dict[str, Any] = {
            "order": name,
            "n_windows": len(own),
            "area": float(value),
            "area_ci": interval(drawn),
            "crossings": _crossings(ns, [f[2] for f in own]),
            "crossings_ci": _crossings_ci(ns, [f[3] for f in own]),
            "ladder": np.exp(logs).tolist(),
            "ladder_ci": [interval(np.exp(rung)) for rung in log_draws],
            "difference": None,
            "difference_ci": None,
        }
        if name != REFERENCE:
            least, least_drawn = areas[ON_THE_2K.get(name, REFERENCE)]
            row["difference"] = float(value - least)
            row["difference_ci"] = interval(drawn - least_drawn, level)
        rows.append(row)
    return rows


def _figures(
    order: Sequence[Head], ns: Sequence[int], scores: Mapping[Plan, np.ndarray], resampler: Resampler
) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """(area, its draws, log ratio at each rung, its draws [rung, draws]) of one order."""
    nlls = [scores[Plan.of("relu", order[:n])] for n in ns]
    logs = np.log([ppl(nll) / ppl(nlls[0]) for nll in nlls])
    draws = np.log(resampler.relatives(nlls, nlls[0]))
    return np.trapezoid(logs, ns) / ns[-1], np.trapezoid(draws, ns, axis=0) / ns[-1], logs, draws


def _crossings(ns: Sequence[int], logs: Sequence[Any]) -> dict[str, float]:
    found = [head_effects.crossings(ns, np.exp(own)) for own in logs]
    return {limit: float(np.mean([own[limit] for own in found])) for limit in found[0]}


def _crossings_ci(ns: Sequence[int], log_draws: Sequence[Any]) -> dict[str, Any]:
    found = {}
    for limit in LIMITS:
        drawn = [head_effects.crossing_draws(ns, np.exp(own), limit) for own in log_draws]
        found[str(limit)] = interval(np.mean(drawn, axis=0))
    return found


def spaced(ladder: Sequence[int]) -> list[int]:
    """Every second rung of a ladder, its ends among them."""
    return sorted({*ladder[::2], ladder[-1]})


def windows(documents: np.ndarray, n_windows: int, n_climb: int, used: int = 0) -> tuple[list[int], list[int]]:
    """`(chunks that orders are chosen on, chunks that they climb)`, evenly over the text, sharing no document.

    documents: of each token, [n_chunks, n_ctx]; the first `used` chunks, on which the report's ranking was made, are
    not climbed either. A text of too few documents or chunks gives fewer of both, and in the end the same.
    """
    n_chunks = len(documents)
    select = sorted({int(i) for i in np.linspace(0, n_chunks - 1, max(1, min(n_windows, n_chunks // 2)))})
    taken = sorted({*select, *range(used)})
    own = np.unique(documents[taken])
    free = [i for i in range(n_chunks) if i not in taken and not np.isin(documents[i], own).any()]
    free = free or [i for i in range(n_chunks) if i not in taken] or select
    n = min(n_climb, len(free))
    return select, [free[i * len(free) // n] for i in range(n)]
