"""What happens to which head, and a `with` block that does it to a Hugging Face model.

    plan = Plan.of("relu", [(1, 0), (1, 3)]) | Plan.of("zero", [(2, 1)])
    with apply(model, plan):
        logits = model(tokens).logits

Modes, with s = scale q kᵀ, masked positions 0, and v̄ the value bias (`Decoder.value_bias`):

    zero       z = v̄                                mean      z = the given mean of the head's z
    relu       w = relu(s) / max(row sum, 1e-8)      l1        w = |s| / max(row sum, 1e-8)
    identity   w = s / max(row sum of |s|, 1e-8)     factored  w = relu(q) · relu(k)ᵀ scale / max(row sum, 1e-8)

The weights act in the basis in which the value bias has been folded into the output bias, as in TransformerLens'
default weight processing: z_folded = w (v - v̄), and back in the model's own basis z = w (v - v̄) + v̄. Where a row
of w sums to 1 this is w v; a row without a positive score gives v̄, and rows of `identity`, which may sum to
anything in [-1, 1], do not shrink or flip the constant v̄. In a model without value bias v̄ is 0.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from lib.engine import dispatch
from lib.errors import InputError
from lib.model.adapters import adapter

MODES = ("zero", "mean", "relu", "l1", "identity", "factored")
CONSTANT_MODES = ("zero", "mean")
KERNEL_MODES = ("relu", "factored")
CLAMP = 1e-8
IMPLEMENTATION = "head_plan"
QUERY_BLOCK = 128


@dataclass(frozen=True)
class Plan:
    """Heads and their modes: `(layer, head, mode)` sorted, each head once. `Plan()` changes nothing."""

    heads: tuple[tuple[int, int, str], ...] = ()

    def __post_init__(self):
        heads = tuple(sorted((int(layer), int(head), mode) for layer, head, mode in self.heads))
        for _, _, mode in heads:
            if mode not in MODES:
                raise InputError(f"mode '{mode}' is unknown: choose one of {', '.join(MODES)}")
        for first, second in pairwise(heads):
            if first[:2] == second[:2]:
                raise InputError(f"head L{first[0]}H{first[1]} stands twice in one plan: name each head once")
        object.__setattr__(self, "heads", heads)

    @classmethod
    def of(cls, mode, heads):
        """The plan that does `mode` to every `(layer, head)` of `heads`."""
        return cls(tuple((layer, head, mode) for layer, head in heads))

    def __or__(self, other):
        """Both plans; where both name a head, `other` decides."""
        modes = {(layer, head): mode for layer, head, mode in self.heads + other.heads}
        return Plan(tuple((*head, mode) for head, mode in modes.items()))

    def __bool__(self):
        return bool(self.heads)

    def layer(self, layer):
        """{head: mode} of one layer."""
        return {head: mode for at, head, mode in self.heads if at == layer}

    @property
    def needs_means(self):
        return any(mode == "mean" for _, _, mode in self.heads)

    def key(self):
        """The plan as text, equal for equal plans."""
        return ",".join(f"L{layer}H{head}:{mode}" for layer, head, mode in self.heads) or "baseline"

    def check(self, arch, means=None):
        """`InputError` unless `arch` has every head, and `means` [n_layer, n_head, d_head] is there if needed."""
        for layer, head, _ in self.heads:
            if not (0 <= layer < arch.n_layer and 0 <= head < arch.n_head):
                raise InputError(
                    f"head L{layer}H{head} is not in this model: layers are 0 to {arch.n_layer - 1}, "
                    f"heads 0 to {arch.n_head - 1}"
                )
        if not self.needs_means:
            return
        shape = (arch.n_layer, arch.n_head, arch.d_head)
        if means is None:
            raise InputError(f"the plan sets heads to their mean, but no means were given: pass means {list(shape)}")
        if tuple(means.shape) != shape:
            raise InputError(f"means have the shape {list(means.shape)}, this model needs {list(shape)}")


def mode_z(mode, q, k, v, *, scale, mask=None, backend="auto"):
    """z [B, n, T, d] of heads under one of the modes that change the attention weights, in the folded basis.

    q [B, n, T, d], k and v [B, n, S, d]: one key and value head per query head, v without its value bias. `mask` is
    bool, broadcastable to [B, n, T, S], True where a query may look; None means causal, bottom right aligned.
    Every head is computed by itself, so it does not depend on the heads beside it.
    """
    if mask is None and mode == "factored":
        q, k = q.relu(), k.relu()
    if mask is None and mode in KERNEL_MODES:
        return dispatch.relu_attention(q, k, v, scale=scale, backend=backend)
    z = torch.empty_like(q)
    for b, h in product(range(q.shape[0]), range(q.shape[1])):
        own_mask = None if mask is None else mask.expand(*q.shape[:2], -1, -1)[b, h]
        z[b, h] = _weighted(mode, q[b, h], k[b, h], v[b, h], scale, own_mask)
    return z


def softmax_z(q, k, v, *, scale):
    """Causal softmax z [B, n, T, d] of q [B, n, T, d] and k, v [B, n_kv, T, d].

    bfloat16 is computed in float32 on a CPU, where PyTorch is no slower at that.
    """
    settings = {"is_causal": True, "scale": scale, "enable_gqa": q.shape[1] != k.shape[1]}
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **settings).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, **settings)


def pick(x, heads):
    """The given heads of x [B, H, T, d], in that order; a copy of whole rows, which indexing does not make."""
    return torch.stack([x[:, head] for head in heads], dim=1)


def weights(mode, scores):
    """Row-normalised attention weights of visible `scores` [..., S]; for `factored` give relu(q) · relu(k)ᵀ scale."""
    w = {"relu": torch.relu, "l1": torch.abs}.get(mode, lambda x: x)(scores)
    return w / w.abs().sum(-1, keepdim=True).clamp(min=CLAMP)


def _weighted(mode, q, k, v, scale, mask):
    """w v of one head, in at least float32, for q [T, d] and k, v [S, d]."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k, v = q.to(dtype) * scale, k.to(dtype), v.to(dtype)
    if mode == "factored":
        q, k = q.relu(), k.relu()
    n_queries, n_keys = q.shape[0], k.shape[0]
    blocks = []
    for start in range(0, n_queries, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, n_queries)
        seen = n_keys if mask is not None else n_keys - n_queries + stop
        scores = q[start:stop] @ k[:seen].T
        if mask is None:
            scores.tril_(n_keys - n_queries + start)
        else:
            scores.masked_fill_(~mask[start:stop], 0)
        blocks.append(weights(mode, scores) @ v[:seen])
    return torch.cat(blocks)


