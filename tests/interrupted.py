"""Scores plans with a tiny model in child processes, and kills them: `python interrupted.py FOLDER SEED`.

Leaves in FOLDER the store and the scores of an uninterrupted run (`whole`), of one that was killed again and again
(`killed`) and of two that ran at once (`first`, `second`, one store), and `kills.json`.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tiny_models import gpt2, tokens

from lib import store as store_module
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.store import Store

KILLS = 24
PLANS = [
    Plan(),
    *(Plan.of(mode, [(layer, head)]) for mode in ("zero", "mean", "relu") for layer in range(3) for head in range(4)),
]


def score(store, out):
    """Everything a run does: means from the baseline, then scores of all plans; the scores' bytes go to `out`."""
    engine = Evaluator(gpt2(), tokens(4), Store(store), model_key="random")
    scores = engine.score(PLANS, 4, engine.means(4))
    out.write_bytes(np.stack(list(scores.values())).tobytes())


def child(work, *args):
    """Runs `work` in a child process; returns its id."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            work(*args)
        finally:
            os._exit(0)
    return pid


def was_killed(pid):
    status = os.waitpid(pid, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def score_and_die_writing(store, out, n_writes):
    """The child kills itself when its `n_writes`-th entry is written but not yet in place."""
    fsync, left = os.fsync, [n_writes]

    def deadly(file):
        fsync(file)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    store_module.os.fsync = deadly
    score(store, out)


def main(folder, seed):
    draw = random.Random(seed)
    started = time.perf_counter()
    os.waitpid(child(score, folder / "whole", folder / "whole.scores"), 0)
    duration = time.perf_counter() - started
    kills = {"timed": 0, "writing": 0}
    while sum(kills.values()) < KILLS:
        if sum(kills.values()) % 3 == 2:
            pid = child(score_and_die_writing, folder / "killed", folder / "killed.scores", draw.randint(1, 4))
            kind = "writing"
        else:
            pid = child(score, folder / "killed", folder / "killed.scores")
            kind = "timed"
            time.sleep(draw.uniform(0, duration / 8))
            os.kill(pid, signal.SIGKILL)
        if was_killed(pid):
            kills[kind] += 1
        else:  # it had nothing left to write
            Store(folder / "killed").clear()
    os.waitpid(child(score, folder / "killed", folder / "killed.scores"), 0)
    both = [child(score, folder / "shared", folder / f"{name}.scores") for name in ("first", "second")]
    for pid in both:
        os.waitpid(pid, 0)
    (folder / "kills.json").write_text(json.dumps(kills))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
