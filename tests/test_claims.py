import re

import measured
import published_run
import pytest

from lib.claims import judging, rules
from lib.errors import InputError
from lib.results import io

HOLDS, FAILS, OPEN, NOT_MEASURED = judging.VERDICTS


def judged(found):
    return {claim["id"]: claim for claim in rules.evaluate(found)}


def verdict(found, name):
    return judged(found)[name]["verdict"]


@pytest.fixture
def found():
    return published_run.build()


def condition(found, section, name):
    return next(row for row in found[section]["conditions"] if row["condition"] == name)


def test_the_published_figures_give_the_published_conclusions(found):
    verdicts = {name: claim["verdict"] for name, claim in judged(found).items()}
    assert verdicts.pop("rise_at_longest") == OPEN  # published without an interval, "may be noise"
    assert set(verdicts.values()) == {HOLDS}


def test_the_published_run_is_a_whole_one(found):
    for section, data in found.items():
        io.validate_section(section, io.plain(data), "published")


def test_without_results_nothing_is_measured():
    for claim in rules.evaluate({}):
        assert claim["verdict"] == NOT_MEASURED and claim["evidence"] == {}


def test_a_section_that_was_not_run_leaves_just_its_claims_unmeasured(found):
    for section in ("setup", "phases", "V1", "V2", "V3", "V4", "V5", "P2", "P3", "P4"):
        claims = rules.evaluate({name: data for name, data in found.items() if name != section})
        assert {c["id"] for c in claims if c["verdict"] == NOT_MEASURED} == {
            c["id"] for c in claims if section in c["sections"]
        }, section


def accessed(data, seen):
    """`data` whose dicts note the keys that are read from them."""

    class Noting(dict):
        def __getitem__(self, key):
            seen.add(key)
            return super().__getitem__(key)

    return Noting(data)


def test_no_claim_reads_a_section_that_it_does_not_name(found):
    for claim in rules.CLAIMS:
        seen = set()
        judging.judged(claim, accessed(found, seen))
        assert seen == set(claim.sections), claim.id


@pytest.mark.parametrize(
    ("place", "id"),
    [
        (("V3", "constant_share_full_ci"), "constant_bias"),
        (("V2", "spearman_ci"), "stable_ranking"),
        (("V4", "cross_fit"), "thresholds_within_ten"),
        (("setup", "n_rankable"), "relu_nearly_harmless"),
        (("setup", "relu_counts"), "best_of_n_recovers"),
        (("P3", "new_tokens"), "equal_flops_insufficient"),
        (("P2", "conditions"), "refinement_degenerates"),
    ],
)
def test_a_wrong_key_is_an_error_that_names_it(found, place, id):
    section, key = place
    found[section][f"{key}x"] = found[section].pop(key)
    with pytest.raises(InputError, match=key) as caught:
        judging.judged(rules.BY_ID[id], found)
    assert id in str(caught.value) and "\n" not in str(caught.value)


def test_a_condition_that_is_not_there_is_an_error(found):
    found["setup"]["relu_counts"] = [30, 71]
    with pytest.raises(InputError, match="relu_71"):
        rules.evaluate(found)


def test_every_claim_speaks_both_languages(found):
    for claim in rules.evaluate(found):
        for text in (claim["statement"], claim["rule"]):
            assert re.search(r"[ぁ-ん]", text["ja"]) and text["ja"].endswith("。")
            assert not re.search(r"(です|ます)。", text["ja"])
            assert re.fullmatch(r"[A-Z“][^ぁ-んァ-ヶ一-龠]+\.", text["en"])


def test_statements_name_the_run_that_they_are_about():
    found = measured.build()
    texts = {claim["id"]: claim["statement"]["en"] for claim in rules.evaluate(found)}
    assert "2 ReLU heads" in texts["best_of_n_recovers"] and "5 ReLU heads" in texts["best_of_n_recovers_more"]
    assert f"L{found['V3']['layer']}H{found['V3']['head']}" in texts["constant_bias"]


