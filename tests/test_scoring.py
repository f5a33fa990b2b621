import time

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, MAKERS, gpt2, tokens

from lib.engine import dispatch, likelihood, side_by_side
from lib.engine.interventions import Plan
from lib.engine.modes import MODES
from lib.engine.reference import Reference
from lib.engine.scoring import Evaluator
from lib.errors import InputError
from lib.model import adapters
from lib.store import Store

HEADS = [(0, 1), (0, 3), (1, 0), (1, 2)]
PLANS = (
    [Plan()]
    + [Plan.of(mode, HEADS[:n]) for mode in MODES for n in (1, 3, 4)]
    + [Plan.of(mode, [head]) for mode in MODES for head in HEADS[1:]]
)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def evaluator(store, model=None, ids=None, **settings):
    model = gpt2() if model is None else model
    ids = tokens() if ids is None else ids
    return Evaluator(model, ids, store, model_key="random", **settings)


def edits_of(plan):
    return {(layer, head): mode for layer, head, mode in plan.heads}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_scores_are_the_published_ones(make, store):
    model, ids = make(), tokens()
    ref, engine = Reference(model), evaluator(store, model, ids)
    means = engine.means(3)
    scores = engine.score(PLANS, 3, means)
    folded = ref.means(ids)
    for plan in PLANS:
        assert scores[plan].dtype == np.float32 and scores[plan].shape == (3, ids.shape[1] - 1)
        expected = torch.stack([ref.nll(chunk, edits_of(plan), folded) for chunk in ids])
        np.testing.assert_allclose(scores[plan], expected, **TOLERANCE)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_means_are_those_of_all_chunks(make, store):
    model, ids = make(), tokens()
    ref = Reference(model)
    bias = torch.stack([ref.value_bias(layer) for layer in range(ref.n_layer)])
    for n_chunks in (1, 3):
        means = evaluator(store, model, ids).means(n_chunks)
        torch.testing.assert_close(means.double(), ref.means(ids[:n_chunks]) + bias, **TOLERANCE)


def test_a_score_does_not_depend_on_its_company(tmp_path):
    """Bit-equal alone, with other plans, in another order, and with other chunks."""
    whole, means = Store(tmp_path / "all"), torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(3))
    together = evaluator(whole).score(PLANS, 3, means)
    reverse = evaluator(Store(tmp_path / "reverse")).score(PLANS[::-1], 3, means)
    for i, plan in enumerate(PLANS):
        alone = evaluator(Store(tmp_path / str(i)), ids=tokens()[1:2]).score([plan], 1, means)[plan]
        np.testing.assert_array_equal(alone[0], together[plan][1])
        np.testing.assert_array_equal(reverse[plan], together[plan])


class Counted:
    """How often each step of the walk runs."""

    def __init__(self, monkeypatch, engine):
        self.calls = {"qkv": 0, "mlp": 0, "final": 0}
        for name in self.calls:
            monkeypatch.setattr(engine.arch, name, self.counting(name, getattr(engine.arch, name)))

    def counting(self, name, step):
        def counted(*args):
            self.calls[name] += 1
            return step(*args)

        return counted


def test_shared_layers_are_computed_once(store, monkeypatch):
    monkeypatch.setattr(side_by_side, "MOST", 1)
    engine = evaluator(store, ids=tokens(1))
    engine.arch.pack()
    counted = Counted(monkeypatch, engine)
    engine.score([Plan(), Plan.of("zero", [(2, 0)]), Plan.of("relu", [(2, 0)]), Plan.of("zero", [(1, 0)])], 1)
    # layer 0 once, layer 1 once with two continuations, layer 2 twice with three and one
    assert counted.calls == {"qkv": 1 + 1 + 2, "mlp": 1 + 2 + 4, "final": 4}


def test_workers_share_the_chunks_and_leave_no_trace(tmp_path, monkeypatch):
    before, means = torch.get_num_threads(), torch.zeros(3, 4, 8)
    scores = {}
    for n_workers in (1, 2, 5):
        monkeypatch.setattr(side_by_side, "workers", lambda _, n=n_workers: (n, 1))
        engine = evaluator(Store(tmp_path / str(n_workers)))
        scores[n_workers] = engine.score(PLANS, 3, means)
        engine.means(3)
        assert torch.get_num_threads() == before
    torch.set_num_threads(1)
    monkeypatch.setattr(side_by_side, "workers", lambda _: (1, 1))
    alone = evaluator(Store(tmp_path / "alone")).score(PLANS, 3, means)
    torch.set_num_threads(before)
    for plan in PLANS:
        for n_workers in (2, 5):
            np.testing.assert_array_equal(scores[n_workers][plan], alone[plan])


def test_stopping_early_stops_the_workers(store, monkeypatch):
    monkeypatch.setattr(side_by_side, "workers", lambda _: (2, 1))
    engine = evaluator(store, ids=tokens(40))
    plans = [plan for plan in PLANS if not plan.needs_means]
    coming = engine.compute(engine.missing(plans, 40))
    next(coming)
    coming.close()
    left = len(engine.missing(plans, 40))
    assert left > 0
    time.sleep(0.05)
    assert len(engine.missing(plans, 40)) == left


def test_what_is_in_the_store_is_not_computed_again(store, monkeypatch):
    first = evaluator(store).score(PLANS[:1] + PLANS[7:10], 2, torch.zeros(3, 4, 8))
    engine = evaluator(store)
    counted = Counted(monkeypatch, engine)
    again = engine.score(PLANS[:1] + PLANS[7:10], 2, torch.zeros(3, 4, 8))
    assert engine.means(2).shape == (3, 4, 8)
    assert not any(counted.calls.values())
    assert all(np.array_equal(first[plan], again[plan]) for plan in first)
    assert [job.chunk for job in engine.missing([Plan()], 3)] == [2]
    assert engine.missing([Plan.of("mean", [(0, 1)])], 1, torch.ones(3, 4, 8))


