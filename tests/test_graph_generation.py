"""Decoding by graphs: captured for real on a CUDA device; elsewhere by recordings (`recorded`)."""

import numpy as np
import pytest
import torch
from recorded import recorded, stand_in_for_cuda
from tiny_models import CONTEXT, MAKERS, gpt2, tokens

from lib.engine import decoding, graph_generation, graphs
from lib.engine.generation import generate, write
from lib.engine.interventions import Plan
from lib.engine.modes import MODES
from lib.errors import InputError
from lib.model.adapters import adapter

HEADS = [(0, 1), (0, 3), (1, 0)]
MEANS = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(5))
MIXED = Plan(((0, 0, "relu"), (0, 1, "l1"), (0, 2, "factored"), (1, 0, "mean"), (1, 1, "identity"), (1, 2, "zero")))
RELU = Plan.of("relu", HEADS)


@pytest.fixture
def by_graph(monkeypatch):
    """Generation by recorded steps on the CPU, and the number of replays."""
    replays = []

    def counted(step, rewind):
        replay = recorded(step, rewind)
        return lambda: (replays.append(1), replay())

    monkeypatch.setattr(graphs, "available", lambda device: True)
    monkeypatch.setattr(graphs, "captured", counted)
    return replays


def prompts(n_rows=3, length=9):
    return tokens(n_rows, length, seed=2).numpy()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("plan", [Plan(), *(Plan.of(mode, HEADS) for mode in MODES), MIXED], ids=Plan.key)
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_replays_write_what_launches_do(by_graph, make, plan, temperature):
    """Up to the last position, for rows that begin alike and rows that do not."""
    model, rows = make(), np.repeat(prompts(), 2, axis=0)
    settings = {"temperature": temperature, "seeds": range(6), "backend": "naive"}
    settings["means"] = MEANS[: model.config.num_hidden_layers]
    found = generate(model, rows, CONTEXT - 9, plan, **settings)
    assert len(by_graph) == CONTEXT - 10
    np.testing.assert_array_equal(found, generate(model, rows, CONTEXT - 9, plan, by_graph=False, **settings))
    assert len(by_graph) == CONTEXT - 10


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_texts_end_by_graph_as_they_do_without(by_graph, monkeypatch, make, temperature):
    model, rows = make(), np.repeat(prompts(9), 2, axis=0)
    settings = {"temperature": temperature, "seeds": range(18), "backend": "naive"}
    whole = generate(model, rows, 12, RELU, by_graph=False, **settings)
    ends = [int(whole[0, 4]), int(whole[9, 2])]
    found, nll = write(model, rows, 12, RELU, ends=ends, **settings)
    monkeypatch.setattr(graphs, "available", lambda device: False)
    expected, expected_nll = write(model, rows, 12, RELU, ends=ends, **settings)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(nll, expected_nll, rtol=1e-4, atol=1e-5)
    assert (nll == 0).any() and nll[:, 0].all()


def test_steps_stop_soon_after_the_last_text_has_ended(by_graph):
    model, rows = gpt2(), prompts(1)
    end = int(generate(model, rows, 3, RELU, backend="naive")[0, 2])
    by_graph.clear()
    texts, _ = write(model, rows, CONTEXT - 9, RELU, ends=[end], backend="naive")
    assert len(by_graph) <= graph_generation.LOOK < CONTEXT - 10
    assert (texts[0, 2:] == end).all()


@pytest.mark.parametrize("n_new", [1, 2, 20])
def test_groups_of_one_size_share_a_graph(by_graph, monkeypatch, n_new):
    model, rows = gpt2(), prompts(5)
    expected = generate(model, rows, n_new, RELU, by_graph=False, backend="naive")
    made = []
    own = graphs.captured
    monkeypatch.setattr(graphs, "captured", lambda *step: made.append(1) or own(*step))
    monkeypatch.setattr(decoding, "CACHE_BYTES", 3 * 4 * 2 * 3 * 32 * (9 + n_new) - 1)  # two rows of three layers
    np.testing.assert_array_equal(generate(model, rows, n_new, RELU, backend="naive"), expected)
    assert len(made) == (2 if n_new > 1 else 0)  # groups of 1, 2 and 2 rows


def test_calls_alike_capture_once(by_graph, monkeypatch):
    """A model keeps its last graphs, in which nothing of the call before is left; other means make another one."""
    made = []
    own = graphs.captured
    monkeypatch.setattr(graphs, "captured", lambda *step: made.append(1) or own(*step))
    model, rows = gpt2(), prompts(5)

    def same(first, last, plan, **settings):
        texts = [
            generate(model, rows[first:last], 9, plan, by_graph=by_graph, backend="naive", **settings)
            for by_graph in (True, False)
        ]
        np.testing.assert_array_equal(*texts)

    for first in (0, 3, 1):
        same(first, first + 2, RELU)
    assert len(made) == 1
    for means in (MEANS, 3 * MEANS, MEANS.clone()):
        same(0, 2, MIXED, means=means)
    assert len(made) == 3
    same(0, 2, RELU, temperature=0.7, seeds=[1, 2])
    same(0, 2, RELU, temperature=0.7, seeds=[3, 4])
    assert len(made) == 4 and len(adapter(model).kept) == graph_generation.KEPT
    same(0, 2, RELU)
    assert len(made) == 5
    adapter(model).let_go()
    same(0, 2, RELU)
    assert len(made) == 6


def test_logits_that_are_not_finite_stop_generation(by_graph):
    model = gpt2()
    model.transformer.wpe.weight[12] = float("nan")
    generate(model, prompts(), 4, RELU, backend="naive")
    with pytest.raises(InputError, match="not finite"):
        generate(model, prompts(), 5, RELU, backend="naive")


@pytest.fixture
def fake_cuda(monkeypatch):
    return stand_in_for_cuda(monkeypatch)


def test_capturing_tries_the_step_out_and_leaves_no_trace(fake_cuda):
    settings = {"temperature": 1.0, "seeds": range(3), "backend": "naive"}
    expected = generate(gpt2(), prompts(), 20, RELU, by_graph=False, **settings)
    np.testing.assert_array_equal(generate(gpt2(), prompts(), 20, RELU, **settings), expected)


def test_what_can_not_be_captured_is_launched(fake_cuda):
    fake_cuda["refuses"] = True
    expected = generate(gpt2(), prompts(), 20, RELU, by_graph=False, backend="naive")
    with pytest.warns(UserWarning, match="no CUDA graph of a step.*: operation not permitted$"):
        found = generate(gpt2(), prompts(), 20, RELU, backend="naive")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("plan", [Plan(), RELU, MIXED], ids=Plan.key)
@pytest.mark.parametrize("backend", ["naive", "triton"])
def test_graphs_on_a_device(recwarn, make, plan, backend):
    model, rows = make().to("cuda"), np.repeat(prompts(), 2, axis=0)
    means = MEANS[: model.config.num_hidden_layers].cuda()
    settings = {"temperature": 1.2, "seeds": range(6), "backend": backend, "means": means}
    found = generate(model, rows, CONTEXT - 9, plan, **settings)
    np.testing.assert_array_equal(found, generate(model, rows, CONTEXT - 9, plan, by_graph=False, **settings))
    assert not [w for w in recwarn if "CUDA graph" in str(w.message)]
