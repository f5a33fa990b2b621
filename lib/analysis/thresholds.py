"""Where a ladder of PPL ratios crosses a limit, between its rungs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.errors import InputError


def interpolated(ns: Sequence[int], ratios: Sequence[float], limit: float) -> float:
    """Number of heads at which the ratio last rises through `limit`, linear in log ratio between two rungs.

    ns: rungs, increasing from 0; ratios: PPL ratios there, 1 at n = 0. The last rung where the limit is never passed.
    Beyond the last rung within the limit every ratio exceeds it, so that a dip on the way up does not count as the end.
    """
    ns, logs = np.asarray(ns, dtype=float), np.log(np.asarray(ratios, dtype=float)) - np.log(limit)
    if ns.shape != logs.shape or ns.ndim != 1 or not len(ns) or not np.isfinite(logs).all() or logs[0] > 0:
        raise InputError(f"threshold {limit} of {ns.size} rungs and {logs.size} ratios; they start within the limit")
    last = int(np.flatnonzero(logs <= 0)[-1])
    if last == len(ns) - 1:
        return float(ns[-1])
    share = -logs[last] / (logs[last + 1] - logs[last])
    return float(ns[last] + share * (ns[last + 1] - ns[last]))
