import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, MAKERS, VOCAB, gpt2, llama, tokens

from lib.engine import decoding
from lib.engine.generation import continuation_nll, generate, write
from lib.engine.interventions import Plan
from lib.engine.modes import MODES
from lib.engine.reference import Reference
from lib.errors import InputError

HEADS = [(0, 1), (0, 3), (1, 0)]
MEANS = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(5))
MIXED = Plan(((0, 0, "relu"), (0, 1, "l1"), (0, 2, "factored"), (1, 0, "mean"), (1, 1, "identity"), (1, 2, "zero")))


def prompts(n_rows=3, length=9):
    return tokens(n_rows, length, seed=2).numpy()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("plan", [Plan(), *(Plan.of(mode, HEADS) for mode in MODES), MIXED], ids=Plan.key)
def test_the_cache_changes_nothing(make, plan):
    """Greedy tokens up to the last position, and the logits behind them, are those of full recomputation."""
    model = make()
    means = MEANS[: model.config.num_hidden_layers]
    settings = {"means": means, "n_new": CONTEXT - 9, "plan": plan}
    found = generate(model, prompts(), **settings)
    assert found.dtype == np.int32 and found.shape == (3, CONTEXT - 9)
    np.testing.assert_array_equal(found, generate(model, prompts(), **settings, cached=False))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_greedy_is_the_published_protocol(make):
    model, plan = make(), Plan.of("relu", HEADS)
    edits = {head: "relu" for head in HEADS}
    expected = [Reference(model).generate(row, 12, edits) for row in prompts(2)]
    for cached in (True, False):
        np.testing.assert_array_equal(generate(model, prompts(2), 12, plan, cached=cached), expected)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_backends_write_the_same_text(make):
    model, plan = make(), Plan.of("relu", HEADS)
    expected = generate(model, prompts(), 20, plan, backend="cpu")
    np.testing.assert_array_equal(generate(model, prompts(), 20, plan, backend="naive"), expected)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_text_does_not_depend_on_its_batch(temperature, monkeypatch):
    model, plan, rows = gpt2(), Plan.of("relu", HEADS), prompts(6)
    rows[3] = rows[1]
    seeds = [11, 12, 13, 14, 15, 16]
    together = generate(model, rows, 15, plan, temperature=temperature, seeds=seeds)
    for i in range(6):
        alone = generate(model, rows[i : i + 1], 15, plan, temperature=temperature, seeds=seeds[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])
    monkeypatch.setattr(decoding, "CACHE_BYTES", 1)
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 1)
    apart = generate(model, rows, 15, plan, temperature=temperature, seeds=seeds)
    np.testing.assert_array_equal(apart, together)
    recomputed = generate(model, rows, 15, plan, temperature=temperature, seeds=seeds, cached=False)
    np.testing.assert_array_equal(recomputed, together)


def test_sampling_follows_the_softmax():
    model, n_rows = gpt2(), 4000
    row = prompts(1)
    drawn = generate(model, np.repeat(row, n_rows, axis=0), 1, Plan(), temperature=0.8, seeds=range(n_rows))
    expected = (Reference(model).logits(row[0])[-1] / 0.8).softmax(-1).numpy()
    share = np.bincount(drawn[:, 0], minlength=VOCAB) / n_rows
    assert np.abs(share - expected).max() < 5 * np.sqrt(0.25 / n_rows)
    assert (share > 0).sum() > 10


