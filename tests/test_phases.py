import numpy as np
import pytest

from lib.analysis import head_effects
from lib.analysis.bootstrap import Resampler
from lib.engine.interventions import Plan
from lib.errors import InputError

N_CHUNKS, N_CTX = 20, 9


@pytest.fixture
def base():
    return np.random.default_rng(0).normal(3, 1, (N_CHUNKS, N_CTX - 1)).astype(np.float32)


@pytest.fixture
def resampler():
    return Resampler(N_CHUNKS, N_CTX, 1, 200)


def rows(*deltas):
    return [{"layer": 1 + i // 2, "head": i % 2, "delta": delta} for i, delta in enumerate(deltas)]


def test_steps_are_the_ladder_and_the_finer_ones():
    assert head_effects.steps([0, 10, 20, 132], 132) == [0, 5, 10, 15, 20, 25, 35, 132]
    assert head_effects.steps([0, 10, 132], 144) == [0, 5, 10, 15, 25, 35, 132, 144]
    assert head_effects.steps([0, 8], 8) == [0, 5, 8]


def test_a_head_that_adds_to_every_token_s_loss(base, resampler):
    """A constant added to the NLL multiplies PPL by its exponential, on every resample alike."""
    found = head_effects.head_rows([(2, 3), (0, 1)], [base + 0.1, base], base, resampler)
    assert (found[0]["layer"], found[0]["head"]) == (2, 3)
    assert found[0]["ppl"] == pytest.approx(np.exp(base.mean(dtype=np.float64) + 0.1), rel=1e-6)
    assert found[0]["delta"] == pytest.approx(np.exp(0.1) - 1, rel=1e-5)
    assert found[0]["delta_ci"] == pytest.approx([np.exp(0.1) - 1] * 2, rel=1e-5)
    assert found[1]["delta"] == 0
    with pytest.raises(ValueError, match="zip"):
        head_effects.head_rows([(0, 0)], [base, base], base, resampler)


def test_the_order_is_of_absolute_harm():
    assert head_effects.order(rows(0.3, -0.2, 0.1, -0.4)) == [(2, 0), (1, 1), (1, 0), (2, 1)]


def test_the_best_mode_leaves_the_lowest_ppl():
    best = head_effects.best_per_head({"relu": rows(0.1, -0.2), "l1": rows(0.2, -0.1), "identity": rows(-0.1, 0.3)})
    assert best == [
        {"layer": 1, "head": 0, "mode": "identity", "delta": -0.1},
        {"layer": 1, "head": 1, "mode": "relu", "delta": -0.2},
    ]


def test_piles_are_nested_and_the_curve_follows_them(base, resampler):
    piles = head_effects.pile([(1, 0, "relu"), (2, 1, "relu"), (1, 1, "relu")], [0, 1, 3])
    assert piles[0] == Plan()
    assert piles[1] == Plan.of("relu", [(1, 0)])
    assert piles[3] == Plan.of("relu", [(1, 0), (1, 1), (2, 1)])
    scores = {piles[0]: base, piles[1]: base + 0.09, piles[3]: base + 0.5}
    found = head_effects.curve(piles, scores, resampler)
    assert [row["n"] for row in found["cumulative"]] == [0, 1, 3]
    assert [row["ratio"] for row in found["cumulative"]] == pytest.approx([1, np.exp(0.09), np.exp(0.5)], rel=1e-5)
    assert found["thresholds"] == {"1.1": 1, "1.5": 1, "2.0": 3}
    assert found["thresholds_ci"] == {"1.1": [1, 1], "1.5": [1, 1], "2.0": [3, 3]}


def test_drift_is_against_the_exact_scores(base):
    piles = head_effects.pile([(1, 0, "relu")], [0, 1])
    exact = {piles[0]: base, piles[1]: base + 0.2}
    coarse = {piles[0]: base + 0.01, piles[1]: base + 0.23}
    first, second = head_effects.drift(piles, coarse, exact)
    assert first["ppl_drift"] == pytest.approx(np.exp(0.01) - 1, rel=1e-4)
    assert (first["delta"], first["delta_exact"], first["delta_drift"]) == (0, 0, 0)
    assert second["ppl_drift"] == pytest.approx(np.exp(0.03) - 1, rel=1e-4)
    assert second["delta_drift"] == pytest.approx(np.exp(0.22) - np.exp(0.2), rel=1e-4)


def test_a_model_of_two_heads_has_no_law_of_the_ranks():
    assert head_effects.rank_law([0.4, -0.1]) == {"alpha": None, "C": None, "r2": None}
    assert head_effects.rank_law_ci(np.ones((2, 50))) == [None, None]
    assert head_effects.rank_law([0.4, 0.2, 0.1])["alpha"] > 0
    with pytest.raises(InputError, match="not all finite"):
        head_effects.rank_law([0.4, np.nan])
