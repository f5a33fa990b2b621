"""Scoring by graphs: captured for real on a CUDA device; elsewhere by recordings (`recorded`)."""

import numpy as np
import pytest
import torch
from recorded import recorded
from tiny_models import MAKERS, VOCAB, gpt2, llama, tokens

from lib.engine import graph_scoring, graphs, side_by_side
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.errors import InputError
from lib.store import Store

HEADS = [(0, 1), (0, 3), (1, 0)]
MIXED = Plan(((0, 0, "relu"), (0, 1, "l1"), (0, 2, "factored"), (1, 0, "mean"), (1, 1, "identity"), (1, 2, "zero")))
PLANS = [Plan(), MIXED, Plan.of("relu", HEADS), Plan.of("relu", HEADS[:1]), Plan.of("uniform", HEADS[1:])]
MEANS = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def by_graph(monkeypatch):
    """Scoring by recorded walks on the CPU: how many were recorded, and replayed."""
    done = {"recorded": 0, "replayed": 0}

    def counted(step, warm_up):
        done["recorded"] += 1
        replay = recorded(step, lambda: None)

        def again():
            done["replayed"] += 1
            replay()

        return again

    monkeypatch.setattr(graphs, "available", lambda device: True)
    monkeypatch.setattr(graphs, "captured", counted)
    monkeypatch.setattr(side_by_side, "workers", lambda device: (1, 1))
    return done


def evaluator(folder, model=None, ids=None, by_graph=True, **settings):
    model, ids = gpt2() if model is None else model, tokens(6, 17) if ids is None else ids
    settings = {"model_key": "random", "backend": "naive"} | settings
    return Evaluator(model, ids, Store(folder), by_graph=by_graph, **settings)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_replays_score_what_launches_do(tmp_path, by_graph, make, dtype):
    model, found = make(), {}
    means = MEANS[: model.config.num_hidden_layers]
    for on in (True, False):
        engine = evaluator(tmp_path / str(on), model, by_graph=on, dtype=dtype)
        found[on] = engine.score(PLANS, 6, means.to(engine.dtype)), engine.means(6)
    assert by_graph == {"recorded": 1, "replayed": 6}
    for plan in PLANS:
        np.testing.assert_array_equal(found[True][0][plan], found[False][0][plan])
    assert torch.equal(found[True][1], found[False][1])


@pytest.mark.parametrize("make", [gpt2, llama])
def test_chunks_that_start_later(tmp_path, by_graph, make):
    both = [
        evaluator(tmp_path / str(on), make(), by_graph=on, start=7).score([Plan(), MIXED], 6, MEANS)
        for on in (True, False)
    ]
    assert by_graph["replayed"] == 6
    np.testing.assert_array_equal(both[0][MIXED], both[1][MIXED])


def test_few_chunks_and_many_plans_are_launched(tmp_path, by_graph, monkeypatch):
    """What the store has of some chunks leaves them other plans, which are worth a graph of their own or none."""
    plans, ids = [Plan(), Plan.of("relu", HEADS), Plan.of("zero", HEADS)], tokens(12, 17)

    def in_two_steps(folder, by_graph=True):
        engine = evaluator(folder, ids=ids, by_graph=by_graph)
        engine.score(plans, graph_scoring.LEAST_CHUNKS - 1)
        return engine.score([*plans, MIXED], 12, MEANS)

    found = in_two_steps(tmp_path / "a")
    assert by_graph == {"recorded": 1, "replayed": 9}
    monkeypatch.setattr(graph_scoring, "MOST_PLANS", 3)
    several = in_two_steps(tmp_path / "b")
    assert by_graph == {"recorded": 1, "replayed": 9}
    expected = in_two_steps(tmp_path / "c", by_graph=False)
    for plan in (*plans, MIXED):
        np.testing.assert_array_equal(found[plan], expected[plan])
        np.testing.assert_array_equal(several[plan], expected[plan])


def test_a_chunk_that_is_not_finite_is_named(tmp_path, by_graph):
    model, ids = gpt2(), tokens(6, 17) % (VOCAB - 1)
    model.transformer.wte.weight[VOCAB - 1] = float("inf")
    ids[4, 3] = VOCAB - 1
    model.lm_head.weight = torch.nn.Parameter(gpt2().lm_head.weight.clone(), requires_grad=False)
    engine = evaluator(tmp_path, model, ids)
    with pytest.raises(InputError, match="on chunk 4 are not finite"):
        engine.score([Plan(), MIXED], 6, MEANS)
    assert by_graph == {"recorded": 1, "replayed": 5}
    assert len(engine.missing([Plan(), MIXED], 6, MEANS)) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("backend", ["naive", "triton"])
def test_graphs_on_a_device(tmp_path, recwarn, make, backend):
    model = make().to("cuda")
    means = MEANS[: model.config.num_hidden_layers].cuda()
    both = [
        evaluator(tmp_path / str(on), model, by_graph=on, backend=backend).score(PLANS, 6, means)
        for on in (True, False)
    ]
    for plan in PLANS:
        np.testing.assert_array_equal(both[0][plan], both[1][plan])
    assert not [w for w in recwarn if "CUDA graph" in str(w.message)]
