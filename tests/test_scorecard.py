import copy
import json
import math
import re
import shutil

import measured
import published_run
import pytest

from lib.claims import audit, rules, scorecard
from lib.claims.judging import VERDICTS
from lib.results import assembled, io
from lib.results.published import as_results, published, value
from lib.results.query import evaluate, lookup


def gpt2():
    """The published figures as if they had just been measured, with intervals where a tolerance needs them."""
    found = copy.deepcopy(as_results())
    found["setup"] |= {"quick_tokens": 2048, "full_tokens": 250_880, "corpus": {"n_tokens": 251_048}}
    found["setup"]["model"]["is_gpt2_small"] = True
    found["P3"]["chunks"] = list(range(20))
    for row in found["P3"]["conditions"]:
        row["expected_ci"] = [[0.95 * ppl, 1.05 * ppl] for ppl in row["first_n"]]
    found["V3"]["mean_delta_ppl_2k"], found["V3"]["mean_delta_ppl_full"] = 2.365 / 219, 2.806 / 303
    return found


def figures(**wanted):
    return [row for row in published()["figures"] if wanted.items() <= row.items()]


def test_paths():
    data = {"a": {"b": [{"layer": 0, "head": 8, "x": 1.5}, {"layer": 0, "head": 1, "x": 2.5}]}, "t": {"1.1": 20}}
    assert lookup(data, "a.b[1].x") == 2.5
    assert lookup(data, "a.b[layer=0,head=1].x") == 2.5
    assert lookup(data, "t[1.1]") == 20
    assert evaluate(data, "a.b[1].x / a.b[0].x - 1") == pytest.approx(2 / 3)
    assert evaluate(data, "1 - a.b[0].x") == -0.5


def test_every_figure_is_whole():
    whole = published_run.build()
    ids = [row["id"] for row in published()["figures"]]
    assert len(ids) == len(set(ids)) > 300
    for row in published()["figures"]:
        assert row["kind"] in published()["about"]["kinds"]
        assert row["reason"] in published()["reasons"]
        assert (row["tolerance"] is None) == (row["kind"] in ("machine", "sampled")), row["id"]
        assert row.get("needs") in (None, *published()["needs"])
        if row["path"]:
            evaluate(whole, row["path"])
    for reason in published()["reasons"].values():
        assert set(reason) == {"en", "ja"} and all(reason.values())


def test_what_is_printed_is_what_is_stored():
    for row in published()["figures"]:
        digits = re.fullmatch(r"~?([+−-]?[\d.]+) ?(x|%|M| min)?", row["printed"])
        assert digits, row["printed"]
        printed = float(digits[1].replace("−", "-"))
        scale = 0.01 if digits[2] == "%" and row["id"] != "V5.average" else 1e6 if digits[2] == "M" else 1
        assert row["published"] == pytest.approx(printed * scale), row["id"]


def unchanged(path):
    """The published PPL without any changed head, to which a PPL of a ladder or a context length is compared."""
    place = re.search(r"\.ppl(\[\d\])$", path)
    if place:
        return value(f"P4.conditions[condition=baseline].ppl{place[1]}")
    return value("V1.ppl_full" if path.startswith("V4.cumulative[") else "V1.ppl_2k")


def test_no_tolerance_is_wider_than_its_figure_needs():
    for row in figures(kind="weights"):
        if row["reason"] in ("print", "ladder", "quotient", "half", "greedy"):
            number, figure = row["printed"].strip("+−x %"), abs(row["published"])
            half = 0.5 * 10 ** -len(number.partition(".")[2]) * (0.01 if "%" in row["printed"] else 1)
            more = {"print": 0.002, "quotient": 0.01, "half": 0, "greedy": 0.03}.get(row["reason"], 0) * figure
            if row["reason"] == "ladder":
                is_ratio = row["path"].split(".")[-1].startswith("ratio")
                excess = 0.1 * (figure - 1) if is_ratio else 0.1 * (figure - unchanged(row["path"])) + 0.002 * figure
                more = min(0.01 * figure, excess)
            assert row["tolerance"] == pytest.approx(half + more, rel=1e-4), row["id"]


def test_no_ratio_of_the_ladder_is_reproduced_without_its_loss():
    """A ratio of 1, or half the printed excess, is not what was published."""
    for row in figures(reason="ladder"):
        if row["path"].split(".")[-1].startswith("ratio") and row["published"] > 1.005:
            assert row["published"] - row["tolerance"] > 1 + (row["published"] - 1) / 2, row["id"]


