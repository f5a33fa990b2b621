"""Peaks of memory are those of the process that is measured, and one over its bound is said to be."""

import subprocess
import sys

from conftest import ROOT

from lib.timing import memory

HOLDS = """
import numpy as np
from lib.timing import memory
before = memory.own_peak()
held = np.ones(25_000_000)
print(memory.own_peak() - before)
"""


def test_the_peak_grows_with_what_is_held():
    done = subprocess.run([sys.executable, "-c", HOLDS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 190e6 < int(done.stdout) < 240e6


def test_every_step_has_its_peak(capsys):
    bound = 1e6
    (row,) = memory.measured([memory.Case("tiny", (1, 3), bound, trains=True)], n_threads=1)
    steps = ["imports", "loading", "1 chunks", "3 chunks", "scan", "comparing", "backward pass", "generation"]
    steps.append("training")
    peaks = list(row["by_step"].values())
    assert list(row["by_step"]) == steps and row["n_chunks"] == 3
    assert peaks == sorted(peaks) and row["peak_bytes"] == peaks[-1]
    assert "OVER the 0.0 allowed" in capsys.readouterr().out