def test_means_lost_from_the_store_are_computed_again(store):
    first = evaluator(store)
    means = first.means(2)
    store._path(first._z_key(1)).unlink()
    assert torch.equal(evaluator(store).means(2), means)


def test_chunks_are_known_by_their_tokens(store):
    """The same text cut by another evaluator is found; other lengths and other models are not."""
    evaluator(store, ids=tokens(3)).score([Plan()], 3)
    assert not evaluator(store, ids=tokens(3)[1:]).missing([Plan()], 2)
    assert evaluator(store, ids=tokens(3)[:, :-1]).missing([Plan()], 3)
    assert Evaluator(gpt2(), tokens(3), store, model_key="other").missing([Plan()], 3)
    assert evaluator(store, dtype="float64").missing([Plan()], 3)


def test_jobs_computed_apart_are_the_same(tmp_path):
    plans = [plan for plan in PLANS if not plan.needs_means][:8]
    expected = evaluator(Store(tmp_path / "a")).score(plans, 3)
    engine = evaluator(Store(tmp_path / "b"))
    jobs = engine.missing(plans, 3)
    assert len(jobs) == 24
    for part in (jobs[5:], jobs[:5]):
        assert len(list(evaluator(Store(tmp_path / "b")).compute(part))) == len(part)
    assert not engine.missing(plans, 3)
    found = engine.score(plans, 3)
    assert all(np.array_equal(expected[plan], found[plan]) for plan in plans)


def test_a_damaged_score_is_computed_again(store, capsys):
    engine = evaluator(store)
    expected = engine.score([Plan()], 1)[Plan()]
    path = store._path(engine._key(Plan(), 0, None))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    np.testing.assert_array_equal(evaluator(store).score([Plan()], 1)[Plan()], expected)
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("backend", ["auto", "naive"])
@pytest.mark.parametrize(("part", "block"), [(97, 5 * 97), (40, 2**21), (40, 5 * 40), (1, 2**21), (96, 3 * 97)])
def test_logits_are_held_a_block_at_a_time(tmp_path, monkeypatch, dtype, backend, part, block):
    """Of rows, of the vocabulary, or of both; what is not packed is not parted."""
    settings = {"dtype": dtype, "backend": backend}
    whole = evaluator(Store(tmp_path / "a"), **settings).score([Plan()], 2)[Plan()]
    monkeypatch.setattr(likelihood, "CPU_BLOCK", block)
    monkeypatch.setattr(adapters, "PART", part)
    held = []
    own = dispatch.log_sum_exp
    monkeypatch.setattr(dispatch, "log_sum_exp", lambda logits, **how: held.append(logits.shape) or own(logits, **how))
    np.testing.assert_allclose(
        evaluator(Store(tmp_path / "b"), **settings).score([Plan()], 2)[Plan()], whole, rtol=1e-6, atol=1e-6
    )
    if dtype != "float64":
        assert {shape[1] for shape in held} <= {part, 97 % part or part} and (part == 97 or held)
    assert all(shape.numel() <= block for shape in held)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-5), ("bfloat16", 0.15)])
def test_other_dtypes_leave_the_model_alone(store, dtype, tolerance):
    model = gpt2()
    exact = Reference(model).nll(tokens()[0]).mean()
    scores = evaluator(store, model, dtype=dtype).score([Plan(), Plan.of("relu", HEADS)], 1)
    assert abs(scores[Plan()].mean() - exact) < tolerance * exact
    assert model.dtype == torch.float32


def test_logits_that_are_not_finite_name_plan_and_chunk(store):
    model, means = gpt2(), torch.zeros(3, 4, 8)
    means[1, 0] = float("nan")
    plan = Plan.of("mean", [(1, 0)])
    with pytest.raises(InputError, match="the logits of plan L1H0:mean on chunk 0 are not finite"):
        evaluator(store, model).score([Plan(), plan], 1, means)
    assert not evaluator(store, model).missing([Plan()], 1)
    assert evaluator(store, model).missing([plan], 1, means)


@pytest.mark.parametrize(
    "ids, message",
    [
        (tokens(1, CONTEXT + 1), f"n_ctx {CONTEXT + 1} is too long: this model has {CONTEXT} positions"),
        (tokens(1) + 90, "is not in this model's vocabulary: allowed are 0 to 96"),
        (tokens(1)[0], "give \\[n_chunks, n_ctx\\]"),
    ],
)
def test_bad_tokens_are_refused(store, ids, message):
    with pytest.raises(InputError, match=message):
        evaluator(store, ids=ids)


def test_bad_requests_are_refused(store):
    with pytest.raises(InputError, match="4 chunks asked for: the corpus has 1 to 3"):
        evaluator(store).score([Plan()], 4)
    with pytest.raises(InputError, match="dtype 'float8' is unknown: choose one of float32"):
        evaluator(store, dtype="float8")
    with pytest.raises(InputError, match="head L9H0 is not in this model"):
        evaluator(store).score([Plan.of("zero", [(9, 0)])], 1)


def test_a_log_file_gets_few_lines(store, capfd):
    evaluator(store).score(PLANS, 3, torch.zeros(3, 4, 8), label="all heads")
    error = capfd.readouterr().err
    assert "all heads" in error and "tok/s" in error
    assert len(error.replace("\r", "\n").splitlines()) < 8