def test_seeds_decide():
    model, rows = gpt2(), np.repeat(prompts(1), 3, axis=0)
    first = generate(model, rows, 20, Plan(), temperature=1.0, seeds=[1, 2, 1])
    np.testing.assert_array_equal(first[0], first[2])
    assert (first[0] != first[1]).any()


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("n_scored", [1, 2, 20, 32])
def test_continuations_are_scored_by_the_unmodified_model(make, n_scored):
    model, rows = make(), tokens(4).numpy()
    rows[2, :-1] = rows[0, :-1]
    expected = np.stack([Reference(model).nll(row)[-n_scored:] for row in rows])
    found = continuation_nll(model, rows, n_scored)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "rows, n_new, settings, message",
    [
        (
            prompts(),
            CONTEXT - 8,
            {},
            f"9 prompt tokens and {CONTEXT - 8} new ones do not fit: .* at most {CONTEXT} in all",
        ),
        (prompts(), 0, {}, "need 1 or more new tokens"),
        (prompts(), 2, {"temperature": 0.5}, "3 prompts to be sampled and none seeds"),
        (prompts(), 2, {"temperature": 0.5, "seeds": [1]}, "3 prompts to be sampled and 1 seeds"),
        (prompts(), 2, {"temperature": -1.0}, "temperature -1.0: allowed are 0"),
        (prompts()[0], 2, {}, "give \\[B, L\\]"),
        (prompts() + VOCAB, 2, {}, f"allowed are 0 to {VOCAB - 1}"),
        (prompts(), 2, {"plan": Plan.of("relu", [(7, 0)])}, "head L7H0 is not in this model"),
        (prompts(), 2, {"backend": "quantum"}, "backend 'quantum' is unknown"),
    ],
)
def test_bad_requests_are_refused(rows, n_new, settings, message):
    with pytest.raises(InputError, match=message):
        generate(gpt2(), rows, n_new, settings.pop("plan", Plan()), **settings)


def test_bad_continuations_are_refused():
    for rows, n_scored in [(prompts(), 9), (prompts(), 0), (tokens(1, CONTEXT + 1).numpy(), 2)]:
        with pytest.raises(InputError, match="to be scored"):
            continuation_nll(gpt2(), rows, n_scored)


def test_logits_that_are_not_finite_stop_generation():
    model = gpt2()
    model.transformer.ln_f.bias[0] = float("inf")
    with pytest.raises(InputError, match="not finite"):
        generate(model, prompts(), 2, Plan())


@pytest.mark.parametrize("make", [gpt2, llama])
def test_continuations_are_scored_by_the_model_under_a_plan(make):
    model, rows = make(), tokens(3).numpy()
    plan = Plan.of("relu", [(0, 1), (1, 0), (1, 3)])
    edits = {(layer, head): mode for layer, head, mode in plan.heads}
    expected = [
        -Reference(model).logits(row, edits)[:-1].log_softmax(-1)[np.arange(32), row[1:]].numpy()[-12:] for row in rows
    ]
    np.testing.assert_allclose(continuation_nll(model, rows, 12, plan), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(continuation_nll(model, rows, 12) - expected).max() > 1e-2


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_text_that_ends_is_the_beginning_of_the_one_that_does_not(make, temperature):
    model, plan, rows = make(), Plan.of("relu", HEADS), np.repeat(prompts(9), 2, axis=0)
    sampled = {"temperature": temperature, "seeds": list(range(18))}
    whole = generate(model, rows, 12, plan, **sampled, cached=False)
    ends = [int(whole[0, 4]), int(whole[9, 2])]
    found, nll = write(model, rows, 12, plan, ends=ends, **sampled)
    lengths = [next((i + 1 for i, token in enumerate(row) if token in ends), 12) for row in whole]
    assert min(lengths) < max(lengths)
    scored = continuation_nll(model, np.concatenate([rows, whole], 1), 12, plan)
    for own, own_nll, full, expected, n in zip(found, nll, whole, scored, lengths, strict=True):
        np.testing.assert_array_equal(own[:n], full[:n])
        assert (own[n:] == own[n - 1]).all() and (own_nll[n:] == 0).all()
        np.testing.assert_allclose(own_nll[:n], expected[:n], rtol=1e-4, atol=1e-5)


def test_what_rows_have_in_common_is_computed_once(monkeypatch):
    model, rows, seeds = gpt2(), np.repeat(prompts(2), 40, axis=0), list(range(80))
    texts = generate(model, rows, 8, Plan(), temperature=0.8, seeds=seeds)
    whole = np.concatenate([rows, texts], 1)
    computed = []
    advance = decoding.PlannedDecoder.advance

    def counted(self, tokens, cache):
        computed.append(len(tokens))
        return advance(self, tokens, cache)

    monkeypatch.setattr(decoding.PlannedDecoder, "advance", counted)
    generate(model, rows, 8, Plan(), temperature=0.8, seeds=seeds)
    assert computed == [len(np.unique(whole[:, : 9 + n], axis=0)) for n in range(8)]
    assert computed[0] == 2 and computed[1] < 80
