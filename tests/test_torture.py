"""What `make torture` itself rests on: its lists are what they say, and its judges can tell a failure."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_processes import until
from conftest import ROOT
from torture import __main__ as torture
from torture import bench, damage, hostile, inputs, packs, running
from torture.bench import DATA, Trial

from lib.errors import InputError
from lib.layout import DATED
from lib.results import dated

MADE_ALIVE = (0, 2, 3, 5, 12, 18, 19)  # strings that do something in a page that takes them as they are


def own(folder, **options):
    return bench.Bench(10, folder / "shared", folder, **options)


def test_there_are_enough_bad_inputs_each_with_a_line_to_expect():
    found = inputs.cases()
    assert len(found) >= 250
    assert all(case["says"] and case["kind"] in inputs.MAKERS for case in found)
    assert len({json.dumps({**case, "id": ""}, sort_keys=True) for case in found}) == len(found)
    assert len(set(json.loads((DATA / "hostile.json").read_text(encoding="utf-8")))) == 20


def test_the_kept_record_is_of_a_whole_run_in_which_all_held():
    record = dated.latest("torture", DATED)
    assert record and not record["provenance"]["dirty"] and not record["short"]
    assert record["missing"] == [] and len(record["rounds"]) == 1
    assert [trial for trial in record["trials"] if not trial["held"]] == []
    tried = {kind: counts["tried"] for kind, counts in record["counts"].items()}
    assert tried["kills"] == 30 and tried["inputs"] >= 250 and set(tried) == set(running.KINDS)
    outputs = {"page", "downloads", "book", "playground", "pack"}
    names = {trial["name"] for trial in record["trials"] if trial["kind"] == "hostile"}
    assert {f"{i:02}-{output}" for i in range(20) for output in outputs} <= names
    assert not re.search(r"/(tmp|home|root|work)/", json.dumps(record))


def test_the_table_names_the_command_of_each_failure():
    command = "make torture SEED=7 ONLY=kills/04-kill"
    lines = torture.table([Trial("kills", "03-stop", True, "", ""), Trial("kills", "04-kill", False, "no", command)])
    assert lines.splitlines()[1].split()[:4] == ["kills", "2", "1", "1"]
    assert lines.splitlines()[2:] == [command, "    no"]


def test_a_run_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    """Of the same seed, form and commit only; a trial tried alone takes its own place, and its task stays missing."""
    state = ["c" * 40, False]
    monkeypatch.setattr(dated, "git_state", lambda: tuple(state))
    path, record = tmp_path / "torture.json", torture.begun(7, False)
    assert record["missing"] == torture.tasks(False) and "kills/00-" in record["missing"]
    both = [Trial("kills", "00-stop", True, "", ""), Trial("kills", "00-kill", False, "no", "")]
    torture.noted(record, "kills/00-", True, both)
    torture.noted(record, "disks/full", True, [Trial("disks", "full", True, "", "")])
    torture.noted(record, "kills/01-", False, [Trial("kills", "01-kill", True, "", "")])
    torture.noted(record, "kills/00-", False, [Trial("kills", "00-kill", True, "", "")])
    assert {*torture.tasks(False)} - {*record["missing"]} == {"kills/00-", "disks/full"}
    assert [trial["name"] for trial in record["trials"]] == ["00-kill", "00-stop", "01-kill", "full"]
    assert record["counts"]["kills"] == {"tried": 3, "held": 3} and record["counts"]["packs"]["tried"] == 0
    assert torture.begun(7, False, path)["trials"] == []
    path.write_text(json.dumps(record), encoding="utf-8")
    assert torture.begun(7, False, path) == record
    for seed, short in ((8, False), (7, True)):
        with pytest.raises(InputError, match="GO_ON: given"):
            torture.begun(seed, short, path)
    for other in (["d" * 40, False], ["c" * 40, True]):
        state[:] = other
        with pytest.raises(InputError, match="commit"):
            torture.begun(7, False, path)


def test_a_trial_is_chosen_by_its_name_and_draws_the_same_alone(tmp_path):
    assert running.chosen(False, "kills/03-stop") == [("kills", "03-", ("03-stop",))]
    assert running.chosen(True, "disks/full,damage/store-1") == [
        ("damage", "store-1", ("store-1",)),
        ("disks", "full", ("full",)),
    ]
    assert running.chosen(False, "kills") == [("kills", f"{i:02}-", ()) for i in range(6)]
    assert {kind for kind, *_ in running.chosen(True, "")} == {*running.KINDS}
    assert running.chosen(False, "kill") == []

    def task(at):
        at.about["-b"] = str(at.draw.random())
        return {"-a": "wrong", "-b": None}

    both = own(tmp_path).tried("kind", "00", task)
    assert [(trial.name, trial.held) for trial in both] == [("00-a", False), ("00-b", True)]
    assert own(tmp_path, only=("00-b",)).tried("kind", "00", task)[0].said == both[1].said != ""


def test_a_trial_that_breaks_off_has_not_held(tmp_path):
    (trial,) = own(tmp_path).tried("kind", "00", lambda _: 1 / 0)
    assert not trial.held and "ZeroDivisionError" in trial.said


@pytest.mark.parametrize("kind", ["datasets", "tokenizers"])
def test_faults_of_a_folder_are_told_from_the_folder(kind, tmp_path, build):
    """By a dry run, which starts nothing."""
    (tmp_path / "shared").mkdir()
    trials = own(tmp_path).tried("inputs", kind, inputs.tasks(False)[kind])
    assert len(trials) > 20
    assert [f"{trial.name}: {trial.said}" for trial in trials if not trial.held] == []


def test_a_refusal_that_is_none_is_seen(tmp_path):
    """What is accepted, or refused in other words, does not hold."""
    with bench.in_place(tmp_path):
        words = inputs.parameters(own(tmp_path), {"given": [["n_ctx", "0"]]})
        assert inputs.refused(words, "-p n_ctx: given '0'") is None
        assert inputs.refused(words, "other words") is not None
        assert "was not refused" in inputs.refused(["lib.pipeline", "list"], "error")


@pytest.fixture
def browser():
    """The torture's own, which ends here: other files' tests in this process have theirs."""
    yield
    hostile.end_browser()


@pytest.mark.skipif(hostile.CHROMIUM is None, reason="Chromium is not installed (Debian's package `chromium`)")
def test_a_string_that_comes_to_life_is_seen(browser, tmp_path):
    path = tmp_path / "page.html"
    for i, text in enumerate(hostile.strings()):
        if i in MADE_ALIVE:
            path.write_text(f"<!DOCTYPE html><title>x</title><main>{text}</main>", encoding="utf-8")
            with hostile.opened(path) as (seen, told):
                seen.wait_for_timeout(50)
                assert hostile.came_alive(seen, told), text
    path.write_text("<!DOCTYPE html><title>x</title><main>&lt;img onerror=x&gt; at:model</main>", encoding="utf-8")
    with hostile.opened(path) as (seen, told):
        assert hostile.came_alive(seen, told) is None
        shown = seen.evaluate("document.body.textContent")
    assert hostile.missing(shown, "<img onerror=x>", ("model",)) is None
    assert "as corpus" in hostile.missing(shown, "<img onerror=x>", ("model", "corpus"))


def test_what_is_half_written_is_seen(tmp_path):
    (tmp_path / "smoke" / "results").mkdir(parents=True)
    for name, content in (("a.json", b'{"a": '), ("a.npy", b"\x93NUMPY"), ("a.png", b"\x89PNG"), ("a.html", b"<html>")):
        (tmp_path / "smoke" / "results" / name).write_bytes(content)
        assert name in bench.half_written(tmp_path)
        (tmp_path / "smoke" / "results" / name).unlink()
    assert bench.half_written(tmp_path) is None
    (tmp_path / "smoke" / ".a.json.x1.json").write_bytes(b"")
    assert bench.half_written(tmp_path) is None and "lying about" in bench.litter(tmp_path)


def test_a_flip_that_nobody_notices_is_seen(tmp_path):
    path, content = tmp_path / "a.zip", bytes(100)
    path.write_bytes(content)
    where = damage.flip(path, own(tmp_path).draw)
    assert path.read_bytes() != content and "a.zip" in where
    assert packs.judged("a.zip: damaged", {}, path, {}, where) is None
    assert packs.judged("damaged", {}, path, {}, where) is not None
    assert packs.judged("a.zip: damaged", {"smoke/a": b""}, path, {}, where) is not None
    assert packs.judged("", {"smoke/a": b"x"}, path, {"smoke/a": b"x"}, where) is None
    assert packs.judged("", {"smoke/a": b"y"}, path, {"smoke/a": b"x"}, where) is not None
    assert packs.judged("", {"smoke/a": b"x"}, path, {}, where) is not None


def test_a_process_that_works_for_a_folder_is_found(tmp_path):
    """Whoever its parent is, as after the pipeline was killed."""
    words = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    environment = bench.environment_for(tmp_path / "build")
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert [found.pid for found in bench.belonging(tmp_path / "build")] == [process.pid]
    bench.end(process)
    assert bench.belonging(tmp_path / "build") == []


def test_a_stopped_torture_leaves_no_process_and_no_folder(tmp_path):
    """Struck while it makes what all trials share, which none of its workers does."""
    (tmp_path / "there").mkdir()
    environment = bench.environment_for(tmp_path / "build") | {"TMPDIR": str(tmp_path / "there")}
    environment["PYTHONPATH"] = f"{ROOT / 'tests'}:{environment['PYTHONPATH']}"
    words = [sys.executable, "-m", "torture", "--seed", "1", "--only", "disks/full", "--at-once", "1"]
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    until(lambda: bench.belonging(tmp_path / "there"))
    process.terminate()
    assert process.communicate(timeout=60)[1].endswith("stopped; what has been tried is kept, GO_ON=1 goes on\n")
    assert process.returncode == 128 + signal.SIGTERM
    assert bench.belonging(tmp_path) == [] and list((tmp_path / "there").iterdir()) == []


def test_a_disk_goes_with_the_process_that_mounted_it(tmp_path):
    """Nobody else sees it, so that there is nothing to take away where its process is killed."""
    code = (
        "import sys, time; from pathlib import Path; from torture import bench, disks\n"
        "with disks.disk(bench.Bench(1, *[Path(sys.argv[1])] * 2)) as folder:\n"
        "    folder and (folder / 'a').write_text('x')\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = bench.environment_for(tmp_path / "build")
    environment["PYTHONPATH"] = f"{ROOT / 'tests'}:{environment['PYTHONPATH']}"
    words = [sys.executable, "-c", code, tmp_path]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    folder = process.stdout.readline().strip()
    if folder == "None":
        bench.end(process)
        pytest.skip("no rights to mount a disk")
    seen, inside = (list(Path(f"{root}{folder}").iterdir()) for root in ("", f"/proc/{process.pid}/root"))
    process.kill()
    process.communicate()
    assert [path.name for path in inside] == ["a"] and seen == []
    assert folder not in Path("/proc/mounts").read_text(encoding="utf-8")
