"""Copying: random tokens, then the same again. Who attends to what stood there before can go on with it.

Perplexity on prose hardly sees this, since prose rarely asks for it (induction heads: Olsson et al. 2022). A small
model may name the next token too seldom to be counted; what the repetition gains in nats is seen earlier.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import PreTrainedModel

from lib.engine.interventions import Plan, apply


def sequences(ids: ArrayLike, n_sequences: int, length: int, seed: int) -> np.ndarray:
    """int64 [n_sequences, 2 * length]: tokens drawn from the text `ids` [N], each in its own frequency, twice over."""
    once = np.random.default_rng(seed).choice(np.asarray(ids, dtype=np.int64), (n_sequences, length))
    return np.concatenate([once, once], axis=1)


@torch.inference_mode()
def probe(
    model: PreTrainedModel, plan: Plan, twice: ArrayLike, means: Tensor | None = None, backend: str = "auto"
) -> dict[str, list[float]]:
    """`{first, second, gain}`, one figure a sequence: accuracy on either copy, and the NLL that the second saves.

    The first token of a copy is not counted, so that both copies are of the same targets.
    """
    tokens = torch.as_tensor(twice, device=model.device)
    with apply(model, plan, means, backend):
        logits = model(tokens[:, :-1], use_cache=False).logits.float()
    targets, length = tokens[:, 1:], tokens.shape[1] // 2
    right = (logits.argmax(-1) == targets).double()
    nll = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0].double()
    first, second = slice(0, length - 1), slice(length, None)
    return {
        "first": right[:, first].mean(1).tolist(),
        "second": right[:, second].mean(1).tolist(),
        "gain": (nll[:, first] - nll[:, second]).mean(1).tolist(),
    }
