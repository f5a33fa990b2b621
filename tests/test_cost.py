import math
from types import SimpleNamespace

import pytest

from lib.analysis import flops
from lib.errors import InputError

GPT2 = flops.Shape(12, 12, 12, 64, 768, 3072, 50257)


def test_published_head_counts():
    assert flops.softmax_head(1024, 64) == 4 * 1024**2 * 64 + 5 * 1024**2 == 273_678_336
    assert flops.kernelized_head(1024, 64) == 6 * 1024 * 64**2 == 25_165_824


@pytest.mark.parametrize(("n", "speedup"), [(30, "1.233"), (70, "1.790"), (0, "1.000")])
def test_published_speedups(n, speedup):
    assert f"{flops.published_speedup(n, 144):.3f}" == speedup


@pytest.mark.parametrize(("n", "ratio", "extra"), [(30, "0.9143", 6), (70, "0.8000", 16)])
def test_published_equal_flops(n, ratio, extra):
    found = flops.published_token_ratio(n, 144)
    assert f"{found:.4f}" == ratio
    assert flops.extra_tokens(found) == extra


def test_published_savings_of_the_ladder_as_they_are_printed_cut_off():
    saved = [row["saved"] for row in flops.flops_saved([10, 20, 30, 50, 70, 90], 144)]
    assert [math.floor(1000 * share) / 10 for share in saved] == [6.3, 12.6, 18.9, 31.5, 44.1, 56.7]


def test_savings_grow_by_the_same_share_for_each_head():
    one = 1 / 144 * (1 - 25_165_824 / 273_678_336)
    assert flops.published_saving(132, 144) == pytest.approx(132 * one, rel=1e-12)


@pytest.mark.parametrize("n", [-1, 145])
def test_more_heads_than_there_are(n):
    with pytest.raises(InputError, match="the model has 144"):
        flops.published_saving(n, 144)


def test_extra_tokens_are_whole_ones():
    assert [flops.extra_tokens(ratio, 64) for ratio in (1.0, 0.99, 0.5)] == [0, 0, 64]
    with pytest.raises(InputError, match="above 0"):
        flops.extra_tokens(0.0)


def test_layers_by_hand():
    assert GPT2.per_token() == 12 * (2 * 4 * 768**2 + 2 * 2 * 768 * 3072)
    assert GPT2.unembedding() == 2 * 768 * 50257
    llama = flops.Shape(2, 8, 2, 16, 128, 352, 1000, gated=True)
    assert llama.per_token() == 2 * (2 * 128 * 128 * 2 + 2 * 128 * 32 * 2 + 3 * 2 * 128 * 352)


def brute(kind, start, stop, d):
    """One head, query by query, key by key."""
    total = 0
    for query in range(start, stop):
        keys = query + 1
        if kind == "softmax":
            total += keys * (2 * d + 2 * d + 5)
        elif kind == "relu":
            total += keys * (2 * d + 2 * d + 4)
        elif kind == "factored":
            total += 2 * d * d + d + 2 * d * d + 2 * d + 2 * d + d  # state, its sum; z, its norm; both maps; division
        elif kind == "uniform":
            total += d + d  # the sum, the division
        elif kind == "kernelized":
            total += 6 * d * d
    return total


@pytest.mark.parametrize("kind", flops.KINDS)
@pytest.mark.parametrize("span", [(0, 1), (0, 17), (5, 17), (9, 9)])
def test_head_flops_against_a_count_key_by_key(kind, span):
    assert flops.head_flops(kind, *span, 8) == brute(kind, *span, 8)


def test_prefill_and_decoding_add_up():
    whole = flops.prefill_flops(GPT2, 192, 30)
    prompt = flops.prefill_flops(GPT2, 128, 30)
    assert prompt + flops.decode_flops(GPT2, 128, 192, 30) == whole


def test_logits_of_one_position_only():
    every, last = flops.prefill_flops(GPT2, 100), flops.prefill_flops(GPT2, 100, n_logits=1)
    assert every - last == 99 * GPT2.unembedding()


def test_gpt2_is_about_two_flops_a_parameter_and_token():
    weights = 12 * 12 * 768**2 + 768 * 50257
    assert GPT2.per_token() + GPT2.unembedding() == 2 * weights
    assert 0.07 < flops.attention_share(GPT2, 1024) < 0.075


def test_the_exact_relu_kernel_stays_quadratic_and_the_factored_one_does_not():
    relu = [flops.head_flops("relu", 0, length, 64) for length in (1024, 2048)]
    factored = [flops.head_flops("factored", 0, length, 64) for length in (1024, 2048)]
    assert relu[1] / relu[0] == pytest.approx(4, rel=1e-3)
    assert factored[1] / factored[0] == 2
    assert relu[0] < flops.head_flops("softmax", 0, 1024, 64)


def test_equal_flops_of_the_whole_model_buy_no_token():
    row = flops.equal_flops(GPT2, 70)
    assert (row["extra_attention"], row["extra_model"], row["extra_model_factored"]) == (16, 0, 0)
    assert 0.999 < row["ratio_model_decode"] < 1
    assert row["ratio_model_decode_factored"] < row["ratio_model_decode"]


def test_extra_tokens_are_counted_until_the_budget_is_spent():
    thin = flops.Shape(1, 4, 4, 8, 2, 2, 2)
    extra = flops.extra_decoded(thin, 4, "factored", prompt=512, n_new=64)
    budget = flops.decode_flops(thin, 512, 576)
    assert extra > 64
    assert flops.decode_flops(thin, 512, 576 + extra, 4, "factored") <= budget
    assert flops.decode_flops(thin, 512, 577 + extra, 4, "factored") > budget


def test_shapes_from_configurations():
    gpt2 = SimpleNamespace(model_type="gpt2", n_layer=12, n_head=12, n_embd=768, n_inner=None, vocab_size=50257)
    assert flops.Shape.of(gpt2) == GPT2
    llama = SimpleNamespace(
        model_type="llama", num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2, hidden_size=64,
        intermediate_size=176, vocab_size=500,
    )  # fmt: skip
    assert flops.Shape.of(llama) == flops.Shape(4, 8, 2, 8, 64, 176, 500, gated=True)


def test_amdahl():
    assert flops.amdahl(0.5, 2) == pytest.approx(4 / 3)
    assert flops.amdahl(0.2) == pytest.approx(1.25)
    assert flops.amdahl(0.0, 100) == 1 and flops.amdahl(1.0) == math.inf
    with pytest.raises(InputError, match="share"):
        flops.amdahl(1.5)


def test_bad_kinds_and_spans_are_named():
    with pytest.raises(InputError, match="'linear'; one of softmax, relu"):
        flops.head_flops("linear", 0, 4, 8)
    with pytest.raises(InputError, match="start ≤ stop"):
        flops.head_flops("relu", 5, 4, 8)
