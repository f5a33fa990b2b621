import math
import time

import numpy as np
import pytest

from lib.analysis import bootstrap, head_effects, perplexity, quick_vs_full
from lib.errors import InputError


def drawn(n_chunks, n_ctx=64, level=3.0, seed=0):
    return np.random.default_rng(seed).normal(level, 1.0, (n_chunks, n_ctx - 1)).astype(np.float32)


def test_ppl_is_exp_of_the_mean_over_predicted_tokens():
    nll = np.log(np.array([[2.0, 8.0], [4.0, 4.0]], dtype=np.float32))
    assert perplexity.ppl(nll) == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_named(bad):
    nll = drawn(3)
    nll[1, 5] = bad
    with pytest.raises(InputError, match="chunk 1, position 5"):
        perplexity.ppl(nll)


@pytest.mark.parametrize("shape", [(0, 5), (4,), (2, 3, 4)])
def test_scores_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match="n_chunks"):
        perplexity.ppl(np.zeros(shape))


def by_chunk(n_chunks, n_ctx=64, seed=0, draws=bootstrap.DRAWS):
    """Every chunk a document of its own."""
    return bootstrap.Resampler(n_chunks, n_ctx, seed, draws, np.repeat(np.arange(n_chunks), n_ctx).reshape(-1, n_ctx))


def test_units_are_documents_where_there_are_four_effective_ones():
    documents = np.repeat([0, 7, 8, 9, 30], [100, 156, 64, 128, 64]).reshape(8, 64)
    resampler = bootstrap.Resampler(8, 64, documents=documents)
    about = resampler.units.about()
    assert (about["unit"], about["n_units"], about["scope"]) == ("document", 5, "other_text")
    assert about["n_effective"] == pytest.approx(512**2 / (100**2 + 156**2 + 64**2 + 128**2 + 64**2))
    assert resampler.unit_of[1, [34, 35, 36]].tolist() == [0, 1, 1]  # the document begins within the second chunk


def test_two_long_documents_give_way_to_blocks_of_chunks():
    documents = np.repeat([0, 1], 32 * 64).reshape(64, 64)
    units = bootstrap.Units.choose(64, 64, documents)
    assert (units.kind, units.length, units.scope) == ("chunks", 7, "other_text")
    assert units.about()["n_units"] == 64 and units.about()["n_effective"] == pytest.approx(64 / 7)


def test_two_chunks_are_resampled_in_blocks_of_64_positions_and_speak_of_themselves():
    resampler = bootstrap.Resampler(2, 1024, documents=np.repeat([0, 1], 1024).reshape(2, 1024))
    assert (resampler.n_units, resampler.units.kind, resampler.units.length) == (32, "tokens", 64)
    assert resampler.units.scope == "these_chunks"
    assert resampler.unit_of[0, :63].tolist() == [0] * 63
    assert resampler.unit_of.ravel()[1022:1025].tolist() == [15, 16, 16]


def test_more_documents_than_can_be_drawn_are_joined_with_their_neighbours():
    units = bootstrap.Units.choose(40, 128, np.arange(40 * 128).reshape(40, 128))
    assert len(units.sizes) == bootstrap.MAX_UNITS and set(units.sizes) == {5.0}


def test_one_chunk_can_be_resampled_and_a_single_unit_cannot():
    assert bootstrap.Resampler.of(drawn(1)).n_units == 8
    with pytest.raises(InputError, match="two or more"):
        bootstrap.Resampler(1, 64, units=bootstrap.Units("tokens", np.zeros(64, int), 64))


def test_documents_of_another_shape_are_refused():
    with pytest.raises(InputError, match="documents of shape"):
        bootstrap.Resampler(2, 64, documents=np.zeros((2, 63), int))


