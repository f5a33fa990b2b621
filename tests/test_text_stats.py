from itertools import combinations

import numpy as np
import pytest

from lib.analysis import best_of_n, repetition
from lib.errors import InputError


def test_distinct_n_by_hand():
    ids = [1, 2, 3, 1, 2, 3, 1, 2]  # bigrams 12 23 31 12 23 31 12
    assert repetition.distinct_n(ids, 2) == pytest.approx(3 / 7)
    assert repetition.distinct_n(ids, 1) == pytest.approx(3 / 8)
    assert repetition.distinct_n([1, 2], 3) == 1.0


def test_repeated_share_by_hand():
    assert repetition.repeated_share([1, 2, 3, 4, 1, 2, 3, 4], 4) == pytest.approx(1 / 5)
    assert repetition.repeated_share([1, 2, 3, 4, 5], 4) == 0.0
    assert repetition.repeated_share([9] * 64, 4) == pytest.approx(60 / 61)
    assert repetition.repeated_share([1, 2], 4) == 0.0


@pytest.mark.parametrize(
    ("ids", "span"),
    [([], 0), ([1], 0), ([1, 2, 3], 0), ([1, 2, 1], 1), ([7, 7, 7, 7], 3), ([1, 2, 3, 9, 1, 2, 3], 3), ([1, 2] * 4, 6)],
)
def test_longest_repeat_by_hand(ids, span):
    assert repetition.longest_repeat(ids) == span


def test_longest_repeat_against_all_spans():
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids = rng.integers(0, 3, 24).tolist()
        spans = [tuple(ids[i : i + n]) for n in range(1, 24) for i in range(24 - n + 1)]
        assert repetition.longest_repeat(ids) == max(len(s) for s in set(spans) if spans.count(s) > 1)


def test_repetition_is_the_mean_over_texts():
    found = repetition.repetition([[1, 2, 3, 4, 5], [9, 9, 9, 9, 9]])
    assert found.pop("repeated_4gram_share_ci") == [0.0, 0.5]
    assert found == {"distinct_2": (1 + 1 / 4) / 2, "longest_repeat": 2.0, "repeated_4gram_share": 0.25}
    with pytest.raises(InputError, match="no text"):
        repetition.repetition([])


def test_expected_best_against_all_subsets():
    ppl = np.random.default_rng(1).lognormal(2.5, 0.4, (7, 5))
    for n in range(1, 6):
        every = np.mean([[row[list(choice)].min() for choice in combinations(range(5), n)] for row in ppl])
        assert best_of_n.expected_best_of(ppl, [n])[0] == pytest.approx(every, rel=1e-12)


def test_best_of_one_is_the_mean_and_of_all_the_least():
    ppl = np.array([[3.0, 1.0, 2.0], [6.0, 4.0, 5.0]])
    assert best_of_n.expected_best_of(ppl, [1, 3]) == pytest.approx([3.5, 2.5])
    assert best_of_n.first_best_of(ppl, [1, 2, 3]) == [4.5, 2.5, 2.5]


def test_resampling_samples_is_centred_on_the_estimate():
    ppl = np.random.default_rng(2).lognormal(2.5, 0.5, (20, 5))
    draws = best_of_n.best_of_draws(ppl, [1, 2, 5], draws=8000)
    assert draws.mean(axis=0) == pytest.approx(best_of_n.expected_best_of(ppl, [1, 2, 5]), rel=0.01)


def test_intervals_hold_the_estimate_and_come_from_the_seed():
    ppl = np.random.default_rng(3).lognormal(2.5, 0.5, (20, 5))
    best = best_of_n.BestOf.of(ppl, [1, 5], seed=4, draws=400)
    values, ends = best.values, best.ci()
    assert all(lo < value < hi for value, (lo, hi) in zip(values, ends, strict=True))
    assert ends == best_of_n.BestOf.of(ppl, [1, 5], seed=4, draws=400).ci()


def test_equal_samples_have_intervals_of_no_width():
    best = best_of_n.BestOf.of(np.full((4, 3), 5.0), [1, 3])
    assert best.values == pytest.approx([5.0, 5.0])
    assert np.array(best.ci()) == pytest.approx(np.full((2, 2), 5.0))


