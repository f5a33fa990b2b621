"""Random-weight models small enough for exact comparisons, with every weight and bias far from zero."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

VOCAB, CONTEXT = 97, 48


def gpt2(seed=0, n_layer=3, n_head=4, n_embd=32, **config):
    config = {"vocab_size": VOCAB, "n_positions": CONTEXT} | config
    config = GPT2Config(n_layer=n_layer, n_head=n_head, n_embd=n_embd, bos_token_id=0, eos_token_id=0, **config)
    return _randomised(GPT2LMHeadModel, config, seed)


def llama(seed=0, n_layer=3, **config):
    return _randomised(LlamaForCausalLM, LlamaConfig(**(_llama_shape(n_layer) | config)), seed)


def qwen2(seed=0, n_layer=2):
    """Llama-type with biases on q, k and v."""
    return _randomised(Qwen2ForCausalLM, Qwen2Config(**_llama_shape(n_layer)), seed)


MAKERS = {"gpt2": gpt2, "llama": llama, "qwen2": qwen2}


def tokens(n_chunks=3, n_ctx=33, seed=1):
    """int32 [n_chunks, n_ctx]."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (n_chunks, n_ctx), generator=draw, dtype=torch.int32)


def _llama_shape(n_layer):
    return {
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": n_layer,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }


def _randomised(cls, config, seed):
    model = cls(config).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=draw)
        if p.ndim == 2 and "embed" not in name and "wte" not in name and "wpe" not in name:
            p.copy_(noise * (1.5 / config.hidden_size**0.5))
        elif name.endswith("weight") and p.ndim == 1:
            p.copy_(1 + 0.2 * noise)
        else:
            p.copy_(0.5 * noise)
    return model
