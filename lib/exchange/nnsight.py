"""A plan inside a trace of nnsight, on any GPT-2 or Llama-type model that it wraps.

    with model.trace(tokens):
        nnsight_edit(model, plan_file.read("plan.json"))
        logits = model.lm_head.output.save()

nnsight runs the Hugging Face model with its weights as they are: a head at zero has z = v̄, the value bias (see
`lib.exchange.transformer_lens`). Nothing of nnsight is imported; `model` is whatever `NNsight(…)` or its kind returns.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lib.engine.modes import by_weights, constants, heads_z
from lib.errors import InputError
from lib.exchange.plan_file import PlanFile


def nnsight_edit(model: Any, file: PlanFile) -> None:
    """Does the plan to the forward pass of the trace that it is called in.

    nnsight hands values over in the order in which the model makes them: what the trace reads from earlier layers
    stands before this call. A batch may be padded; generating with changed weights needs `use_cache=False`.
    """
    gpt2 = hasattr(model, "transformer")
    if not gpt2 and not hasattr(model, "model"):
        raise InputError("this model is neither of the GPT-2 nor of the Llama type: wrap one that is")
    weighted = bool(by_weights((head, mode) for _, head, mode in file.plan.heads))
    rotation = model.model.rotary_emb.output if weighted and not gpt2 else None
    for layer in sorted({layer for layer, _, _ in file.plan.heads}):
        attn = model.transformer.h[layer].attn if gpt2 else model.model.layers[layer].self_attn
        _edit_layer(attn, attn.c_proj if gpt2 else attn.o_proj, file, layer, rotation)


def _edit_layer(attn: Any, projection: Any, file: PlanFile, layer: int, rotation: tuple[Tensor, Tensor] | None) -> None:
    sizes, modes = file.sizes, file.plan.layer(layer)
    bias = torch.zeros(sizes.n_head, sizes.d_head)
    for head in modes:
        bias[head] = file.value_bias[layer, head]
    weighted = by_weights(modes.items())
    changed: dict[int, Tensor] = dict(constants(modes, bias, file.means[layer]))
    if weighted:
        mask = _visible(attn.inputs[1], layer)
        q, k, v = _qkv(attn, sizes.n_head, sizes.d_head, rotation)
        for mode, heads in weighted.items():
            scale, own_bias = float(attn.scaling), bias.to(v)
            z = heads_z(mode, heads, q, k, v, value_bias=own_bias, scale=scale, mask=mask)
            changed |= {head: z[:, i] for i, head in enumerate(heads)}
    z = projection.input.clone()
    for head, own in changed.items():
        z[..., head * sizes.d_head : (head + 1) * sizes.d_head] = own.to(z)
    projection.input = z


def _visible(arguments: dict[str, Any], layer: int) -> Tensor | None:
    """What the attention module's own mask lets a query see, bool [B, 1, T, S]; None for all that is causal."""
    past, mask = arguments.get("past_key_values"), arguments.get("attention_mask")
    if past is not None and past.get_seq_length(layer) > 0:
        raise InputError("changed weights need the keys of the whole text: pass use_cache=False")
    return mask if mask is None or mask.dtype == torch.bool else mask == 0


def _qkv(attn: Any, n_head: int, d_head: int, rotation: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, H, T, d], k and v [B, H_kv, T, d] of one attention module, from the modules it calls, in order."""
    if rotation is None:
        q, k, v = (_heads(x, d_head) for x in attn.c_attn.output.split(n_head * d_head, dim=-1))
        return q, k, v
    normed = hasattr(attn, "q_norm")
    q = attn.q_proj.output
    q = attn.q_norm.output if normed else q
    k = attn.k_proj.output
    k = attn.k_norm.output if normed else k
    q, k, v = (_heads(x, d_head) for x in (q, k, attn.v_proj.output))
    q, k = apply_rotary_pos_emb(q, k, *rotation)
    return q, k, v


def _heads(x: Tensor, d_head: int) -> Tensor:
    """[B, H, T, d] of [B, T, H * d], or of [B, T, H, d]."""
    return (x.unflatten(-1, (-1, d_head)) if x.ndim == 3 else x).transpose(1, 2)
