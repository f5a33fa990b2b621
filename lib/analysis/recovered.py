"""What training wins back of a replacement's loss, against the untouched model under the same training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lib.analysis.bootstrap import DRAWS, Units, interval
from lib.errors import InputError

LEVELS = {"half": 0.5, "nine_tenths": 0.9}


def summary(
    cases: Sequence[Sequence[Mapping]],
    controls: Sequence[Sequence[Mapping]],
    documents: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict:
    """Figures of one arm and one number of heads, from its points and its control's, one list of points a seed.

    A point is `{tokens, nll}`, nll being one mean for each chunk of held-out text. The excess at a mark is the log PPL
    over the control's at the same mark; the share recovered is what has gone of the excess at 0 tokens. Intervals
    resample documents and, where there are several, seeds, the same on both sides; `documents` are those of the chunks,
    `{heldout, other}`, without which every chunk is taken for one of its own. `half` and `nine_tenths` are the tokens
    to these shares, read between the marks, None where they are not reached. Where the replacement costs nothing before
    training, there is nothing to recover, and shares are None.
    """
    tokens = [point["tokens"] for point in cases[0]]
    if any([point["tokens"] for point in points] != tokens for points in (*cases, *controls)):
        raise InputError("recovery: the cases and their controls were not measured at the same marks")
    own, control = (np.array([[point["nll"] for point in points] for points in side]) for side in (cases, controls))
    known = documents or {}
    pick = _Resamples(len(cases), own.shape[-1], seed, draws, known.get("heldout"))
    excess, excess_draws = pick.both(own - control)
    costs = excess[0] > 0
    shares = 1 - excess / excess[0]
    shares_draws = 1 - excess_draws / excess_draws[:1]
    points = []
    for i, seen in enumerate(tokens):
        points.append(
            {
                "tokens": seen,
                "ppl": float(np.exp(own[:, i].mean())),
                "control_ppl": float(np.exp(control[:, i].mean())),
                "share": float(shares[i]) if costs else None,
                "share_ci": interval(shares_draws[i]) if costs else None,
            }
        )
    found: dict[str, Any] = {
        "n_seeds": len(cases),
        "points": points,
        "share": points[-1]["share"],
        "share_ci": points[-1]["share_ci"],
    }
    for name, level in LEVELS.items():
        ends = [reached_at(tokens, column, level) for column in shares_draws.T]
        found[name] = reached_at(tokens, shares, level) if costs else None
        found[f"{name}_ci"] = interval(np.array([np.inf if end is None else end for end in ends])) if costs else None
    return found | _controls(cases, controls, pick, _other_share(cases, controls, seed, draws, known.get("other")))


def reached_at(tokens: Sequence[int], shares: Sequence[float], level: float) -> float | None:
    """Tokens at which the share first reaches `level`, straight between marks; None where it does not."""
    for i in range(1, len(tokens)):
        if shares[i] >= level:
            step = (level - shares[i - 1]) / (shares[i] - shares[i - 1])
            return float(tokens[i - 1] + step * (tokens[i] - tokens[i - 1]))
    return None


def _moves(units: Units, seed: int, draws: int) -> np.ndarray:
    """By how much each item's weight differs from 1, [draws, n items]; a single unit does not move."""
    if len(units.sizes) < 2:
        return np.zeros((draws, len(units.of_token)))
    return units.weights(seed, draws)[:, units.of_token] - 1


class _Resamples:
    """Documents and seeds drawn once, as `Units` does: `both(values)` is the mean over them and its draws."""

    def __init__(
        self, n_seeds: int, n_chunks: int, seed: int, draws: int, documents: Sequence[int] | None = None
    ) -> None:
        of_chunk = np.arange(n_chunks) if documents is None else np.asarray(documents)
        units = Units.choose(n_chunks, 1, of_chunk)
        self.chunks = _moves(units, seed, draws)
        self.seeds = _moves(Units("document", np.arange(n_seeds)), seed + 1, draws)

    def both(self, values: np.ndarray) -> tuple[Any, Any]:
        """values [n_seeds, ..., n_chunks] -> (mean [...], draws [..., draws]), linear in seeds and in documents."""
        mean = values.mean((0, -1))
        of_seeds = values.mean(-1) - mean
        of_chunks = values.mean(0) - mean[..., None]
        moved = np.einsum("ds,s...->...d", self.seeds, of_seeds) / len(values)
        moved += np.einsum("dc,...c->...d", self.chunks, of_chunks) / values.shape[-1]
        return mean, mean[..., None] + moved


def _controls(
    cases: Sequence[Sequence[Mapping]], controls: Sequence[Sequence[Mapping]], pick: _Resamples, found: dict[str, Any]
) -> dict[str, Any]:
    """What the first and the last mark say beside held-out PPL: the heads zeroed, another domain, copying.

    `zeroed_before`, `zeroed_after`: PPL ratio when the linearized heads are zeroed. 1 means that nothing rests on them.
    """
    for name, at in (("before", 0), ("after", -1)):
        ends = [points[at] for points in cases]
        own = np.array([np.subtract(end["nll_zeroed"], end["nll"]) for end in ends])
        value, drawn = pick.both(own)
        found |= {f"zeroed_{name}": float(np.exp(value)), f"zeroed_{name}_ci": interval(np.exp(drawn))}
        for side, points in (("", cases), ("control_", controls)):
            gain = np.array([row[at]["copying"]["gain"] for row in points])
            own_pick = _Resamples(len(gain), gain.shape[1], 0, len(pick.seeds))
            value, drawn = own_pick.both(gain)
            found |= {f"{side}copying_{name}": float(value), f"{side}copying_{name}_ci": interval(drawn)}
    return found


def _other_share(
    cases: Sequence[Sequence[Mapping]],
    controls: Sequence[Sequence[Mapping]],
    seed: int,
    draws: int,
    documents: Sequence[int] | None,
) -> dict[str, Any]:
    """The share recovered on text of another domain, which has documents of its own."""
    own, control = (np.array([[row[at]["nll_other"] for at in (0, -1)] for row in side]) for side in (cases, controls))
    excess, drawn = _Resamples(len(own), own.shape[-1], seed, draws, documents).both(own - control)
    if excess[0] <= 0:
        return {"other_share": None, "other_share_ci": None}
    return {"other_share": float(1 - excess[1] / excess[0]), "other_share_ci": interval(1 - drawn[1] / drawn[0])}


def table(
    cases: Sequence[Mapping],
    documents: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[dict]:
    """A row for every arm and number of heads of a grid whose control is there as well, over the seeds of both."""
    by_name = {case["name"]: case for case in cases}
    groups: dict[tuple[str, int], list] = {}
    for case in cases:
        control = by_name.get(f"{'low_rank' if case['arm'] == 'low_rank' else 'all'}-0-seed{case['seed']}")
        if case["n_heads"] and control:
            groups.setdefault((case["arm"], case["n_heads"]), []).append((case["points"], control["points"]))
    rows = []
    for (arm, n_heads), pairs in groups.items():
        found = summary([own for own, _ in pairs], [control for _, control in pairs], documents, seed, draws)
        rows.append({"arm": arm, "n_heads": n_heads} | found)
    return sorted(rows, key=lambda row: (row["n_heads"], row["arm"]))
