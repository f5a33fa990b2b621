"""Part P's generations: self-refinement and best-of-N, every generated token kept in the store."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import PreTrainedModel

from lib.engine.computed_by import computed_by, sources_digest
from lib.engine.generation import continuation_nll, generate
from lib.engine.interventions import Plan
from lib.model.loading import load_model, model_folder
from lib.store import digest

SOURCES = sources_digest("lib.engine.generation")
ROUND = 5  # samples of each prompt that are generated together


class Judge:
    """An unmodified model that scores texts; the store keeps every score under its fingerprint and how it computes."""

    def __init__(self, run: Any, model: PreTrainedModel, fingerprint: str) -> None:
        self.model, self.store = model, run.store
        device = torch.device(run.setup["device"])
        dtype = run.setup["parameters"]["dtype"]
        self.identity = [device.type, *computed_by(SOURCES, device), fingerprint, dtype]

    def nll(self, texts: ArrayLike, n_scored: int) -> np.ndarray:
        """Negative log-likelihoods of the last `n_scored` tokens of each row, float64 [B, n_scored]."""
        texts = np.ascontiguousarray(texts, dtype=np.int32)
        key = digest("continuation", *self.identity, texts, n_scored)
        nll = self.store.get(key)
        if nll is None:
            nll = continuation_nll(self.model, texts, n_scored)
            self.store.put(key, nll)
        return nll.astype(np.float64)

    def ppl(self, texts: ArrayLike, n_scored: int) -> np.ndarray:
        """PPL of the last `n_scored` tokens of each row, float64 [B]."""
        return np.exp(self.nll(texts, n_scored).mean(axis=1))


class Generator(Judge):
    """Generates with one run's model under a plan, and judges without one; what is in the store is not done again."""

    def __init__(self, run: Any) -> None:
        super().__init__(run, run.model, run.setup["model"]["fingerprint"])
        self.backend = run.backend = run.setup["backend"]

    def continue_texts(
        self,
        texts: ArrayLike,
        n_new: int,
        plan: Plan,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> np.ndarray:
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


def second_judge(run: Any) -> Judge | None:
    """The run's second judge, None where the set-up names none."""
    about = run.setup["judge"]
    if about is None:
        return None
    folder = model_folder(about["place"], "judge")
    return Judge(run, load_model(folder, run.setup["parameters"]["dtype"], run.setup["device"]), about["fingerprint"])


def refine(
    generator: Generator, prompts: np.ndarray, plan: Plan, n_new: int, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy text appended `iterations` times: `(texts [B, P + iterations · n_new], PPLs [iterations, B])`.

    Greedy text is the same wherever it is interrupted, and so are the scores of its tokens: it is written in one go
    and judged once.
    """
    texts = np.concatenate([prompts, generator.continue_texts(prompts, n_new * iterations, plan)], axis=1)
    return texts, growing_ppl(generator, texts, n_new, iterations)


def growing_ppl(judge: Judge, texts: np.ndarray, n_new: int, iterations: int) -> np.ndarray:
    """PPL of the first n_new, 2 · n_new, … of the last `iterations · n_new` tokens of each row, [iterations, B]."""
    nll = judge.nll(texts, n_new * iterations)
    return np.stack([np.exp(nll[:, : n_new * k].mean(axis=1)) for k in range(1, iterations + 1)])


def sample(
    generator: Generator,
    prompts: np.ndarray,
    plan: Plan,
    n_new: int,
    n_samples: int,
    temperature: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """PPL of `n_samples` samples for each prompt, float64 [B, n_samples], and their tokens [B, n_samples, n_new].

    The seed of a sample depends on its prompt and number alone, so that all conditions draw alike and more samples
    leave the first ones as they are. They are drawn in rounds of `ROUND`, as many as were published.
    """
    rounds = []
    for start in range(0, n_samples, ROUND):
        size = min(ROUND, n_samples - start)
        rows = np.repeat(prompts, size, axis=0)
        seeds = [sample_seed(seed, prompt, start + i) for prompt in range(len(prompts)) for i in range(size)]
        tokens = generator.continue_texts(rows, n_new, plan, temperature, seeds)
        ppl = generator.ppl(np.concatenate([rows, tokens], axis=1), n_new)
        rounds.append((ppl.reshape(len(prompts), size), tokens.reshape(len(prompts), size, n_new)))
    ppls, tokens = (np.concatenate(parts, axis=1) for parts in zip(*rounds, strict=True))
    return ppls, tokens


def sample_seed(seed: int, prompt: int, number: int) -> int:
    """The seed of a prompt's sample: round after round of `ROUND` samples, each with seeds of its own.

    A generator on the CPU heeds 32 bits of its seed; within one `seed`, those differ for 4 million prompts and 1,000
    samples of each.
    """
    n_round, place = divmod(number, ROUND)
    return seed * 1_000_003 + n_round * 20_000_003 + prompt * ROUND + place


def sample_ppl(judge: Judge, prompts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """PPL under another judge of samples [B, n_samples, n_new] after `prompts` [B, P], float64 [B, n_samples]."""
    n_prompts, n_samples, n_new = tokens.shape
    rows = np.concatenate([np.repeat(prompts, n_samples, axis=0), tokens.reshape(-1, n_new)], axis=1)
    return judge.ppl(rows, n_new).reshape(n_prompts, n_samples)


def decode(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> str:
    return tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
