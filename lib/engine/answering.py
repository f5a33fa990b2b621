"""Prompts answered in text by a model under a plan; everything that was written is kept in the store."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lib.engine.computed_by import computed_by, sources_digest
from lib.engine.generation import continuation_nll, write
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
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._ids[text]

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
        scores = np.empty((len(ids), n_samples))
        for rows in _alike(map(len, ids)):
            given = np.repeat(np.array([ids[i] for i in rows], dtype=np.int32), n_samples, axis=0)
            seeds = [seed + SEED_STRIDE * i + k for i in rows for k in range(n_samples)] if temperature else None
            own_rooms = np.repeat([rooms[i] for i in rows], n_samples)
            tokens, nll = self._written(plan, given, int(own_rooms.max()), temperature, seeds, label)
            n_tokens = np.minimum(self._lengths(tokens), own_rooms)
            nll[np.arange(nll.shape[1]) >= n_tokens[:, None]] = 0
            counts[rows], scores[rows] = (x.reshape(len(rows), n_samples) for x in (n_tokens, -nll.sum(1)))
            decoded = self._texts([row[:n] for row, n in zip(tokens.tolist(), n_tokens, strict=True)])
            for k, i in enumerate(rows):
                texts[i] = decoded[k * n_samples : (k + 1) * n_samples]
        return Written(texts, counts, scores if temperature else None)

    def nll(self, prompts: Sequence[str], completions: Sequence[str], plan: Plan | None = None) -> np.ndarray:
        """Summed negative log-likelihood of each completion after its prompt under `plan`, float64 `[n_prompts]`."""
        plan = Plan() if plan is None else plan
        given = [self.ids(prompt) for prompt in prompts]
        whole = [[*ids, *self.ids(completion)] for ids, completion in zip(given, completions, strict=True)]
        starts, stops = (np.array([len(ids) for ids in rows]) for rows in (given, whole))
        # what is filled up comes last, and nothing sees it
        sequences = np.zeros((len(whole), stops.max()), dtype=np.int32)
        for row, ids in zip(sequences, whole, strict=True):
            row[: len(ids)] = ids
        nll = self._nll(sequences, int(stops.max() - starts.min()), plan)
        places = np.arange(starts.min(), stops.max())
        return (nll * ((places >= starts[:, None]) & (places < stops[:, None]))).sum(1)

    def _written(
        self, plan: Plan, given: np.ndarray, room: int, temperature: float, seeds: list[int] | None, label: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """`room` tokens after each row of `given` [B, P], int32 [B, room], and their NLL, float64 [B, room]."""
        asked = (self._kernel(plan), plan.key(), given, room, repr(temperature), repr(seeds), repr(self.ends))
        keys = [digest(f"write {what}", *self.identity, *asked) for what in ("tokens", "nll")]
        found = [self.store.get(key) for key in keys]
        tokens, nll = found
        if tokens is None or nll is None:
            tokens, nll = write(
                self.model, given, room, plan, ends=self.ends, temperature=temperature, seeds=seeds,
                backend=self.backend, label=label,
            )  # fmt: skip
            for key, array in zip(keys, (tokens, nll), strict=True):
                self.store.put(key, array)
        return tokens, nll.astype(np.float64)

    def _nll(self, sequences: np.ndarray, n_scored: int, plan: Plan) -> np.ndarray:
        """Of the last `n_scored` tokens of each row under `plan`, float64 [B, n_scored]."""
        key = digest("answer nll", *self.identity, self._kernel(plan), plan.key(), sequences, n_scored)
        nll = self.store.get(key)
        if nll is None:
            nll = continuation_nll(self.model, sequences, n_scored, plan, backend=self.backend)
            self.store.put(key, nll)
        return nll.astype(np.float64)

    def _texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        texts = {ids: self.tokenizer.decode(list(ids), skip_special_tokens=True) for ids in set(map(tuple, rows))}
        return [texts[tuple(row)] for row in rows]

    def _kernel(self, plan: Plan) -> str | None:
        return self.backend if plan.needs_kernel else None

    def _lengths(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens of each row [B, n] up to and with the first end, all of them where there is none."""
        ended = np.isin(tokens, self.ends)
        return np.where(ended.any(1), ended.argmax(1) + 1, tokens.shape[1])


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
