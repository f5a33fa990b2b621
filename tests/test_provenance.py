"""A long run says from which commit it began: what it is asked for at its end may be another."""

import subprocess
import sys
from dataclasses import replace

import pytest

from lib.analysis import whole_text
from lib.pipeline import measuring, profiling
from lib.results import dated, provenance
from lib.timing import gpu_session, memory, workers_bench
from lib.training import family, recovery


class Begun(Exception):
    pass


def begun(*_):
    raise Begun


def work(*_, **__):
    raise AssertionError("the work begins before its record")


@pytest.mark.parametrize(
    ("module", "does", "call"),
    [
        (profiling, "timed", lambda folder: profiling.profile("smoke")),
        (memory, "measured", lambda folder: memory.main(["--out", str(folder / "memory.json")])),
        (workers_bench.loading, "load_model", lambda folder: workers_bench.measure(1, 2, 1)),
        (family.loading, "load_tokenizer", lambda folder: family.run(family.Scale(), folder, folder / "scale.json")),
        (
            recovery.loading,
            "load_tokenizer",
            lambda folder: recovery.run(recovery.Schedule(), folder, folder / "recovery.json"),
        ),
    ],
    ids=["profile", "memory", "workers", "scale", "recovery"],
)
def test_a_record_is_begun_before_its_work(module, does, call, tmp_path, monkeypatch):
    monkeypatch.setattr(dated, "new", begun)
    monkeypatch.setattr(module, does, work)
    with pytest.raises(Begun):
        call(tmp_path)


@pytest.fixture
def commits(monkeypatch):
    """A repository that has another commit whenever it is asked."""
    names = iter("abc")
    monkeypatch.setattr(provenance, "git_state", lambda: (next(names), False))
    monkeypatch.setattr(gpu_session, "git_state", provenance.git_state)


def test_a_study_is_of_the_commit_that_it_was_opened_at(commits):
    text = whole_text.opened("smoke", 2)
    provenance.git_state()
    assert text.provenance("x", "y")["commit"] == "a"
    assert replace(text, start=provenance.begin()).provenance("x", "y")["commit"] == "c"


def test_a_section_is_of_the_commit_that_it_was_opened_at(commits, build, monkeypatch):
    identity = {"name": "tiny", "fingerprint": "0" * 64}
    section = measuring.Measuring("V9", {"profile": "smoke"})
    section.results["setup"] = {
        "parameters": {"seed": 1},
        "model": identity,
        "corpus": identity,
        "device": "cpu",
    }
    provenance.git_state()
    assert section.provenance()["commit"] == "a"


def test_a_session_on_a_gpu_is_of_the_commit_that_it_began_at(commits, tmp_path, monkeypatch):
    said, popen = [], subprocess.Popen

    def step(command, **_):
        gpu_session.git_state()
        return popen([sys.executable, "-c", ""])

    monkeypatch.setattr(gpu_session.subprocess, "Popen", step)
    monkeypatch.setattr(gpu_session, "keep", lambda record, folder, words: said.append(words))
    gpu_session.session(tmp_path, "cpu", True, ["tuning"], 60.0, tmp_path)
    assert said == ["make gpu-session, commit a, on this machine"]
