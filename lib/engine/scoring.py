"""Per-token scores of plans on chunks of tokens: computed once, and kept.

Every chunk goes through by itself, and in it every head, so that a score does not depend on what is computed
beside it, to the bit. Logits exist for one block only. On a CPU as many chunks are worked on as there
are cores, each by a thread of its own: small products gain more from that than from sharing each of them.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from lib.engine import dispatch, graphs, side_by_side
from lib.engine.allocator import keep_freed
from lib.engine.computed_by import computed_by, sources_digest
from lib.engine.elsewhere import PIECE_PLANS, PIECES, Elsewhere, Memory, Settings, Work, keep
from lib.engine.graph_scoring import Replays
from lib.engine.interventions import Plan
from lib.engine.modes import look_up
from lib.engine.walk import Walk
from lib.errors import InputError
from lib.model.adapters import Decoder, adapter
from lib.progress import progress
from lib.store import Keeper, digest

SOURCES = sources_digest(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Job(NamedTuple):
    """One score to be computed: plain data, so that it can be sent anywhere the model and the tokens are."""

    key: str
    chunk: int
    heads: tuple[tuple[int, int, str], ...]


class Evaluator:
    """Scores `tokens` (int [n_chunks, n_ctx]) under plans with a Hugging Face model, from `store` where it can.

    `model_key` names the weights (a fingerprint); `dtype` is float32 (exact, the default), bfloat16 or float64, and
    a model of another dtype is copied, not changed; `backend` computes the ReLU heads. Negative log-likelihoods
    are per predicted token, natural logarithm, float32, T - 1 of each chunk. `start` is the position of a chunk's first
    token. On a CUDA device many chunks under the same plans replay one graph, unless `by_graph` is False. `elsewhere`
    computes what the store does not have, in other processes that hold the same weights in the same
    dtype; without it, this one does.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokens: ArrayLike,
        store: Keeper,
        *,
        model_key: str,
        dtype: str | torch.dtype = "float32",
        backend: str = "auto",
        start: int = 0,
        by_graph: bool = True,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        keep_freed()
        self.dtype = _dtype(dtype)
        if model.dtype != self.dtype:
            copied: Any = copy.deepcopy(model)  # transformers' decorator hides what `to` takes
            model = copied.to(self.dtype)
        self.arch = adapter(model.eval())
        self.start, self.by_graph = start, by_graph
        self.tokens = _checked_tokens(tokens, self.arch, start)
        self.store = store
        self.elsewhere = elsewhere
        self.model_key = model_key
        self.backend = dispatch.resolve(backend, self.arch.device)
        self._walk = Walk(self.arch, self.backend, start)
        self._computed_by = self.arch.device.type, *computed_by(SOURCES, self.arch.device)
        self._chunk_digests: dict[int, str] = {}
        self._z_sums: dict[int, np.ndarray] = {}

    def score(
        self, plans: Iterable[Plan], n_chunks: int, means: Tensor | None = None, label: str = ""
    ) -> dict[Plan, np.ndarray]:
        """{plan: float32 [n_chunks, n_ctx - 1]} for the first `n_chunks` chunks.

        `means` [n_layer, n_head, d_head] are needed by plans that say so; `label` names the work in the
        progress bar. `InputError` for a plan that does not fit the model, for too many chunks, and for logits that
        are not finite.
        """
        plans = list(dict.fromkeys(plans))
        scores, jobs = self._look_up(plans, n_chunks, means)
        for job, nll in self.compute(jobs, means, label):
            scores[Plan(job.heads)][job.chunk] = nll
        return scores

    def missing(self, plans: Iterable[Plan], n_chunks: int, means: Tensor | None = None) -> list[Job]:
        """The jobs of these plans and chunks whose score the store does not have."""
        return self._look_up(list(dict.fromkeys(plans)), n_chunks, means)[1]

    def compute(
        self, jobs: list[Job], means: Tensor | None = None, label: str = ""
    ) -> Iterator[tuple[Job, np.ndarray]]:
        """Computes jobs, keeps each score in the store, and yields `(job, nll [n_ctx - 1])` as they come."""
        for plan in {Plan(job.heads) for job in jobs}:
            plan.check(self.arch, means)
        with progress(label or "scores", len(jobs) * self.tokens.shape[1], "tok") as bar:
            if jobs and self.elsewhere is not None:
                yield from self._run_elsewhere(jobs, means, bar, self.elsewhere)
            else:
                yield from self._run_here(jobs, means, bar)

    def means(self, n_chunks: int) -> Tensor:
        """Mean z of every head [n_layer, n_head, d_head] over all positions of the first `n_chunks` chunks.

        From the sums that the baseline pass leaves in the store; summed in float64, returned in the model's dtype.
        """
        baseline = Plan()
        self.score([baseline], n_chunks, label="baseline")
        for chunk in set(range(n_chunks)) - set(self._z_sums):
            kept = self.store.get(self._z_key(chunk))
            if kept is not None:
                self._z_sums[chunk] = kept
        lost = [
            Job(self._key(baseline, chunk, None), chunk, ()) for chunk in range(n_chunks) if chunk not in self._z_sums
        ]
        for _ in self.compute(lost, label="mean outputs of heads"):
            pass
        total = np.sum([self._z_sums[chunk] for chunk in range(n_chunks)], axis=0)
        return torch.from_numpy(total / (n_chunks * self.tokens.shape[1])).to(self.dtype).to(self.arch.device)

    def _run_here(self, jobs: list[Job], means: Tensor | None, bar: tqdm) -> Iterator[tuple[Job, np.ndarray]]:
        if jobs:
            self.arch.pack()
        tasks = _tasks(jobs, side_by_side.workers(self.arch.device)[0])
        by_graph = self.by_graph and graphs.available(self.arch.device)
        alike = [tuple(Plan(job.heads) for job in task) for task in tasks] if by_graph else []
        how = Replays(self._walk, alike, means)
        for done in side_by_side.run(lambda task, stop: self._run(task, how, bar, stop), tasks, self.arch.device):
            yield from done

    def _run_elsewhere(
        self, jobs: list[Job], means: Tensor | None, bar: tqdm, elsewhere: Elsewhere
    ) -> Iterator[tuple[Job, np.ndarray]]:
        for task, entries in self.sent("scores", jobs, means, elsewhere):
            keep(self.store, entries)
            sums = entries.get(self._z_key(task[0].chunk))
            if sums is not None:
                self._z_sums[task[0].chunk] = sums
            bar.set_postfix_str(elsewhere.words(), refresh=False)
            bar.update(len(task) * self.tokens.shape[1])
            for job in task:
                yield job, entries[job.key]

    def sent(
        self, kind: str, jobs: list[Job], means: Tensor | None, elsewhere: Elsewhere
    ) -> Iterator[tuple[list[Job], Mapping[str, np.ndarray]]]:
        """Has jobs done elsewhere; yields `(jobs of one chunk, {key: array})` as they come."""
        tasks = _tasks(jobs, PIECES * elsewhere.n_workers(), PIECE_PLANS)
        for number, entries in elsewhere.run([self._work(kind, task, means) for task in tasks]):
            yield tasks[number], entries

    def _work(self, kind: str, task: Sequence[Job], means: Tensor | None) -> Work:
        """One chunk's jobs as plain data, for `received`; means as float64, which holds every dtype's values."""
        plans = [job.heads for job in task]
        settings: Settings = {
            "plans": plans,
            "dtype": str(self.dtype).removeprefix("torch."),
            "backend": self.backend,
            "start": self.start,
        }
        arrays = {"tokens": self.tokens[task[0].chunk].numpy(force=True)}
        if means is not None and any(Plan(heads).needs_means for heads in plans):
            arrays["means"] = means.double().numpy(force=True)
        return Work(kind, tuple(job.key for job in task), settings, arrays)

    def _run(self, task: Sequence[Job], how: Replays, bar: tqdm, stop: Event) -> list[tuple[Job, np.ndarray]]:
        """`[(job, nll)]` of one chunk's jobs, each in the store as soon as it is there.

        All of them lie in one array, made before: small arrays that stay would take the places of large ones that go.
        """
        chunk, jobs = task[0].chunk, {Plan(job.heads): job for job in task}
        found = np.empty((len(jobs), self.tokens.shape[1] - 1), dtype=np.float32)
        done: list[tuple[Job, np.ndarray]] = []
        for plan, nll in self._score_chunk(chunk, list(jobs), how):
            own = found[len(done)]
            own[:] = nll
            self.store.put(jobs[plan].key, own)
            bar.update(self.tokens.shape[1])
            done.append((jobs[plan], own))
            if stop.is_set():
                break
        return done

    def _look_up(
        self, plans: Sequence[Plan], n_chunks: int, means: Tensor | None
    ) -> tuple[dict[Plan, np.ndarray], list[Job]]:
        """({plan: scores, NaN where missing}, jobs of the missing ones)."""
        if not 1 <= n_chunks <= len(self.tokens):
            raise InputError(f"{n_chunks} chunks asked for: the corpus has 1 to {len(self.tokens)}")
        scores: dict[Plan, np.ndarray] = {}
        jobs: list[Job] = []
        for plan in plans:
            plan.check(self.arch, means)
            scores[plan] = np.full((n_chunks, self.tokens.shape[1] - 1), np.nan, dtype=np.float32)
            for chunk in range(n_chunks):
                key = self._key(plan, chunk, means)
                nll = self.store.get(key)
                if nll is None:
                    jobs.append(Job(key, chunk, plan.heads))
                else:
                    scores[plan][chunk] = nll
        return scores, jobs

    def _key(self, plan: Plan, chunk: int, means: Tensor | None) -> str:
        needed = [(layer, head) for layer, head, mode in plan.heads if look_up(mode).needs_means]
        used = [] if means is None else [torch.as_tensor(means[layer][head]).tolist() for layer, head in needed]
        kernel = self.backend if plan.needs_kernel else None
        return digest(*self._base_key("score", chunk), kernel, plan.key(), np.array(used))

    def _z_key(self, chunk: int) -> str:
        return digest(*self._base_key("z sums", chunk))

    def _base_key(self, kind: str, chunk: int) -> tuple[str | int, ...]:
        if chunk not in self._chunk_digests:
            self._chunk_digests[chunk] = digest(self.tokens[chunk].numpy(force=True))
        softmax = self.backend if dispatch.computes_softmax(self.backend) else "sdpa"
        key = kind, *self._computed_by, softmax, self.model_key, str(self.dtype), self._chunk_digests[chunk]
        return (*key, "start", self.start) if self.start else key

    @torch.inference_mode()
    def _score_chunk(self, chunk: int, plans: Sequence[Plan], how: Replays) -> Iterator[tuple[Plan, np.ndarray]]:
        """Yields `(plan, nll)` of one chunk; keeps the chunk's z sums when the baseline is among the plans."""
        for plan, scores, z_sums in how.scores(self._ids(chunk), tuple(plans)):
            if z_sums is not None:
                self._z_sums[chunk] = z_sums.numpy(force=True).copy()
                self.store.put(self._z_key(chunk), self._z_sums[chunk])
            nll = scores.numpy(force=True)
            if not np.isfinite(nll).all():
                name = plan.key() if len(plan.heads) <= 4 else f"of {len(plan.heads)} heads ({plan.key()[:40]}…)"
                raise InputError(
                    f"the logits of plan {name} on chunk {chunk} are not finite: check the model's weights, "
                    "or use dtype float32"
                )
            yield plan, nll

    @torch.inference_mode()
    def residuals(
        self, chunk: int, plans: Iterable[Plan], means: Tensor | None = None
    ) -> Iterator[tuple[Plan, Tensor]]:
        """Yields `(plan, residual stream after the last layer [1, n_ctx, n_embd])`, the untouched model's first.

        Plans that agree on a layer and all before it share them. Nothing comes from the store or goes there.
        """
        plans = list(dict.fromkeys(plans))
        for plan in plans:
            plan.check(self.arch, means)
        yield from self._walk.residuals(self._ids(chunk), plans, means)

    def _ids(self, chunk: int) -> Tensor:
        return self.tokens[chunk : chunk + 1].to(self.arch.device, torch.long)


