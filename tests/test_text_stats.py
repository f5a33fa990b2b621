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
    values, ends = best_of_n.expected_best_of_ci(ppl, [1, 5], seed=4, draws=400)
    assert all(lo < value < hi for value, (lo, hi) in zip(values, ends, strict=True))
    assert ends == best_of_n.expected_best_of_ci(ppl, [1, 5], seed=4, draws=400)[1]


def test_equal_samples_have_intervals_of_no_width():
    values, ends = best_of_n.expected_best_of_ci(np.full((4, 3), 5.0), [1, 3])
    assert values == pytest.approx([5.0, 5.0])
    assert np.array(ends) == pytest.approx(np.full((2, 2), 5.0))


def test_a_difference_over_the_same_prompts_is_paired():
    base = np.random.default_rng(5).lognormal(2.5, 1.0, (20, 5))
    value, (lo, hi) = best_of_n.best_of_difference(base + 0.5, 1, base, 1)
    assert (value, lo, hi) == pytest.approx((0.5, 0.5, 0.5))
    value, (lo, hi) = best_of_n.best_of_difference(base, 5, base, 1)
    assert hi < 0 and lo < value < hi


def test_bad_samples_are_refused():
    with pytest.raises(InputError, match="finite"):
        best_of_n.first_best_of(np.array([[1.0, np.nan]]), [1])
    with pytest.raises(InputError, match="between 1 and the 2 samples"):
        best_of_n.expected_best_of(np.ones((3, 2)), [1, 3])
    with pytest.raises(InputError, match="same prompts"):
        best_of_n.best_of_difference(np.ones((3, 2)), 1, np.ones((4, 2)), 1)
