"""Part P's generations: self-refinement and best-of-N, every generated token kept in the store."""

import numpy as np
import torch

from lib.engine.computed_by import computed_by, sources_digest
from lib.engine.generation import continuation_nll, generate
from lib.store import digest

SOURCES = sources_digest("lib.engine.generation")


class Generator:
    """Generates and scores with one run's model; what has been generated before comes from the store."""

    def __init__(self, run):
        chosen = run.setup["parameters"]
        self.run, self.model, self.store = run, run.model, run.store
        self.backend = run.backend = run.setup["backend"]
        device = torch.device(run.setup["device"])
        self.identity = [
            device.type,
            *computed_by(SOURCES, device),
            run.setup["model"]["fingerprint"],
            chosen["dtype"],
        ]

    def continue_texts(self, texts, n_new, plan, temperature=0.0, seeds=None):
        """`n_new` tokens after each row of `texts` [B, L], int32 [B, n_new]; one seed for each row when sampling."""
        texts = np.ascontiguousarray(texts, dtype=np.int32)
        kernel = self.backend if plan.needs_kernel else None
        asked = (plan.key(), texts, n_new, repr(temperature), repr(seeds))
        key = digest("generate", *self.identity, kernel, *asked)
        tokens = self.store.get(key)
        if tokens is None:
            tokens = generate(
                self.model,
                texts,
                n_new,
                plan,
                temperature=temperature,
                seeds=seeds,
                backend=self.backend,
                label=f"{'samples' if temperature else 'greedy texts'}, {len(plan.heads)} heads changed",
            )
            self.store.put(key, tokens)
        return tokens

    def nll(self, texts, n_scored):
        """Negative log-likelihoods of the last `n_scored` tokens of each row under the unmodified model, float64."""
        texts = np.ascontiguousarray(texts, dtype=np.int32)
        key = digest("continuation", *self.identity, texts, n_scored)
        nll = self.store.get(key)
        if nll is None:
            nll = continuation_nll(self.model, texts, n_scored)
            self.store.put(key, nll)
        return nll.astype(np.float64)

    def ppl(self, texts, n_scored):
        """PPL of the last `n_scored` tokens of each row under the unmodified model, float64 [B]."""
        return np.exp(self.nll(texts, n_scored).mean(axis=1))


def refine(generator, prompts, plan, n_new, iterations):
    """Greedy text appended `iterations` times: `(texts [B, P + iterations · n_new], PPLs [iterations, B])`.

    Greedy text is the same wherever it is interrupted, and so are the scores of its tokens: it is written in one go
    and judged once.
    """
    texts = np.concatenate([prompts, generator.continue_texts(prompts, n_new * iterations, plan)], axis=1)
    nll = generator.nll(texts, n_new * iterations)
    return texts, np.stack([np.exp(nll[:, : n_new * k].mean(axis=1)) for k in range(1, iterations + 1)])


def sample(generator, prompts, plan, n_new, n_samples, temperature, seed):
    """PPL of `n_samples` samples for each prompt, float64 [B, n_samples], and their tokens [B, n_samples, n_new].

    The seed of a sample depends on its prompt and number alone, so that all conditions draw alike.
    """
    rows = np.repeat(prompts, n_samples, axis=0)
    seeds = [seed * 1_000_003 + row for row in range(len(rows))]
    tokens = generator.continue_texts(rows, n_new, plan, temperature, seeds)
    ppl = generator.ppl(np.concatenate([rows, tokens], axis=1), n_new)
    return ppl.reshape(len(prompts), n_samples), tokens.reshape(len(prompts), n_samples, n_new)


def decode(tokenizer, ids):
    return tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
