"""Seconds that answers take: at once and thinking, untouched and linearized, in turn."""

from collections.abc import Hashable, Mapping
from functools import partial

import numpy as np

from lib.analysis.bootstrap import median_ci
from lib.engine.generation import generate
from lib.engine.instructions import SAMPLED, Examiner
from lib.engine.interventions import Plan
from lib.timing.clock import Run, alternating


def measure(examiner: Examiner, plans: Mapping[int, Plan], runs: int, seed: int = 0) -> list[dict]:
    """`[{way, n_linearized, n_problems, new_tokens, ms, ms_ci}]`: milliseconds a problem, asked in one batch.

    The batch is the largest group of problems whose prompts are equally long; its texts are as long as the right ones.
    """
    actions: dict[Hashable, Run] = {}
    about: list[dict] = []
    for way in SAMPLED:
        prompts, n_new = _batch(examiner, way)
        for n, plan in plans.items():
            actions[len(about)] = partial(
                generate, examiner.respondent.model, prompts, n_new, plan, backend=examiner.respondent.backend
            )
            about.append({"way": way, "n_linearized": n, "n_problems": len(prompts), "new_tokens": n_new})
    seconds = alternating(actions, examiner.respondent.model.device.type, rounds=runs, label="answers")
    rows = []
    for row, own in zip(about, seconds.values(), strict=True):
        ms, ends = median_ci((1e3 * own / row["n_problems"]).tolist(), seed)
        rows.append(row | {"ms": ms, "ms_ci": ends})
    return rows


def _batch(examiner: Examiner, way: str) -> tuple[np.ndarray, int]:
    """Prompts `[B, P]` and the number of new tokens."""
    groups: dict[tuple[int, int], list[list[int]]] = {}
    for problem in examiner.problems:
        ids = examiner.respondent.ids(examiner.manner.prompt(problem, way))
        n_new = len(examiner.respondent.ids(examiner.manner.completion(problem, way)))
        groups.setdefault((len(ids), n_new), []).append(ids)
    (_, n_new), prompts = max(groups.items(), key=lambda item: len(item[1]))
    return np.array(prompts, dtype=np.int32), n_new
