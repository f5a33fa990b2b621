"""What a few neighbouring chunks say about all of them: every window of that size, held against the full set.

The report's quick set is one such window. Each window's interval is made by the rule that makes the quick set's
(`Units.choose`), so that the share of windows whose interval holds the full value is the coverage that the quick
interval really has for this text. The full value contains the window, which flatters the share a little, and windows
overlap: there are only `n_chunks // n_quick` disjoint ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lib.analysis.bootstrap import DRAWS, Resampler, checked
from lib.analysis.head_effects import crossings, crossings_ci, thresholds, thresholds_ci
from lib.errors import InputError
from lib.results.sections.terms import LIMITS

Figure = tuple[np.ndarray, np.ndarray | None]


def coverage(
    figures: Mapping[str, Figure],
    n_quick: int,
    documents: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[dict]:
    """How often a window's interval contains the full value, and where the first window lies among all.

    figures: name -> `(nll, base)` [n_chunks, n_ctx - 1] for a PPL ratio (or ΔPPL, which is as well covered), and
    `(nll, None)` for a PPL. Gives rows `{what, covered, n_windows, n_disjoint, percentile, full, lowest, median,
    highest}`: the share of windows, the first window's percentile among them (0–100, equal ones half), and the values.
    """
    values = _log_values(figures)
    full = values.mean(axis=(1, 2))
    found = [
        (centre, np.quantile(own, _tails(), axis=1))
        for centre, own in _windows(values, n_quick, documents, seed, draws)
    ]
    centres = np.stack([centre for centre, _ in found], axis=1)  # [figures, windows]
    low, high = np.stack([ends for _, ends in found], axis=-1)
    covered = ((low <= full[:, None]) & (full[:, None] <= high)).mean(axis=1)
    return [
        _row(name, share, np.exp(own), float(np.exp(whole)), values.shape[1], n_quick)
        for name, share, own, whole in zip(figures, covered, centres, full, strict=True)
    ]


def ladder_coverage(
    ns: Sequence[int],
    nlls: Sequence[np.ndarray],
    n_quick: int,
    documents: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, list[dict]]:
    """`{ratios, thresholds, crossings}`: rows as of `coverage` for each rung but n = 0, and for each limit.

    ns, nlls: as for `head_effects.ladder`; the ranking is the same in all windows.
    """
    if not ns or ns[0] != 0:
        raise InputError(f"ladder of {list(ns)[:3]}…; it starts with n = 0")
    rungs = [n for n in ns if n]
    values = _log_values({str(n): (nll, nlls[0]) for n, nll in zip(ns, nlls, strict=True)})
    full = np.exp(values.mean(axis=(1, 2)))
    by_rung, by_crossing = thresholds(ns, full), crossings(ns, full)
    seen: list[np.ndarray] = []
    inside: dict[str, list] = {"ratios": [], "thresholds": [], "crossings": []}
    for centre, log_draws in _windows(values, n_quick, documents, seed, draws):
        own = np.exp(log_draws)
        seen.append(np.exp(centre))
        low, high = np.quantile(own, _tails(), axis=1)
        inside["ratios"].append((low <= full) & (full <= high))
        for kind, ends, whole in (
            ("thresholds", thresholds_ci(ns, own), by_rung),
            ("crossings", crossings_ci(ns, own), by_crossing),
        ):
            inside[kind].append([ends[key][0] <= value <= ends[key][1] for key, value in whole.items()])
    share = {kind: np.mean(rows, axis=0) for kind, rows in inside.items()}
    centres = np.stack(seen, axis=1)
    n_chunks = values.shape[1]
    found = {
        "ratios": [
            _row(f"ratio:{n}", share["ratios"][i], centres[i], full[i], n_chunks, n_quick)
            for i, n in enumerate(ns)
            if n in rungs
        ]
    }
    for kind, of, whole in (("thresholds", thresholds, by_rung), ("crossings", crossings, by_crossing)):
        own = [of(ns, column) for column in centres.T]
        found[kind] = [
            _row(
                f"{kind}:{key}",
                share[kind][i],
                np.array([row[key] for row in own], float),
                whole[key],
                n_chunks,
                n_quick,
            )
            for i, key in enumerate(str(limit) for limit in LIMITS)
        ]
    return found


def by_kind(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How often the full value was covered, by kind of figure: `[{kind, n, lowest, mean, highest}]`.

    rows: as of `coverage`; the kind is what stands before the colon of their `what`, as in `ratio:30`.
    """
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(row["what"].partition(":")[0], []).append(row["covered"])
    return [
        {"kind": kind, "n": len(own), "lowest": min(own), "mean": sum(own) / len(own), "highest": max(own)}
        for kind, own in shares.items()
    ]


def kept(record: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """What the report shows of a record of `coverage_study`: `{about, model, text, n_chunks, n_documents, windows}`.

    about: where it is from (`dated.about`). windows: `[{name, n_window, n_disjoint, kinds}]`, kinds as of `by_kind`.
    """

    def shown(name: str) -> dict[str, Any]:
        found = record[name]
        rows = [row for key in ("figures", "ratios", "thresholds", "crossings") for row in found[key]]
        return {
            "name": name,
            "n_window": found["n_window"],
            "n_disjoint": record["text"]["n_chunks"] // found["n_window"],
            "kinds": by_kind(rows),
        }

    return {
        "about": about,
        "model": record["provenance"]["model"]["name"],
        "text": record["text"]["name"],
        "n_chunks": record["text"]["n_chunks"],
        "n_documents": record["text"]["n_documents"],
        "windows": [shown(name) for name in ("quick", "full", "by_chunk")],
    }


def percentile(values: np.ndarray, value: float) -> float:
    """Where `value` falls among `values`, 0–100; equal ones count half."""
    below, equal = values < value - 1e-12, np.abs(values - value) <= 1e-12
    return 100 * float(below.mean() + equal.mean() / 2)


def spread_out(n_chunks: int, n: int) -> list[int]:
    """Up to `n` chunks spread evenly over the first `n_chunks`."""
    return sorted({int(i) for i in np.linspace(0, n_chunks - 1, min(n, n_chunks)).round()})


def _windows(
    values: np.ndarray, n_quick: int, documents: np.ndarray | None, seed: int, draws: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each window's means [figures] and their draws [figures, draws], of values [figures, n_chunks, n]."""
    n_chunks = values.shape[1]
    if not 1 <= n_quick <= n_chunks:
        raise InputError(f"n_quick={n_quick}; between 1 and the {n_chunks} chunks of the full set")
    for start in range(n_chunks - n_quick + 1):
        stop = start + n_quick
        own = None if documents is None else documents[start:stop]
        resampler = Resampler(n_quick, values.shape[2] + 1, seed, draws, own)
        window = values[:, start:stop]
        yield window.mean(axis=(1, 2)), resampler.means(list(window))


def _log_values(figures: Mapping[str, Figure]) -> np.ndarray:
    return np.stack(
        [
            checked(nll).astype(np.float64) - (0.0 if base is None else checked(base).astype(np.float64))
            for nll, base in figures.values()
        ]
    )


def _row(what: str, covered: float, own: np.ndarray, full: float, n_chunks: int, n_quick: int) -> dict:
    return {
        "what": what,
        "covered": float(covered),
        "n_windows": len(own),
        "n_disjoint": n_chunks // n_quick,
        "percentile": percentile(own, own[0]),
        "quick": float(own[0]),
        "full": float(full),
        "lowest": float(own.min()),
        "median": float(np.median(own)),
        "highest": float(own.max()),
    }


def _tails() -> list[float]:
    return [0.025, 0.975]