@pytest.mark.parametrize(
    ("ends", "verdicts"),
    [
        ((2.0, 3.0), (HOLDS, FAILS)),
        ((0.0, 0.5), (FAILS, HOLDS)),
        ((0.5, 2.0), (OPEN, OPEN)),
        ((1.0, 1.0), (FAILS, HOLDS)),
    ],
)
def test_an_interval_around_the_limit_leaves_it_open(ends, verdicts):
    assert (judging.above(ends, 1.0), judging.at_most(ends, 1.0)) == verdicts


def test_two_intervals_that_overlap_are_not_told_apart():
    assert judging.less((1, 2), (3, 4)) == HOLDS
    assert judging.less((3, 4), (1, 2)) == FAILS
    assert judging.less((1, 3), (2, 4)) == OPEN


def test_all_of():
    assert judging.all_of([HOLDS, HOLDS]) == HOLDS
    assert judging.all_of([HOLDS, OPEN]) == OPEN
    assert judging.all_of([OPEN, FAILS]) == FAILS
    assert judging.all_of([]) == OPEN


def test_wilson_by_hand():
    assert judging.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert judging.wilson(0, 10)[0] == pytest.approx(0.0, abs=1e-12)


def test_ranking_fails_when_the_leader_surely_changed(found):
    row = next(row for row in found["V2"]["top10"] if row["rank_2k"] == 1)
    row |= {"rank_all": 2, "rank_all_ci": [2, 3]}
    assert verdict(found, "stable_ranking") == FAILS
    row["rank_all_ci"] = [1, 3]
    assert verdict(found, "stable_ranking") == OPEN


def test_ranking_needs_its_correlation(found):
    found["V2"] |= {"spearman": 0.9, "spearman_ci": [0.7, 0.95]}
    assert verdict(found, "stable_ranking") == OPEN
    found["V2"]["spearman_ci"] = [0.1, 0.5]
    assert verdict(found, "stable_ranking") == FAILS


@pytest.mark.parametrize(
    ("share", "ends", "expected"),
    [(0.99, [0.97, 0.995], HOLDS), (0.96, [0.9, 0.98], OPEN), (0.5, [0.4, 0.6], FAILS), (0.99, None, OPEN)],
)
def test_constant_bias_by_its_interval(found, share, ends, expected):
    found["V3"] |= {"constant_share_full": share, "constant_share_full_ci": ends}
    assert verdict(found, "constant_bias") == expected


def test_a_head_that_does_nothing_has_no_bias_to_judge(found):
    found["V3"]["zero_delta_ppl_full_ci"] = [-0.1, 0.2]
    assert verdict(found, "constant_bias") == OPEN


@pytest.mark.parametrize(
    ("ends", "expected"),
    [([-10, 3], HOLDS), ([-20, 0], OPEN), ([-30, -11], FAILS), ([11, 12], FAILS), ([-12, 12], OPEN), ([2, None], OPEN)],
)
def test_thresholds_by_the_interval_of_their_move(found, ends, expected):
    found["V4"]["cross_fit"]["shifts_ci"]["1.1"] = ends
    assert verdict(found, "thresholds_within_ten") == expected


def test_thresholds_without_cross_fitting_go_by_the_text_alone(found):
    found["V4"]["cross_fit"] = None
    found["V4"]["shifts_ci"]["1.1"] = [-20, -15]
    assert verdict(found, "thresholds_within_ten") == FAILS


@pytest.mark.parametrize(
    ("average", "median", "selection", "expected"),
    [
        (24.6, 11.6, [-0.03, -0.01], HOLDS),
        (24.6, 11.6, [-0.03, 0.01], OPEN),
        (24.6, 3.0, [-0.03, -0.01], OPEN),
        (24.6, 11.6, [0.01, 0.02], FAILS),
        (-30.0, -20.0, [-0.03, -0.01], FAILS),
    ],
)
def test_optimism(found, average, median, selection, expected):
    found["V5"] |= {"mean_diff_pct": average, "median_diff_pct": median}
    next(row for row in found["V4"]["cross_fit"]["optimism"] if row["n"] == 30)["excess_ci"] = selection
    assert verdict(found, "quick_optimistic") == expected