def received(
    model: PreTrainedModel, model_key: str, work: Work, store: Keeper
) -> tuple[Evaluator, list[Plan], Tensor | None]:
    """The evaluator of the one chunk, the plans and the means of another process' `work`."""
    settings: Any = work.settings
    names = {name: settings[name] for name in ("dtype", "backend", "start")}
    engine = Evaluator(model, work.arrays["tokens"][None], store, model_key=model_key, **names)
    given = work.arrays.get("means")
    means = None if given is None else torch.from_numpy(given.copy()).to(engine.arch.device, engine.dtype)
    return engine, [Plan(tuple(heads)) for heads in settings["plans"]], means


def computed(model: PreTrainedModel, model_key: str, work: Work) -> dict[str, np.ndarray]:
    """The entries of the store, `{key: array}`, that `work` of another process' `Evaluator` asks of this one.

    The keys are this process' own: they differ from `work.keys` where anything that decides a score does.
    """
    memory = Memory()
    engine, plans, means = received(model, model_key, work, memory)
    for _ in engine._run_here(engine.missing(plans, 1, means), means, progress("", 0, "tok")):
        pass
    return memory.entries


def _tasks(jobs: Iterable[Job], n_workers: int, least: int = 1) -> list[list[Job]]:
    """Jobs grouped by chunk, and a chunk's plans in as many parts as it takes to keep every worker busy.

    No part is of fewer than `least` plans where its chunk has as many.
    """
    by_chunk: dict[int, list[Job]] = {}
    for job in jobs:
        by_chunk.setdefault(job.chunk, []).append(job)
    n_parts = -(-n_workers // max(1, len(by_chunk)))
    tasks = []
    for _, of_chunk in sorted(by_chunk.items()):
        of_chunk.sort(key=lambda job: job.heads)
        n = min(n_parts, max(1, len(of_chunk) // least))
        tasks += [part for start in range(n) if (part := of_chunk[start::n])]
    return tasks


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InputError(f"dtype '{dtype}' is unknown: choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _checked_tokens(given: ArrayLike, arch: Decoder, start: int) -> Tensor:
    tokens = torch.as_tensor(np.asarray(given), dtype=torch.int32)
    if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise InputError(f"tokens have the shape {list(tokens.shape)}: give [n_chunks, n_ctx] with n_ctx of 2 or more")
    if not 0 <= start <= arch.n_positions - tokens.shape[1]:
        at = f" from position {start}" if start else ""
        raise InputError(f"n_ctx {tokens.shape[1]}{at} is too long: this model has {arch.n_positions} positions")
    arch.check_ids(tokens)
    return tokens
