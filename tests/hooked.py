"""Stand-ins for two other tools: a GPT-2 with TransformerLens' hook points, and the values that a trace hands over."""

import torch
from plain_gpt2 import swapped

from lib.model.adapters import adapter


@torch.no_grad()
def run_with_hooks(model, tokens, hooks, *, folded):
    """Logits of a GPT-2 with eager attention; with `folded`, the values come without the part that is constant.

    As in TransformerLens, that part is then in the output bias: it joins z after the last hook.
    """
    by_name = dict(hooks)
    assert len(by_name) == len(hooks)
    arch = adapter(model)
    n_seen = 0

    def passed(name, value):
        nonlocal n_seen
        if name in by_name:
            n_seen += 1
            changed = by_name[name](value, hook=None)
            return value if changed is None else changed
        return value

    def attention(module, query, key, value, *args, **kwargs):
        at = f"blocks.{module.layer_idx}.attn."
        bias = arch.value_bias(module.layer_idx)[:, None] if folded else 0
        q, k = (
            passed(at + f"hook_{name}", x.transpose(1, 2)).transpose(1, 2) for name, x in (("q", query), ("k", key))
        )
        future = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
        scores = passed(at + "hook_attn_scores", (q @ k.mT * module.scaling).masked_fill(future, -torch.inf))
        z = passed(at + "hook_pattern", scores.softmax(-1)) @ (value - bias)
        return passed(at + "hook_z", z.transpose(1, 2)) + (bias.transpose(0, 1) if folded else 0), None

    with swapped(attention):
        logits = model(tokens).logits
    assert n_seen == len(hooks)
    return logits


class Traced:
    """A module as a trace hands it over: outputs and inputs of one run, and what is to go in instead."""

    def __init__(self, module, seen, changed):
        self._of = module, seen, changed

    def __getattr__(self, name):
        module, seen, changed = self._of
        if isinstance(getattr(module, name), torch.nn.Module):
            return Traced(getattr(module, name), seen, changed)
        return getattr(module, name)

    def __getitem__(self, index):
        module, seen, changed = self._of
        return Traced(module[index], seen, changed)

    @property
    def inputs(self):
        return self._of[1][self._of[0]][0]

    @property
    def output(self):
        return self._of[1][self._of[0]][1]

    @property
    def input(self):
        return self.inputs[0][0]

    @input.setter
    def input(self, value):
        self._of[2][self._of[0]] = value


@torch.no_grad()
def traced(model, edit, **inputs):
    """Logits after `edit(a stand-in of the model)`, which may change what goes into modules of one layer."""
    inputs = {"use_cache": False} | inputs  # a cache that is filled later would be seen as it is in the end
    seen, changed = {}, {}
    handles = [
        module.register_forward_hook(
            lambda m, args, kwargs, out: seen.update({m: ((args, kwargs), out)}), with_kwargs=True
        )
        for module in model.modules()
    ]
    model(**inputs)
    for handle in handles:
        handle.remove()
    edit(Traced(model, seen, changed))
    handles = [m.register_forward_pre_hook(lambda _, args, z=z: (z, *args[1:])) for m, z in changed.items()]
    try:
        return model(**inputs).logits
    finally:
        for handle in handles:
            handle.remove()
