"""What a condition costs by position in the chunk, and on the same tokens after more and more context.

The column i of an `nll` [n_chunks, n_ctx − 1] has a context of i + 1 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lib.analysis.bootstrap import Interval, Resampler, interval
from lib.analysis.perplexity import ppl, quotients
from lib.errors import InputError

SMALLEST_BIN = 8
TARGETS = 16  # the tokens that are scored after more and more context: the last 1/16 of a chunk


def bins(n_ctx: int) -> list[tuple[int, int]]:
    """Lengths of context `(from, to)`, both included, that part 1 … n_ctx − 1: doubling, and the last half in two."""
    if n_ctx < 2:
        raise InputError(f"n_ctx={n_ctx}; a chunk of two or more tokens has a context")
    edges = {1, n_ctx, *(n_ctx >> k for k in range(1, 7) if n_ctx >> k >= SMALLEST_BIN)}
    if n_ctx >= 4 * SMALLEST_BIN:
        edges.add(3 * n_ctx // 4)
    stops = sorted(edges)
    return [(first, stop - 1) for first, stop in pairwise(stops)]


def contexts(n_ctx: int) -> list[int]:
    """Lengths of context of the first of a chunk's last m = n_ctx // 16 tokens: m, 2m, 4m, 8m, and all before them."""
    m = n_ctx // TARGETS
    if m < 1:
        raise InputError(f"chunks of {n_ctx} tokens; {TARGETS} or more are needed to vary the context of the last ones")
    return [*(m << k for k in range(4)), n_ctx - m]


def windows(tokens: np.ndarray) -> dict[int, np.ndarray]:
    """`{context: tokens [n_chunks, context + m]}`: each chunk's last m = n_ctx // 16 after each of its `contexts`."""
    tokens = np.asarray(tokens)
    n_ctx = tokens.shape[1]
    return {c: np.ascontiguousarray(tokens[:, n_ctx - n_ctx // TARGETS - c :]) for c in contexts(n_ctx)}


def spans(nll: np.ndarray, base: np.ndarray, resampler: Resampler, places: Sequence[tuple[int, int]]) -> dict:
    """`{ppl, ppl_ci, ratio, ratio_ci}`, one value for each of `places`, as `bins` gives them, all paired."""
    found: dict[str, list] = {"ppl": [], "ppl_ci": [], "ratio": [], "ratio_ci": []}
    for first, last in places:
        columns = slice(first - 1, last)
        own, below = (resampler.ppl(values[:, columns], columns) for values in (nll, base))
        value = ppl(nll[:, columns])
        found["ppl"].append(value)
        found["ppl_ci"].append(interval(own))
        found["ratio"].append(value / ppl(base[:, columns]))
        found["ratio_ci"].append(interval(own / below))
    return found


def targets(
    scores: Sequence[tuple[np.ndarray, np.ndarray]], resampler: Resampler, n_targets: int
) -> tuple[dict, tuple[float, Interval]]:
    """The last `n_targets` tokens of each chunk, scored as `(nll, base)` after several contexts.

    (`{ppl, ppl_ci, ratio, ratio_ci}`, one value for each context; the last ratio minus the first with its interval).
    """
    columns = slice(resampler.n_ctx - 1 - n_targets, resampler.n_ctx - 1)
    found: dict[str, list] = {"ppl": [], "ppl_ci": [], "ratio": [], "ratio_ci": []}
    draws: list[np.ndarray] = []
    for nll, base in scores:
        nll, base = nll[:, -n_targets:], base[:, -n_targets:]
        own = resampler.ppl(nll, columns)
        draws.append(own / resampler.ppl(base, columns))
        found["ppl"].append(ppl(nll))
        found["ppl_ci"].append(interval(own))
        found["ratio"].append(ppl(nll) / ppl(base))
        found["ratio_ci"].append(interval(draws[-1]))
    return found, (found["ratio"][-1] - found["ratio"][0], interval(draws[-1] - draws[0]))


def excess_quotient(
    longer: tuple[np.ndarray, np.ndarray],
    shorter: tuple[np.ndarray, np.ndarray],
    resamplers: tuple[Resampler, Resampler],
) -> tuple[float | None, Interval]:
    """Excess (PPL ratio − 1) at the longer context over that at the shorter, paired over the same text.

    Arguments as of `perplexity.rise`. An end is None where a resample has no excess at the shorter context.
    """
    values = [ppl(nll) / ppl(base) - 1 for nll, base in (longer, shorter)]
    draws = [r.relative(nll, base) - 1 for r, (nll, base) in zip(resamplers, (longer, shorter), strict=True)]
    return values[0] / values[1] if values[1] else None, interval(quotients(*draws))
