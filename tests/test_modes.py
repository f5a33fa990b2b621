"""The table of modes: nothing outside it can be computed, and what follows from it says what the reference says."""

import pytest
import torch
import yaml
from conftest import ROOT
from tiny_models import MAKERS, gpt2, tokens

from lib.engine import reference
from lib.engine.interventions import Plan, apply
from lib.engine.modes import MODES, QUERY_BLOCK, Constant, Weights, by_weights, constants, heads_z
from lib.engine.reference import Reference
from lib.errors import InputError

WEIGHTS = [name for name, mode in MODES.items() if isinstance(mode, Weights)]
KERNEL = [name for name in WEIGHTS if MODES[name].kernel]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def inputs(n_queries=7, n_keys=7, n_head=4, n_kv_head=2, d_head=8):
    draw = torch.Generator().manual_seed(4)
    shapes = (n_head, n_queries), (n_kv_head, n_keys), (n_kv_head, n_keys)
    return [torch.randn(2, heads, length, d_head, generator=draw) for heads, length in shapes]


def test_the_reference_covers_exactly_the_table():
    assert set(reference.CONSTANTS) == {name for name, mode in MODES.items() if isinstance(mode, Constant)}
    assert set(reference.PATTERNS) == set(WEIGHTS)


def test_every_mode_has_its_words():
    terms = yaml.safe_load((ROOT / "report" / "glossary.yaml").read_text(encoding="utf-8"))
    assert all(terms[name]["ja"] and terms[name]["en"] for name in MODES)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: Plan.of("softmin", [(0, 0)]),
        lambda: heads_z("softmin", [0], *inputs(), scale=1.0),
        lambda: constants({0: "softmin"}, torch.zeros(4, 8)),
        lambda: by_weights([(0, "softmin")]),
    ],
)
def test_an_unknown_mode_is_computed_nowhere(compute):
    with pytest.raises(InputError, match=f"mode 'softmin' is unknown: choose one of {', '.join(MODES)}"):
        compute()


def test_the_table_is_added_to_in_its_source_only():
    """The store's keys name the sources: what a process adds would be kept under another's key."""
    with pytest.raises(TypeError):
        MODES["relu2"] = Weights(lambda s: s.relu().square())
    assert "relu2" not in MODES


def test_an_unknown_mode_is_not_in_the_reference():
    with pytest.raises(ValueError, match="'softmin' is not written"):
        Reference(gpt2()).logits(tokens(1)[0], {(0, 0): "softmin"})


@pytest.mark.parametrize("n_queries, n_keys", [(7, 7), (1, 7), (3, 7), (130, 300)])
@pytest.mark.parametrize("name", KERNEL)
def test_a_kernel_computes_the_mode(name, n_queries, n_keys):
    q, k, v = inputs(n_queries, n_keys)
    causal = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
    by_kernel, by_weights = (heads_z(name, [0, 2, 3], q, k, v, scale=0.3, mask=mask) for mask in (None, causal))
    torch.testing.assert_close(by_kernel, by_weights, **TOLERANCE)


@pytest.mark.parametrize("n_queries, n_keys", [(7, 7), (1, 7), (3, 7), (130, 300)])
@pytest.mark.parametrize("name", WEIGHTS)
def test_causal_is_the_causal_mask(name, n_queries, n_keys):
    q, k, v = inputs(n_queries, n_keys)
    causal = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
    implied, given = (heads_z(name, [1, 2], q, k, v, scale=0.3, mask=mask) for mask in (None, causal))
    torch.testing.assert_close(implied, given, **TOLERANCE)
    k[:, :, -1], v[:, :, -1] = 50.0, 50.0
    torch.testing.assert_close(heads_z(name, [1, 2], q, k, v, scale=0.3)[:, :, :-1], implied[:, :, :-1], **TOLERANCE)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_query_that_sees_nothing_gets_the_value_bias(name):
    q, k, v = inputs()
    seen = torch.ones(2, 1, 7, 7, dtype=torch.bool).tril()
    seen[0, :, :, :3] = False
    bias = torch.arange(32.0).view(4, 8)
    z = heads_z(name, [0, 3], q, k, v, value_bias=bias, scale=0.3, mask=seen)
    assert torch.equal(z[0, :, :3], bias[[0, 3], None].expand(2, 3, 8))
    later = heads_z(name, [0, 3], q[:1, :, 3:], k[:1, :, 3:], v[:1, :, 3:], value_bias=bias, scale=0.3)
    torch.testing.assert_close(z[:1, :, 3:], later, **TOLERANCE)


@pytest.mark.parametrize("n_queries", [7, 200, 300])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_head_does_not_depend_on_the_heads_beside_it(name, n_queries):
    q, k, v = inputs(n_queries, n_queries)
    together = heads_z(name, [0, 1, 3], q, k, v, scale=0.3)
    for place, head in enumerate([0, 1, 3]):
        assert torch.equal(together[:, [place]], heads_z(name, [head], q, k, v, scale=0.3))


def test_uniform_is_the_mean_of_what_is_seen():
    q, k, v = inputs()
    z = heads_z("uniform", [0, 1, 2, 3], q, k, v, scale=0.3)
    expected = v.cumsum(2) / torch.arange(1, 8)[:, None]
    torch.testing.assert_close(z, expected.repeat_interleave(2, 1), **TOLERANCE)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_softmax_by_the_replaced_path_is_the_model(make):
    """Every head of every layer: what is left is rounding; and the path is taken, which the bits tell."""
    model, ids = make(), tokens(2).long()
    untouched = model(ids).logits
    plan = Plan.of("softmax", [(layer, head) for layer in range(model.config.num_hidden_layers) for head in range(4)])
    with apply(model, plan):
        replaced = model(ids).logits
    torch.testing.assert_close(replaced, untouched, rtol=1e-4, atol=1e-4)
    assert not torch.equal(replaced, untouched)


def test_softmax_stands_large_scores():
    scores = torch.tensor([[1000.0, 999.0, 5000.0]])
    hidden = torch.tensor([[False, False, True]])
    expected = torch.tensor([[1000.0, 999.0]]).softmax(-1)
    torch.testing.assert_close(MODES["softmax"].pattern(scores, hidden)[:, :2], expected)


@pytest.mark.parametrize("name", WEIGHTS)
def test_gradients_pass(name):
    """Of the masked form, against finite differences."""
    q, k, v = (x[:1].double().requires_grad_() for x in inputs(4, 4))
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    assert torch.autograd.gradcheck(lambda *qkv: heads_z(name, [1], *qkv, scale=0.5, mask=mask), (q, k, v))


@pytest.mark.parametrize("n_queries, n_keys", [(QUERY_BLOCK, QUERY_BLOCK), (2 * QUERY_BLOCK + 1, 300)])
@pytest.mark.parametrize("name", WEIGHTS)
def test_blocks_of_queries_join(name, n_queries, n_keys):
    """Queries one by one give what they give together."""
    q, k, v = inputs(n_queries, n_keys)
    together = heads_z(name, [0], q, k, v, scale=0.3)
    for query in (0, QUERY_BLOCK - 1, n_queries - 1):
        seen = n_keys - n_queries + query + 1
        alone = heads_z(name, [0], q[:, :, query : query + 1], k[:, :, :seen], v[:, :, :seen], scale=0.3)
        torch.testing.assert_close(together[:, :, query : query + 1], alone, **TOLERANCE)
