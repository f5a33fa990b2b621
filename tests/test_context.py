import numpy as np
import pytest
from tiny_models import CONTEXT, MAKERS, tokens

from lib.analysis import context
from lib.analysis.bootstrap import Resampler, context_resamplers
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.errors import InputError
from lib.store import Store

DRAWS = 300


def scores(n_chunks=20, n_ctx=64, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.gamma(2, 1.5, (n_chunks, n_ctx - 1)).astype(np.float32)
    return (base + rng.normal(0.1, 0.1, base.shape)).astype(np.float32), base


@pytest.mark.parametrize("n_ctx", [2, 16, 31, 64, 100, 128, 1024])
def test_bins_part_all_contexts(n_ctx):
    places = context.bins(n_ctx)
    assert [c for first, last in places for c in range(first, last + 1)] == list(range(1, n_ctx))


def test_the_bins_of_the_published_length():
    places = context.bins(1024)
    assert places[0] == (1, 15) and places[-3:] == [(256, 511), (512, 767), (768, 1023)]


def plain_ppl(nll):
    return np.exp(np.mean(np.asarray(nll, dtype=np.float64)))


def by_chunk(n_chunks=20, n_ctx=64):
    documents = np.repeat(np.arange(n_chunks), n_ctx).reshape(n_chunks, n_ctx)
    return Resampler(n_chunks, n_ctx, 5, DRAWS, documents)


def plain_draws(nll, weights):
    """PPL on each resample of whole chunks, of equal size: a mean of the chunks' means, moved by its weights."""
    own = np.asarray(nll, dtype=np.float64).mean(axis=1)
    return np.exp(own.mean() + (weights - 1) @ (own - own.mean()) / len(own))


def test_spans_against_plain_numpy():
    nll, base = scores()
    resampler = by_chunk()
    places = context.bins(64)
    found = context.spans(nll, base, resampler, places)
    for i, (first, last) in enumerate(places):
        own, below = nll[:, first - 1 : last], base[:, first - 1 : last]
        assert found["ppl"][i] == pytest.approx(plain_ppl(own))
        assert found["ratio"][i] == pytest.approx(plain_ppl(own) / plain_ppl(below))
        ratios = plain_draws(own, resampler.weights) / plain_draws(below, resampler.weights)
        assert found["ratio_ci"][i] == pytest.approx(np.quantile(ratios, [0.025, 0.975]))


def test_all_spans_together_are_the_whole():
    nll, base = scores()
    places = context.bins(64)
    found = context.spans(nll, base, by_chunk(), places)
    sizes = np.array([last - first + 1 for first, last in places])
    assert np.exp(sizes @ np.log(found["ratio"]) / 63) == pytest.approx(plain_ppl(nll) / plain_ppl(base))


def test_windows_end_on_the_same_tokens():
    chunks = np.arange(2 * 64).reshape(2, 64)
    found = context.windows(chunks)
    assert list(found) == [4, 8, 16, 32, 60]
    for length, cut in found.items():
        assert cut.shape == (2, length + 4)
        np.testing.assert_array_equal(cut[:, length:], chunks[:, 60:])
        np.testing.assert_array_equal(np.diff(cut), 1)
    with pytest.raises(InputError, match="16 or more"):
        context.windows(chunks[:, :15])


def test_targets_against_plain_numpy():
    resampler = by_chunk()
    given = [scores(n_ctx=length + 4, seed=length) for length in (4, 16, 60)]
    found, (change, ends) = context.targets(given, resampler, 4)
    ratios = [plain_ppl(nll[:, -4:]) / plain_ppl(base[:, -4:]) for nll, base in given]
    assert found["ratio"] == pytest.approx(ratios)
    assert change == pytest.approx(ratios[-1] - ratios[0])
    a, b = (
        plain_draws(nll[:, -4:], resampler.weights) / plain_draws(base[:, -4:], resampler.weights)
        for nll, base in (given[-1], given[0])
    )
    assert ends == pytest.approx(np.quantile(a - b, [0.025, 0.975]))


def test_the_quotient_of_excesses():
    rng = np.random.default_rng(3)
    base = rng.gamma(2, 1.5, (20, 63))
    resamplers = context_resamplers({64: 20, 32: 40}, 7, DRAWS)
    short = base[:, :62].reshape(40, 31)
    pair = (base + np.log(1.06), base), (short + np.log(1.03), short)
    value, ends = context.excess_quotient(*pair, (resamplers[64], resamplers[32]))
    assert value == pytest.approx(2.0)
    assert ends == pytest.approx([2.0, 2.0])
    none = (base + np.log(1.06), base), (short, short)
    assert context.excess_quotient(*none, (resamplers[64], resamplers[32])) == (None, [None, None])


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_chunk_that_begins_later(make, tmp_path):
    """Positions matter where they are embedded; rotary ones are relative, so that the place changes nothing."""
    model, chunks = make(), tokens(2, 21)

    def scored(start):
        evaluator = Evaluator(model, chunks, Store(tmp_path), model_key="k", start=start)
        return evaluator.score([Plan()], 2)[Plan()]

    first, later = scored(0), scored(CONTEXT - 21)
    if model.config.model_type == "gpt2":
        with_model = (
            model(chunks.long(), position_ids=np_positions(CONTEXT - 21, 21), use_cache=False)
            .logits[:, :-1]
            .log_softmax(-1)
        )
        expected = -with_model.gather(-1, chunks[:, 1:, None].long())[..., 0].numpy(force=True)
        np.testing.assert_allclose(later, expected, atol=2e-5)
        assert np.abs(later - first).max() > 0.1
    else:
        np.testing.assert_allclose(later, first, atol=2e-4)
    with pytest.raises(InputError, match="from position 28 is too long"):
        scored(CONTEXT - 20)


def np_positions(start, length):
    import torch

    return torch.arange(start, start + length)[None]