def test_optimism_without_cross_fitting_is_open(found):
    found["V4"]["cross_fit"] = None
    assert verdict(found, "quick_optimistic") == OPEN


@pytest.mark.parametrize(("ends", "expected"), [([1.2, 1.5], HOLDS), ([0.9, 1.2], OPEN), ([0.4, 0.9], FAILS)])
def test_inequality_by_the_exponent(found, ends, expected):
    found["phases"]["alpha_ci"] = ends
    assert verdict(found, "heads_unequal") == expected


@pytest.mark.parametrize(
    ("ends", "expected"), [([0.001, 0.01], HOLDS), ([-0.01, 0.02], OPEN), ([-0.02, -0.01], FAILS), (None, OPEN)]
)
def test_strengthening_by_the_interval_of_the_change(found, ends, expected):
    found["V3"]["constant_share_change_ci"] = ends
    assert verdict(found, "bias_strengthened") == expected


@pytest.mark.parametrize(
    ("covered", "n_disjoint", "tokens", "expected"),
    [(0.6, 32, 65_536, HOLDS), (0.6, 32, 10_000, OPEN), (0.9, 32, 65_536, OPEN), (0.98, 200, 65_536, FAILS)],
)
def test_many_tokens_by_how_often_few_are_enough(found, covered, n_disjoint, tokens, expected):
    found["V1"]["coverage"][0] |= {"covered": covered, "n_disjoint": n_disjoint}
    found["V1"]["total_tokens"] = tokens
    assert verdict(found, "many_tokens_needed") == expected


def head(layer, delta, width=0.001):
    return {"layer": layer, "head": 0, "delta": delta, "delta_ci": [delta - width, delta + width]}


@pytest.mark.parametrize(("small", "width", "expected"), [(8, 0.001, HOLDS), (3, 0.001, FAILS), (8, 0.02, OPEN)])
def test_harmless_counts_heads_by_their_intervals(found, small, width, expected):
    found["phases"]["relu"]["heads"] = [head(1, 0.002, width)] * small + [head(1, 0.05, width)] * (10 - small)
    assert verdict(found, "relu_nearly_harmless") == expected


def test_harmless_needs_heads_that_go_together(found):
    found["V4"]["cross_fit"]["crossings_ci"]["1.1"] = [10, 10]
    assert verdict(found, "relu_nearly_harmless") == FAILS
    found["V4"]["cross_fit"]["crossings_ci"]["1.1"] = [10, 20]
    assert verdict(found, "relu_nearly_harmless") == OPEN


@pytest.mark.parametrize(("gap", "expected"), [([-0.1, -0.05], HOLDS), ([-0.1, 0.1], OPEN), ([0.01, 0.1], FAILS)])
def test_harmless_needs_more_than_heads_that_do_nothing(found, gap, expected):
    frozen = next(row for row in found["V4"]["controls"]["rows"] if row["control"] == "mean")
    next(row for row in frozen["against_relu"] if row["n"] == 30)["difference_ci"] = gap
    assert verdict(found, "relu_nearly_harmless") == expected


def test_harmless_without_controls_is_open(found):
    found["V4"]["controls"] = None
    assert verdict(found, "relu_nearly_harmless") == OPEN


def test_the_best_of_three(found):
    counts = found["phases"]["mix"]["counts"]
    counts |= {"relu": 68, "l1": 62, "identity": 2}
    assert verdict(found, "relu_best") == OPEN
    counts |= {"relu": 20, "l1": 110}
    assert verdict(found, "relu_best") == FAILS
    counts |= {"relu": 104, "l1": 26}
    found["phases"]["paired"]["l1"]["median_ci"] = [-0.001, 0.001]
    assert verdict(found, "relu_best") == OPEN
    found["phases"]["paired"]["l1"]["median_ci"] = [0.001, 0.002]
    assert verdict(found, "relu_best") == FAILS


