"""`kill -9` at any moment and two runs at once: the results are those of an uninterrupted run, to the byte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.store import Store

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the test kills forked processes")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    script = Path(__file__).with_name("interrupted.py")
    subprocess.run([sys.executable, script, folder, "20"], check=True, timeout=120)
    return folder


def content(folder):
    """{name: bytes} of every file of a store."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_killed_again_and_again_ends_like_one_left_alone(runs):
    kills = json.loads((runs / "kills.json").read_text())
    assert kills["timed"] + kills["writing"] >= 20 and kills["writing"] >= 5
    whole = (runs / "whole.scores").read_bytes()
    assert len(whole) == 37 * 4 * 32 * 4
    assert (runs / "killed.scores").read_bytes() == whole
    Store(runs / "killed")
    assert content(runs / "killed") == content(runs / "whole")
    assert len(content(runs / "whole")) == 37 * 4 + 4


def test_two_runs_at_once_end_like_one(runs):
    for name in ("first", "second"):
        assert (runs / f"{name}.scores").read_bytes() == (runs / "whole.scores").read_bytes()
    assert content(runs / "shared") == content(runs / "whole")
