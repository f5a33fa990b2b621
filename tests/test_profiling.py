"""Where the time goes: threads' stacks told apart by room, a run's lines turned into seconds, and a table of both."""

import itertools
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from conftest import ROOT

from lib.analysis import flops
from lib.errors import InputError
from lib.pipeline import children, kernels, profiling, sampling

BUSY = """
import time
from lib.pipeline import sampling
from lib.analysis.bootstrap import Resampler
from lib.analysis.perplexity import ratio
import numpy as np
scores = np.random.default_rng(0).random((64, 127), dtype=np.float32)
sampling.begin()
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


def test_a_kernel_that_waits_is_at_nothing(tmp_path):
    """As the one that draws does between two sections."""
    kernel = kernels.answering(kernels.start("redraw", **{sampling.FOLDER: str(tmp_path)}), "redraw")
    try:
        assert kernel.emptied()
        asked = time.perf_counter()
        time.sleep(2)
    finally:
        kernel.stop()
    after = [own for own in sampling.read(tmp_path) if own.began > asked]
    assert sum(sum(own.rooms.values()) for own in after) < 0.3
    assert list(tmp_path.glob("*.jsonl"))
    assert sampling.at_work({}, 1) == {}


def test_seconds_are_those_that_passed(tmp_path):
    environment = children.environment(**{sampling.FOLDER: str(tmp_path)})
    subprocess.run([sys.executable, "-c", BUSY], env=environment, cwd=ROOT, check=True, timeout=120)
    found = [own for own in sampling.read(tmp_path) if own.section == "V9"]
    assert all(sum(own.rooms.values()) <= own.ended - own.began + 1e-9 for own in found)
    assert all(own.ended <= later.began for own, later in itertools.pairwise(found))
    by_room = {room: sum(own.rooms.get(room, 0.0) for own in found) for room in profiling.ROOMS}
    assert by_room["statistics"] == max(by_room.values())
    assert 1.0 < sum(by_room.values()) < 2.5


def test_what_was_cut_off_with_its_process_is_left_out(tmp_path):
    (tmp_path / "7.jsonl").write_text('[1.0, 2.0, "V1", {"model": 0.5}]\n[2.0, 3.0, "V1", {"mo')
    assert sampling.read(tmp_path) == [(1.0, 2.0, "V1", {"model": 0.5})]


def test_lines_of_a_run_become_spans_of_its_sections(capsys, monkeypatch):
    """V1 draws while V2 measures already; the run waits for V2 then, and for each moment once. Each look at the clock
    is a second later than the one before."""
    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    lines = (
        "V1           measure: new",
        "V2           measure: new",
        "V1           done in 0 s",
        "scores: 100% tok/s]V2           done in 0 s",
        "report: nothing of a section's",
    )
    spans = profiling.timed([sys.executable, "-c", f"print({chr(10).join(lines)!r})"], {})
    assert list(spans.items()) == [
        (profiling.PLAN, (0, 1, 1)),
        ("V1", (1, 2, 3)),
        ("V2", (2, 4, 4)),
        (profiling.PAGES, (4, 5, 5)),
    ]
    assert capsys.readouterr().out.count("done in") == 2


def test_a_run_that_fails_is_one_line():
    with pytest.raises(InputError, match="^V1: cell 3: nothing$"):
        profiling.timed([sys.executable, "-c", "import sys; sys.exit('error: V1: cell 3: nothing')"], {})
    assert sampling.FOLDER not in os.environ


def test_a_folder_that_is_there_is_no_place_for_a_first_run(tmp_path):
    with pytest.raises(InputError, match="is there already"):
        profiling.profile("smoke", tmp_path)


def test_the_table_adds_up():
    """V1 measures for 3 s and draws for 10 s, 9 of them while V2 starts and measures: shown, and added to nothing."""
    spans = {
        profiling.PLAN: profiling.Span(100.0, 101.0, 101.0),
        "V1": profiling.Span(101.0, 106.0, 115.0),
        "V2": profiling.Span(106.0, 118.0, 118.0),
        profiling.PAGES: profiling.Span(118.0, 120.0, 120.0),
    }
    slices = [
        sampling.Slice(102.0, 105.0, "V1", {"model": 2.5, "disk": 0.5}),
        sampling.Slice(105.0, 115.0, "V1", {"drawing": 10.0}),
        sampling.Slice(109.0, 113.0, "V2", {"model": 3.0}),
        sampling.Slice(113.0, 116.0, "V2", {"model": 3.0}),
        sampling.Slice(100.0, 106.0, sampling.STARTING, {"model": 6.0}),
    ]
    rows = [profiling.row(section, span, slices, 100.0) for section, span in spans.items()]
    assert [own["starting"] for own in rows] == [1.0, 1.0, 2.0, 0.0]
    assert [own["others"] for own in rows] == [0.0, 0.0, 4.0, 0.0]
    assert rows[1]["beside"] == 9.0 and rows[1]["drawing"] == 1.0 and rows[3]["drawing"] == 2.0
    assert (rows[1]["began"], rows[1]["until"], rows[1]["done"]) == (1.0, 6.0, 15.0)
    for own in rows:
        assert own["seconds"] == sum(own[name] for name in (*profiling.ROOMS, "others", "starting"))
    lines = profiling.table({"sections": rows, "seconds": 20.0}).splitlines()
    assert lines[-1].split() == ["in", "all", "20.0", "8.5", "0.0", "0.0", "3.0", "0.5", "0.0", "4.0", "4.0", "9.0"]
