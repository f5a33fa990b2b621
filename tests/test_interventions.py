import copy

import pytest
import torch
from tiny_models import MAKERS, gpt2, llama, tokens

from lib.engine.interventions import IMPLEMENTATION, Plan, apply, planned_attention
from lib.engine.modes import MODES, Weights
from lib.engine.reference import Reference
from lib.errors import InputError
from lib.model.adapters import adapter

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
WEIGHTS = [name for name, mode in MODES.items() if isinstance(mode, Weights)]
HEADS = [(0, 1), (0, 3), (1, 0), (2, 2)]


def plan_of(mode, model):
    return Plan.of(mode, [h for h in HEADS if h[0] < model.config.num_hidden_layers])


def edits_of(plan):
    return {(layer, head): mode for layer, head, mode in plan.heads}


def raw_means(ref, chunks):
    """(means in the folded basis, in the model's own)."""
    folded = ref.means(chunks)
    return folded, folded + torch.stack([ref.value_bias(layer) for layer in range(ref.n_layer)])


def state_of(model):
    """Everything that a block could leave behind."""
    arch = adapter(model)
    layers = range(arch.n_layer)
    return (
        model.config._attn_implementation,
        [dict(arch.output_projection(layer)._forward_pre_hooks) for layer in layers],
        [sorted(vars(arch.attention(layer))) for layer in layers],
    )


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_the_published_one(make, mode):
    model, chunks = make(), tokens(2)
    ref, plan = Reference(model), plan_of(mode, model)
    folded, raw = raw_means(ref, chunks)
    with apply(model, plan, means=raw):
        got = model(chunks.long()).logits
    for row, ids in zip(got, chunks, strict=True):
        torch.testing.assert_close(row.double(), ref.logits(ids, edits_of(plan), folded), **TOLERANCE)
    change = (got - model(chunks.long()).logits).abs().max()
    assert change < 1e-4 if mode == "softmax" else change > 0.01


def test_modes_mix_in_one_layer():
    model, ids = gpt2(), tokens(1)
    plan = Plan(((1, 0, "zero"), (1, 1, "relu"), (1, 2, "identity"), (0, 2, "l1"), (0, 3, "factored"), (2, 0, "mean")))
    folded, raw = raw_means(Reference(model), ids)
    with apply(model, plan, means=raw):
        got = model(ids.long()).logits[0]
    torch.testing.assert_close(got.double(), Reference(model).logits(ids[0], edits_of(plan), folded), **TOLERANCE)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("mode", MODES)
def test_the_last_token_changes_no_earlier_logit(make, mode):
    model, ids = make(), tokens(1).long()
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % model.config.vocab_size
    means = torch.zeros(model.config.num_hidden_layers, 4, 8)
    with apply(model, plan_of(mode, model), means=means):
        first, second = model(ids).logits, model(changed).logits
    torch.testing.assert_close(first[:, :-1], second[:, :-1], rtol=0, atol=1e-5)
    assert (first[:, -1] - second[:, -1]).abs().max() > 0.1


def test_attention_without_a_mask_is_refused():
    q = torch.zeros(1, 4, 2, 8)
    with pytest.raises(RuntimeError, match="see the future"):
        planned_attention(gpt2().transformer.h[0].attn, q, q, q, None)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_empty_plan_is_bit_equal(make, implementation):
    model, ids = make(), tokens(2).long()
    model.set_attn_implementation(implementation)
    untouched = model(ids).logits
    with apply(model, Plan()):
        assert torch.equal(model(ids).logits, untouched)


def folded_by_hand(model):
    """The same function with every value bias moved into the output bias."""
    model, n_embd = copy.deepcopy(model), model.config.n_embd
    for block in model.transformer.h:
        fused, out = block.attn.c_attn, block.attn.c_proj
        bias = block.ln_1.bias @ fused.weight[:, 2 * n_embd :] + fused.bias[2 * n_embd :]
        out.bias += bias @ out.weight
        fused.bias[2 * n_embd :] -= bias
    return model


@pytest.mark.parametrize("mode", [name for name, mode in MODES.items() if not mode.needs_means])
def test_the_basis_is_the_folded_one(mode):
    """In the folded model v̄ is 0, so `zero` there is plainly z = 0; raw and folded must agree under every mode."""
    model, ids = gpt2(), tokens(1).long()
    folded = folded_by_hand(model)
    assert adapter(folded).value_bias(0).abs().max() < 1e-5 < adapter(model).value_bias(0).abs().max()
    torch.testing.assert_close(folded(ids).logits, model(ids).logits, **TOLERANCE)
    plan = plan_of(mode, model)
    with apply(model, plan), apply(folded, plan):
        torch.testing.assert_close(folded(ids).logits, model(ids).logits, **TOLERANCE)