@pytest.mark.parametrize(
    ("section", "number"),
    [("V1", 9), ("V2", 41), ("V3", 11), ("V4", 57), ("V5", 2), ("P1", 10), ("P2", 11), ("P3", 18), ("P4", 20)]
    + [("phase 1", 52), ("phase 1.5", 33), ("phase 2", 46), ("setup", 6)],
)
def test_every_table_is_there(section, number):
    assert len(figures(section=section)) == number


def test_published_figures_at_their_places():
    assert value("V4.cumulative[n_linearized=30].ratio") == 1.133
    assert value("V4.thresholds_2k[1.5]") == 70
    assert value("P3.conditions[condition=relu_30].first_n[3]") == 8.68
    assert value("phases.zero.heads[layer=11,head=0].delta") == 0.156
    assert value("phases.zero.cumulative[n=10].ratio") == pytest.approx(26.29 / 24.27)
    assert value("V4.cumulative[n_linearized=55].ratio") is None


def test_the_published_run_reproduces_itself():
    card = scorecard.score(gpt2())
    assert card["counts"] and card["differing"] == card["missing"] == []
    assert card["reproduced"] == card["total"] == len(card["rows"]) - len(figures(kind="machine"))
    assert scorecard.headline(card) == f"{card['total']} of {card['total']} reproduced"


def altered(figure):
    """The published run with the one number behind `figure` moved out of its tolerance."""
    found = gpt2()
    *place, last = re.split(r"\.(?=[a-zA-Z_\d]+(?:\[\d+\])?$)", figure["path"])
    step = max(2.5 * (figure["tolerance"] or 0.2 * figure["published"]), 1e-3)
    name, _, index = last.partition("[")
    if index and not index.startswith(("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")):
        raise AssertionError(last)
    row = lookup(found, place[0])
    if index:
        row[name][int(index[:-1])] += step
    else:
        row[name] += step
    return found


@pytest.mark.parametrize(
    "id",
    ["V1.ppl_full", "V2.L0H11.rank_full", "V3.reduction_full", "V4.30.ratio_full", "V4.132.ppl_2k", "V5.average"]
    + ["P2.relu_70.iteration_3", "P3.relu_30.best_of_5", "P3.equal_flops_70.extra", "P4.512.relu_70.ratio"]
    + ["phase1.L0H8", "phase1.alpha", "phase1.5.negative", "phase2.l1.max", "phase2.mix.cumulative_60", "P1.theory_30"],
)
def test_an_altered_number_is_named(id):
    (figure,) = figures(id=id)
    assert id in scorecard.score(altered(figure))["differing"]


def test_a_threshold_that_moved_is_named_with_what_follows_from_it():
    found = gpt2()
    found["V4"]["thresholds_full"]["1.1"] = 30
    assert scorecard.score(found)["differing"] == ["V4.threshold_1.1.full", "V4.threshold_1.1.change"]


def test_a_missing_number_is_no_reproduction():
    found = gpt2()
    del found["V4"]["cumulative"][3]
    card = scorecard.score(found)
    assert card["missing"] == ["V4.30.ppl_full", "V4.30.ratio_full"]
    assert card["total"] - card["reproduced"] == 2


def test_a_null_is_missing():
    found = gpt2()
    found["V3"]["reduction_full"] = None
    assert "V3.reduction_full" in scorecard.score(found)["missing"]


def test_another_model_does_not_count_but_arithmetic_still_does():
    card = scorecard.score(measured.build())
    assert not card["counts"] and card["reason"] == "model"
    compared = [row for row in card["rows"] if row["verdict"] != "not comparable"]
    assert {row["kind"] for row in compared} == {"exact"}
    assert card["reproduced"] == card["total"] == len(compared) == 14
    assert "GPT-2 small" in scorecard.headline(card)


def test_gpt2_on_another_corpus_does_not_count():
    found = gpt2()
    found["setup"]["corpus"]["n_tokens"] = 300_000
    assert scorecard.score(found)["reason"] == "corpus"


def test_a_short_run_is_held_against_the_figures_of_its_own_tokens_only():
    found = gpt2()
    found["setup"]["full_tokens"] = 20_480
    rows = {row["id"]: row["verdict"] for row in scorecard.score(found)["rows"]}
    assert rows["V1.ppl_full"] == rows["V4.30.ratio_full"] == rows["P4.512.baseline"] == "not comparable"
    assert rows["V1.ppl_2k"] == rows["phase1.L0H8"] == rows["P2.baseline.iteration_1"] == "reproduced"


def test_prompts_from_other_chunks_are_not_held_against_the_published_ones():
    found = gpt2()
    found["P3"]["chunks"] = list(range(0, 240, 12))
    rows = {row["id"]: row["verdict"] for row in scorecard.score(found)["rows"]}
    assert rows["P2.baseline.iteration_1"] == rows["P3.relu_30.best_of_5"] == "not comparable"
    assert rows["V1.ppl_full"] == rows["P4.512.baseline"] == "reproduced"


