"""What choosing heads on few tokens does to the figures that judge them, and controls on the same heads.

A ranking made on some chunks and judged on the same ones is judged too well: those heads come first whose harm is small
there, by chance too. Cross-fitting makes a ranking on each of several windows of the quick set's size that share no
document, and lets each ranking climb on every window's text: on its own, and on the others'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import t

from lib.analysis.bootstrap import LEVEL, Interval, Resampler, interval
from lib.analysis.head_effects import Head, crossing_draws, crossings, crossings_ci, ladder, ranking
from lib.analysis.perplexity import ppl
from lib.engine.interventions import Plan
from lib.errors import InputError
from lib.results.sections.terms import LIMITS

Score = Callable[[Sequence[Plan], Sequence[int]], Mapping[Plan, np.ndarray]]


def disjoint_windows(documents: np.ndarray, n_quick: int, n_windows: int) -> list[int]:
    """First chunks of up to `n_windows` windows of `n_quick` chunks that share no document: the first, then evenly on.

    documents: of each token, [n_chunks, n_ctx].
    """
    n_chunks = len(documents)
    taken: set[int] = set()
    starts: list[int] = []
    for place in np.linspace(0, n_chunks - n_quick, max(1, n_windows)).round().astype(int):
        first = max(int(place), starts[-1] + n_quick if starts else 0)
        last = int(place) + max(n_quick, n_chunks // max(1, n_windows) - n_quick) if starts else first
        for start in range(first, min(last, n_chunks - n_quick) + 1):
            own = set(documents[start : start + n_quick].ravel().tolist())
            if not own & taken:
                starts.append(start)
                taken |= own
                break
    return starts


def other_documents(documents: np.ndarray, chunks: Sequence[int]) -> list[int]:
    """The chunks none of whose tokens lies in a document of `chunks`."""
    own = np.unique(documents[list(chunks)])
    return [i for i, row in enumerate(documents) if not np.isin(row, own).any()]


def cross_fit(
    score: Score, heads: Sequence[Head], ns: Sequence[int], starts: Sequence[int], n_quick: int, mode: str = "relu"
) -> dict:
    """Each window's ranking, climbed on its own text and on the other windows'.

    score: `(plans, chunks) -> {plan: nll [len(chunks), n]}`. starts: of windows that share no document, three or more.
    Gives `{windows: [{start, ranking, in_sample, elsewhere}], optimism: [{n, excess, excess_ci}], crossings_sd}`.
    in_sample and elsewhere: PPL ratio at each of `ns`, elsewhere over the other windows' tokens together. optimism: by
    how much a ratio is lower on the text that its ranking was made on than the other rankings leave it on that same
    text, mean of ln ratio over windows with Student's interval over them, as a change of the ratio. crossings_sd:
    standard deviation over rankings of each limit's crossing, on the same text.
    """
    if len(starts) < 3:
        raise InputError(f"{len(starts)} windows that share no document; cross-fitting needs three")
    windows = [list(range(start, start + n_quick)) for start in starts]
    chunks = sum(windows, [])
    single = [Plan.of(mode, [head]) for head in heads]
    rankings = []
    for window in windows:
        found = score([Plan(), *single], window)
        base = ppl(found[Plan()])
        rankings.append(
            [(layer, head) for layer, head in ranking(heads, [ppl(found[plan]) / base - 1 for plan in single])]
        )
    ladders = [[Plan.of(mode, order[:n]) for n in ns] for order in rankings]
    scores = score(list(dict.fromkeys([Plan(), *sum(ladders, [])])), chunks)
    unchanged = scores[Plan()].astype(np.float64)
    log_ratio = np.array(  # [ranking, rung, text]
        [[(scores[plan] - unchanged).reshape(len(starts), -1).mean(axis=1) for plan in own] for own in ladders]
    )
    others = ~np.eye(len(starts), dtype=bool)
    in_sample = np.array([log_ratio[i, :, i] for i in range(len(starts))])  # [window, rung]
    elsewhere = np.array([log_ratio[i][:, others[i]].mean(axis=1) for i in range(len(starts))])
    rivals = np.array([log_ratio[others[i], :, i].mean(axis=0) for i in range(len(starts))])
    gap = in_sample - rivals
    sd = {}
    for limit in LIMITS:
        by_text = [
            np.var(
                [crossings(ns, np.exp(log_ratio[i, :, j]), (limit,))[str(limit)] for i in np.flatnonzero(others[j])],
                ddof=1,
            )
            for j in range(len(starts))
        ]
        sd[str(limit)] = float(np.sqrt(np.mean(by_text)))
    return {
        "windows": [
            {
                "start": int(start),
                "ranking": rankings[i],
                "in_sample": np.exp(in_sample[i]).tolist(),
                "elsewhere": np.exp(elsewhere[i]).tolist(),
            }
            for i, start in enumerate(starts)
        ],
        "optimism": [
            {"n": int(n), "excess": float(np.expm1(own.mean())), "excess_ci": _student(own)}
            for n, own in zip(ns, gap.T, strict=True)
            if n
        ],
        "crossings_sd": sd,
    }


def crossings_with_ranking(
    ns: Sequence[int], draws: np.ndarray, sd: Mapping[str, float], n_windows: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Draws of the crossings on other text for a ranking from another window: text and choice of ranking together.

    draws: ratio draws `[len(ns), draws]` on text that the ranking was not made on; sd, n_windows: of `cross_fit`.
    To each draw's crossing a deviation of Student's t with n_windows − 1 degrees of freedom is added; it stays within
    the ladder.
    """
    rng = np.random.default_rng([seed, n_windows])
    found = {}
    for limit in LIMITS:
        own = crossing_draws(ns, draws, limit)
        noise = rng.standard_t(n_windows - 1, size=own.size) * sd[str(limit)] * np.sqrt(1 + 1 / n_windows)
        found[str(limit)] = np.clip(own + noise, ns[0], ns[-1])
    return found


