"""Low-rank adapters: a matrix W becomes W + A B with A [n, r], B [r, m]; only A and B are trained (Hu et al. 2021)."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from lib.model.adapters import adapter


class LowRank(nn.Module):
    """The update of one matrix of `shape` [n, m]: exactly 0 before the first step."""

    def __init__(self, shape: Sequence[int], rank: int, generator: torch.Generator, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Parameter((torch.randn(shape[0], rank, generator=generator) * shape[0] ** -0.5).to(device))
        self.up = nn.Parameter(torch.zeros(rank, shape[1], device=device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.down @ self.up


def attach(model: Any, rank: int, seed: int) -> list[nn.Parameter]:
    """Freezes `model` and puts an adapter on every matrix of its attention; returns the parameters that train."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    arch = adapter(model)
    trained: list[nn.Parameter] = []
    for layer in range(arch.n_layer):
        for module in list(arch.attention(layer).modules()):
            weight = getattr(module, "weight", None)
            if weight is not None and weight.ndim == 2:
                update = LowRank(weight.shape, rank, generator, weight.device)
                parametrize.register_parametrization(module, "weight", update)
                trained += update.parameters()
    return trained


@torch.no_grad()
def merged(model: Any, like: Any) -> Any:
    """A model such as `like`, the one that adapters were attached to a copy of, with W + A B as its plain weights."""
    plain = copy.deepcopy(like)
    for name, weight in plain.named_parameters():
        module, _, leaf = name.rpartition(".")
        weight.copy_(getattr(model.get_submodule(module), leaf))
    return plain.eval().requires_grad_(False)
