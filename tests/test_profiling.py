"""Where the time goes: threads' stacks told apart by room, a run's lines turned into seconds, and a table of both."""

import json
import os
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from lib.analysis import flops
from lib.errors import InputError
from lib.pipeline import children, profiling, sampling

BUSY = """
import time
from lib.pipeline import sampling
from lib.analysis.bootstrap import Resampler
from lib.analysis.perplexity import ratio
import numpy as np
scores = np.random.default_rng(0).random((64, 127), dtype=np.float32)
sampling.enter("V9")
end = time.monotonic() + 2
while time.monotonic() < end:
    ratio(scores, scores, Resampler.of(scores, 1, 2000))
"""


def inside(call):
    """The frames of a thread that stands in `call`, which is handed a function to wait in."""
    reached, go = threading.Event(), threading.Event()

    def wait(*_):
        reached.set()
        go.wait(10)
        return 1

    thread = threading.Thread(target=call, args=(wait,))
    thread.start()
    reached.wait(10)
    try:
        return thread.ident, sys._current_frames()
    finally:
        go.set()
        thread.join()


def test_a_stack_belongs_to_the_innermost_room_of_the_project():
    class Config:
        def __getattr__(self, name):
            return self.wait()

    def in_analysis(wait):
        config = Config()
        config.wait = wait
        flops.Shape.of(config)

    ident, frames = inside(in_analysis)
    frame = frames[ident]
    while "tests" in frame.f_code.co_filename or "threading" in frame.f_code.co_filename:
        frame = frame.f_back
    assert sampling.room_of(frame) == "statistics"
    assert sampling.room_of(None) is None


def test_a_kernel_that_only_starts_is_at_nothing():
    assert sampling.at_work({}, 1) == {}


def test_seconds_are_those_that_passed(tmp_path):
    environment = children.environment(**{sampling.FOLDER: str(tmp_path)})
    subprocess.run([sys.executable, "-c", BUSY], env=environment, cwd=ROOT, check=True, timeout=120)
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text(encoding="utf-8"))["V9"]
    assert found["statistics"] == max(found.values())
    assert 1.0 < sum(found.values()) < 2.5


def test_lines_of_a_run_become_seconds_of_its_sections(capsys):
    program = (
        "import time\nprint('V1           measure: new', flush=True)\ntime.sleep(0.4)\n"
        "print('V2           measure: new', flush=True)\ntime.sleep(0.3)\n"
        "print('V1           done in 0 s', flush=True)\n"
        "print('scores: 100% tok/s]V2           done in 0 s', flush=True)\ntime.sleep(0.2)"
    )
    walls, seconds = profiling.timed([sys.executable, "-c", program], {})
    assert list(walls) == ["V1", "V2", profiling.PAGES]
    assert walls["V1"] >= 0.7 and 0.3 <= walls["V2"] < walls["V1"]
    assert walls[profiling.PAGES] >= 0.2
    assert walls["V1"] + walls[profiling.PAGES] <= seconds
    assert capsys.readouterr().out.count("done in") == 2


def test_a_run_that_fails_is_one_line():
    with pytest.raises(InputError, match="^V1: cell 3: nothing$"):
        profiling.timed([sys.executable, "-c", "import sys; sys.exit('error: V1: cell 3: nothing')"], {})
    assert sampling.FOLDER not in os.environ


def test_a_folder_that_is_there_is_no_place_for_a_first_run(tmp_path):
    with pytest.raises(InputError, match="is there already"):
        profiling.profile("smoke", tmp_path)


def test_the_table_adds_up():
    rows = [profiling.row("V1", 5.0, {"model": 3.0, "disk": 0.5}), profiling.row(profiling.PAGES, 2.0, {})]
    assert [own["starting"] for own in rows] == [1.5, 0.0]
    assert rows[1]["drawing"] == 2.0
    lines = profiling.table({"sections": rows, "seconds": 6.0}).splitlines()
    assert lines[-1].split() == ["in", "all", "6.0", "3.0", "0.0", "0.0", "2.0", "0.5", "0.0", "1.5"]
