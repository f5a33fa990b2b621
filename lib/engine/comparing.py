"""A plan beside the untouched model, token by token: how far its predictions have moved, not only how good they are."""

from collections.abc import Iterator, Sequence
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from lib.engine import side_by_side
from lib.engine.elsewhere import Memory, Work
from lib.engine.interventions import Plan
from lib.engine.likelihood import block_rows
from lib.engine.scoring import Evaluator, Job, received
from lib.progress import progress


class Compared(NamedTuple):
    """Per predicted token of one chunk, float32 [T - 1]: the plan's NLL, KL(model ‖ plan) in nats, same top token."""

    nll: np.ndarray
    kl: np.ndarray
    agrees: np.ndarray


def compare(
    engine: Evaluator, plans: Sequence[Plan], means: Tensor | None = None
) -> Iterator[tuple[int, Plan, Compared]]:
    """Yields `(chunk, plan, Compared)` for every plan on every chunk of the engine's tokens."""
    own = list(dict.fromkeys(plans))
    chunks = range(len(engine.tokens))

    def work(chunk: int, stop: Event) -> np.ndarray:
        return _compared(engine, chunk, own, means, stop)

    for chunk, found in zip(chunks, side_by_side.run(work, chunks, engine.arch.device), strict=True):
        for plan, figures in zip(own, found, strict=True):
            yield chunk, plan, Compared(*figures)


@torch.inference_mode()
def _compared(engine: Evaluator, chunk: int, plans: Sequence[Plan], means: Tensor | None, stop: Event) -> np.ndarray:
    """The figures of one chunk, float32 [n_plans, 3, T - 1].

    The array is made before: small ones that stay would take the places of large ones that go.
    """
    targets = engine.tokens[chunk, 1:].to(engine.arch.device, torch.long)
    found = np.empty((len(plans), len(Compared._fields), len(targets)), dtype=np.float32)
    place = {plan: i for i, plan in enumerate(plans)}
    base: list[Tensor] = []
    for plan, resid in engine.residuals(chunk, [Plan(), *plans], means):
        blocks = _log_probabilities(engine, resid)
        if not plan:
            base = list(blocks)
            blocks = iter(base)
        if plan in place:
            parts = zip(base, blocks, targets.split([len(own) for own in base]), strict=True)
            figures = [_figures(*part) for part in parts]
            for row, side in zip(found[place[plan]], zip(*figures, strict=True), strict=True):
                row[:] = torch.cat(side).float().numpy(force=True)
        if stop.is_set():
            break
    return found


def _log_probabilities(engine: Evaluator, resid: Tensor) -> Iterator[Tensor]:
    """Of every predicted token, float32, in blocks of rows [n, vocab_size]."""
    hidden = engine.arch.final(resid)[0, :-1]
    for rows in hidden.split(block_rows(engine.arch, engine.arch.vocab_size)):
        yield F.log_softmax(engine.arch.logits(rows).float(), -1)


def _figures(base: Tensor, own: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    nll = -own.gather(-1, targets[:, None])[:, 0]
    kl = F.kl_div(own, base, reduction="none", log_target=True).sum(-1)
    return nll, kl, base.argmax(-1) == own.argmax(-1)


def stacked(engine: Evaluator, plans: Sequence[Plan], means: Tensor | None = None) -> dict[Plan, Compared]:
    """`{plan: Compared}` with the chunks of each figure stacked, [n_chunks, T - 1]."""
    own = list(dict.fromkeys(plans))
    n_chunks, n_ctx = engine.tokens.shape
    rows = {plan: np.empty((len(Compared._fields), n_chunks, n_ctx - 1), dtype=np.float32) for plan in own}
    for chunk, plan, found in (compare if engine.elsewhere is None else _elsewhere)(engine, own, means):
        rows[plan][:, chunk] = found
    return {plan: Compared(*sides) for plan, sides in rows.items()}


def _elsewhere(engine: Evaluator, plans: Sequence[Plan], means: Tensor | None) -> Iterator[tuple[int, Plan, Compared]]:
    """`compare` by the engine's other processes."""
    assert engine.elsewhere is not None
    jobs = [Job(plan.key(), chunk, plan.heads) for chunk in range(len(engine.tokens)) for plan in plans]
    with progress("comparisons", len(jobs), "plan") as bar:
        for task, entries in engine.sent("comparisons", jobs, means, engine.elsewhere):
            bar.set_postfix_str(engine.elsewhere.words(), refresh=False)
            bar.update(len(task))
            for job in task:
                yield job.chunk, Plan(job.heads), Compared(*entries[job.key])


def computed(model: PreTrainedModel, model_key: str, work: Work) -> dict[str, np.ndarray]:
    """`{plan's key: its `Compared` as one array}` of what another process sent."""
    engine, plans, means = received(model, model_key, work, Memory())
    return {plan.key(): np.stack(own) for _, plan, own in compare(engine, plans, means)}
