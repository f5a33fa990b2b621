"""Prompts answered in text by a model under a plan; everything that was written is kept in the store."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lib.engine.computed_by import computed_by, sources_digest
from lib.engine.generation import continuation_nll, generate
from lib.engine.interventions import Plan
from lib.store import Store, digest

SOURCES = sources_digest("lib.engine.generation")
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Written:
    """What was written to each prompt, `[n_prompts][n_samples]`.

    `texts` without special tokens; `n_tokens` up to and with the end; `log_likelihood` of those tokens, in nats, under
    the plan that wrote them.
    """

    texts: list[list[str]]
    n_tokens: np.ndarray
    log_likelihood: np.ndarray

    @property
    def first(self) -> list[str]:
        return [row[0] for row in self.texts]


class Respondent:
    """A model, named by its weights' `fingerprint`, and its tokenizer, asked in texts."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, store: Store, fingerprint: str, backend: str = "auto"
    ) -> None:
        self.model, self.tokenizer, self.store, self.backend = model, tokenizer, store, backend
        device = torch.device(model.device)
        self.identity = (device.type, *computed_by(SOURCES, device), fingerprint, str(model.dtype))
        self.ends = _end_ids(model, tokenizer)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def write(
        self,
        prompts: Sequence[str],
        rooms: Sequence[int],
        plan: Plan | None = None,
        n_samples: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        label: str = "",
    ) -> Written:
        """`Written` to `prompts`, each within its room of new tokens: greedy at temperature 0, else sampled.

        Samples are drawn from seeds of their own, the same ones under every plan.
        """
        plan = Plan() if plan is None else plan
        ids = [self.ids(prompt) for prompt in prompts]
        texts: list[list[str]] = [[]] * len(ids)
        counts, scores = (np.empty((len(ids), n_samples)) for _ in range(2))
        for rows in _alike([(len(own), room) for own, room in zip(ids, rooms, strict=True)]):
            given = np.array([ids[i] for i in rows], dtype=np.int32)
            seeds = [seed + SEED_STRIDE * i + k for i in rows for k in range(n_samples)] if temperature else None
            tokens, nll = self._sampled(given, rooms[rows[0]], plan, n_samples, temperature, seeds, label)
            for i, own, own_nll in zip(rows, tokens, nll, strict=True):
                lengths = [self._length(row) for row in own]
                texts[i] = [
                    self.tokenizer.decode(row[:n].tolist(), skip_special_tokens=True)
                    for row, n in zip(own, lengths, strict=True)
                ]
                counts[i] = lengths
                scores[i] = [-row[:n].sum() for row, n in zip(own_nll.astype(np.float64), lengths, strict=True)]
        return Written(texts, counts.astype(int), scores)

    def nll(self, prompts: Sequence[str], completions: Sequence[str], plan: Plan | None = None) -> np.ndarray:
        """Summed negative log-likelihood of each completion after its prompt under `plan`, float64 `[n_prompts]`."""
        plan = Plan() if plan is None else plan
        pairs = [
            (self.ids(prompt), self.ids(completion)) for prompt, completion in zip(prompts, completions, strict=True)
        ]
        total = np.empty(len(pairs))
        for rows in _alike([(len(given), len(wanted)) for given, wanted in pairs]):
            sequences = np.array([[*pairs[i][0], *pairs[i][1]] for i in rows], dtype=np.int32)
            n_scored = len(pairs[rows[0]][1])
            key = digest("answer nll", *self.identity, self._kernel(plan), plan.key(), sequences, n_scored)
            nll = self.store.get(key)
            if nll is None:
                nll = continuation_nll(self.model, sequences, n_scored, plan, backend=self.backend)
                self.store.put(key, nll)
            total[rows] = nll.astype(np.float64).sum(1)
        return total

    def _sampled(
        self,
        given: np.ndarray,
        room: int,
        plan: Plan,
        n_samples: int,
        temperature: float,
        seeds: list[int] | None,
        label: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and their NLLs, both `[n_prompts, n_samples, room]`."""
        asked = np.repeat(given, n_samples, axis=0)
        key = digest(
            "write", *self.identity, self._kernel(plan), plan.key(), asked, room, repr(temperature), repr(seeds)
        )
        tokens, nll = self.store.get(key), self.store.get(f"{key}-nll")
        if tokens is None or nll is None:
            tokens = generate(
                self.model, asked, room, plan, temperature=temperature, seeds=seeds, backend=self.backend, label=label
            )
            whole = np.concatenate([asked, tokens], axis=1)
            nll = continuation_nll(self.model, whole, room, plan, backend=self.backend)
            self.store.put(key, tokens)
            self.store.put(f"{key}-nll", nll)
        shape = (len(given), n_samples, room)
        return tokens.reshape(shape), nll.reshape(shape)

    def _kernel(self, plan: Plan) -> str | None:
        return self.backend if plan.needs_kernel else None

    def _length(self, tokens: np.ndarray) -> int:
        """Tokens up to and with the first end, all of them where there is none."""
        ends = np.flatnonzero(np.isin(tokens, self.ends))
        return int(ends[0]) + 1 if len(ends) else len(tokens)


def _end_ids(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Ids that end a text: the tokenizer's and those of the model's generation settings."""
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, (list, tuple)) else [named])}
    return sorted(ends - {None})


def _alike(shapes: Iterable[Hashable]) -> list[list[int]]:
    """Lists of the places that hold equal shapes."""
    found: dict[Hashable, list[int]] = {}
    for i, shape in enumerate(shapes):
        found.setdefault(shape, []).append(i)
    return list(found.values())
