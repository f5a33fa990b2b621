import math

import numpy as np
import pytest
from scipy.stats import norm

from lib.analysis import reasoning
from lib.errors import InputError


def flags(*runs):
    return np.concatenate([np.full(n, value) for value, n in runs])


def test_wilson_solves_its_own_equation():
    """Its ends are the shares p with |k/n − p| = z √(p (1 − p) / n)."""
    for k, n in ((0, 7), (3, 7), (50, 120), (120, 120)):
        _, (lo, hi) = reasoning.accuracy(flags((True, k), (False, n - k)))
        for end in {lo, hi} - {0.0, 1.0}:
            assert abs(k / n - end) == pytest.approx(norm.ppf(0.975) * math.sqrt(end * (1 - end) / n), rel=1e-5)


def test_mcnemar_by_hand():
    """Nine problems only a solves, one only b: 2 (C(10, 0) + C(10, 1)) / 2^10."""
    a = flags((True, 9), (False, 1), (True, 20), (False, 5))
    b = flags((False, 9), (True, 1), (True, 20), (False, 5))
    assert reasoning.mcnemar(a, b) == pytest.approx(2 * 11 / 1024)
    assert reasoning.mcnemar(b, a) == pytest.approx(2 * 11 / 1024)
    assert reasoning.mcnemar(a, a) == 1


def test_a_paired_difference_is_that_of_the_problems_resampled_one_by_one():
    rng = np.random.default_rng(3)
    a, b = rng.random(80) < 0.7, rng.random(80) < 0.5
    value, (lo, hi) = reasoning.difference(a, b, seed=1, draws=20_000)
    picks = rng.integers(80, size=(20_000, 80))
    plain = np.quantile(a[picks].mean(1) - b[picks].mean(1), [0.025, 0.975])
    assert value == pytest.approx(a.mean() - b.mean())
    assert [lo, hi] == pytest.approx(plain, abs=0.014)


def test_what_is_shared_cancels():
    """Two conditions that differ on one problem: the interval is that problem's, however many others are wrong."""
    a = flags((True, 1), (False, 50), (True, 49))
    b = flags((False, 51), (True, 49))
    _, (lo, hi) = reasoning.difference(a, b)
    assert lo >= 0
    assert hi <= 0.05


@pytest.mark.parametrize(
    ("a_right", "b_right", "verdict"), [(90, 50, "above"), (50, 90, "below"), (60, 61, "alike"), (60, 60, "alike")]
)
def test_verdicts(a_right, b_right, verdict):
    a, b = (flags((True, n), (False, 100 - n)) for n in (a_right, b_right))
    found = reasoning.comparison(a, b)
    assert found["verdict"] == verdict
    assert found["difference"] == pytest.approx((a_right - b_right) / 100)


def test_five_problems_are_too_few_to_tell():
    """All five differ alike, so the interval is a point; the exact p is 2 / 2^5."""
    found = reasoning.comparison(flags((True, 5)), flags((False, 5)))
    assert found["difference_ci"] == [1, 1]
    assert found["p"] == pytest.approx(2 / 32)
    assert found["verdict"] == "alike"


def test_majority_counts_and_gives_ties_to_the_earliest():
    answers = [["1", "2", "2", "3", "3"], ["", "4", "4", "", "4"]]
    assert reasoning.majority(answers, 1) == ["1", ""]
    assert reasoning.majority(answers, 3) == ["2", "4"]
    assert reasoning.majority(answers, 5) == ["2", "4"]
    assert reasoning.majority([["5", "6", "6", "5"]], 4) == ["5"]


def test_likeliest_looks_at_the_first_n_only():
    answers, scores = [["1", "2", "3"], ["4", "5", "6"]], np.array([[-3.0, -1.0, -0.5], [-1.0, -2.0, -3.0]])
    assert [reasoning.likeliest(answers, scores, n) for n in (1, 2, 3)] == [["1", "4"], ["2", "4"], ["3", "4"]]


def test_reach_stops_at_the_first_that_is_not_allowed():
    verdicts = ["above", "above", "alike", "below", "above"]
    assert reasoning.reach(verdicts, ["above"]) == 1
    assert reasoning.reach(verdicts, ["above", "alike"]) == 2
    assert reasoning.reach(verdicts, ["below"]) is None


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match="same problems"):
        reasoning.mcnemar(flags((True, 3)), flags((True, 4)))
    with pytest.raises(InputError, match="one bool"):
        reasoning.accuracy([])
    with pytest.raises(InputError, match="between 1 and 2"):
        reasoning.majority([["1", "2"]], 3)