def controls(
    ladders: Mapping[str, Sequence[Plan]], ns: Sequence[int], scores: Mapping[Plan, np.ndarray], resampler: Resampler
) -> list[dict]:
    """One row for each control: `{control, cumulative, crossings, crossings_ci, against_relu}`.

    ladders: name -> plans at each of `ns`, n = 0 first; `relu` among them. against_relu: `[{n, difference,
    difference_ci}]`, ReLU's PPL ratio minus the control's, paired: below 0, ReLU does less harm to these heads.
    """
    base = scores[Plan()]
    relu = resampler.relatives([scores[plan] for plan in ladders["relu"]], base)
    own_relu = np.array([ppl(scores[plan]) for plan in ladders["relu"]]) / ppl(base)
    found = []
    for name, plans in ladders.items():
        rows, draws = ladder(ns, [scores[plan] for plan in plans], resampler)
        ratios = np.array([row["ratio"] for row in rows])
        found.append(
            {
                "control": name,
                "cumulative": rows,
                "crossings": crossings(ns, ratios.tolist()),
                "crossings_ci": crossings_ci(ns, draws),
                "against_relu": [
                    {
                        "n": int(n),
                        "difference": float(own_relu[i] - ratios[i]),
                        "difference_ci": interval(relu[i] - draws[i]),
                    }
                    for i, n in enumerate(ns)
                    if n and name != "relu"
                ],
            }
        )
    return found


def random_orders(heads: Sequence[Head], n_orders: int, seed: int) -> list[list[Head]]:
    """`n_orders` random orders of the heads."""
    rng = np.random.default_rng([seed, len(heads)])
    return [[heads[i] for i in rng.permutation(len(heads))] for _ in range(n_orders)]


def _student(values: np.ndarray) -> Interval:
    """Interval of the mean of ln ratios over windows, as a change of the ratio."""
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [float(np.expm1(values.mean() - half)), float(np.expm1(values.mean() + half))]
