"""The published method, written plainly: the oracle of the tests and the rival in the benchmark.

One chunk per forward pass, attention matrices materialised for every head, a hook on every head's pattern and
output, all logits kept, no key-value cache. It works literally in the basis that the experiment was made in: the
value bias is folded into the output bias, so that `zero` is z = 0 and a row of weights without a positive score
gives 0. Shares nothing with the engine and runs in any floating-point type.

An edit is {(layer, head): mode}; modes as in the write-up, `mean` needs `means` in the folded basis. Any mode that is
not written here is an error.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedModel

# mode: z, [T, d] or [d], of a head from its own z [T, d] and its mean [d], in the folded basis
CONSTANTS: dict[str, Callable] = {
    "zero": lambda z, mean: torch.zeros_like(z),
    "mean": lambda z, mean: mean,
}
# mode: weights [T, T] of a head from its scores [T, T], the future -inf in them, and q and k [T, d]. The future is set
# to 0 afterwards, and each row divided by the sum of its absolute weights.
PATTERNS: dict[str, Callable] = {
    "relu": lambda s, q, k: s.relu(),
    "l1": lambda s, q, k: s.abs(),
    "identity": lambda s, q, k: s,
    "factored": lambda s, q, k: q.relu() @ k.relu().T / math.sqrt(q.shape[-1]),
    "uniform": lambda s, q, k: torch.ones_like(s),
    "softmax": lambda s, q, k: s.softmax(-1),
}


class Reference:
    """A GPT-2 or Llama-type Hugging Face model, its weights copied to `dtype`."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype = torch.float64) -> None:
        config = model.config
        self.dtype = dtype
        self.n_layer, self.n_head = config.num_hidden_layers, config.num_attention_heads
        self.weights = {name: p.detach().to(dtype) for name, p in model.named_parameters()}
        self.weights["unembed"] = model.get_output_embeddings().weight.detach().to(dtype)
        self.is_gpt2 = config.model_type == "gpt2"
        if self.is_gpt2:
            self.n_kv_head, self.d_head = self.n_head, config.hidden_size // self.n_head
            self.eps = config.layer_norm_epsilon
        else:
            self.n_kv_head = config.num_key_value_heads
            self.d_head = getattr(config, "head_dim", None) or config.hidden_size // self.n_head
            self.eps, self.theta = config.rms_norm_eps, config.rope_parameters["rope_theta"]

    @torch.no_grad()
    def logits(
        self,
        tokens: torch.Tensor | np.ndarray | list[int],
        edits: dict[tuple[int, int], str] | None = None,
        means: torch.Tensor | None = None,
        seen_z: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Logits [T, vocab_size] of token ids [T].

        `means` [n_layer, n_head, d_head]; `seen_z`, a list, receives every layer's z [T, n_head, d_head]. Both are
        in the folded basis.
        """
        edits = edits or {}
        for unknown in set(edits.values()) - set(CONSTANTS) - set(PATTERNS):
            raise ValueError(f"mode {unknown!r} is not written in the reference")
        tokens = torch.as_tensor(tokens, dtype=torch.long)
        resid = self._embed(tokens)
        for layer in range(self.n_layer):
            q, k, v, output_weight, output_bias = self._attention_parts(layer, resid)
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.d_head)
            future = torch.ones(len(tokens), len(tokens), dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, -math.inf)
            pattern = scores.softmax(-1)
            for head in range(self.n_head):
                mode = edits.get((layer, head))
                if mode in PATTERNS:
                    w = PATTERNS[mode](scores[head], q[head], k[head]).masked_fill(future, 0)
                    pattern[head] = w / w.abs().sum(-1, keepdim=True).clamp(min=1e-8)
            z = (pattern @ v).transpose(0, 1)
            for head in range(self.n_head):
                mode = edits.get((layer, head))
                if mode in CONSTANTS:
                    z[:, head] = CONSTANTS[mode](z[:, head], None if means is None else means[layer][head])
            if seen_z is not None:
                seen_z.append(z.clone())
            resid = resid + z.flatten(1) @ output_weight + output_bias
            resid = resid + self._mlp(layer, resid)
        return self._final(resid) @ self.weights["unembed"].T

    def nll(
        self,
        tokens: torch.Tensor | np.ndarray | list[int],
        edits: dict[tuple[int, int], str] | None = None,
        means: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Negative log-likelihood [T - 1] of each next token."""
        tokens = torch.as_tensor(tokens, dtype=torch.long)
        log_probs = self.logits(tokens, edits, means).log_softmax(-1)
        return -log_probs[:-1].gather(1, tokens[1:, None])[:, 0]

    def means(self, chunks: torch.Tensor) -> torch.Tensor:
        """Mean z [n_layer, n_head, d_head] over all positions of all chunks [n, T], folded basis."""
        per_chunk = []
        for tokens in chunks:
            seen: list[torch.Tensor] = []
            self.logits(tokens, seen_z=seen)
            per_chunk.append(torch.stack([z.mean(0) for z in seen]))
        return torch.stack(per_chunk).mean(0)

    def generate(
        self,
        prompt: list[int],
        n_new: int,
        edits: dict[tuple[int, int], str] | None = None,
        means: torch.Tensor | None = None,
    ) -> list[int]:
        """Greedy continuation [n_new] of one prompt [P]: the whole sequence again for each token."""
        tokens = list(prompt)
        for _ in range(n_new):
            tokens.append(int(self.logits(tokens, edits, means)[-1].argmax()))
        return tokens[len(prompt) :]

    def value_bias(self, layer: int) -> torch.Tensor:
        """The folded value bias [n_head, d_head]: add it to a folded z for the z of the raw model."""
        w = self.weights
        if self.is_gpt2:
            at, n_embd = f"transformer.h.{layer}.", w["transformer.wte.weight"].shape[1]
            bias = w[at + "ln_1.bias"] @ w[at + "attn.c_attn.weight"][:, 2 * n_embd :]
            return (bias + w[at + "attn.c_attn.bias"][2 * n_embd :]).view(self.n_head, self.d_head)
        name = f"model.layers.{layer}.self_attn.v_proj.bias"
        if name not in w:
            return torch.zeros(self.n_head, self.d_head, dtype=self.dtype)
        return w[name].view(self.n_kv_head, self.d_head).repeat_interleave(self.n_head // self.n_kv_head, 0)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        if not self.is_gpt2:
            return self.weights["model.embed_tokens.weight"][tokens]
        return self.weights["transformer.wte.weight"][tokens] + self.weights["transformer.wpe.weight"][: len(tokens)]

    def _attention_parts(self, layer: int, resid: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """q, k, v [n_head, T, d_head] with folded values, the output weight [H * d, E] and the folded output bias."""
        w = self.weights
        if self.is_gpt2:
            at = f"transformer.h.{layer}."
            normed = self._layer_norm(resid, at + "ln_1")
            fused = normed @ w[at + "attn.c_attn.weight"] + w[at + "attn.c_attn.bias"]
            q, k, v = (self._heads(x) for x in fused.chunk(3, -1))
            output_weight, output_bias = w[at + "attn.c_proj.weight"], w[at + "attn.c_proj.bias"]
        else:
            at = f"model.layers.{layer}."
            normed = self._rms_norm(resid, w[at + "input_layernorm.weight"])
            q, k, v = (self._heads(self._linear(normed, f"{at}self_attn.{name}_proj")) for name in "qkv")
            q, k = (self._rotate(self._head_norm(x, f"{at}self_attn.{name}_norm")) for x, name in ((q, "q"), (k, "k")))
            k, v = (x.repeat_interleave(self.n_head // self.n_kv_head, 0) for x in (k, v))
            output_weight = w[at + "self_attn.o_proj.weight"].T
            output_bias = w.get(at + "self_attn.o_proj.bias", torch.zeros((), dtype=self.dtype))
        value_bias = self.value_bias(layer)
        return q, k, v - value_bias[:, None], output_weight, output_bias + value_bias.flatten() @ output_weight

    def _mlp(self, layer: int, resid: torch.Tensor) -> torch.Tensor:
        w = self.weights
        if self.is_gpt2:
            at = f"transformer.h.{layer}."
            x = self._layer_norm(resid, at + "ln_2") @ w[at + "mlp.c_fc.weight"] + w[at + "mlp.c_fc.bias"]
            x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
            return x @ w[at + "mlp.c_proj.weight"] + w[at + "mlp.c_proj.bias"]
        at = f"model.layers.{layer}."
        normed = self._rms_norm(resid, w[at + "post_attention_layernorm.weight"])
        gate = self._linear(normed, at + "mlp.gate_proj")
        return self._linear(gate * gate.sigmoid() * self._linear(normed, at + "mlp.up_proj"), at + "mlp.down_proj")

    def _final(self, resid: torch.Tensor) -> torch.Tensor:
        if self.is_gpt2:
            return self._layer_norm(resid, "transformer.ln_f")
        return self._rms_norm(resid, self.weights["model.norm.weight"])

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.d_head)).transpose(0, 1)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        y = x @ self.weights[name + ".weight"].T
        return y + self.weights[name + ".bias"] if name + ".bias" in self.weights else y

    def _layer_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return normed * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def _rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * weight

    def _head_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self._rms_norm(x, self.weights[name + ".weight"]) if name + ".weight" in self.weights else x

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        half = self.d_head // 2
        frequency = self.theta ** -(torch.arange(half, dtype=self.dtype) / half)
        angle = torch.arange(x.shape[1], dtype=self.dtype)[:, None] * frequency
        x1, x2 = x[..., :half], x[..., half:]
        return torch.cat((x1 * angle.cos() - x2 * angle.sin(), x2 * angle.cos() + x1 * angle.sin()), -1)