def test_a_difference_over_the_same_prompts_is_paired():
    base = np.random.default_rng(5).lognormal(2.5, 1.0, (20, 5))
    best, worse = (best_of_n.BestOf.of(ppl, [1, 5]) for ppl in (base, base + 0.5))
    value, (lo, hi) = worse.minus(1, best, 1)
    assert (value, lo, hi) == pytest.approx((0.5, 0.5, 0.5))
    value, (lo, hi) = best.minus(5, best, 1)
    assert hi < 0 and lo < value < hi


def one_by_one(ppl, ns, seed, draws):
    """The resamples of `best_of_draws` drawn one after another."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        prompts = rng.integers(len(ppl), size=len(ppl))
        samples = rng.integers(ppl.shape[1], size=ppl.shape)
        found.append(best_of_n.expected_best_of(ppl[prompts[:, None], samples], ns))
    return np.array(found)


@pytest.mark.parametrize("shape", [(20, 5), (3, 3), (6, 20), (4, 1)])
def test_all_resamples_at_once_are_those_drawn_one_by_one(shape, monkeypatch):
    ppl = np.random.default_rng(6).lognormal(2.5, 0.5, shape)
    ns = sorted({1, min(2, shape[1]), shape[1]})
    draws = best_of_n.best_of_draws(ppl, ns, seed=7, draws=50)
    moved = one_by_one(ppl, ns, 7, 50)
    assert draws - draws[0] == pytest.approx(moved - moved[0], abs=1e-12)
    monkeypatch.setattr(best_of_n, "BLOCK", 1)
    np.testing.assert_array_equal(best_of_n.best_of_draws(ppl, ns, seed=7, draws=50), draws)


def test_chosen_by_one_and_scored_by_another_against_all_subsets():
    rng = np.random.default_rng(8)
    ppl, score = rng.lognormal(2.5, 0.4, (2, 7, 5))
    for n in range(1, 6):
        every = np.mean(
            [
                [own[choice[np.argmin(row[list(choice)])]] for choice in combinations(range(5), n)]
                for row, own in zip(ppl, score, strict=True)
            ]
        )
        assert best_of_n.expected_best_of(ppl, [n], score)[0] == pytest.approx(every, rel=1e-12)
    np.testing.assert_array_equal(
        best_of_n.best_of_draws(ppl, [1, 5], 3, 40, ppl.copy()), best_of_n.best_of_draws(ppl, [1, 5], 3, 40)
    )


def test_two_judges_that_agree_on_nothing_show_the_winner_s_curse():
    rng = np.random.default_rng(9)
    ppl, score = rng.lognormal(2.5, 0.4, (2, 200, 10))
    own, crossed = best_of_n.BestOf.of(ppl, [1, 10], 1, 200), best_of_n.BestOf.of(ppl, [1, 10], 1, 200, score)
    assert own.over(10, own, 1)[0] < -0.3
    low, high = crossed.over(10, crossed, 1)[1]
    assert low < 0 < high


def test_differences_of_best_of_are_those_of_its_draws():
    rng = np.random.default_rng(10)
    a, b = (best_of_n.BestOf.of(rng.lognormal(2.5, 0.4, (20, 6)), [1, 3, 6], 2, 300) for _ in range(2))
    value, ends = a.minus(6, b, 1)
    assert value == pytest.approx(a.values[2] - b.values[0])
    assert ends == pytest.approx(np.quantile(a.draws[:, 2] - b.draws[:, 0], [0.025, 0.975]))
    value, ends = a.over(3, a, 1)
    assert value == pytest.approx(a.values[1] / a.values[0] - 1)
    assert ends == pytest.approx(np.quantile(a.draws[:, 1] / a.draws[:, 0] - 1, [0.025, 0.975]))
    with pytest.raises(InputError, match="the same are needed"):
        a.minus(1, best_of_n.BestOf.of(rng.lognormal(2.5, 0.4, (20, 6)), [1], 2, 200), 1)


def test_bad_samples_are_refused():
    with pytest.raises(InputError, match="finite"):
        best_of_n.first_best_of(np.array([[1.0, np.nan]]), [1])
    with pytest.raises(InputError, match="between 1 and the 2 samples"):
        best_of_n.expected_best_of(np.ones((3, 2)), [1, 3])
    with pytest.raises(InputError, match="same prompts"):
        best_of_n.BestOf.of(np.ones((3, 2)), [1]).minus(1, best_of_n.BestOf.of(np.ones((4, 2)), [1]), 1)
    with pytest.raises(InputError, match="must agree"):
        best_of_n.expected_best_of(np.ones((3, 2)), [1], np.ones((3, 3)))
