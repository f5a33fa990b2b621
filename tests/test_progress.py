"""The bar of long work, and the memory that such work keeps."""

import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

BAR = """
from lib.progress import progress
with progress("heads", 1000, "tok") as bar:
    for _ in range(1000):
        bar.update()
"""
FAULTS = """
import resource, sys, torch
from lib.engine.allocator import keep_freed
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    assert keep_freed()
for i in range(40):
    if i == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**22).exp()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def python(program, *words, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)


def test_a_log_file_gets_a_few_lines_and_the_end():
    shown = python(BAR, EXPERIMENT10_PIPELINE="0", EXPERIMENT10_TERMINAL="0").stderr
    lines = [line for line in shown.replace("\r", "\n").splitlines() if line.strip()]
    assert len(lines) <= 3
    assert lines[-1].startswith("heads: 100%") and "1.00k/1.00k" in lines[-1] and "tok/s" in lines[-1]


def test_nothing_to_do_shows_nothing():
    assert python("from lib.progress import progress\nwith progress('', 0, 'tok') as bar: bar.update()").stderr == ""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc hands freed blocks back at once")
def test_freed_memory_is_used_again_without_page_faults():
    kept = int(python(FAULTS, "kept").stdout)
    assert kept < 20 * 2**24 / 4096 / 10, f"{kept} page faults for blocks that had been there before"