def test_timings_are_shown_and_never_counted():
    found = gpt2()
    found["P1"]["rows"][0]["tok_per_s"] = 5000.0
    rows = {row["id"]: row for row in scorecard.score(found)["rows"]}
    assert rows["P1.baseline.tok_per_s"]["verdict"] == "not comparable"
    assert rows["P1.baseline.tok_per_s"]["measured"] == 5000.0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    measured.write(folder, measured.build())
    return folder


@pytest.fixture
def folder(tmp_path, written):
    """A copy of its own of the written results."""
    return shutil.copytree(written, tmp_path, dirs_exist_ok=True)


def leaves(data, path=()):
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in items:
        if isinstance(child, (int, float)) and not isinstance(child, bool):
            yield (*path, key)
        yield from leaves(child, (*path, key))


def moved(data, path):
    """The data with the number at `path` 3 % off, or 0.01 where it is nothing; all beside the path is shared."""
    data = place = copy.copy(data)
    for key in path[:-1]:
        place[key] = place = copy.copy(place[key])
    old = place[path[-1]]
    place[path[-1]] = old + 1 if isinstance(old, int) else old * 1.03 if abs(old) > 1e-12 else 0.01
    return data


def test_results_that_follow_from_each_other(folder):
    assert audit.audit(folder) == []
    assert scorecard.main([str(folder)]) == 0


@pytest.mark.parametrize("kind", ["exp10v", "exp10p", "exp10r", "exp10s"])
def test_every_number_of_an_assembled_file_is_watched(kind):
    found = measured.build()
    whole = io.plain(assembled.BY_PART[kind[-1]](found, None))
    places = list(leaves(whole))
    assert len(places) > 80
    for place in places:
        (line,) = audit.unlike(whole, moved(whole, place), kind)
        assert all(f"[{key}]" in line if isinstance(key, int) else f".{key}" in line for key in place)


NAMES = ("layer", "head", "n", "n_linearized")
WINDOWS = {"lowest", "median", "highest"}  # of windows' figures, whose scores are not kept
ALONE = {  # measured figures from which the results hold nothing else, and what a run was asked for
    "V2": WINDOWS | {"scan.heads.delta"},  # of chunks whose scores are not kept; ranks follow from them
    "V3": WINDOWS,
    # a window's place in the text, what its ranking shares with the run's, and the spread over rankings
    "V4": WINDOWS
    | {"cross_fit.windows.start", "cross_fit.windows.shared", "crossings_sd.1.1", "crossings_sd.1.5"}
    | {"crossings_sd.2.0"},
    # medians over runs that are not kept, and what was asked for
    "P1": {"relative", "P1.n_tokens", "P1.n_runs"},
    "P2": {"distinct_2", "longest_repeat", "repeated_4gram_share"},  # of texts that are not kept
    "P3": {"temperature"},
    # from a kept record, of trained models that are not kept
    "R3": {"shares.half", "shares.1.01", "shares.1.02", "shares.1.05", "shares.1.1", "shares.1.5", "shares.2.0"}
    | {"alpha", "last_share", "layer_0_share", "ratio_all"}
    | {"n_embd", "n_layer", "family.n_head", "n_params", "n_params_blocks", "ppl", "seed"},
    # of models that were trained and not kept
    "R4": {f"{who}copying_{when}" for who in ("", "control_") for when in ("before", "after")}
    | {"ppl", "control_ppl", "half", "n_heads", "n_seeds", "share", "other_share", "tokens"},
    # of scores on pieces of text, and what was asked for
    "S1": {"select", "climb", "difference", "n_windows", "ns", "order_tokens"},
    "S2": {"agreement", "kl", "gain", "kept", "kept_limit", "told_limit", "length", "n_sequences", "n_tokens"}
    | {"other_tokens", "bins", "ratios"},
}


def places_of(found):
    """Paths of all figures but the set-up's and the ends of intervals; one in three of long lists."""
    for place in leaves(found):
        names = [key for key in place if isinstance(key, str)]
        in_interval = any(name.endswith("_ci") for name in names)
        if (
            place[0] != "setup"
            and names[-1] not in NAMES
            and not in_interval
            and not any(isinstance(k, int) and k > 3 and k % 3 for k in place)
        ):
            yield place, names


def exempt(names):
    """The entry of `ALONE` that a figure's place ends in."""
    place = ".".join(names)
    return next((end for end in ALONE.get(names[0], ()) if f".{place}".endswith(f".{end}")), None)