@dataclass(frozen=True)
class LayerEdits:
    """What one attention module does while a plan is applied to it."""

    modes: dict
    constants: dict
    value_bias: torch.Tensor
    backend: str

    def heads_by_weights(self):
        """{mode: [head, ...]} of the heads whose attention weights change."""
        found = {}
        for head, mode in sorted(self.modes.items()):
            if mode not in CONSTANT_MODES:
                found.setdefault(mode, []).append(head)
        return found


def planned_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    """The attention function of `transformers` that reads the plan from the module: `([B, T, H, d], None)`."""
    if attention_mask is None:
        raise RuntimeError(f"attention '{IMPLEMENTATION}' was handed no mask: it would see the future")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    edits = vars(module).get("_head_edits")
    changed = edits.heads_by_weights() if edits else {}
    causal = _is_causal(attention_mask)
    n_head, group = query.shape[1], query.shape[1] // key.shape[1]
    softmax = sorted(set(range(n_head)) - {head for heads in changed.values() for head in heads})
    z = torch.empty_like(query)
    if softmax:
        whole = len(softmax) == n_head
        q = query if whole else pick(query, softmax)
        k, v = (x if whole else pick(x, [head // group for head in softmax]) for x in (key, value))
        plain = causal and query.shape[2] in (1, key.shape[2])
        z[:, softmax] = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if plain else attention_mask,
            is_causal=plain and query.shape[2] > 1,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    for mode, heads in changed.items():
        kv_heads = [head // group for head in heads]
        bias = edits.value_bias[heads, None]
        z[:, heads] = bias + mode_z(
            mode,
            pick(query, heads),
            pick(key, kv_heads),
            pick(value, kv_heads) - bias,
            scale=scaling,
            mask=None if causal else attention_mask,
            backend=edits.backend,
        )
    return z.transpose(1, 2), None


def _is_causal(mask):
    """Whether bool `mask` [B, 1, T, S] is the causal one, aligned at the bottom right."""
    rows = mask[:1] if mask.stride(0) == 0 else mask
    n_queries, n_keys = mask.shape[-2:]
    if n_queries == 1:
        return bool(rows.all())
    causal = torch.ones(n_queries, n_keys, dtype=torch.bool, device=mask.device).tril_(n_keys - n_queries)
    return bool((rows == causal).all())


def _full_mask(*args, **kwargs):
    """`sdpa_mask` that always makes the mask; the stock one leaves it out where SDPA could infer it."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})


AttentionInterface.register(IMPLEMENTATION, planned_attention)
AttentionMaskInterface.register(IMPLEMENTATION, _full_mask)


@contextmanager
def apply(model, plan, means=None, backend="auto"):
    """Applies `plan` to a Hugging Face model inside the block; leaving it, also by an exception, undoes just that.

    `means` [n_layer, n_head, d_head] are needed by plans with `mean` heads; `backend` computes the ReLU heads.
    Blocks nest: the inner plan is added to the outer one and decides where both name a head. `zero` and `mean`
    are set by a pre-hook on the output projection and leave the attention function alone.
    """
    arch = adapter(model)
    plan.check(arch, means)
    dispatch.resolve(backend, arch.device)
    with ExitStack() as undo:
        for layer in sorted({layer for layer, _, _ in plan.heads}):
            edits = _layer_edits(arch, layer, plan.layer(layer), means, backend)
            _attach(arch, layer, edits, undo)
        if any(mode not in CONSTANT_MODES for _, _, mode in plan.heads):
            _switch_attention(arch, undo)
        yield model


def _layer_edits(arch, layer, modes, means, backend):
    value_bias = arch.value_bias(layer)
    constants = {head: value_bias[head] for head, mode in modes.items() if mode == "zero"}
    for head, mode in modes.items():
        if mode == "mean":
            constants[head] = torch.as_tensor(means[layer][head]).to(value_bias)
    return LayerEdits(modes, constants, value_bias, backend)


def _attach(arch, layer, edits, undo):
    """Leaves `edits`, added to an outer block's, on the layer's attention module, and the hook that reads them."""
    module = arch.attention(layer)
    outer = vars(module).get("_head_edits")
    if outer is None:
        undo.callback(delattr, module, "_head_edits")
    else:
        undo.callback(setattr, module, "_head_edits", outer)
        constants = {head: z for head, z in outer.constants.items() if head not in edits.modes}
        edits = replace(edits, modes=outer.modes | edits.modes, constants=constants | edits.constants)
    module._head_edits = edits
    if edits.constants:
        handle = arch.output_projection(layer).register_forward_pre_hook(_set_constants(module, arch.d_head))
        undo.callback(handle.remove)


def _set_constants(module, d_head):
    def set_constants(_, args):
        z = args[0].clone()
        for head, constant in module._head_edits.constants.items():
            z[..., head * d_head : (head + 1) * d_head] = constant
        return (z, *args[1:])

    return set_constants


def _switch_attention(arch, undo):
    """Points every config that the model's attention reads at `planned_attention`."""
    configs = [arch.config, arch.body.config, *(arch.attention(layer).config for layer in range(arch.n_layer))]
    for config in {id(config): config for config in configs}.values():
        undo.callback(setattr, config, "_attn_implementation", config._attn_implementation)
        config._attn_implementation = IMPLEMENTATION