@pytest.mark.parametrize(("ends", "expected"), [([0.6, 0.8], HOLDS), ([0.4, 0.6], OPEN), ([0.1, 0.26], FAILS)])
def test_concentration_by_the_share_s_own_interval(found, ends, expected):
    found["phases"]["layer0_share_ci"] = ends
    assert verdict(found, "layer0_concentration") == expected


def test_refinement_is_told_by_repetition(found):
    assert verdict(found, "refinement_degenerates") == HOLDS
    row = found["P2"]["conditions"][1]
    row["repeated_4gram_share_ci"][-1] = [0.4, 0.6]
    assert verdict(found, "refinement_degenerates") == OPEN
    row["repeated_4gram_share_ci"][-1] = [0.1, 0.1]
    assert verdict(found, "refinement_degenerates") == FAILS
    assert verdict(found, "hypothesis_5") == OPEN


def last_falls(found):
    return [row for row in found["P2"]["falls"] if row["iteration"] == found["P2"]["iterations"]]


def test_refinement_is_told_prompt_by_prompt(found):
    """The two means' own intervals overlap; what decides is the difference over the same prompts."""
    for row in found["P2"]["conditions"]:
        row["ppl_ci"] = [[1.0, 4.0]] * 3
    first, second, *_ = last_falls(found)
    for row in found["P2"]["falls"]:
        row["difference_ci"] = [-0.7, -0.3] if row["iteration"] == 3 else [0.2, 0.4]
    assert verdict(found, "refinement_degenerates") == HOLDS
    first["difference_ci"] = [-0.7, 0.1]
    assert verdict(found, "refinement_degenerates") == OPEN
    second["difference_ci"] = [0.1, 0.7]
    assert verdict(found, "refinement_degenerates") == FAILS


@pytest.mark.parametrize(
    ("ends", "expected"),
    [([-0.05, 0.08], HOLDS), ([-0.02, 0.3], OPEN), ([0.2, 0.9], FAILS), ([-0.9, -0.2], FAILS), ([-0.3, 0.3], OPEN)],
)
def test_a_gap_vanishes_where_its_whole_interval_is_small(found, ends, expected):
    for row in found["P2"]["gaps"]:
        row["relative_ci"] = ends if row["iteration"] == 3 else [5.0, 6.0]
    assert verdict(found, "conditions_converge") == expected


def test_recovery_is_told_by_the_paired_difference(found):
    row, base = condition(found, "P3", "relu_30"), condition(found, "P3", "baseline")
    row["expected_ci"][-1], base["expected_ci"][0] = [7.0, 14.0], [11.0, 16.0]
    gap = found["P3"]["against_baseline"][0]
    at = found["P3"]["n"].index(gap["best_of"])
    equal = next(r for r in found["P3"]["equal_n"] if (r["condition"], r["n"]) == (gap["condition"], gap["best_of"]))
    equal["difference"] = 1.25
    claim = judged(found)["best_of_n_recovers"]
    assert claim["verdict"] == HOLDS
    assert (claim["evidence"]["best"], claim["evidence"]["equal_n"]) == (row["expected"][at], 1.25)
    gap["difference_ci"] = [-6.0, 2.0]
    assert verdict(found, "best_of_n_recovers") == OPEN
    gap["difference_ci"] = [2.0, 6.0]
    assert verdict(found, "best_of_n_recovers") == FAILS


def test_equal_flops_compares_with_one_candidate(found):
    rows = found["P3"]["equal_flops"]
    rows[1]["extra_model"] = 63
    assert verdict(found, "equal_flops_insufficient") == HOLDS
    rows[1]["extra_model"] = 64
    assert verdict(found, "equal_flops_insufficient") == verdict(found, "hypothesis_5") == FAILS
    found["P3"]["new_tokens"] = 100
    assert verdict(found, "equal_flops_insufficient") == HOLDS


