"""One figure for each prompt, and the same prompts under two conditions: means, paired differences, and their unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.analysis.bootstrap import DRAWS, MIN_DOCUMENTS, Interval, Units, effective_number, interval, small_sample_level
from lib.errors import InputError

Figures = Sequence[float] | np.ndarray  # one for each prompt


def paired(above: Sequence[float], below: Sequence[float], seed: int = 0, draws: int = DRAWS) -> dict:
    """`above` (a) and `below` (b), paired by prompt: `{difference, difference_ci, relative, relative_ci, lower, of}`.

    difference: mean of a − b; relative: mean of a / mean of b − 1; both from the same resamples of prompts. lower: the
    number of prompts in which a is below b, of so many.
    """
    a, b = _checked(above), _checked(below)
    if a.shape != b.shape:
        raise InputError(f"{a.size} and {b.size} prompts; the same prompts are needed")
    index = np.random.default_rng(seed).integers(a.size, size=(draws, a.size))
    means = a[index].mean(axis=1), b[index].mean(axis=1)
    level = small_sample_level(a.size)
    return {
        "difference": float(np.mean(a - b)),
        "difference_ci": interval((a - b)[index].mean(axis=1), level),
        "relative": float(a.mean() / b.mean() - 1),
        "relative_ci": interval(means[0] / means[1] - 1, level),
        "lower": int((a < b).sum()),
        "of": a.size,
    }


def by_document(
    above: Figures, below: Figures, documents: Sequence[int], seed: int = 0, draws: int = DRAWS
) -> dict[str, Interval | None]:
    """`{difference_ci, relative_ci}` of `paired`, with the prompts of one document resampled together.

    documents: of each prompt. None where they are fewer than four of equal size are worth: too few to speak of others.
    """
    a, b = _checked(above), _checked(below)
    units = Units("document", np.unique(documents, return_inverse=True)[1])
    if not a.shape == b.shape == units.of_token.shape:
        raise InputError(f"{a.size} and {b.size} prompts of {units.of_token.size} documents; one of each is needed")
    if effective_number(units.sizes) < MIN_DOCUMENTS:
        return {"difference_ci": None, "relative_ci": None}
    weights = units.weights(seed, draws) - 1

    def means(own: np.ndarray) -> np.ndarray:
        residuals = np.bincount(units.of_token, weights=own - own.mean()) / own.size
        return own.mean() + weights @ residuals

    a_means, b_means = means(a), means(b)
    return {"difference_ci": interval(a_means - b_means), "relative_ci": interval(a_means / b_means - 1)}


def lag1(values: Sequence[float]) -> float | None:
    """Correlation of neighbouring prompts' figures, −1 to 1: near 0 where a prompt is a unit of its own.

    None where all are alike or there are fewer than three.
    """
    own = _checked(values)
    rest = own - own.mean()
    spread = float(rest @ rest)
    return float(rest[1:] @ rest[:-1]) / spread if spread > 0 and own.size > 2 else None


def _checked(values: Figures) -> np.ndarray:
    own = np.asarray(values, dtype=np.float64)
    if own.ndim != 1 or own.size == 0 or not np.isfinite(own).all():
        raise InputError(f"figures of shape {list(own.shape)}; one finite number for each prompt is needed")
    return own
