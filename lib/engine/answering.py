"""Prompts answered in text by a model under a plan; everything that was written is kept in the store."""

from collections.abc import Callable, Hashable, Iterable, Sequence
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
SEED_STRIDE = 64  # samples of a prompt at most; a CPU generator heeds 32 bits of its seed


@dataclass(frozen=True)
class Written:
    """What was written to each prompt, `[n_prompts][n_samples]`.

    `texts` without special tokens; `n_tokens` up to and with the end; `log_likelihood` of the tokens of samples, in
    nats, under the plan that wrote them, None for greedy texts.
    """

    texts: list[list[str]]
    n_tokens: np.ndarray
    log_likelihood: np.ndarray | None


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
        counts = np.empty((len(ids), n_samples), dtype=int)
        scores = np.empty((len(ids), n_samples)) if temperature else None
        for rows in _alike([(len(own), room) for own, room in zip(ids, rooms, strict=True)]):
            given = np.repeat(np.array([ids[i] for i in rows], dtype=np.int32), n_samples, axis=0)
            seeds = [seed + SEED_STRIDE * i + k for i in rows for k in range(n_samples)] if temperature else None
            settings = (plan, given, rooms[rows[0]], temperature, seeds, label)
            tokens = self._tokens(*settings).reshape(len(rows), n_samples, -1)
            lengths = [[self._length(row) for row in own] for own in tokens]
            for i, own, n in zip(rows, tokens, lengths, strict=True):
                texts[i] = [self._text(row[:stop]) for row, stop in zip(own, n, strict=True)]
                counts[i] = n
            if scores is not None:
                nll = self._nll(np.concatenate([given, tokens.reshape(len(given), -1)], 1), tokens.shape[2], plan)
                counted = np.arange(tokens.shape[2]) < np.array(lengths)[..., None]
                scores[rows] = -(nll.reshape(tokens.shape) * counted).sum(-1)
        return Written(texts, counts, scores)

    def nll(self, prompts: Sequence[str], completions: Sequence[str], plan: Plan | None = None) -> np.ndarray:
        """Summed negative log-likelihood of each completion after its prompt under `plan`, float64 `[n_prompts]`."""
        plan = Plan() if plan is None else plan
        pairs = [
            (self.ids(prompt), self.ids(completion)) for prompt, completion in zip(prompts, completions, strict=True)
        ]
        total = np.empty(len(pairs))
        for rows in _alike([(len(given), len(wanted)) for given, wanted in pairs]):
            sequences = np.array([[*pairs[i][0], *pairs[i][1]] for i in rows], dtype=np.int32)
            total[rows] = self._nll(sequences, len(pairs[rows[0]][1]), plan).sum(1)
        return total

    def _tokens(
        self, plan: Plan, given: np.ndarray, room: int, temperature: float, seeds: list[int] | None, label: str
    ) -> np.ndarray:
        """`room` tokens after each row of `given` [B, P], int32 [B, room]."""
        asked = (plan.key(), given, room, repr(temperature), repr(seeds))
        return self._kept(
            digest("write", *self.identity, self._kernel(plan), *asked),
            lambda: generate(
                self.model, given, room, plan, temperature=temperature, seeds=seeds, backend=self.backend, label=label
            ),
        )

    def _nll(self, sequences: np.ndarray, n_scored: int, plan: Plan) -> np.ndarray:
        """Of the last `n_scored` tokens of each row under `plan`, float64 [B, n_scored]."""
        key = digest("answer nll", *self.identity, self._kernel(plan), plan.key(), sequences, n_scored)
        score = lambda: continuation_nll(self.model, sequences, n_scored, plan, backend=self.backend)  # noqa: E731
        return self._kept(key, score).astype(np.float64)

    def _kept(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        found = self.store.get(key)
        if found is None:
            found = compute()
            self.store.put(key, found)
        return found

    def _text(self, tokens: np.ndarray) -> str:
        return self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)

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
