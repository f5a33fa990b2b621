import numpy as np
import pytest

from lib.analysis import selection
from lib.analysis.bootstrap import Resampler, interval
from lib.engine.interventions import Plan
from lib.errors import InputError

HEADS = [(layer, head) for layer in (1, 2) for head in range(6)]
NS = [0, 3, 6, 9, 12]
N_CTX, QUICK, STARTS = 33, 2, [0, 3, 6, 9]


class Drawn:
    """Scores in which every head costs its own amount, and on each chunk a little more or less by chance."""

    def __init__(self, noise, n_chunks=12, seed=0):
        rng = np.random.default_rng(seed)
        self.base = rng.normal(3, 1, (n_chunks, N_CTX - 1))
        self.cost = {head: 0.01 * (1 + i) for i, head in enumerate(HEADS)}
        self.luck = {head: rng.normal(0, noise, n_chunks) for head in HEADS}

    def __call__(self, plans, chunks):
        chunks = list(chunks)
        return {
            plan: self.base[chunks]
            + sum((self.cost[at[:2]] + self.luck[at[:2]][chunks][:, None] for at in plan.heads), np.zeros(1))
            for plan in plans
        }


def test_heads_without_luck_show_no_optimism():
    found = selection.cross_fit(Drawn(0.0), HEADS, NS, STARTS, QUICK)
    assert all(row["excess"] == pytest.approx(0, abs=1e-12) for row in found["optimism"])
    assert list(found["crossings_sd"].values()) == pytest.approx([0.0] * 3, abs=1e-9)
    for window in found["windows"]:
        assert [tuple(head) for head in window["ranking"]] == HEADS
        assert window["in_sample"] == pytest.approx(window["elsewhere"])


def test_choosing_among_lucky_heads_is_optimistic_and_cross_fitting_tells_by_how_much():
    score = Drawn(0.05)
    found = selection.cross_fit(score, HEADS, NS, STARTS, QUICK)
    rows = {row["n"]: row for row in found["optimism"]}
    assert rows[6]["excess"] < 0 and rows[6]["excess_ci"][0] < rows[6]["excess"] < rows[6]["excess_ci"][1]
    assert rows[12]["excess"] == pytest.approx(0, abs=1e-12)  # all heads: the order no longer matters
    by_hand = []
    for i, start in enumerate(STARTS):
        text = [start, start + 1]
        harm = [
            [sum(score.cost[h] + score.luck[h][text].mean() for h in map(tuple, window["ranking"][:6]))]
            for window in found["windows"]
        ]
        by_hand.append(harm[i][0] - np.mean([own[0] for j, own in enumerate(harm) if j != i]))
    assert rows[6]["excess"] == pytest.approx(np.expm1(np.mean(by_hand)))


def test_cross_fitting_needs_three_windows():
    with pytest.raises(InputError, match="needs three"):
        selection.cross_fit(Drawn(0.0), HEADS, NS, STARTS[:2], QUICK)


def test_windows_share_no_document():
    documents = np.repeat([0, 1, 2, 3, 4, 5, 6], [5, 1, 6, 4, 4, 2, 2])[:, None] * np.ones((1, 8), int)
    starts = selection.disjoint_windows(documents, 2, 4)
    assert starts[0] == 0 and len(starts) >= 3
    own = [set(documents[start : start + 2].ravel().tolist()) for start in starts]
    assert sum(map(len, own)) == len(set().union(*own))
    assert selection.disjoint_windows(np.zeros((24, 8), int), 2, 4) == [0]


def test_chunks_of_other_documents():
    documents = np.array([[0, 0], [0, 1], [1, 1], [2, 2], [3, 3]])
    assert selection.other_documents(documents, [0]) == [2, 3, 4]
    assert selection.other_documents(documents, [0, 1]) == [3, 4]


def test_a_ranking_that_may_be_another_widens_the_interval_within_the_ladder():
    draws = np.exp(np.outer([0.0, 0.04, 0.08, 0.2, 0.5], np.random.default_rng(1).normal(1, 0.02, 2000)))
    narrow, wide = (
        interval(selection.crossings_with_ranking(NS, draws, dict.fromkeys(("1.1", "1.5", "2.0"), sd), 4)["1.1"])
        for sd in (0.0, 0.8)
    )
    half = 3.182 * 0.8 * np.sqrt(1.25)  # Student's t of three degrees of freedom, from a printed table
    assert wide[0] == pytest.approx(np.mean(narrow) - half, abs=0.4)
    assert narrow[0] >= 6 and wide[1] <= 12


def test_controls_against_relu():
    score = Drawn(0.0)
    chunks = list(range(12))
    ladders = {mode: [Plan.of(mode, HEADS[:n]) for n in NS] for mode in ("relu", "zero")}
    scores = score(ladders["relu"], chunks)
    scores |= {plan: scores[ladders["relu"][0]] * 1.0 + 0.02 * n for n, plan in zip(NS, ladders["zero"], strict=True)}
    found = selection.controls(ladders, NS, scores, Resampler(12, N_CTX, draws=100))
    relu, zero = found
    assert (relu["control"], zero["control"]) == ("relu", "zero") and relu["against_relu"] == []
    total = np.cumsum([0.01 * (1 + i) for i in range(12)])
    for row, n in zip(zero["against_relu"], NS[1:], strict=True):
        expected = np.exp(total[n - 1]) - np.exp(0.02 * n)
        assert row["difference"] == pytest.approx(expected)
        assert row["difference_ci"] == pytest.approx([expected] * 2)


def test_random_orders_hold_every_head_and_come_from_the_seed():
    orders = selection.random_orders(HEADS, 3, 7)
    assert all(sorted(order) == HEADS for order in orders) and orders[0] != orders[1]
    assert orders == selection.random_orders(HEADS, 3, 7) != selection.random_orders(HEADS, 3, 8)
