"""An independent scorer: a Hugging Face GPT-2 with eager attention, its heads changed by the written definitions.

Everything in float64, whole chunks at once, nothing shared with the engine that it is held against.
"""

import contextlib

import numpy as np
import torch
from transformers import GPT2LMHeadModel
from transformers.models.gpt2 import modeling_gpt2


class Scorer:
    """Scores `tokens` [n_chunks, n_ctx] with the model of a folder."""

    def __init__(self, folder, tokens, dtype=torch.float64):
        self.model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").to(dtype).eval()
        self.tokens = torch.as_tensor(np.asarray(tokens), dtype=torch.long)
        config = self.model.config
        self.d_head = config.n_embd // config.n_head
        self.bias = []
        for block in self.model.transformer.h:
            weight, bias = block.attn.c_attn.weight[:, -config.n_embd :], block.attn.c_attn.bias[-config.n_embd :]
            self.bias.append((block.ln_1.bias @ weight + bias).view(config.n_head, 1, self.d_head).detach())

    @torch.no_grad()
    def nll(self, changes=(), n_chunks=None, means=None, keep=None):
        """Per-token NLL [n_chunks, n_ctx - 1]; `changes` are `(layer, head, mode)`, `keep` receives z by layer."""
        by_layer = {}
        for layer, head, mode in changes:
            by_layer.setdefault(layer, {})[head] = mode

        def attention(module, query, key, value, *args, **kwargs):
            layer = module.layer_idx
            scores = query @ key.transpose(-1, -2) / self.d_head**0.5
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
            z = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value
            for head, mode in by_layer.get(layer, {}).items():
                constant = self.bias[layer][head]
                if mode == "zero":
                    z[:, head] = constant
                elif mode == "mean":
                    z[:, head] = means[layer][head]
                else:
                    weights = scores[:, head].relu().masked_fill(~seen, 0)
                    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-8)
                    z[:, head] = weights @ (value[:, head] - constant) + constant
            if keep is not None:
                keep[layer] = z
            return z.transpose(1, 2), None

        tokens = self.tokens[:n_chunks]
        with swapped(attention):
            logits = self.model(tokens).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").numpy()

    def ppl(self, changes=(), n_chunks=None, means=None):
        return float(np.exp(self.nll(changes, n_chunks, means).mean(dtype=np.float64)))

    def means(self, n_chunks=None):
        """Mean z over all positions of the chunks, `{layer: [n_head, d_head]}`."""
        keep = {}
        self.nll((), n_chunks, keep=keep)
        return {layer: z.mean((0, 2)) for layer, z in keep.items()}


@contextlib.contextmanager
def swapped(attention):
    original = modeling_gpt2.eager_attention_forward
    modeling_gpt2.eager_attention_forward = attention
    try:
        yield
    finally:
        modeling_gpt2.eager_attention_forward = original
