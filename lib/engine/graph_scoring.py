"""Scoring on a CUDA device where a chunk's whole walk is one graph: the same plans on many chunks are the same work."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lib.engine import graphs
from lib.engine.interventions import Plan
from lib.engine.walk import Scored, Walk

LEAST_CHUNKS = 4  # trying out and capturing cost about two walks
MOST_PLANS = 64  # of a graph, which has some hundreds of kernels for each


class Replays:
    """`Walk.scores`, by a graph where enough of the chunks that are to be scored have the same plans.

    `tasks` are the plans of each chunk, `means` those of all of them.
    """

    def __init__(self, walk: Walk, tasks: Sequence[tuple[Plan, ...]], means: Tensor | None) -> None:
        self.walk, self.means = walk, means
        counted = Counter(tasks).items()
        self.worth = {plans for plans, n in counted if n >= LEAST_CHUNKS and len(plans) <= MOST_PLANS}
        self.graph: ChunkGraph | None = None

    def scores(self, tokens: Tensor, plans: tuple[Plan, ...]) -> Iterator[Scored]:
        """The scores of `tokens` [1, T], to be read before the next chunk's are asked for."""
        if plans not in self.worth:
            yield from self.walk.scores(tokens, plans, self.means)
            return
        if self.graph is None or self.graph.plans != plans or self.graph.tokens.shape != tokens.shape:
            self.graph = None  # its memory is needed for the next one
            self.graph = ChunkGraph(self.walk, plans, self.means, tokens)
        yield from self.graph.scores(tokens)


class ChunkGraph:
    """Fixed plans on one chunk after another."""

    def __init__(self, walk: Walk, plans: tuple[Plan, ...], means: Tensor | None, tokens: Tensor) -> None:
        self.walk, self.plans, self.means, self.tokens = walk, plans, means, tokens.clone()
        self.found: list[Scored] = []
        self.replay = graphs.captured(self.step, warm_up=1)

    def scores(self, tokens: Tensor) -> list[Scored]:
        """The scores of `tokens` [1, T], in tensors that the next call writes to."""
        self.tokens.copy_(tokens)
        self.replay()
        return self.found

    def step(self) -> None:
        """The walk; all that it reads but weights is made in it or lies here."""
        start = torch.full((1,), self.walk.start, dtype=torch.long, device=self.tokens.device)
        self.found = list(self.walk.scores(self.tokens, self.plans, self.means, start))