def test_every_measured_figure_of_the_sections_is_watched():
    """But those that stand alone; and of these, none that the audit does watch."""
    found = measured.build()
    places = list(places_of(found))
    assert len(places) > 400
    own_first = {place[0]: {place[0]: found[place[0]]} | found for place, _ in places}
    silent = [names for place, names in places if not any(audit.contradictions(moved(own_first[place[0]], place)))]
    assert {".".join(names) for names in silent if not exempt(names)} == set()
    needed = {(names[0], exempt(names)) for names in silent}
    assert {(section, end) for section, ends in ALONE.items() for end in ends} - needed == set()


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (("V4", "cumulative", 2, "ratio"), "V4.cumulative[n_linearized=5].ratio"),
        (("V3", "reduction_2k"), "V3.reduction_2k"),
        (("phases", "identity", "heads", 3, "delta"), "phases.identity.heads L1H3 delta"),
        (("V1", "change"), "V1.change"),
        (("V2", "top10", 2, "rank_full"), "V2.top10 L0H2 rank_full"),
        (("P4", "conditions", 1, "ratio", 0), "P4.conditions[condition=relu_2].ratio[0]"),
        (("P1", "rows", 0, "ms_per_tok"), "P1.rows[condition=baseline,protocol=recomputed].ms_per_tok"),
        (("V4", "thresholds_full", "1.1"), "V4.thresholds_full[1.1]"),
        (("P2", "conditions", 2, "ppl_by_prompt", 1, 4), "P2.conditions[condition=relu_5].ppl"),
        (("P2", "falls", 3, "difference"), "P2.falls[condition=relu_2,iteration=3].difference"),
        (("P3", "conditions", 1, "ppl_by_sample", 7, 2), "P3.conditions[condition=relu_2].expected"),
        (("P3", "equal_n", 4, "difference"), "P3.equal_n[4].difference"),
        (("P3", "judged", 9, "value"), "P3.judged[9].value"),
        (("R3", "slopes", 0, "slope"), "R3.slopes"),
        (("S1", "asked", 0, "evidence", "difference"), "S1.asked[0].evidence"),
        (("P4", "excess_ratios", 0, "ratio"), "P4.excess_ratios[condition=relu_2,shorter=16,longer=64].ratio"),
    ],
)
def test_an_altered_section_is_named(folder, capsys, place, name):
    path = io.section_path(folder, place[0])
    record = json.loads(path.read_text(encoding="utf-8"))
    record["data"] = moved(record["data"], place[1:])
    path.write_text(json.dumps(record), encoding="utf-8")
    assert scorecard.main([str(folder)]) == 1
    assert name in capsys.readouterr().out


def test_an_altered_assembled_file_is_named(folder, capsys):
    path = folder / "exp10v_validation_drawn.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["v4_cumulative"][1]["ppl"] += 0.5
    path.write_text(json.dumps(record), encoding="utf-8")
    assert scorecard.main([str(folder)]) == 1
    assert "exp10v_validation_drawn.json: v4_cumulative[1].ppl is" in capsys.readouterr().out


def test_a_figure_outside_its_interval_is_named():
    found = measured.build()
    found["P2"]["conditions"][1]["ppl"][2] = 9.0
    assert any("P2.conditions[1].ppl[2] is 9" in line for line in audit.inconsistencies(found))


def test_a_section_without_a_figure_is_named_not_crashed_on():
    found = measured.build()
    del found["V3"]["zero_delta_ppl_2k"]
    assert any(line.startswith("V3 can't be checked") for line in audit.inconsistencies(found))


def test_a_verdict_that_its_rule_does_not_give_is_named():
    found = measured.build()
    claims = copy.deepcopy(rules.evaluate(found))
    counts = {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in VERDICTS}
    rest = {"hypothesis": rules.hypothesis(found), "sensitivity": rules.sensitivity(found)}
    found["conclusions"] = {"claims": claims, "counts": counts, **rest}
    assert audit.inconsistencies(found) == []
    found["conclusions"]["claims"][1]["verdict"] = "fails"
    lines = audit.inconsistencies(found)
    assert len(lines) == 2 and "conclusions.counts" in lines[0]
    assert "conclusions.claims[id=constant_bias].verdict" in lines[1]


def test_the_command_says_what_it_needs(tmp_path, capsys):
    assert scorecard.main([]) == 2
    assert "usage" in capsys.readouterr().err
    assert scorecard.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert scorecard.main(["../.."]) == 2
    assert "'../..' has no results" in capsys.readouterr().err


def test_the_table_prints_every_comparable_row():
    card = scorecard.score(gpt2())
    text = scorecard.table(card)
    assert all(row["id"] in text for row in card["rows"])
    assert not any(math.isnan(row["difference"]) for row in card["rows"] if row["difference"] is not None)
