"""Generation speed, side by side: conditions take turns, so that a drifting machine slows them alike."""

import time

import numpy as np
import torch

from lib import stats
from lib.generate import generate
from lib.interventions import Plan


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def measure(model, device, prompt, n_new, plans, protocols, runs, seed):
    """Rows of P1: median tokens/s of `runs` timed generations after one untimed, with intervals over the runs.

    plans: `{condition: Plan}`; protocols: `{name: (cached, backend)}`. `relative` is the change of speed against the
    first condition under the same protocol, pair by pair.
    """
    cells = [(condition, name) for name in protocols for condition in plans]
    seconds = {cell: [] for cell in cells}
    for turn in range(runs + 1):
        for condition, name in cells:
            cached, backend = protocols[name]
            synchronize(device)
            start = time.perf_counter()
            generate(model, prompt, n_new, plans[condition], cached=cached, backend=backend)
            synchronize(device)
            if turn:
                seconds[condition, name].append(time.perf_counter() - start)
    rows = []
    first = next(iter(plans))
    for condition, name in cells:
        own = np.array(seconds[condition, name])
        rate, rate_ci = stats.median_ci(n_new / own, seed)
        relative, relative_ci = stats.median_ci(np.array(seconds[first, name]) / own - 1, seed)
        rows.append(
            {
                "condition": condition,
                "n_linearized": len(plans[condition].heads),
                "protocol": name.split("/")[0],
                "backend": protocols[name][1] if plans[condition] else "sdpa",
                "tok_per_s": rate,
                "tok_per_s_ci": rate_ci,
                "ms_per_tok": 1000 / rate,
                "relative": relative,
                "relative_ci": relative_ci,
            }
        )
    return rows


BASELINE = Plan()
