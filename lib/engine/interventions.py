"""What happens to which head, and a `with` block that does it to a Hugging Face model.

    plan = Plan.of("relu", [(1, 0), (1, 3)]) | Plan.of("zero", [(2, 1)])
    with apply(model, plan):
        logits = model(tokens).logits

What a mode is stands in `lib.engine.modes`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from lib.engine import dispatch
from lib.engine.modes import by_weights, constants, heads_z, look_up, pick
from lib.errors import InputError
from lib.model.adapters import Decoder, adapter

IMPLEMENTATION = "head_plan"


class Shape(Protocol):
    """The sizes of a decoder, which a plan has to fit."""

    @property
    def n_layer(self) -> int: ...
    @property
    def n_head(self) -> int: ...
    @property
    def d_head(self) -> int: ...


@dataclass(frozen=True)
class Plan:
    """Heads and their modes: `(layer, head, mode)` sorted, each head once. `Plan()` changes nothing."""

    heads: tuple[tuple[int, int, str], ...] = ()

    def __post_init__(self) -> None:
        heads = tuple(sorted((int(layer), int(head), mode) for layer, head, mode in self.heads))
        for _, _, mode in heads:
            look_up(mode)
        for first, second in pairwise(heads):
            if first[:2] == second[:2]:
                raise InputError(f"head L{first[0]}H{first[1]} stands twice in one plan: name each head once")
        object.__setattr__(self, "heads", heads)

    @classmethod
    def of(cls, mode: str, heads: Iterable[tuple[int, int]]) -> "Plan":
        """The plan that does `mode` to every `(layer, head)` of `heads`."""
        return cls(tuple((layer, head, mode) for layer, head in heads))

    def __or__(self, other: "Plan") -> "Plan":
        """Both plans; where both name a head, `other` decides."""
        modes = {(layer, head): mode for layer, head, mode in self.heads + other.heads}
        return Plan(tuple((*head, mode) for head, mode in modes.items()))

    def __bool__(self) -> bool:
        return bool(self.heads)

    def layer(self, layer: int) -> dict[int, str]:
        """{head: mode} of one layer."""
        return {head: mode for at, head, mode in self.heads if at == layer}

    @property
    def needs_means(self) -> bool:
        """Whether some head's z comes from the means."""
        return any(look_up(mode).needs_means for *_, mode in self.heads)

    @property
    def needs_kernel(self) -> bool:
        """Whether a kernel computes some head, so that its result depends on which."""
        return any(look_up(mode).kernel for *_, mode in self.heads)

    def key(self) -> str:
        """The plan as text, equal for equal plans."""
        return ",".join(f"L{layer}H{head}:{mode}" for layer, head, mode in self.heads) or "baseline"

    def check(self, arch: Shape, means: Tensor | None = None) -> None:
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
            raise InputError(f"the plan takes heads' z from their means, but none were given: pass means {list(shape)}")
        if tuple(means.shape) != shape:
            raise InputError(f"means have the shape {list(means.shape)}, this model needs {list(shape)}")


@dataclass(frozen=True)
class LayerEdits:
    """What one attention module does while a plan is applied to it."""

    modes: dict[int, str]
    constants: dict[int, Tensor]
    value_bias: Tensor
    backend: str


