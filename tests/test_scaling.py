"""What more workers would do, on paper: the formula against the simulation, and both against what can be told."""

import numpy as np
import pytest

from lib.engine.elsewhere import AHEAD
from lib.timing import scaling
from lib.timing.scaling import Costs, both, formula, piece_flops, pieces_of, simulated, spread_of

FREE = Costs(0.0, 0.0, 0.0, 0.0)
SHAPE = {"n_layer": 4, "n_head": 2, "n_embd": 8, "d_mlp": 32, "vocab": 50}


@pytest.mark.parametrize("n_workers", [1, 2, 4, 8])
def test_equal_pieces_that_go_even_are_shared_out_exactly(n_workers):
    pieces, scores = np.full(64, 2.0), np.ones(64)
    assert simulated(pieces, scores, n_workers, FREE) == pytest.approx(128 / n_workers)


def test_one_worker_does_one_after_another():
    pieces = np.array([1.0, 2.0, 3.5])
    costs = Costs(beside=0.5, keep=0.0, start=2.0, load=1.0)
    assert simulated(pieces, np.ones(3), 1, costs) == formula(pieces, np.ones(3), 1, costs) == 3 + 6.5 + 1.5


def test_the_last_piece_is_waited_for():
    assert simulated(np.array([1.0, 1.0, 10.0]), np.ones(3), 2, FREE) == 11.0


def test_a_client_that_keeps_slowly_sets_the_pace():
    pieces, scores = np.full(40, 0.1), np.full(40, 10.0)
    costs = Costs(beside=0.0, keep=0.1, start=0.0, load=0.0)
    assert simulated(pieces, scores, 8, costs) == pytest.approx(0.1 + 40.0)
    assert formula(pieces, scores, 8, costs) == pytest.approx(40.0)


def test_a_worker_never_waits_where_two_pieces_are_sent_ahead():
    """The client takes as long for a score as a worker for half a piece."""
    costs = Costs(beside=0.0, keep=0.5, start=0.0, load=0.0)
    assert AHEAD == 2
    assert simulated(np.ones(20), np.ones(20), 1, costs) == pytest.approx(20.5)
    assert simulated(np.ones(20), np.ones(20), 1, costs, ahead=1) == pytest.approx(30.0)


@pytest.mark.parametrize("n_workers", [1, 2, 4, 8])
def test_formula_and_simulation_agree_where_pieces_are_many(n_workers):
    rng = np.random.default_rng(1)
    spread = spread_of(rng.uniform(0.7, 1.3, 30))
    told, seen = both(np.full(400, 0.5), np.full(400, 8.0), n_workers, Costs(0.02, 1e-4, 3.0, 2.0), spread)
    assert told == pytest.approx(seen, rel=0.02)


def test_what_a_piece_costs():
    layer = 2 * 10 * (4 * 64 + 2 * 8 * 32) + 2 * 100 * 8
    logits = 2 * 10 * 8 * 50
    assert piece_flops([], SHAPE, 10) == 4 * layer
    assert piece_flops([3], SHAPE, 10) == 5 * layer + logits
    assert piece_flops([0, 3, 3], SHAPE, 10) == (4 + 4 + 1 + 1) * layer + 3 * logits


def test_more_pieces_repeat_the_untouched_layers():
    whole, parts = pieces_of(1, SHAPE), pieces_of(500, SHAPE)
    assert sum(n for n, _ in whole) == sum(n for n, _ in parts) == 245 * 160
    assert len(parts) == 9 * len(whole) == 9 * 245
    trunk = piece_flops([], SHAPE, 1024)
    assert sum(f for _, f in parts) == pytest.approx(sum(f for _, f in whole) + 8 * 245 * trunk)


def test_larger_weights_are_read_after_the_imports():
    measured = {"n_chunks": 3, "n_plans": 4, "pieces_s": [1.0] * 6, "beside_s": -0.1, "keep_s": 0.5}
    measured |= {"start_s": 2.0, "load_s": 7.0}
    assert scaling.costs_of(measured) == Costs(beside=0.0, keep=0.25, start=2.0, load=7.0)
    assert scaling.costs_of(measured, 3.0).load == 10.0


def test_the_kept_costs_give_the_page_s_table(capsys):
    scaling.main([])
    assert capsys.readouterr().out.strip() in scaling.PAGE.read_text(encoding="utf-8")
