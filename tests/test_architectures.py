import gc
import weakref

import pytest
import torch
from tiny_models import CONTEXT, MAKERS, gpt2, llama, tokens
from torch.nn.functional import scaled_dot_product_attention
from transformers import MistralConfig, MistralForCausalLM, OPTConfig, OPTForCausalLM, Qwen3Config, Qwen3ForCausalLM

from lib.engine.reference import Reference
from lib.errors import InputError
from lib.model.adapters import adapter

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def walk(model, ids):
    """Logits by the adapter's steps."""
    arch = adapter(model)
    resid = arch.embed(ids)
    for layer in range(arch.n_layer):
        q, k, v = arch.qkv(layer, resid)
        z = scaled_dot_product_attention(q, k, v, is_causal=True, scale=arch.scale(layer), enable_gqa=True)
        resid = arch.attention_out(layer, resid, z.transpose(1, 2).flatten(2))
        resid = arch.mlp(layer, resid)
    return arch.logits(arch.final(resid))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_steps_add_up_to_the_model(make):
    model, ids = make(), tokens(2).long()
    torch.testing.assert_close(walk(model, ids), model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "cls, config",
    [
        (MistralForCausalLM, MistralConfig(**SMALL)),
        (Qwen3ForCausalLM, Qwen3Config(**SMALL)),
    ],
    ids=["mistral", "qwen3"],
)
def test_llama_kin(cls, config):
    model, ids = cls(config).eval().requires_grad_(False), tokens(2).long()
    torch.testing.assert_close(walk(model, ids), model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_value_bias_is_what_the_input_cannot_change(make):
    """The value of a normalised residual of 0 (before the norm's own bias)."""
    model = make()
    arch, ref = adapter(model), Reference(model)
    for layer in range(arch.n_layer):
        assert arch.value_bias(layer).shape == (arch.n_head, arch.d_head)
        torch.testing.assert_close(arch.value_bias(layer).double(), ref.value_bias(layer), rtol=1e-5, atol=1e-6)
    values = arch.qkv(0, torch.ones(1, 1, arch.n_embd))[2]
    if make is gpt2:
        torch.testing.assert_close(values[0, :, 0], arch.value_bias(0), rtol=1e-5, atol=1e-5)
    if make is llama:
        assert not arch.value_bias(0).any()


def test_sizes():
    arch = adapter(llama())
    assert (arch.n_layer, arch.n_head, arch.n_kv_head, arch.d_head, arch.n_positions) == (3, 4, 2, 8, CONTEXT)
    assert arch.scale(0) == 8**-0.5
    windowed = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=16))
    assert adapter(windowed).n_positions == 16


def test_a_model_keeps_its_adapter_until_its_weights_change():
    model, ids = gpt2(), tokens(1).long()
    before = walk(model, ids)
    assert adapter(model) is adapter(model)
    model.transformer.h[0].mlp.c_fc.weight.mul_(2)
    assert (walk(model, ids) - before).abs().max() > 0.1
    torch.testing.assert_close(walk(model, ids), model(ids).logits, rtol=1e-4, atol=1e-4)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_other_families_are_refused():
    config = OPTConfig(vocab_size=97, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16)
    with pytest.raises(InputError, match="model type 'opt' is not supported: choose a model of type gpt2"):
        adapter(OPTForCausalLM(config))
