"""A plan beside the untouched model, token by token: how far its predictions have moved, not only how good they are."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from lib.engine.interventions import Plan, apply


class Compared(NamedTuple):
    """Per predicted token of one chunk, float32 [T - 1]: the plan's NLL, KL(model ‖ plan) in nats, same top token."""

    nll: np.ndarray
    kl: np.ndarray
    agrees: np.ndarray


@torch.inference_mode()
def compare(
    model: PreTrainedModel, plans: Sequence[Plan], tokens: np.ndarray, means: Tensor | None = None
) -> Iterator[tuple[int, Plan, Compared]]:
    """Yields `(chunk, plan, Compared)` for every plan on every chunk of `tokens` [n_chunks, T]."""
    device = next(model.parameters()).device
    for chunk, row in enumerate(np.asarray(tokens)):
        ids = torch.as_tensor(row[None], dtype=torch.long, device=device)
        base = _log_probabilities(model, Plan(), ids, means)
        for plan in plans:
            own = base if not plan else _log_probabilities(model, plan, ids, means)
            yield chunk, plan, Compared(*(x.float().numpy(force=True) for x in _figures(base, own, ids[0, 1:])))


def _log_probabilities(model: PreTrainedModel, plan: Plan, ids: Tensor, means: Tensor | None) -> Tensor:
    with apply(model, plan, means):
        logits = model(ids[:, :-1], use_cache=False).logits[0]
    return F.log_softmax(logits.float(), -1)


def _figures(base: Tensor, own: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    nll = -own.gather(-1, targets[:, None])[:, 0]
    kl = F.kl_div(own, base, reduction="none", log_target=True).sum(-1)
    return nll, kl, base.argmax(-1) == own.argmax(-1)


def stacked(
    model: PreTrainedModel, plans: Sequence[Plan], tokens: np.ndarray, means: Tensor | None = None
) -> dict[Plan, Compared]:
    """`{plan: Compared}` with the chunks of each figure stacked, [n_chunks, T - 1]."""
    rows: dict[Plan, list[Compared]] = {plan: [] for plan in plans}
    for _, plan, found in compare(model, list(rows), tokens, means):
        rows[plan].append(found)
    return {plan: Compared(*(np.stack(side) for side in zip(*found, strict=True))) for plan, found in rows.items()}
