"""Two runs side by side: rows meet by name, intervals are read right, bad input is one line."""

import copy
import json
import random

import measured
import pytest

from lib.claims import rules, scorecard
from lib.results import diff, io, provenance, query
from lib.results.diff import Figure


@pytest.fixture(scope="module")
def run():
    found = io.plain(measured.build())
    told = rules.evaluate(found)[0]
    claims = [told | {"id": "a", "verdict": "holds"}, told | {"id": "b", "verdict": "open"}]
    found["conclusions"] = {
        "claims": claims,
        "counts": {"holds": 1, "fails": 0, "open": 1, "not measured": 0},
        "hypothesis": rules.hypothesis(found),
        "sensitivity": rules.sensitivity(found),
        "scorecard": scorecard.score(found),
    }
    return found


@pytest.fixture
def other(run):
    return copy.deepcopy(run)


@pytest.fixture
def build(tmp_path, monkeypatch, run):
    """Puts runs under a build folder as profiles: `build(one={...})`."""
    monkeypatch.setenv("EXPERIMENT10_BUILD", str(tmp_path))
    origin = provenance.provenance(
        "smoke",
        {},
        1,
        *2 * [{"name": "x", "fingerprint": "0" * 64}],
        "cpu",
        "naive",
        provenance.Start(0.0, None, None),
        1.0,
    )

    def write(**profiles):
        for profile, data in profiles.items():
            for name, section in data.items():
                record = {"section": name, "parameters": {}, "data": section, "provenance": origin}
                path = io.section_path(tmp_path / profile / "results" / "data", name)
                io.write_json(path, record, "section")
        return tmp_path

    return write


def by_path(found):
    return {figure.path: figure for figure in found.figures}


def test_a_run_is_equal_to_itself(run, other):
    found = diff.compare(run, other)
    assert len(found.figures) > 200
    assert not [figure for figure in found.figures if figure.differs]
    assert not (found.settings or found.changed_claims or found.only_a or found.only_b)


def test_paths_are_those_of_the_results(run, other):
    for figure in diff.compare(run, other).figures:
        assert query.lookup(run, figure.path) == figure.a, figure.path


def test_rows_meet_by_name_whatever_their_order(run, other):
    random.Random(3).shuffle(other["V4"]["cumulative"])
    random.Random(4).shuffle(other["phases"]["zero"]["heads"])
    found = diff.compare(run, other)
    assert not [figure.path for figure in found.figures if figure.differs]
    names = by_path(found)
    assert "V4.cumulative[n_linearized=5].ratio" in names
    assert "phases.zero.heads[layer=2,head=3].delta" in names


def test_every_kind_of_interval_is_found(run, other):
    found = by_path(diff.compare(run, other))
    assert found["V1.ppl_full"].a_ci == run["V1"]["ppl_full_ci"]
    assert found["V4.thresholds_full[1.1]"].a_ci == run["V4"]["thresholds_full_ci"]["1.1"]
    condition = run["P4"]["conditions"][1]
    figure = found[f"P4.conditions[condition={condition['condition']}].ratio[1]"]
    assert figure.a_ci == condition["ratio_ci"][1]


@pytest.mark.parametrize(
    ("a_ci", "b_ci", "verdict"),
    [
        ([1, 2], [3, 4], "apart"),
        ([3, 4], [1, 2], "apart"),
        ([1, 2], [2, 3], "overlap"),
        ([1, 4], [2, 3], "overlap"),
        ([1, None], [3, 4], "overlap"),
        ([None, 2], [3, 4], "apart"),
        ([1, 2], None, None),
    ],
)
def test_intervals(a_ci, b_ci, verdict):
    assert Figure("x", 1.0, 2.0, a_ci, b_ci).intervals == verdict


@pytest.mark.parametrize(
    ("a", "b", "relative"),
    [(4.0, 5.0, 0.25), (0, 0, 0.0), (0, 1, None), (True, False, None), ("a", "b", None), (2, None, None)],
)
def test_relative_difference(a, b, relative):
    assert Figure("x", a, b).relative == relative


def test_a_change_is_shown_with_its_interval(run, other):
    low, high = other["V1"]["ppl_full_ci"]
    other["V1"]["ppl_full"] *= 2
    other["V1"]["ppl_full_ci"] = [2 * low, 2 * high]
    other["conclusions"]["claims"][1]["verdict"] = "fails"
    found = diff.compare(run, other)
    lines = diff.table(found, "one", "two").splitlines()
    shown = [line.split() for line in lines if line.startswith("V1.ppl_full ")]
    before, after = (f"{x['V1']['ppl_full']:.6g}" for x in (run, other))
    assert shown == [["V1.ppl_full", before, after, "+100.00%", "apart"]]
    assert [line.split() for line in lines if line.startswith("b ")] == [["b", "open", "fails", "changed"]]
    assert lines[-1] == f"1 of {len(found.figures)} figures differ, 1 with intervals apart; 1 of 2 claims changed"


def test_settings_that_differ_come_first(run, other):
    other["setup"]["parameters"] = {"full_chunks": 7}
    run = run | {"setup": run["setup"] | {"parameters": {"full_chunks": 4}}}
    found = diff.compare(run, other)
    assert found.settings == {"full_chunks": (4, 7)}
    assert diff.table(found, "one", "two").splitlines()[1].split() == ["full_chunks", "4", "7"]


def test_what_one_run_lacks_is_said(run, other):
    last = other["V4"]["cumulative"].pop()["n_linearized"]
    del other["P2"]
    other["P4"]["lengths"].pop()
    found = diff.compare(run, other)
    assert found.only_a == [f"V4.cumulative[n_linearized={last}]", "P2", "P4.lengths[1]"]
    assert diff.summary(found, "one", "two").splitlines()[1:] == [
        f"only in one: V4.cumulative[n_linearized={last}], P2, P4.lengths"
    ]


def test_a_claim_that_one_run_did_not_judge_has_not_changed(run, other):
    del other["conclusions"]
    found = diff.compare(run, other)
    assert found.claims == {"a": ("holds", None), "b": ("open", None)}
    assert found.changed_claims == []


def test_command_compares_profiles_and_folders(build, run, other, capsys):
    other["V1"]["ppl_full"] += 1
    root = build(one=run, two=other)
    diff.main(["one", "two"])
    first = capsys.readouterr().out
    assert first.splitlines()[-1].startswith("1 of ")
    diff.main([str(root / "one" / "results" / "data"), "two"])
    assert capsys.readouterr().out.splitlines()[-1] == first.splitlines()[-1]
    diff.main(["one", "two", "--all"])
    assert len(capsys.readouterr().out.splitlines()) > 200


@pytest.mark.parametrize("words", [[], ["one"], ["one", "two", "one"], ["one", "tow"], ["one", "elsewhere"]])
def test_bad_input_is_one_line(build, run, words):
    build(one=run, two=run)
    with pytest.raises(SystemExit) as stopped:
        diff.main(words)
    message = stopped.value.code
    assert message.startswith("error: ") and "\n" not in message and "one, two" in message
    if "tow" in words:
        assert "'tow'" in message and "did you mean two?" in message


def test_damaged_results_are_one_line(build, run):
    root = build(one=run, two=run)
    path = io.section_path(root / "two" / "results" / "data", "V1")
    path.write_text(json.dumps({"section": "V1"}))
    with pytest.raises(SystemExit, match="^error: V1.json: "):
        diff.main(["one", "two"])