def planned_attention(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function of `transformers` that reads the plan from the module: `([B, T, H, d], None)`."""
    if attention_mask is None:
        raise RuntimeError(f"attention '{IMPLEMENTATION}' was handed no mask: it would see the future")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    edits: LayerEdits | None = vars(module).get("_head_edits")
    changed = by_weights(edits.modes.items()) if edits else {}
    causal = _is_causal(attention_mask)
    n_head, group = query.shape[1], query.shape[1] // key.shape[1]
    kept = sorted(set(range(n_head)) - {head for heads in changed.values() for head in heads})
    z = torch.empty_like(query)
    if kept:
        whole = len(kept) == n_head
        q = query if whole else pick(query, kept)
        k, v = (x if whole else pick(x, [head // group for head in kept]) for x in (key, value))
        plain = causal and query.shape[2] in (1, key.shape[2])
        z[:, kept] = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if plain else attention_mask,
            is_causal=plain and query.shape[2] > 1,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    if edits is not None:
        for mode, heads in changed.items():
            z[:, heads] = heads_z(
                mode,
                heads,
                query,
                key,
                value,
                value_bias=edits.value_bias,
                scale=scaling,
                mask=None if causal else attention_mask,
                backend=edits.backend,
            )
    return z.transpose(1, 2), None


def _is_causal(mask: Tensor) -> bool:
    """Whether bool `mask` [B, 1, T, S] is the causal one, aligned at the bottom right."""
    rows = mask[:1] if mask.stride(0) == 0 else mask
    n_queries, n_keys = mask.shape[-2:]
    if n_queries == 1:
        return bool(rows.all())
    causal = torch.ones(n_queries, n_keys, dtype=torch.bool, device=mask.device).tril_(n_keys - n_queries)
    return bool((rows == causal).all())


def _full_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """`sdpa_mask` that always makes the mask; the stock one leaves it out where SDPA could infer it."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})


AttentionInterface.register(IMPLEMENTATION, planned_attention)
AttentionMaskInterface.register(IMPLEMENTATION, _full_mask)


@contextmanager
def apply(
    model: PreTrainedModel, plan: Plan, means: Tensor | None = None, backend: str = "auto"
) -> Iterator[PreTrainedModel]:
    """Applies `plan` to a Hugging Face model inside the block; leaving it, also by an exception, undoes just that.

    `means` [n_layer, n_head, d_head] are needed by plans that say so; `backend` computes the ReLU heads.
    Blocks nest: the inner plan is added to the outer one and decides where both name a head. Constant heads
    are set by a pre-hook on the output projection and leave the attention function alone.
    """
    arch = adapter(model)
    plan.check(arch, means)
    dispatch.resolve(backend, arch.device)
    with ExitStack() as undo:
        for layer in sorted({layer for layer, _, _ in plan.heads}):
            modes, value_bias = plan.layer(layer), arch.value_bias(layer)
            constant = constants(modes, value_bias, None if means is None else means[layer])
            _attach(arch, layer, LayerEdits(modes, constant, value_bias, backend), undo)
        if by_weights((head, mode) for _, head, mode in plan.heads):
            _switch_attention(arch, undo)
        yield model


def _attach(arch: Decoder, layer: int, edits: LayerEdits, undo: ExitStack) -> None:
    """Leaves `edits`, added to an outer block's, on the layer's attention module, and the hook that reads them."""
    module = arch.attention(layer)
    outer = vars(module).get("_head_edits")
    if outer is None:
        undo.callback(delattr, module, "_head_edits")
    else:
        undo.callback(setattr, module, "_head_edits", outer)
        still = {head: z for head, z in outer.constants.items() if head not in edits.modes}
        edits = replace(edits, modes=outer.modes | edits.modes, constants=still | edits.constants)
    module._head_edits = edits
    if edits.constants:
        handle = arch.output_projection(layer).register_forward_pre_hook(_set_constants(module, arch.d_head))
        undo.callback(handle.remove)


def _set_constants(module: Any, d_head: int) -> Callable[[Module, tuple[Any, ...]], tuple[Any, ...]]:
    def set_constants(_: Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        z = args[0].clone()
        for head, constant in module._head_edits.constants.items():
            z[..., head * d_head : (head + 1) * d_head] = constant
        return (z, *args[1:])

    return set_constants


def _switch_attention(arch: Decoder, undo: ExitStack) -> None:
    """Points every config that the model's attention reads at `planned_attention`."""
    configs = [arch.config, arch.body.config, *(arch.attention(layer).config for layer in range(arch.n_layer))]
    for config in {id(config): config for config in configs}.values():
        undo.callback(setattr, config, "_attn_implementation", config._attn_implementation)
        config._attn_implementation = IMPLEMENTATION
