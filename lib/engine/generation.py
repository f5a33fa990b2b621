"""Generation under a plan, and the unmodified model's judgement of what was generated.

With the cache, prompts go through the model once and every further token costs one position. Rows whose tokens agree
so far, as samples of one prompt do for a while, are computed once; on a CUDA device each token is one graph instead
(`lib.engine.graph_generation`). Every row draws from a generator of its own, so that a text does not depend on the rows
beside it. Without the cache it is the published protocol: hooks, and the whole sequence again for every token.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from lib.engine import dispatch, graph_generation, graphs, likelihood
from lib.engine.decoding import PlannedDecoder, Writing, check_finite, choose
from lib.engine.interventions import Plan, apply
from lib.errors import InputError
from lib.model.adapters import Decoder, adapter
from lib.progress import progress


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: ArrayLike,
    n_new: int,
    plan: Plan,
    *,
    means: Tensor | None = None,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    cached: bool = True,
    by_graph: bool = True,
    backend: str = "auto",
    label: str = "",
) -> np.ndarray:
    """`n_new` tokens after each row of `prompts` [B, P]; int32 [B, n_new].

    Greedy at temperature 0; else sampled, each row with its own seed from `seeds` [B]. `means` [n_layer, n_head,
    d_head] are needed by plans that say so. `cached=False` recomputes the whole sequence for each token, and on a CUDA
    device `by_graph=False` launches every kernel instead of replaying a graph.
    A `label` names the work in a progress bar.
    `InputError` when prompt and new tokens do not fit the model's positions.
    """
    arch = adapter(model)
    plan.check(arch, means)
    texts = _checked_prompts(prompts, n_new, arch)
    draws = _draws(len(texts), n_new, temperature, seeds)
    if not cached:
        return _recompute(model, texts, n_new, plan, means, temperature, draws, backend)
    decoder = PlannedDecoder(arch, plan, means, dispatch.resolve(backend, arch.device))
    return _generate(decoder, texts, draws, _writing(n_new, temperature, (), False, arch), by_graph, label)[0]


@torch.inference_mode()
def write(
    model: PreTrainedModel,
    prompts: ArrayLike,
    n_new: int,
    plan: Plan,
    *,
    ends: Sequence[int],
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    means: Tensor | None = None,
    backend: str = "auto",
    label: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Texts that end: (tokens int32 [B, n_new], their negative log-likelihood float32 [B, n_new] under `plan`).

    As `generate`, but a row that has written one of `ends` costs nothing more: that token fills it up, at an NLL of 0.
    The likelihood is that of the model itself, whatever the temperature.
    """
    arch = adapter(model)
    plan.check(arch, means)
    texts = _checked_prompts(prompts, n_new, arch)
    draws = _draws(len(texts), n_new, temperature, seeds)
    decoder = PlannedDecoder(arch, plan, means, dispatch.resolve(backend, arch.device))
    return _generate(decoder, texts, draws, _writing(n_new, temperature, ends, True, arch), True, label)


@torch.inference_mode()
def continuation_nll(
    model: PreTrainedModel,
    sequences: ArrayLike,
    n_scored: int,
    plan: Plan | None = None,
    *,
    means: Tensor | None = None,
    backend: str = "auto",
) -> np.ndarray:
    """Negative log-likelihood of the last `n_scored` tokens of each row of `sequences` [B, L]; float32 [B, n_scored].

    The unmodified model judges, or the model under `plan`. What precedes the scored tokens goes through it once for
    all rows that share it.
    """
    plan = Plan() if plan is None else plan
    arch = adapter(model)
    texts = _checked_sequences(sequences, arch)
    if not 1 <= n_scored < texts.shape[1] <= arch.n_positions:
        raise InputError(
            f"{n_scored} of {texts.shape[1]} tokens to be scored: need 1 or more, one before them, and at most "
            f"{arch.n_positions} in all"
        )
    plan.check(arch, means)
    decoder = PlannedDecoder(arch, plan, means, dispatch.resolve(backend, arch.device))
    parts = [_judge(decoder, texts[rows], n_scored) for rows in decoder.groups(*texts.shape)]
    return torch.cat(parts).numpy(force=True)


def _writing(n_new: int, temperature: float, ends: Sequence[int], scored: bool, arch: Decoder) -> Writing:
    return Writing(n_new, temperature, torch.tensor(list(ends), dtype=torch.long, device=arch.device), scored)