@pytest.mark.parametrize("n", [4, 9, 25])
def test_the_draws_of_a_mean_have_student_s_spread(n):
    nll = drawn(n)
    draws = np.log(by_chunk(n, draws=40_000).ppl(nll))
    error = nll.mean(axis=1, dtype=float).std(ddof=1) / math.sqrt(n)
    # for units of one size the jackknife's correction is n / (n - 1) of the variance, the plain estimate's own
    assert draws.std() == pytest.approx(error * student_t(n) / 1.959964, rel=0.03)
    assert draws.mean() == pytest.approx(nll.mean(dtype=float), abs=4 * error / math.sqrt(40_000))


def student_t(n):
    """97.5 % point of Student's t with n - 1 degrees of freedom, from a printed table."""
    return {4: 3.182, 9: 2.306, 25: 2.064}[n]


def test_a_resample_moves_by_the_residuals_of_its_units():
    nll = drawn(6, 8)
    sizes = [8, 14, 9, 9, 8]
    documents = np.repeat(np.arange(5), sizes).reshape(6, 8)
    resampler = bootstrap.Resampler(6, 8, seed=1, draws=20, documents=documents)
    mean = nll.mean(dtype=float)
    for weights, value in zip(resampler.weights, resampler.ppl(nll), strict=True):
        shift = sum(
            (weights[document] - 1) * (float(x) - mean)
            for row, own in zip(nll, documents[:, 1:], strict=True)
            for x, document in zip(row, own, strict=True)
        )
        assert value == pytest.approx(math.exp(mean + shift / nll.size), rel=1e-9)