@pytest.mark.parametrize(
    ("ends", "expected"),
    [([0.8, 1.2], HOLDS), ([0.4, 0.6], OPEN), ([0.2, 0.45], FAILS), ([1.5, 2.5], OPEN), ([2.1, 3.0], FAILS)]
    + [([None, 0.4], FAILS), ([0.8, None], OPEN)],
)
def test_context_stability_is_that_of_the_excess(found, ends, expected):
    own = [row for row in found["P4"]["excess_ratios"] if row["condition"] == "relu_30"]
    for row in found["P4"]["excess_ratios"]:
        row["ratio_ci"] = [0.9, 1.1] if row["condition"] == "relu_30" else [9.0, 9.5]
    own[-1]["ratio_ci"] = ends
    assert verdict(found, "context_stable") == expected


def test_long_contexts_by_the_paired_difference(found):
    row, paired = condition(found, "P4", "relu_70"), found["P4"]["longest_against_shortest"][-1]
    row["ratio_ci"] = [[r - 0.15, r + 0.15] for r in row["ratio"]]
    assert verdict(found, "long_context_helps") == HOLDS
    paired["difference_ci"] = [-0.4, 0.1]
    assert verdict(found, "long_context_helps") == OPEN
    paired["difference_ci"] = [0.05, 0.1]
    assert verdict(found, "long_context_helps") == FAILS


@pytest.mark.parametrize(("ends", "expected"), [([0.05, 0.2], HOLDS), ([-0.1, 0.2], OPEN), ([-0.2, -0.1], FAILS)])
def test_the_rise_at_the_longest_context(found, ends, expected):
    found["P4"]["rise_at_longest"][-1] |= {"difference": sum(ends) / 2, "difference_ci": ends}
    assert verdict(found, "rise_at_longest") == expected


def test_hypothesis_is_open_where_a_part_is(found):
    last_falls(found)[0]["difference_ci"] = [None, None]
    assert verdict(found, "hypothesis_5") == OPEN


def test_a_null_is_open(found):
    condition(found, "P4", "relu_30")["ratio"][0] = None
    assert verdict(found, "context_stable") == OPEN
    found["P4"]["rise_at_longest"] = []
    assert verdict(found, "rise_at_longest") == OPEN


def test_an_unbounded_interval_is_no_certainty(found):
    found["V3"] |= {"constant_share_full": 0.99, "constant_share_full_ci": [None, 0.999]}
    assert verdict(found, "constant_bias") == OPEN


def test_evidence_is_plain_data():
    import json

    json.dumps(rules.evaluate(measured.build()), allow_nan=False)


def test_no_rule_looks_at_a_timing(found):
    before = rules.evaluate(found)
    for row in found["P1"]["rows"]:
        row["tok_per_s"] = 1e6
    assert rules.evaluate(found) == before


def test_a_claim_says_whose_it_is_and_who_set_its_limits(found):
    for claim, told in zip(rules.CLAIMS, rules.evaluate(found), strict=True):
        assert told["published_in"]["ja"] and told["published_in"]["en"]
        assert (told["limit_set"] == "none") == (not claim.limits)
        assert set(claim.others) <= set(claim.limits)
        assert all(value != claim.limits[name] for name, values in claim.others.items() for value in values)
    assert {claim.id for claim in rules.CLAIMS if claim.kind == "arithmetic"} == {"equal_flops_insufficient"}


def test_other_limits_give_other_verdicts(found):
    found["V3"]["constant_share_full_ci"] = [0.96, 0.97]
    rows = {(row["id"], row["variant"], row["value"]): row["verdict"] for row in rules.sensitivity(found)}
    assert verdict(found, "constant_bias") == HOLDS
    assert rows["constant_bias", "share", 0.9] == HOLDS and rows["constant_bias", "share", 0.99] == FAILS
    assert rows["best_of_n_recovers", "equal n", None] in judging.VERDICTS
    assert len(rows) == len(rules.sensitivity(found))