@pytest.mark.parametrize("mode", ["relu", "l1", "identity", "factored"])
def test_a_dead_row_leaves_the_value_bias(mode):
    model, ids = gpt2(n_layer=1), tokens(1).long()
    attn = model.transformer.h[0].attn
    attn.c_attn.weight[:, :32], attn.c_attn.bias[:32] = 0, 0  # q = 0, so every score is 0
    everything = [(0, head) for head in range(4)]
    with apply(model, Plan.of(mode, everything)):
        got = model(ids).logits
    with apply(model, Plan.of("zero", everything)):
        torch.testing.assert_close(got, model(ids).logits, **TOLERANCE)


def test_nested_blocks_add_up_and_the_inner_one_decides():
    model, ids = gpt2(), tokens(1).long()
    outer, inner = Plan.of("zero", [(0, 1), (1, 1)]), Plan.of("relu", [(1, 1), (1, 2)])
    with apply(model, outer):
        alone = model(ids).logits
        with apply(model, inner):
            together = model(ids).logits
        assert torch.equal(model(ids).logits, alone)
    with apply(model, outer | inner):
        assert torch.equal(model(ids).logits, together)
    with apply(model, inner), apply(model, outer):
        swapped = model(ids).logits
    with apply(model, inner | outer):
        assert torch.equal(model(ids).logits, swapped)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_leaving_undoes_just_what_entering_did(make):
    model, ids = make(), tokens(1).long()
    calls = []
    adapter(model).output_projection(1).register_forward_pre_hook(lambda *_: calls.append(1))
    before, untouched = state_of(model), model(ids).logits
    plan, means = plan_of("relu", model) | Plan.of("mean", [(1, 1)]), torch.zeros(3, 4, 8)
    with pytest.raises(KeyError), apply(model, plan, means=means), apply(model, Plan.of("zero", [(1, 1)])):
        assert model.config._attn_implementation == IMPLEMENTATION
        raise KeyError
    assert state_of(model) == before
    assert torch.equal(model(ids).logits, untouched)
    assert len(calls) == 2


def test_failing_to_enter_leaves_nothing_behind():
    model = gpt2()
    before = state_of(model)
    with pytest.raises(InputError), apply(model, Plan.of("relu", [(0, 0)]), backend="nonsense"):
        pass
    assert state_of(model) == before


def test_models_that_share_a_config_stay_independent():
    model = gpt2()
    other = copy.deepcopy(model)
    other.config = other.transformer.config = model.config
    for block in other.transformer.h:
        block.attn.config = model.config
    ids = tokens(1).long()
    untouched = other(ids).logits
    with apply(model, Plan.of("relu", [(1, 1)])):
        torch.testing.assert_close(other(ids).logits, untouched, **TOLERANCE)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("mode", WEIGHTS)
def test_padded_batches_keep_their_mask(make, mode):
    """Left-out positions at either end change nothing beside them, whichever way the weights are computed."""
    model, ids = make(), tokens(2).long()
    keep = torch.ones_like(ids)
    keep[0, 20:], keep[1, :5] = 0, 0
    positions = (keep.cumsum(-1) - 1).clamp(min=0)
    with apply(model, plan_of(mode, model)):
        padded = model(ids, attention_mask=keep, position_ids=positions).logits
        front, back = model(ids[:1, :20]).logits[0], model(ids[1:, 5:]).logits[0]
    assert padded.isfinite().all()
    torch.testing.assert_close(padded[0, :20], front, **TOLERANCE)
    torch.testing.assert_close(padded[1, 5:], back, **TOLERANCE)


@pytest.mark.parametrize(
    "heads, message",
    [
        ([(3, 0, "zero")], "head L3H0 is not in this model: layers are 0 to 2, heads 0 to 3"),
        ([(0, 4, "relu")], "head L0H4 is not in this model"),
        ([(0, 0, "mean")], "from their means, but none were given"),
        ([(0, 0, "relu"), (0, 0, "zero")], "head L0H0 stands twice"),
        ([(0, 0, "softmin")], "mode 'softmin' is unknown: choose one of zero, mean"),
    ],
)
def test_bad_plans_are_refused(heads, message):
    with pytest.raises(InputError, match=message), apply(gpt2(), Plan(tuple(heads))):
        pass


def test_bad_means_are_refused():
    means = torch.zeros(3, 4, 9)
    with pytest.raises(InputError, match=r"\[3, 4, 9\]"), apply(gpt2(), Plan.of("mean", [(0, 0)]), means=means):
        pass


def test_plans_are_sets():
    first, second = Plan.of("zero", [(1, 1), (0, 2)]), Plan.of("zero", [(0, 2), (1, 1)])
    assert first == second and hash(first) == hash(second) and first.key() == "L0H2:zero,L1H1:zero"
    assert not Plan() and Plan().key() == "baseline" and Plan() | first == first
    assert (first | Plan.of("relu", [(0, 2)])).layer(0) == {2: "relu"}
