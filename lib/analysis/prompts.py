"""One figure for each prompt, and the same prompts under two conditions: means, paired differences, and their unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.analysis.bootstrap import DRAWS, interval, small_sample_level
from lib.errors import InputError


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


def lag1(values: Sequence[float]) -> float | None:
    """Correlation of neighbouring prompts' figures, −1 to 1: near 0 where a prompt is a unit of its own.

    None where all are alike or there are fewer than three.
    """
    own = _checked(values)
    rest = own - own.mean()
    spread = float(rest @ rest)
    return float(rest[1:] @ rest[:-1]) / spread if spread > 0 and own.size > 2 else None


def _checked(values: Sequence[float]) -> np.ndarray:
    own = np.asarray(values, dtype=np.float64)
    if own.ndim != 1 or own.size == 0 or not np.isfinite(own).all():
        raise InputError(f"figures of shape {list(own.shape)}; one finite number for each prompt is needed")
    return own