def test_chunks_as_units_and_the_ranking_held_fixed(found):
    """The verdict by the narrower intervals, whatever the rule's own say."""
    found["V2"]["by_chunk"] = {
        "spearman_ci": [0.1, 0.2],
        "rank_all_ci": [r["rank_all_ci"] for r in found["V2"]["top10"]],
    }
    found["V3"]["constant_share_full_ci"] = [0.9, 0.99]
    found["V3"]["by_chunk"]["constant_share_full_ci"] = [0.96, 0.97]
    v4 = found["V4"]
    v4["cross_fit"]["shifts_ci"] = {limit: [-50.0, 50.0] for limit in v4["crossings_full"]}
    v4["shifts_ci"] = {limit: [-1.0, 1.0] for limit in v4["crossings_full"]}
    v4["by_chunk"]["shifts_ci"] = {limit: [20.0, 21.0] for limit in v4["crossings_full"]}
    told = {(row["id"], row["variant"]): row["verdict"] for row in rules.sensitivity(found) if row["value"] is None}
    assert verdict(found, "stable_ranking") == HOLDS and told["stable_ranking", "chunks as units"] == FAILS
    assert verdict(found, "constant_bias") == OPEN and told["constant_bias", "chunks as units"] == HOLDS
    assert verdict(found, "thresholds_within_ten") == OPEN
    assert told["thresholds_within_ten", "ranking held fixed"] == HOLDS
    assert told["thresholds_within_ten", "ranking held fixed, chunks as units"] == FAILS


@pytest.mark.parametrize(
    ("id", "section", "unit", "rows", "variant"),
    [
        (id, "P4", unit, rows, variant)
        for unit, variant in (("chunk", "chunks as units"), ("tokens", "blocks of tokens as units"))
        for id, rows in (
            ("context_stable", "excess_ratios"),
            ("long_context_helps", "longest_against_shortest"),
            ("rise_at_longest", "rise_at_longest"),
        )
    ]
    + [
        ("refinement_degenerates", "P2", "document", "falls", "documents as units"),
        ("conditions_converge", "P2", "document", "gaps", "documents as units"),
        ("best_of_n_recovers", "P3", "document", "against_baseline", "documents as units"),
        ("best_of_n_recovers_more", "P3", "document", "against_baseline", "documents as units"),
    ],
)
def test_other_units_of_part_p(found, id, section, unit, rows, variant):
    """Their own intervals decide, and theirs alone; where there are none, nothing can be told."""

    def told():
        return {(row["id"], row["variant"]): row["verdict"] for row in rules.sensitivity(found) if row["value"] is None}

    own, n = verdict(found, id), len(found[section][rows])
    before = told()
    verdicts = set()
    for ends in ([-9.0, -8.0], [8.0, 9.0], None):
        found[section][f"by_{unit}"][f"{rows}_ci"] = [ends] * n
        after = told()
        assert verdict(found, id) == own
        assert {key[0] for key in after if key[1] != variant and after[key] != before[key]} == set()
        verdicts.add(after[id, variant])
    assert after[id, variant] == OPEN and verdicts - {OPEN} and len(verdicts) > 1


def test_other_ways_to_judge(found):
    rows = [row for row in found["P3"]["equal_n"] if row["n"] == found["P3"]["n"][-1]]
    for row, ends in zip(rows, ([-2.0, -1.0], [1.0, 2.0]), strict=True):
        row["difference_ci"] = ends
    told = {(row["id"], row["variant"]): row["verdict"] for row in rules.sensitivity(found)}
    assert told["best_of_n_recovers", "equal n"] == HOLDS
    assert told["best_of_n_recovers_more", "equal n"] == FAILS
    found["P3"]["judged"] = []
    told = {(row["id"], row["variant"]): row["verdict"] for row in rules.sensitivity(found)}
    assert told["best_of_n_recovers", "second judge scores"] == OPEN
    del found["P3"]
    assert {row["verdict"] for row in rules.sensitivity(found) if row["id"].startswith("best_of_n")} == {NOT_MEASURED}


def test_a_head_that_the_2k_missed_counts_among_the_ranks(found):
    """Its place is taken by a head that is in nobody's table of the 2K's first."""
    leader = next(row for row in found["V2"]["top10"] if row["rank_2k"] == 1)
    assert leader["rank_full"] == 1
    leader |= {"rank_all": 2, "rank_all_ci": [2, 2]}
    claim = judged(found)["stable_ranking"]
    assert claim["verdict"] == FAILS and not claim["evidence"]["same_top"]
