"""How likely tokens are after a residual: their negative log-likelihood, a block of logits at a time.

Where products are packed, a block is every row of some columns, a part of the vocabulary: the unembedding is read once
a pass, and what the parts sum to is put together in float64. Elsewhere it is whole rows.
"""

import torch
from torch import Tensor

from lib.engine import dispatch
from lib.model.adapters import Decoder

CPU_BLOCK, DEVICE_BLOCK = 2**21, 2**26  # logits held at once by one worker


def block_rows(arch: Decoder, n_columns: int) -> int:
    """Rows whose logits of `n_columns` tokens are held at once."""
    return max(1, (CPU_BLOCK if arch.device.type == "cpu" else DEVICE_BLOCK) // n_columns)


def nll(arch: Decoder, hidden: Tensor, targets: Tensor, *, backend: str) -> Tensor:
    """-log softmax(logits)[target], float32 [n], of `arch.final`'s rows [n, E] and targets [n]; not finite where the
    logits are not. A row's bits depend on that row alone."""
    step = block_rows(arch, arch.part_size)
    return torch.cat(
        [_nll(arch, *block, backend) for block in zip(hidden.split(step), targets.split(step), strict=True)]
    )


def _nll(arch: Decoder, hidden: Tensor, targets: Tensor, backend: str) -> Tensor:
    parts = arch.logits_parts(hidden)
    _, logits = next(parts)
    if logits.shape[-1] == arch.vocab_size:
        return dispatch.token_nll(logits, targets, backend=backend)
    total = dispatch.log_sum_exp(logits, backend=backend)
    own = _picked(logits, targets)
    for start, logits in parts:
        total = torch.logaddexp(total, dispatch.log_sum_exp(logits, backend=backend))
        own = torch.where(targets < start, own, _picked(logits, targets - start))
    return (total - own).float()


def _picked(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit [n] where it is in this part, else another one's."""
    return logits.gather(1, targets.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
