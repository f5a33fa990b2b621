"""A plan beside the untouched model, token by token: how far its predictions have moved, not only how good they are."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.engine.interventions import Plan
from lib.engine.scoring import LOGITS_BLOCK, Evaluator


class Compared(NamedTuple):
    """Per predicted token of one chunk, float32 [T - 1]: the plan's NLL, KL(model ‖ plan) in nats, same top token."""

    nll: np.ndarray
    kl: np.ndarray
    agrees: np.ndarray


@torch.inference_mode()
def compare(
    engine: Evaluator, plans: Sequence[Plan], means: Tensor | None = None
) -> Iterator[tuple[int, Plan, Compared]]:
    """Yields `(chunk, plan, Compared)` for every plan on every chunk of the engine's tokens."""
    wanted = set(plans)
    for chunk, row in enumerate(engine.tokens):
        targets = row[1:].to(engine.arch.device, torch.long)
        base: list[Tensor] = []
        for plan, resid in engine.residuals(chunk, [Plan(), *plans], means):
            blocks = _log_probabilities(engine, resid)
            if not plan:
                base = list(blocks)
                blocks = iter(base)
            if plan in wanted:
                parts = zip(base, blocks, targets.split([len(own) for own in base]), strict=True)
                figures = [torch.cat(side) for side in zip(*(_figures(*part) for part in parts), strict=True)]
                yield chunk, plan, Compared(*(side.float().numpy(force=True) for side in figures))


def _log_probabilities(engine: Evaluator, resid: Tensor) -> Iterator[Tensor]:
    """Of every predicted token, float32, in blocks of rows [n, vocab_size]."""
    hidden = engine.arch.final(resid)[0, :-1]
    for rows in hidden.split(max(1, LOGITS_BLOCK // engine.arch.vocab_size)):
        yield F.log_softmax(engine.arch.logits(rows).float(), -1)


def _figures(base: Tensor, own: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    nll = -own.gather(-1, targets[:, None])[:, 0]
    kl = F.kl_div(own, base, reduction="none", log_target=True).sum(-1)
    return nll, kl, base.argmax(-1) == own.argmax(-1)


def stacked(engine: Evaluator, plans: Sequence[Plan], means: Tensor | None = None) -> dict[Plan, Compared]:
    """`{plan: Compared}` with the chunks of each figure stacked, [n_chunks, T - 1]."""
    rows: dict[Plan, list[Compared]] = {plan: [] for plan in plans}
    for _, plan, found in compare(engine, list(rows), means):
        rows[plan].append(found)
    return {plan: Compared(*(np.stack(side) for side in zip(*found, strict=True))) for plan, found in rows.items()}