def _generate(
    decoder: PlannedDecoder, prompts: Tensor, draws: Tensor, wanted: Writing, by_graph: bool, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32, their NLL float32 where they are scored, else zeros), both [B, n_new]; groups of rows in turn."""
    n_rows, n_prompt = prompts.shape
    parts = []
    with progress(label, n_rows * wanted.n_new if label else 0, "tok") as bar:
        for rows in decoder.groups(n_rows, n_prompt + wanted.n_new):
            own = prompts[rows], draws[rows], bar
            if by_graph and graphs.available(prompts.device):
                with graph_generation.graph_steps(decoder, len(own[0]), n_prompt, wanted) as steps:
                    parts.append(steps.generate(*own))
            else:
                parts.append(_launched(decoder, wanted, *own))
    tokens, nll = (torch.cat(part) for part in zip(*parts, strict=True))
    return tokens.to(torch.int32).numpy(force=True), nll.numpy(force=True)


def _launched(
    decoder: PlannedDecoder, wanted: Writing, prompts: Tensor, draws: Tensor, bar: tqdm
) -> tuple[Tensor, Tensor]:
    """`_generate` of one group, kernel by kernel; what rows have in common is computed once."""
    device, n_new = prompts.device, wanted.n_new
    cache, row_of, logits = decoder.prefill(prompts, prompts.shape[1] + n_new)
    tokens = torch.empty(len(prompts), n_new, dtype=torch.long, device=device)
    nll = torch.zeros(len(prompts), n_new, device=device)
    texts = torch.arange(len(prompts), device=device)  # those that have not ended
    for step in range(n_new):
        own = logits[row_of]
        chosen = choose(own, wanted.temperature, draws[:, step])
        tokens[texts, step:] = chosen[:, None]
        if wanted.scored:
            nll[texts, step] = dispatch.token_nll(own, chosen, backend=decoder.backend)
        bar.update(len(chosen))
        going = ~torch.isin(chosen, wanted.ends)
        some_ended = len(wanted.ends) > 0 and not going.all()
        if some_ended:
            texts, row_of, chosen, draws = texts[going], row_of[going], chosen[going], draws[going.cpu()]
        if step + 1 == n_new or len(texts) == 0:
            break
        if some_ended or wanted.temperature:
            row_of, heads = cache.branch(row_of, chosen)
        else:
            heads = torch.empty(cache.n_used, dtype=torch.long, device=device).scatter_(0, row_of, chosen)
        logits = decoder.logits(decoder.advance(heads[:, None], cache)[:, -1])
    return tokens, nll


def _judge(decoder: PlannedDecoder, sequences: Tensor, n_scored: int) -> Tensor:
    n_prompt = sequences.shape[1] - n_scored
    cache, row_of, logits = decoder.prefill(sequences[:, :n_prompt], sequences.shape[1])
    first = dispatch.token_nll(logits[row_of], sequences[:, n_prompt], backend=decoder.backend)
    if n_scored == 1:
        return first[:, None]
    cache.spread(row_of)
    hidden = decoder.advance(sequences[:, n_prompt:-1], cache).flatten(0, 1)
    targets = sequences[:, n_prompt + 1 :].flatten()
    rest = likelihood.nll(decoder.arch, decoder.arch.final(hidden), targets, backend=decoder.backend)
    check_finite(bool(torch.isfinite(rest).all()))
    return torch.cat([first[:, None], rest.view(len(sequences), -1)], dim=1)


def _recompute(
    model: PreTrainedModel,
    prompts: Tensor,
    n_new: int,
    plan: Plan,
    means: Tensor | None,
    temperature: float,
    draws: Tensor,
    backend: str,
) -> np.ndarray:
    tokens = prompts
    with apply(model, plan, means, backend):
        for step in range(n_new):
            logits = model(tokens, use_cache=False).logits[:, -1]
            tokens = torch.cat([tokens, choose(logits, temperature, draws[:, step])[:, None]], dim=1)
    return tokens[:, prompts.shape[1] :].to(torch.int32).numpy(force=True)


def _draws(n_rows: int, n_new: int, temperature: float, seeds: Sequence[int] | None) -> Tensor:
    """Uniform numbers [B, n_new], float64, row by row from the row's own generator."""
    if temperature < 0:
        raise InputError(f"temperature {temperature}: allowed are 0 (greedy) and above")
    if temperature == 0:
        return torch.zeros(n_rows, n_new, dtype=torch.float64)
    if seeds is None or len(seeds) != n_rows:
        given = "none" if seeds is None else len(seeds)
        raise InputError(f"{n_rows} prompts to be sampled and {given} seeds: give one for each prompt")
    rows = [torch.rand(n_new, generator=torch.Generator().manual_seed(int(s)), dtype=torch.float64) for s in seeds]
    return torch.stack(rows)


def _checked_prompts(prompts: ArrayLike, n_new: int, arch: Decoder) -> Tensor:
    texts = _checked_sequences(prompts, arch)
    if n_new < 1 or texts.shape[1] + n_new > arch.n_positions:
        raise InputError(
            f"{texts.shape[1]} prompt tokens and {n_new} new ones do not fit: need 1 or more new tokens and at most "
            f"{arch.n_positions} in all"
        )
    return texts


def _checked_sequences(texts: ArrayLike, arch: Decoder) -> Tensor:
    sequences = torch.as_tensor(np.asarray(texts), dtype=torch.long, device=arch.device)
    if sequences.ndim != 2 or 0 in sequences.shape:
        raise InputError(f"sequences have the shape {list(sequences.shape)}: give [B, L], both 1 or more")
    arch.check_ids(sequences)
    return sequences
