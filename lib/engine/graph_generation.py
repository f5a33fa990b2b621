"""Generation on a CUDA device where every token is one replay of a graph.

A pass of a small model is some hundreds of launches of a few microseconds each, so decoding waits for the host; a
replay is one launch. All that a step reads and writes lies at fixed addresses, and no step asks the device anything.
Rows are not joined where their tokens agree: a step costs about the same for few rows as for many. A model keeps the
graphs made for it last, so that calls alike, as those of best-of-N are, capture once.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from lib.engine import dispatch, graphs
from lib.engine.decoding import FixedCache, PlannedDecoder, Writing, check_finite, choose

LOOK = 16  # steps between two looks at whether every text has ended
KEPT = 2  # graphs: the groups of a call have two sizes at most


@contextmanager
def graph_steps(decoder: PlannedDecoder, n_rows: int, n_prompt: int, wanted: Writing) -> Iterator["GraphSteps"]:
    """Steps for `n_rows` prompts of `n_prompt` tokens, the ones kept from a call alike or new ones; nobody else's."""
    kept = decoder.arch.kept
    ends = tuple(wanted.ends.tolist())
    key = "graph", decoder.identity, n_rows, n_prompt, wanted.n_new, wanted.temperature, ends, wanted.scored
    steps = kept.pop(key, None) or GraphSteps(decoder, n_rows, n_prompt, wanted)
    yield steps
    kept[key] = steps
    while len(kept) > KEPT:
        kept.pop(next(iter(kept)))


class GraphSteps:
    """What is wanted after `n_rows` prompts at a time, by a step that is captured once."""

    def __init__(self, decoder: PlannedDecoder, n_rows: int, n_prompt: int, wanted: Writing) -> None:
        arch, n_new = decoder.arch, wanted.n_new
        self.decoder, self.wanted = decoder, wanted
        self.cache = FixedCache(arch, n_rows, n_prompt + n_new)
        self.logits = torch.zeros(n_rows, arch.vocab_size, dtype=arch.dtype, device=arch.device)
        self.chosen = torch.zeros(n_rows, dtype=torch.long, device=arch.device)
        self.ended = torch.zeros(n_rows, dtype=torch.bool, device=arch.device)
        self.finite = torch.ones(1, dtype=torch.bool, device=arch.device)
        self.at = torch.zeros(1, dtype=torch.long, device=arch.device)  # of the token that comes next
        self.tokens = torch.zeros(n_rows, n_new, dtype=torch.long, device=arch.device)
        self.nll = torch.zeros(n_rows, n_new, device=arch.device)
        self.draws = torch.zeros(n_rows, n_new, dtype=torch.float64, device=arch.device)
        self.replay = graphs.captured(self.step, self.rewind) if n_new > 1 else self.step

    def generate(self, prompts: Tensor, draws: Tensor, bar: tqdm) -> tuple[Tensor, Tensor]:
        """(tokens, their NLL or zeros), both [n_rows, n_new], after prompts [n_rows, P] with draws [n_rows, n_new]."""
        cache, row_of, logits = self.decoder.prefill(prompts, prompts.shape[1])
        self.rewind()
        self.cache.fill(cache, row_of)
        self.logits.copy_(logits[row_of])
        self.draws.copy_(draws)
        self.choose()
        n_rows, n_new = self.tokens.shape
        done = 1
        while done < n_new and not (len(self.wanted.ends) and self.ended.all()):
            steps = min(LOOK, n_new - done)
            for _ in range(steps):
                self.replay()
            done += steps
            bar.update(n_rows * steps)
        check_finite(bool(self.finite))
        self.tokens[:, done:] = self.chosen[:, None]
        bar.update(n_rows * (1 + n_new - done))
        return self.tokens.clone(), self.nll.clone()

    def rewind(self) -> None:
        """As before the first token."""
        for state in (self.cache.length, self.at, self.ended, self.nll):
            state.zero_()
        self.finite.fill_(True)

    def step(self) -> None:
        """The token chosen last goes through the model, and the next one is chosen."""
        resid = self.decoder.advance(self.chosen[:, None], self.cache)
        arch = self.decoder.arch
        self.logits.copy_(arch.logits(arch.final(resid[:, -1])))
        self.finite &= torch.isfinite(self.logits).all()
        self.choose()

    def choose(self) -> None:
        """The next token of every row, in its place; a text that has ended repeats its last one, at an NLL of 0."""
        chosen = choose(self.logits, self.wanted.temperature, self.draws.index_select(1, self.at)[:, 0])
        chosen = torch.where(self.ended, self.chosen, chosen)
        if self.wanted.scored:
            nll = dispatch.token_nll(self.logits, chosen, backend=self.decoder.backend)
            self.nll.index_copy_(1, self.at, nll.masked_fill(self.ended, 0)[:, None])
        self.tokens.index_copy_(1, self.at, chosen[:, None])
        self.chosen.copy_(chosen)
        self.ended |= (chosen[:, None] == self.wanted.ends).any(1)
        self.at += 1