def test_blocks_of_chunks_are_circular_and_whole():
    times = bootstrap.Resampler(27, 8, draws=50, units=bootstrap.Units("chunks", np.arange(27 * 8) // 8, 5)).weights
    drawn_often = np.round((times - times.min(axis=1, keepdims=True)) / np.diff(np.unique(times[0])).min(), 6)
    jumps = np.diff(np.concatenate([times, times[:, :1]], axis=1), axis=1)
    starts, ends = jumps > 1e-9, jumps < -1e-9
    assert drawn_often.shape == (50, 27)
    assert (starts.sum(axis=1) <= 6).all() and (ends.sum(axis=1) <= 6).all()


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        nll = drawn(40, 16, seed=seed)
        lo, hi = perplexity.ppl_ci(nll, by_chunk(40, 16, seed, 300))[1]
        hits += lo <= math.exp(3.0) <= hi
    assert 178 <= hits <= 198


def test_the_same_seed_gives_the_same_draws_and_another_does_not():
    nll = drawn(20)
    first, again, other = (bootstrap.Resampler.of(nll, seed).ppl(nll) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pairing_takes_the_text_out_of_a_difference():
    base = drawn(40)
    shifted = base + np.float32(0.1)
    resampler = bootstrap.Resampler.of(base)
    value, (lo, hi) = perplexity.delta(shifted, base, resampler)
    assert value == pytest.approx(math.exp(0.1) - 1, rel=1e-5)
    assert hi - lo < 1e-5
    assert perplexity.ppl_ci(shifted, resampler)[1][1] - perplexity.ppl_ci(shifted, resampler)[1][0] > 1


def test_the_baseline_against_itself_is_exactly_one():
    base = drawn(20)
    assert perplexity.ratio(base, base, bootstrap.Resampler.of(base)) == (1.0, [1.0, 1.0])
    assert perplexity.delta(base, base, bootstrap.Resampler.of(base)) == (0.0, [0.0, 0.0])


def test_constant_scores_have_an_interval_of_no_width():
    nll = np.full((20, 63), 2.0, dtype=np.float32)
    value, (lo, hi) = perplexity.ppl_ci(nll, bootstrap.Resampler.of(nll))
    assert lo == pytest.approx(value) and hi == pytest.approx(value)


def test_a_resampler_refuses_scores_of_other_tokens():
    with pytest.raises(InputError, match="this resampler is for"):
        bootstrap.Resampler(20, 64).ppl(drawn(21))


def test_change_between_two_sets_of_tokens():
    value, ends = perplexity.change(20.0, 25.0, np.full(10, 20.0), np.full(10, 25.0))
    assert value == 0.25
    assert ends == [0.25, 0.25]


def test_the_zero_mean_ratio_and_the_constant_share():
    base = drawn(40)
    zero, mean = base + np.float32(0.5), base + np.float32(0.01)
    resampler = bootstrap.Resampler.of(base)
    value, (lo, hi) = perplexity.quotient(zero, mean, base, resampler)
    expected = math.expm1(0.5) / math.expm1(0.01)
    assert value == pytest.approx(expected, rel=1e-3)
    assert lo == pytest.approx(expected, rel=1e-2) and hi == pytest.approx(expected, rel=1e-2)
    share, ends = perplexity.constant_share(zero, mean, base, resampler)
    assert share == pytest.approx(1 - 1 / expected, rel=1e-4)
    assert ends[0] <= share + 1e-6 and share - 1e-6 <= ends[1]


def test_a_ratio_over_a_harm_that_may_be_none_is_unbounded():
    base = drawn(40)
    zero = base + np.float32(0.5)
    mean = base + np.random.default_rng(5).normal(0, 0.5, base.shape).astype(np.float32)
    lo, hi = perplexity.quotient(zero, mean, base, bootstrap.Resampler.of(base))[1]
    assert lo > 0 and hi is None


def test_the_constant_share_is_not_defined_where_zeroing_does_no_harm():
    base = drawn(40)
    better = base - np.float32(0.1)
    assert perplexity.constant_share(better, base, base, bootstrap.Resampler.of(base)) == (None, None)


def test_ladder_rows_and_draws():
    base = drawn(20)
    steps = [base, base + np.float32(math.log(1.05)), base + np.float32(math.log(1.6))]
    rows, draws = head_effects.ladder([0, 10, 20], steps, bootstrap.Resampler.of(base, draws=50))
    assert [row["n"] for row in rows] == [0, 10, 20]
    assert [row["ratio"] for row in rows] == pytest.approx([1, 1.05, 1.6], rel=1e-5)
    assert rows[0]["ratio"] == 1.0 and rows[0]["ratio_ci"] == [1.0, 1.0]
    assert draws.shape == (3, 50)
    assert head_effects.thresholds_ci([0, 10, 20], draws) == {"1.1": [10, 10], "1.5": [10, 10], "2.0": [20, 20]}
    with pytest.raises(InputError, match="starts with n = 0"):
        head_effects.ladder([10, 20], steps[1:], bootstrap.Resampler.of(base))


def test_thresholds_are_the_largest_measured_n_within_the_limit():
    ns = [0, 10, 20, 30, 40]
    ratios = [1.0, 1.05, 1.2, 1.1, 1.7]
    assert head_effects.thresholds(ns, ratios) == {"1.1": 30, "1.5": 30, "2.0": 40}
    assert head_effects.thresholds([10, 20], [2.5, 3.0]) == {"1.1": 0, "1.5": 0, "2.0": 0}


def test_published_ladder_gives_the_published_thresholds():
    ns = [*range(0, 101, 10), 132]
    quick = [1.0, 1.008, 1.022, 1.087, 1.142, 1.214, 1.366, 1.481, 1.534, 1.881, 2.331, 12.69]
    full = [1.0, 1.023, 1.060, 1.133, 1.203, 1.279, 1.414, 1.537, 1.605, 1.921, 2.373, 11.75]
    assert list(head_effects.thresholds(ns, quick).values()) == [30, 70, 90]
    assert list(head_effects.thresholds(ns, full).values()) == [20, 60, 90]


def test_threshold_intervals_end_at_measured_steps():
    draws = np.array([[1.0] * 100, [1.05] * 90 + [1.15] * 10, [1.2] * 100])
    assert head_effects.thresholds_ci([0, 10, 20], draws, (1.1,)) == {"1.1": [0, 10]}


def test_a_crossing_lies_between_the_threshold_and_the_next_rung():
    ns, ratios = [0, 10, 20, 30], [1.0, 1.05, 1.0 * 1.1**2, 1.3]
    found = head_effects.crossings(ns, ratios, (1.1, 1.5))
    share = (np.log(1.1) - np.log(1.05)) / (2 * np.log(1.1) - np.log(1.05))
    assert found == {"1.1": pytest.approx(10 + 10 * share), "1.5": 30.0}


def test_a_ladder_that_falls_again_crosses_for_good_where_it_last_does():
    ns, ratios = [0, 10, 20, 30], [1.0, 1.2, 1.05, 1.3]
    found = head_effects.crossings(ns, ratios, (1.1,))["1.1"]
    assert head_effects.thresholds(ns, ratios, (1.1,)) == {"1.1": 20}
    assert found == pytest.approx(20 + 10 * np.log(1.1 / 1.05) / np.log(1.3 / 1.05))
    assert head_effects.crossings_ci(ns, np.array([ratios] * 5).T, (1.1,)) == {"1.1": [pytest.approx(found)] * 2}


def test_a_limit_met_on_a_rung_is_crossed_there():
    assert head_effects.crossings([0, 10, 20], [1.0, 1.5, 2.0], (1.5,))["1.5"] == pytest.approx(10)


def test_layer_0_s_share_and_its_draws():
    heads = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert head_effects.layer0_share(heads, [0.3, -0.1, 0.2, -0.4]) == pytest.approx(0.4)
    draws = np.array([[0.3, 1.0], [-0.1, 0.0], [0.2, 0.5], [-0.4, -0.5]])
    assert head_effects.layer0_share(heads, draws) == pytest.approx([0.4, 0.5])


def test_the_rank_law_s_interval_holds_the_same_fit():
    deltas = np.random.default_rng(4).lognormal(-3, 1.5, 40)
    low, high = head_effects.rank_law_ci(np.repeat(deltas[:, None], 3, axis=1))
    assert low == high == pytest.approx(head_effects.rank_law(deltas)["alpha"], abs=0.006)


def test_a_paired_difference_over_heads():
    base = drawn(20)
    rng = np.random.default_rng(2)
    added = rng.normal(0.05, 0.01, 8)
    a, b = ([base + np.float32(x + shift) for x in added] for shift in (0.0, 0.02))
    found = head_effects.paired(a, b, base, by_chunk(20))
    differences = np.exp(added) - np.exp(added + 0.02)
    assert found["mean"] == pytest.approx(differences.mean(), rel=1e-3)
    assert found["median"] == pytest.approx(np.median(differences), rel=1e-3)
    assert found["mean_ci"] == pytest.approx([differences.mean()] * 2, rel=1e-3)  # a constant shift: the text cancels
    assert (found["lower"], found["of"]) == (8, 8)


def test_ranking_by_size_with_ties_by_place():
    heads = [(2, 1), (1, 3), (1, 2), (3, 0)]
    assert head_effects.ranking(heads, [0.02, -0.01, 0.01, -0.5]) == [[1, 2], [1, 3], [2, 1], [3, 0]]


def test_ranks_and_their_intervals():
    assert head_effects.ranks([0.1, 2.0, 0.5]) == [3, 1, 2]
    assert head_effects.ranks([1.0, 1.0]) == [1, 2]
    draws = np.array([[3.0] * 100, [2.0] * 50 + [1.0] * 50, [1.0] * 50 + [2.0] * 50])
    assert head_effects.ranks_ci(draws) == [[1, 1], [2, 3], [2, 3]]


def test_spearman_by_hand():
    assert head_effects.spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert head_effects.spearman([1, 2, 3, 4, 5], [1, 3, 2, 4, 5]) == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert head_effects.spearman([1, 2, 3], [5, 5, 5]) is None
    draws = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    assert head_effects.spearman_ci(draws, draws[::-1]) == [-1.0, -1.0]
    with pytest.raises(InputError, match="two or more"):
        head_effects.spearman([1], [1])


def test_spearman_agrees_with_scipy_under_ties():
    from scipy.stats import spearmanr

    a, b = [1, 2, 2, 4, 7, 7], [3, 1, 1, 5, 2, 9]
    assert head_effects.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_summary_by_hand():
    assert head_effects.summary([0.005, -0.02, 0.2, 0.095]) == {
        "under_1pct": 1,
        "under_10pct": 3,
        "negative": 1,
        "mean": pytest.approx(0.07),
        "median": pytest.approx(0.05),
        "max": 0.2,
    }
    with pytest.raises(InputError, match="finite"):
        head_effects.summary([1.0, math.nan])


def test_layer_means_by_hand():
    assert head_effects.layer_means([(0, 0), (0, 1), (1, 0)], [0.2, 0.4, -0.1]) == pytest.approx([0.3, -0.1])


def test_rank_law_finds_its_own_parameters_in_any_order_and_sign():
    deltas = 2.35 * np.arange(1, 145.0) ** -1.37
    law = head_effects.rank_law(np.random.default_rng(0).permutation(deltas * np.where(np.arange(144) % 3, 1, -1)))
    assert law == {"alpha": pytest.approx(1.37), "C": pytest.approx(2.35), "r2": pytest.approx(1.0)}


def test_rank_law_is_the_least_squares_of_the_untransformed_values():
    deltas = np.sort(np.random.default_rng(1).lognormal(-3, 1.5, 40))[::-1]
    rank = np.arange(1, 41.0)
    best = min((float(((deltas - (c := deltas @ rank**-a / (rank ** (-2 * a)).sum()) * rank**-a) ** 2).sum()), a, c)
               for a in np.arange(0.2, 3, 0.001))  # fmt: skip
    law = head_effects.rank_law(deltas)
    assert law["alpha"] == pytest.approx(best[1], abs=0.001) and law["C"] == pytest.approx(best[2], rel=1e-3)
    assert law["r2"] == pytest.approx(1 - best[0] / ((deltas - deltas.mean()) ** 2).sum(), abs=1e-5)


def test_rank_law_of_equal_values_is_flat():
    assert head_effects.rank_law([0.1, 0.1, 0.1]) == {"alpha": 0.0, "C": 0.1, "r2": None}


def sections(quick_ratio=1.1, full_ratio=1.2, n_full=30):
    v1 = {"ppl_2k": 20.0, "ppl_full": 25.0}
    v2 = {"top10": [{"layer": 0, "head": 8, "delta_ppl_2k": 2.0, "delta_ppl_full": 1.0}]}
    v3 = {"reduction_2k": 100.0, "reduction_full": 150.0}
    v3 |= {"zero_delta_ppl_2k": 2.0, "zero_delta_ppl_full": 1.0, "mean_delta_ppl_2k": 0.02, "mean_delta_ppl_full": 0.02}
    v4 = {
        "cumulative_2k": [{"n_linearized": 0, "ratio": 1.0}, {"n_linearized": 30, "ratio": quick_ratio}],
        "cumulative": [{"n_linearized": 0, "ratio": 1.0}, {"n_linearized": 30, "ratio": full_ratio}],
        "thresholds_2k": {"1.1": 30, "1.5": 30, "2.0": 30},
        "thresholds_full": {"1.1": n_full, "1.5": 30, "2.0": 30},
    }
    return v1, v2, v3, v4


def v5(v1, v2, v3, v4):
    """V5 of sections that say nothing of coverage."""
    return quick_vs_full.compare(*({"coverage": []} | own for own in (v1, v2, v3)), {"coverage": {}} | v4)


def test_v5_by_hand():
    found = v5(*sections())
    differences = {row["what"]: row["difference"] for row in found["comparisons"]}
    assert differences == {
        "ppl": pytest.approx(0.25),
        "zero:L0H8": pytest.approx(-0.5),
        "focus:zero": pytest.approx(-0.5),
        "focus:mean": pytest.approx(0.0),
        "focus:reduction": pytest.approx(0.5),
        "ratio:30": pytest.approx(1.0),
    }
    assert found["mean_diff_pct"] == pytest.approx(12.5)
    assert (found["bias"], found["conclusions_maintained"], found["max_threshold_shift"]) == ("optimistic", True, 0)


def test_v5_names_what_drives_its_mean_and_what_is_counted_twice():
    found = v5(*sections())
    assert found["median_diff_pct"] == pytest.approx(100 * np.median([0.25, -0.5, -0.5, 0.0, 0.5, 1.0]))
    assert [row["what"] for row in found["drivers"]] == ["ratio:30", "zero:L0H8"]
    assert found["mean_without_drivers_pct"] == pytest.approx(100 * np.mean([0.25, -0.5, 0.0, 0.5]))
    assert found["counted_twice"] == ["L0H8"]
    assert found["mean_counted_once_pct"] == pytest.approx(100 * np.mean([0.25, -0.5, 0.0, 0.5, 1.0]))


def test_v5_verdicts_turn_at_their_limits():
    assert v5(*sections(n_full=20))["conclusions_maintained"] is True
    assert v5(*sections(n_full=10))["conclusions_maintained"] is False
    assert v5(*sections(full_ratio=1.0))["bias"] == "pessimistic"
    assert v5(*sections(full_ratio=1.12))["bias"] == "agree"


def test_v5_leaves_out_what_has_no_scale():
    found = v5(*sections(quick_ratio=1.0))
    assert found["comparisons"][-1]["difference"] is None
    assert found["mean_diff_pct"] == pytest.approx(100 * np.mean([0.25, -0.5, -0.5, 0.0, 0.5]))


def test_v5_of_the_published_tables_is_the_published_average():
    from lib.results.published import as_results

    published = as_results()
    found = v5(*(published[name] for name in ("V1", "V2", "V3", "V4")))
    assert len(found["comparisons"]) == 25
    assert found["counted_twice"] == ["L0H8"] and found["median_diff_pct"] == pytest.approx(11.6, abs=0.3)
    assert found["mean_diff_pct"] == pytest.approx(24.6, abs=0.3)
    assert (found["bias"], found["conclusions_maintained"], found["max_threshold_shift"]) == ("optimistic", True, 10)


def chunks(means, n_ctx=5):
    return np.repeat(np.array(means, dtype=np.float64)[:, None], n_ctx - 1, axis=1)


def test_sampling_by_hand():
    found = quick_vs_full.sampling(chunks([1.0, 1.0, 3.0, 3.0]), 2)
    assert (found["n_windows"], found["n_random"]) == (3, 6)
    assert found["percentile"] == pytest.approx(100 / 6)  # windows 1, 2, 3: the first is the lowest
    assert found["share_as_far"] == pytest.approx(2 / 6)  # pairs (1, 1) and (3, 3)
    assert found["observed_shift"] == pytest.approx(math.exp(-1) - 1)
    assert found["explained"] is True


def test_a_shift_that_sampling_does_not_explain():
    found = quick_vs_full.sampling(chunks([1.0, 1.0] + [3.0, 3.01] * 20), 2)
    assert found["explained"] is False
    assert found["share_as_far"] == pytest.approx(1 / math.comb(42, 2))
    assert found["spread"][0] > math.exp(1.0)


def test_sampling_of_many_chunks_is_drawn_from_the_seed():
    nll = drawn(40)
    first, again = (quick_vs_full.sampling(nll, 8, seed=4, draws=500) for _ in range(2))
    assert first == again and first["n_random"] == 500


def test_sampling_needs_its_quick_set_within_the_full_one():
    with pytest.raises(InputError, match="n_quick=5"):
        quick_vs_full.sampling(drawn(4), 5)
    assert quick_vs_full.sampling(drawn(4), 4)["explained"] is True


def test_context_lengths_are_resampled_over_the_same_text():
    found = bootstrap.context_resamplers({128: 390, 256: 195, 512: 97, 1024: 48})
    assert {length: r.n_units for length, r in found.items()} == {128: 48, 256: 48, 512: 48, 1024: 48}
    assert all(np.array_equal(r.weights, found[128].weights) for r in found.values())
    predicted = {length: np.bincount(r.unit_of.ravel()).tolist() for length, r in found.items()}
    assert predicted[128][:2] == [8 * 127, 8 * 127] and predicted[1024] == [1023] * 48


def test_context_lengths_share_their_documents():
    documents = np.repeat(np.arange(6), 24)
    found = bootstrap.context_resamplers({8: 18, 32: 4}, draws=50, documents=documents)
    assert found[8].units.kind == found[32].units.kind == "document"
    assert found[32].unit_of.tolist() == [documents[i * 32 + 1 : (i + 1) * 32].tolist() for i in range(4)]
    assert np.array_equal(found[8].weights, found[32].weights) and found[8].n_units == 6


def test_few_chunks_at_the_longest_length_are_cut_into_blocks():
    found = bootstrap.context_resamplers({32: 16, 128: 4}, draws=100)
    assert found[32].n_units == found[128].n_units == 32


def test_a_rise_that_every_span_shares_is_no_noise():
    tokens = np.random.default_rng(0).normal(3, 1, 48 * 64)
    long, short = tokens.reshape(48, 64)[:, 1:], tokens.reshape(192, 16)[:, 1:]
    resamplers = bootstrap.context_resamplers({64: 48, 16: 192}, draws=300)
    value, ends = perplexity.rise((long + 0.2, long), (short + 0.1, short), (resamplers[64], resamplers[16]))
    assert value == pytest.approx(math.exp(0.2) - math.exp(0.1))
    assert not perplexity.is_noise(ends)
    assert (
        perplexity.is_noise([-0.1, 0.2]) and perplexity.is_noise([None, 0.2]) and not perplexity.is_noise([0.1, None])
    )


def test_mean_and_median_intervals():
    value, (lo, hi) = bootstrap.mean_ci([1.0, 2.0, 3.0, 6.0])
    assert value == 3.0 and 1.0 <= lo < 3.0 < hi <= 6.0
    assert bootstrap.median_ci([5.0]) == (5.0, [5.0, 5.0])
    with pytest.raises(InputError, match="finite"):
        bootstrap.mean_ci([])


def test_a_full_run_is_resampled_in_seconds():
    nlls = [drawn(245, 1024, seed=seed) for seed in range(3)]
    start = time.process_time()
    head_effects.ladder(list(range(25)), [nlls[i % 3] for i in range(25)], bootstrap.Resampler(245, 1024))
    assert time.process_time() - start < 5


def test_the_change_of_the_constant_share_is_judged_by_itself():
    """Two shares whose own intervals overlap may still be told apart, and each token set is resampled on its own."""
    rng = np.random.default_rng(11)

    def scored(n_chunks, lost, kept):
        base = rng.normal(3, 1, (n_chunks, 63))
        noise = rng.normal(0, 0.12, base.shape)
        resampler = bootstrap.Resampler.by_chunk(n_chunks, 64, 5, 4000)
        return base + np.log1p(lost) + noise, base + np.log1p(lost * (1 - kept)), base, resampler

    quick, full = scored(20, 0.2, 0.50), scored(60, 0.2, 0.56)
    (a, a_ends), (b, b_ends) = perplexity.constant_share(*quick), perplexity.constant_share(*full)
    change, ends = perplexity.constant_share_change(quick, full)
    assert change == pytest.approx(b - a)
    spread = np.hypot(a_ends[1] - a_ends[0], b_ends[1] - b_ends[0])
    assert ends[1] - ends[0] == pytest.approx(spread, rel=0.1)
    harmless = (quick[2], quick[2], quick[2], quick[3])
    assert perplexity.constant_share_change(harmless, full) == (None, None)


def test_how_far_the_crossings_move():
    quick, other = {"1.1": np.array([10.0, 12.0, 14.0])}, {"1.1": np.array([30.0, 31.0, 32.0])}
    assert head_effects.shifts_ci(quick, other)["1.1"] == pytest.approx([18.05, 19.95])
