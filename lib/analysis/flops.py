"""Arithmetic of attention and of the whole model, in FLOPs (one multiply-add is two).

Twice. *As published*: attention alone, every query against all T keys, and a "kernelized" head of 6·T·d². That form
would need relu(QKᵀ) to be a product of a map of Q and a map of K, which it is not. *Honest*: what each function really
takes, causal, inside the whole model.

Left out of the honest count, being a percent or less: layer norms, activations, biases, residual additions, rotary
turns, the embedding look-up and sampling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib.errors import InputError

KINDS = ("softmax", "relu", "factored", "kernelized", "uniform", "constant")


def softmax_head(length: int, d_head: int) -> int:
    """As published: scores and weighted sum of T × T, and five operations a score; 4·T²·d + 5·T²."""
    return 4 * length**2 * d_head + 5 * length**2


def kernelized_head(length: int, d_head: int) -> int:
    """As published: 6·T·d²."""
    return 6 * length * d_head**2


def published_speedup(n: int, n_heads: int, length: int = 1024, d_head: int = 64) -> float:
    """Attention of all heads softmax / of n kernelized; 1.233 and 1.790 for 30 and 70 of GPT-2's 144 at T = 1024."""
    return 1 / (1 - published_saving(n, n_heads, length, d_head))


def published_saving(n: int, n_heads: int, length: int = 1024, d_head: int = 64) -> float:
    """Share (0–1) of the attention FLOPs that n kernelized heads save."""
    _check_heads(n, n_heads)
    return n / n_heads * (1 - kernelized_head(length, d_head) / softmax_head(length, d_head))


def published_token_ratio(n: int, n_heads: int, length: int = 160, d_head: int = 64) -> float:
    """Attention FLOPs of one decoded token at mean length, n of the heads kernelized, over all softmax.

    Per head and token: softmax 4·length·d + 5·length, kernelized 6·d². 0.9143 and 0.8000 for 30 and 70 of 144.
    """
    _check_heads(n, n_heads)
    softmax = 4 * length * d_head + 5 * length
    return ((n_heads - n) * softmax + n * 6 * d_head**2) / (n_heads * softmax)


def extra_tokens(ratio: float, n_new: int = 64) -> int:
    """Tokens beyond `n_new` that the same FLOPs buy when one costs `ratio` of before: ⌊n_new / ratio⌋ − n_new."""
    if not ratio > 0:
        raise InputError(f"ratio={ratio}; a cost ratio is above 0")
    return math.floor(n_new / ratio) - n_new


def flops_saved(ns: Sequence[int], n_heads: int, length: int = 1024, d_head: int = 64) -> list[dict]:
    """The published saving (0–1) for each step of a ladder: `[{n, saved}]`."""
    return [{"n": n, "saved": published_saving(n, n_heads, length, d_head)} for n in ns]


@dataclass(frozen=True)
class Shape:
    """What the count needs to know of a decoder. gated: an MLP of three matrices (Llama) instead of two (GPT-2)."""

    n_layer: int
    n_head: int
    n_kv_head: int
    d_head: int
    n_embd: int
    n_inner: int
    vocab_size: int
    gated: bool = False

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a `transformers` configuration of GPT-2's or Llama's kind."""
        if config.model_type == "gpt2":
            inner = config.n_inner or 4 * config.n_embd
            d_head = config.n_embd // config.n_head
            return cls(config.n_layer, config.n_head, config.n_head, d_head, config.n_embd, inner, config.vocab_size)
        n_head = config.num_attention_heads
        return cls(
            n_layer=config.num_hidden_layers,
            n_head=n_head,
            n_kv_head=getattr(config, "num_key_value_heads", None) or n_head,
            d_head=getattr(config, "head_dim", None) or config.hidden_size // n_head,
            n_embd=config.hidden_size,
            n_inner=config.intermediate_size,
            vocab_size=config.vocab_size,
            gated=True,
        )

    @classmethod
    def of_results(cls, model: Mapping[str, Any]) -> Shape:
        """From what the set-up's results say of the model."""
        same = ("n_layer", "n_head", "n_kv_head", "d_head", "n_embd", "vocab_size")
        return cls(**{key: model[key] for key in same}, n_inner=model["d_mlp"], gated=model["family"] != "gpt2")

    @property
    def n_heads(self) -> int:
        """Heads of the whole model."""
        return self.n_layer * self.n_head

    def per_token(self) -> int:
        """Projections and MLPs of all layers for one token, without attention and unembedding."""
        projections = 2 * self.n_embd * self.d_head * (2 * self.n_head + 2 * self.n_kv_head)
        mlp = 2 * self.n_embd * self.n_inner * (3 if self.gated else 2)
        return self.n_layer * (projections + mlp)

    def unembedding(self) -> int:
        """Logits of one position."""
        return 2 * self.n_embd * self.vocab_size


