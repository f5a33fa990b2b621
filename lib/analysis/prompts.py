"""One figure for each prompt, and the same prompts under two conditions: means, paired differences, and their unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.analysis.bootstrap import DRAWS, interval, small_sample_level
from lib.errors import InputError


def paired(a: Sequence[float], b: Sequence[float], seed: int = 0, draws: int = DRAWS) -> dict:
    """`a` against `b` over the same prompts: `{difference, difference_ci, relative, relative_ci, lower, of}`.

    difference: mean of a − b; relative: mean of a / mean of b − 1; both from the same resamples of prompts. lower: the
    number of prompts in which a is below b, of so many.
    """
    a, b = (_checked(values) for values in (a, b))
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
    values = _checked(values)
    rest = values - values.mean()
    spread = float(rest @ rest)
    return float(rest[1:] @ rest[:-1]) / spread if spread > 0 and values.size > 2 else None


def _checked(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise InputError(f"figures of shape {list(values.shape)}; one finite number for each prompt is needed")
    return values
