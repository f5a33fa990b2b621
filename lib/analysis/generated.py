"""Part P's figures from what the judges said of each text: lists of rows, paired by prompt throughout.

A condition is a name and its number of linearized heads; the first one, without any, is the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lib.analysis.best_of_n import BestOf, expected_by_prompt, first_best_of
from lib.analysis.bootstrap import DRAWS, Interval, mean_ci
from lib.analysis.prompts import by_document, lag1, paired

PUBLISHED_SAMPLES = 5


def by_iteration(ppl: np.ndarray, seed: int = 0, draws: int = DRAWS) -> dict:
    """`{ppl, ppl_ci, ppl_by_prompt}` of PPLs [iterations, n_prompts]."""
    means, ends = zip(*(mean_ci(row, seed, draws) for row in ppl), strict=True)
    return {"ppl": list(means), "ppl_ci": list(ends), "ppl_by_prompt": np.asarray(ppl).tolist()}


def refinement(
    ppl: Mapping[str, np.ndarray], counts: Mapping[str, int], human: np.ndarray, seed: int = 0, draws: int = DRAWS
) -> dict:
    """P2's comparisons of `ppl` {condition: [iterations, n_prompts]} and of the true continuation's, `human`.

    falls: every later iteration against the first; gaps: every condition against the baseline; closings: the last gap
    against the first; against_human: the last iteration against the true continuation of that length. Rows as
    `prompts.paired` gives them; `lag1` is that of the differences.
    """

    def row(condition: str, a: Any, b: Any, **more: Any) -> dict[str, Any]:
        named = {"condition": condition, "n_linearized": counts[condition]} | more
        return named | paired(a, b, seed, draws) | {"lag1": lag1(np.subtract(a, b))}

    base, *others = ppl
    later = range(1, len(human))
    closings = []
    for name in others if len(later) else []:
        last, first = (ppl[name][k] - ppl[base][k] for k in (-1, 0))
        found = row(name, last, first)
        closings.append({key: found[key] for key in ("condition", "n_linearized", "difference", "difference_ci")})
    return {
        "falls": [row(name, own[k], own[0], iteration=k + 1) for name, own in ppl.items() for k in later],
        "gaps": [row(name, ppl[name][k], ppl[base][k], iteration=k + 1) for name in others for k in range(len(human))],
        "closings": closings,
        "against_human": [row(name, own[-1], human[-1]) for name, own in ppl.items()],
    }


def refinement_by_document(
    ppl: Mapping[str, np.ndarray], found: Mapping[str, Any], documents: Sequence[int], seed: int = 0, draws: int = DRAWS
) -> dict[str, list[Interval | None]]:
    """`{falls_ci, gaps_ci}`: intervals of the differences and of the relative gaps of `found`, as of `refinement`,
    with the prompts of one document resampled together."""
    base = next(iter(ppl.values()))

    def own(row: Mapping[str, Any], below: np.ndarray) -> dict[str, Interval | None]:
        return by_document(ppl[row["condition"]][row["iteration"] - 1], below, documents, seed, draws)

    return {
        "falls_ci": [own(row, ppl[row["condition"]][0])["difference_ci"] for row in found["falls"]],
        "gaps_ci": [own(row, base[row["iteration"] - 1])["relative_ci"] for row in found["gaps"]],
    }


def best_of_by_document(
    ppl: Mapping[str, np.ndarray], found: Mapping[str, Any], documents: Sequence[int], seed: int = 0, draws: int = DRAWS
) -> dict[str, list[Interval | None]]:
    """`{against_baseline_ci}` of `found`, as of `best_of`, with the prompts of one document resampled together."""
    one = expected_by_prompt(next(iter(ppl.values())), [1])[:, 0]
    best = {row["condition"]: row["best_of"] for row in found["against_baseline"]}
    return {
        "against_baseline_ci": [
            by_document(expected_by_prompt(ppl[name], [n])[:, 0], one, documents, seed, draws)["difference_ci"]
            for name, n in best.items()
        ]
    }


def sample_counts(n_samples: int) -> list[int]:
    """The Ns of best-of-N: the published 1, 2, 3, 5, then doubling, and all samples."""
    return sorted({n for n in (1, 2, 3, PUBLISHED_SAMPLES, 10, 20, 50, 100) if n <= n_samples} | {n_samples})


def best_of(
    ppl: Mapping[str, np.ndarray], counts: Mapping[str, int], ns: Sequence[int], seed: int = 0, draws: int = DRAWS
) -> dict:
    """P3's figures of `ppl` {condition: [n_prompts, n_samples]}, chosen and scored by one judge.

    conditions: the best of each N; against_baseline: as published, the best of at most five against one of the
    baseline's; equal_n: the same N on both sides; selection: the best of N against one of the same condition.
    """
    best = {name: BestOf.of(own, ns, seed, draws) for name, own in ppl.items()}
    base, *others = ppl
    published = max(n for n in ns if n <= PUBLISHED_SAMPLES)
    conditions = [
        _named(name, counts)
        | {
            "first_n": first_best_of(own, ns),
            "expected": best[name].values.tolist(),
            "expected_ci": best[name].ci(),
            "ppl_by_sample": np.asarray(own).tolist(),
        }
        for name, own in ppl.items()
    ]
    return {
        "conditions": conditions,
        "against_baseline": [
            _named(name, counts) | {"best_of": published} | _difference(best[name], published, best[base], 1)
            for name in others
        ],
        "equal_n": [
            _named(name, counts) | {"n": n} | _difference(best[name], n, best[base], n) for name in others for n in ns
        ],
        "selection": [
            _named(name, counts) | {"n": n} | _difference(own, n, own, 1) for name, own in best.items() for n in ns[1:]
        ],
    }


def judged(
    ppls: Mapping[str, Mapping[str, np.ndarray]],
    counts: Mapping[str, int],
    ns: Sequence[int],
    seed: int = 0,
    draws: int = DRAWS,
) -> list[dict]:
    """Best of N by two judges, `ppls` {judge: {condition: [n_prompts, n_samples]}}: each chooses, and each scores.

    A row for every N, choosing judge, scoring judge and condition: `value`, its change against one sample of the same
    condition (`gain`, relative) and its `difference` to one of the baseline's, all in the scoring judge's PPL.
    """
    rows = []
    for scorer, scores in ppls.items():
        for chooser, choices in ppls.items():
            best = {
                name: BestOf.of(choices[name], [1, *ns], seed, draws, scores[name] if scorer != chooser else None)
                for name in scores
            }
            base = next(iter(best.values()))
            for name, own in best.items():
                for i, n in enumerate(ns, start=1):
                    gain, gain_ci = own.over(n, own, 1)
                    rows.append(
                        _named(name, counts)
                        | {"chosen_by": chooser, "scored_by": scorer, "n": n}
                        | {"value": float(own.values[i]), "value_ci": own.ci()[i], "gain": gain, "gain_ci": gain_ci}
                        | _difference(own, n, base, 1)
                    )
    return rows


def _named(condition: str, counts: Any) -> Any:
    return {"condition": condition, "n_linearized": counts[condition]}


def _difference(a: BestOf, n_a: int, b: BestOf, n_b: int) -> dict:
    (difference, difference_ci), (relative, relative_ci) = a.minus(n_a, b, n_b), a.over(n_a, b, n_b)
    return {
        "difference": difference,
        "difference_ci": difference_ci,
        "relative": relative,
        "relative_ci": relative_ci,
    }
