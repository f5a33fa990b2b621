"""How much the loss hangs on every head, from one backward pass (Michel, Levy and Neubig 2019)."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from lib.engine.allocator import give_back
from lib.model.adapters import Decoder, adapter


def head_importance(model: PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    """|∂loss/∂ξ| of a factor ξ = 1 on each head's z, z counted from the value bias: float64 [n_layer, n_head].

    The derivative is taken for each chunk of `tokens` [n_chunks, T] by itself and its size averaged over chunks. The
    value bias is left out because zeroing a head leaves it (see `lib.engine.modes`).
    """
    arch, sizes = adapter(model), []
    arch.let_go()
    give_back()
    values: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable:
        def hook(module: torch.nn.Module, args: tuple) -> tuple:
            values[layer] = args[0].requires_grad_() if args[0].is_leaf else args[0]
            return (values[layer], *args[1:])

        return hook

    hooks = [arch.output_projection(at).register_forward_pre_hook(keep(at)) for at in range(arch.n_layer)]
    try:
        for row in np.asarray(tokens):
            ids = torch.as_tensor(row[None], dtype=torch.long, device=arch.device)
            with torch.enable_grad():
                logits = model(ids[:, :-1], use_cache=False).logits[0]
                loss = F.cross_entropy(logits.float(), ids[0, 1:])
                found = torch.autograd.grad(loss, [values[at] for at in range(arch.n_layer)])
            sizes.append([_of_heads(arch, at, values[at].detach(), grad) for at, grad in enumerate(found)])
    finally:
        for hook in hooks:
            hook.remove()
    return np.mean(sizes, axis=0)


def _of_heads(arch: Decoder, layer: int, z: torch.Tensor, grad: torch.Tensor) -> np.ndarray:
    heads = (arch.n_head, arch.d_head)
    with torch.no_grad():
        moved = (z.unflatten(-1, heads) - arch.value_bias(layer)) * grad.unflatten(-1, heads)
        return moved.double().sum((0, 1, 3)).abs().numpy(force=True)
