"""What `make torture` itself rests on: its lists are what they say, and its judges can tell a failure."""

import json

import pytest
from torture import __main__ as torture
from torture import bench, inputs
from torture.bench import DATA


def test_there_are_enough_bad_inputs_each_with_a_line_to_expect():
    found = inputs.cases()
    assert len(found) >= 250
    assert all(case["says"] and case["kind"] in inputs.MAKERS for case in found)
    assert len({json.dumps({**case, "id": ""}, sort_keys=True) for case in found}) == len(found)
    assert len(set(json.loads((DATA / "hostile.json").read_text(encoding="utf-8")))) == 20


def test_the_table_names_the_command_of_each_failure(tmp_path):
    own = bench.Bench(7, tmp_path, True)
    own.note("kills", "03-stop", None, 0.0)
    own.note("kills", "04-kill", "after 2 s there still was the run itself", 0.0)
    lines = torture.table(own.trials).splitlines()
    assert lines[1].split()[:4] == ["kills", "2", "1", "1"]
    assert lines[2:] == ["make torture SEED=7 ONLY=kills/04-kill", "    after 2 s there still was the run itself"]


@pytest.mark.parametrize("kind", ["datasets", "tokenizers"])
def test_faults_of_a_folder_are_told_from_the_folder(kind, tmp_path, build):
    """By a dry run, which starts nothing."""
    own = bench.Bench(10, tmp_path, True)
    inputs.trials(own, kind)
    assert len(own.trials) > 20
    assert [f"{trial.name}: {trial.said}" for trial in own.trials if not trial.held] == []


def test_a_failure_is_seen(tmp_path):
    """The judge of refusals itself: what is accepted, or refused in other words, does not hold."""
    own = bench.Bench(1, tmp_path, True)
    with inputs.in_place(tmp_path):
        words = inputs.parameters(own, {"given": [["n_ctx", "0"]]})
        assert inputs.refused(words, "-p n_ctx: given '0'") is None
        assert inputs.refused(words, "other words") is not None
        assert "was not refused" in inputs.refused(["lib.pipeline", "list"], "error")
