"""A plan as hooks of TransformerLens: `(name, function)` pairs as `run_with_hooks` and `hooks` take them.

    hooks = transformer_lens_hooks(plan_file.read("plan.json"), folded=False)
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks)

**What zero means depends on how the weights were processed.** Folding the norm and then the value biases moves the
part v̄ of every value that does not depend on the input from z into the output bias. A head at zero has z = 0 there,
and z = v̄ in the model's own weights; a row of weights that does not sum to 1 scales v̄ in the own weights only, if
nothing is done about it. The hooks do the same thing to the model either way, once they are told which it is: `folded`
is True after `HookedTransformer.from_pretrained(…)` and `enable_compatibility_mode()` with their defaults, and False
for `from_pretrained_no_processing(…)` and for a `TransformerBridge` as it boots. Centring changes no head's z.
`fold_value_biases` without `fold_ln` is a third basis, and one that `refactor_factored_attn_matrices` has changed has
other q and k: neither is supported.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lib.engine.modes import by_weights, constants, weights
from lib.errors import InputError
from lib.exchange.plan_file import PlanFile

Hook = tuple[str, Callable[..., Any]]


def transformer_lens_hooks(file: PlanFile, *, folded: bool, rotary: bool = False) -> list[Hook]:
    """The hooks that do the plan, for a model with the value biases `folded` into the output biases, or not.

    `hook_pattern` shows the changed weights, `hook_z` the z that goes on. `rotary` says that q and k are rotated (Llama
    and its kind) and is read by modes that change q and k.
    """
    hooks = []
    for layer in sorted({layer for layer, _, _ in file.plan.heads}):
        hooks += _Layer(file, layer, folded).hooks(rotary)
    return hooks


class _Layer:
    """The hooks of one layer, and what they hand on to each other in one forward pass."""

    def __init__(self, file: PlanFile, layer: int, folded: bool) -> None:
        modes = file.plan.layer(layer)
        self.name = f"blocks.{layer}.attn."
        self.weighted = by_weights(modes.items())
        bias = torch.zeros(file.sizes.n_head, file.sizes.d_head)
        for head in modes:
            bias[head] = file.value_bias[layer, head]
        z = constants(modes, bias, file.means[layer])
        self.constant = {head: constant - bias[head] if folded else constant for head, constant in z.items()}
        self.value_bias = {} if folded else {h: bias[h] for heads in self.weighted.values() for h in heads}
        self.seen: dict[str, Tensor] = {}
        self.row_sum: dict[int, Tensor] = {}

    def hooks(self, rotary: bool) -> list[Hook]:
        found: list[Hook] = []
        if any(weights(mode).features for mode in self.weighted):
            names = ("hook_rot_q", "hook_rot_k") if rotary else ("hook_q", "hook_k")
            found += zip((self.name + name for name in names), (self.see_q, self.see_k), strict=True)
        if self.weighted:
            found += [(self.name + "hook_attn_scores", self.see_scores), (self.name + "hook_pattern", self.weigh)]
        if self.constant or self.value_bias:
            found.append((self.name + "hook_z", self.change_z))
        return found

    def see_q(self, q: Tensor, hook: Any) -> None:
        """q [B, T, H, d]."""
        self.seen["q"] = q

    def see_k(self, k: Tensor, hook: Any) -> None:
        """k [B, T, H_kv, d]."""
        self.seen["k"] = k

    def see_scores(self, scores: Tensor, hook: Any) -> None:
        """Scores [B, H, T, S]; what a query may not see is -inf, or the least number there is."""
        self.seen["scores"] = scores

    def weigh(self, pattern: Tensor, hook: Any) -> Tensor:
        """Weights [B, H, T, S], those of the plan's heads changed."""
        pattern, seen = pattern.clone(), self.seen.pop("scores")
        for mode, heads in self.weighted.items():
            scores = seen[:, heads]
            hidden = scores <= torch.finfo(scores.dtype).min / 2
            if weights(mode).features is not None:
                scores = self.featured_scores(mode, heads)
                if scores.shape != hidden.shape:
                    raise InputError(f"mode '{mode}' needs the keys of the whole text: run without a key-value cache")
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            pattern[:, heads] = weights(mode).pattern(scores, hidden).to(pattern.dtype)
            if self.value_bias:
                self.row_sum |= {head: pattern[:, head].sum(-1, keepdim=True) for head in heads}
        self.seen.clear()
        return pattern

    def featured_scores(self, mode: str, heads: list[int]) -> Tensor:
        """Scores [B, n, T, T] of n `heads` from q and k as the mode changes them."""
        q, k = self.seen["q"], self.seen["k"]
        group = q.shape[2] // k.shape[2]
        q, k = q[:, :, heads], k[:, :, [head // group for head in heads]]
        q, k = (weights(mode).featured(x).transpose(1, 2) for x in (q, k))
        return q @ k.mT * q.shape[-1] ** -0.5

    def change_z(self, z: Tensor, hook: Any) -> Tensor:
        """z [B, T, H, d]: constant heads, and in the model's own basis w (v - v̄) + v̄ for the changed weights."""
        z = z.clone()
        for head, constant in self.constant.items():
            z[:, :, head] = constant.to(z)
        for head, bias in self.value_bias.items():
            z[:, :, head] += (1 - self.row_sum.pop(head)) * bias.to(z)
        return z