def head_flops(kind: str, start: int, stop: int, d_head: int) -> int:
    """One causal head over the queries at positions start … stop − 1, earlier keys being cached.

    softmax: 4d + 5 for each visible key (scale, maximum, exponential, sum, division).
    relu: exact, 4d + 4 (scale, comparison with 0, sum, division): neither maximum nor exponential, still O(T²·d).
    factored: relu(Q)·relu(K)ᵀ by a running state of d × d, 4d² + 6d for each query at any length; another attention.
    kernelized: the published 6d² for each query, which computes neither of the two.
    uniform: 2d for each query, a running sum of the values and its division.
    constant: nothing, for z is the same at every position (a zeroed head, or one fixed at its mean).
    """
    if not 0 <= start <= stop:
        raise InputError(f"positions {start} … {stop}; 0 ≤ start ≤ stop is needed")
    visible = (stop * (stop + 1) - start * (start + 1)) // 2
    if kind == "softmax":
        return visible * (4 * d_head + 5)
    if kind == "relu":
        return visible * (4 * d_head + 4)
    if kind == "factored":
        return (stop - start) * (4 * d_head**2 + 6 * d_head)
    if kind == "kernelized":
        return (stop - start) * 6 * d_head**2
    if kind == "uniform":
        return (stop - start) * 2 * d_head
    if kind == "constant":
        return 0
    raise InputError(f"kind={kind!r}; one of {', '.join(KINDS)}")


def attention_flops(shape: Shape, start: int, stop: int, n: int = 0, kind: str = "relu") -> int:
    """Scores and weighted sums of all heads over positions start … stop − 1, n of them of `kind`, the rest softmax."""
    _check_heads(n, shape.n_heads)
    softmax = head_flops("softmax", start, stop, shape.d_head)
    return (shape.n_heads - n) * softmax + n * head_flops(kind, start, stop, shape.d_head)


def prefill_flops(shape: Shape, length: int, n: int = 0, kind: str = "relu", n_logits: int | None = None) -> int:
    """The whole model over `length` tokens at once; logits of every position (scoring) or of the last `n_logits`."""
    logits = length if n_logits is None else n_logits
    return length * shape.per_token() + attention_flops(shape, 0, length, n, kind) + logits * shape.unembedding()


def decode_flops(shape: Shape, start: int, stop: int, n: int = 0, kind: str = "relu") -> int:
    """The whole model over positions start … stop − 1 one at a time, over a cache."""
    return (stop - start) * (shape.per_token() + shape.unembedding()) + attention_flops(shape, start, stop, n, kind)


def writing_flops(shape: Shape, prompt: int, lengths: Sequence[int], n: int = 0, kind: str = "relu") -> int:
    """The whole model over a prompt once and, after it, one text of each of `lengths` tokens, the last not read."""
    texts = sum(decode_flops(shape, prompt, prompt + length - 1, n, kind) for length in lengths)
    return prefill_flops(shape, prompt, n, kind, n_logits=1) + texts


def attention_share(shape: Shape, length: int) -> float:
    """Share (0–1) of scores and weighted sums in the all-softmax model's prefill at `length`."""
    return attention_flops(shape, 0, length) / prefill_flops(shape, length)


def prefill_speedup(shape: Shape, length: int, n: int, kind: str = "relu") -> float:
    """All softmax / n heads of `kind`, whole model, in FLOPs."""
    return prefill_flops(shape, length) / prefill_flops(shape, length, n, kind)


def extra_decoded(shape: Shape, n: int, kind: str = "relu", prompt: int = 128, n_new: int = 64) -> int:
    """Tokens beyond `n_new` after a prompt for the decoding FLOPs of the all-softmax model, counted one by one."""
    budget = decode_flops(shape, prompt, prompt + n_new)
    stop = prompt + n_new
    while decode_flops(shape, prompt, stop + 1, n, kind) <= budget:
        stop += 1
    return stop - prompt - n_new


def equal_flops(shape: Shape, n: int, prompt: int = 128, n_new: int = 64) -> dict:
    """One row of P3's equal-FLOPs table for n linearized heads.

    ratio_attention, extra_attention: as published. ratio_model_*, extra_model: the whole model with the exact ReLU
    heads. …_factored: with the attention that does factor. …_kernelized: the published form in the whole model.
    """
    published = published_token_ratio(n, shape.n_heads, prompt + n_new // 2, shape.d_head)
    length = prompt + n_new
    row = {"n_linearized": n, "ratio_attention": published, "extra_attention": extra_tokens(published, n_new)}
    for kind, suffix in (("relu", ""), ("factored", "_factored"), ("kernelized", "_kernelized")):
        row[f"ratio_model_prefill{suffix}"] = prefill_flops(shape, length, n, kind) / prefill_flops(shape, length)
        row[f"ratio_model_decode{suffix}"] = decode_flops(shape, prompt, length, n, kind) / decode_flops(
            shape, prompt, length
        )
        row[f"extra_model{suffix}"] = extra_decoded(shape, n, kind, prompt, n_new)
    return row


def amdahl(share: float, speedup: float = math.inf) -> float:
    """Speed-up of the whole when `share` (0–1) of its time runs `speedup` times as fast; without it, the bound."""
    if not 0 <= share <= 1 or not speedup > 0:
        raise InputError(f"share={share}, speedup={speedup}; share within 0 … 1 and a speed-up above 0 are needed")
    rest = 1 - share + share / speedup
    return 1 / rest if rest else math.inf


def _check_heads(n: int, n_heads: int) -> None:
    if not 0 <= n <= n_heads:
        raise InputError(f"{n} linearized heads; the model has {n_heads}, give a number from 0 to {n_heads}")
