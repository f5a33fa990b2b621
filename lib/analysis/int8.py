"""A GPT-2 with its matrices in eight bits, a scale for each output, and what that costs in PPL."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from lib.analysis import perplexity
from lib.analysis.bootstrap import Resampler, interval
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.errors import InputError
from lib.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEVELS = 127


class Rows(NamedTuple):
    """A matrix with a row for each output (or token, or position): int8 [rows, columns] and float32 scales [rows]."""

    values: np.ndarray
    scales: np.ndarray

    def restored(self) -> np.ndarray:
        """float32 [rows, columns]."""
        return self.values.astype(np.float32) * self.scales[:, None]


def rounded(weight: np.ndarray) -> Rows:
    """The nearest of 255 levels in each row of `weight` [rows, columns], evenly spaced to its largest magnitude."""
    weight = np.asarray(weight, dtype=np.float32)
    scales = np.abs(weight).max(axis=1) / np.float32(LEVELS)
    safe = np.where(scales > 0, scales, np.float32(1))
    return Rows(np.rint(weight / safe[:, None]).astype(np.int8), scales)


def in_int8(model: PreTrainedModel) -> tuple[PreTrainedModel, dict[str, Rows], dict[str, np.ndarray]]:
    """`(a copy that computes with the rounded weights, its matrices, its vectors)`, named as in the checkpoint.

    `InputError` for another family, or a GPT-2 whose output matrix is its own or whose activation is not `gelu_new`.
    """
    config = model.config
    if config.model_type != "gpt2" or config.activation_function != "gelu_new" or not config.tie_word_embeddings:
        raise InputError(f"a model of type '{config.model_type}': only a GPT-2 with gelu_new and tied embeddings fits")
    made, matrices, vectors = copy.deepcopy(model).float().eval(), {}, {}
    with torch.no_grad():
        for name, own in made.transformer.named_parameters():
            if own.ndim == 1:
                vectors[name] = own.numpy().copy()
                continue
            outputs_last = not name.startswith(("wte", "wpe"))  # the checkpoint's linear maps are [in, out]
            matrices[name] = rounded((own.T if outputs_last else own).numpy())
            restored = torch.from_numpy(matrices[name].restored())
            own.copy_(restored.T if outputs_last else restored)
    return made, matrices, vectors


def cost(
    model: PreTrainedModel, made: PreTrainedModel, tokens: np.ndarray, documents: np.ndarray, store: Store, key: str
) -> tuple[dict[str, Any], torch.Tensor]:
    """`({n_tokens, ppl, ppl_int8, ratio, ratio_ci}, mean z [n_layer, n_head, d_head] of the rounded model)`.

    tokens, documents [n_chunks, n_ctx]. key: the weights' fingerprint.
    """
    plain, eight = (
        Evaluator(own, tokens, store, model_key=name) for own, name in ((model, key), (made, f"{key} in int8 by rows"))
    )
    before, after = (e.score([Plan()], len(tokens), label="held-out text")[Plan()] for e in (plain, eight))
    resampler = Resampler.of(before, documents=documents)
    found = {
        "n_tokens": int(before.size),
        "ppl": perplexity.ppl(before),
        "ppl_int8": perplexity.ppl(after),
        "ratio": perplexity.ppl(after) / perplexity.ppl(before),
        "ratio_ci": interval(resampler.relative(after, before)),
    }
    return found, eight.means(len(tokens))
