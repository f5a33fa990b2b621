"""R4's grid: heads are linearized, the model is trained on under the plan, and what training wins back is measured.

    python -m lib.training.recovery --out models/measured/DATE-recovery.json

A case is an arm, a number of linearized heads and a seed. Cases of one seed see the same windows in the same order, at
the same rate, the untouched model among them: what counts as recovered is the distance to *it*. Interrupted, the same
command goes on from the last checkpoint, with the same bits.
"""

import argparse
import copy
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from lib.analysis import head_effects
from lib.analysis.perplexity import ppl
from lib.cluster.opening import opened
from lib.engine import copying, dispatch
from lib.engine.elsewhere import Elsewhere, Memory, Source, Work, shown
from lib.engine.interventions import Plan, apply
from lib.engine.scoring import Evaluator
from lib.errors import STOPPED, InputError
from lib.layout import ROOT, build_root
from lib.model import corpus, loading
from lib.model.adapters import adapter
from lib.params import check
from lib.results import dated
from lib.sources import digest_of
from lib.store import Keeper, Store, digest, open_store
from lib.training import low_rank, pretraining

if TYPE_CHECKING:
    from lib.cluster.pool import Pool

MODEL = ROOT / "models" / "embedded"
IN_A_BLOCK = re.compile(r"\.(h|layers)\.\d+\.")
WHOLE_TOKENS = 8_388_608  # of the grid on a GPU; on a CPU a case of so many would take days
ARMS = ("all", "transfer", "low_rank")


@dataclass(frozen=True)
class Case:
    """`arm` trains a model with `n_heads` linearized; with 0 heads it is the arm's control."""

    arm: str
    n_heads: int
    seed: int

    def __post_init__(self) -> None:
        if self.arm not in ARMS:
            raise InputError(f"arm: given {self.arm!r}, allowed: {', '.join(ARMS)}")

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.n_heads}-seed{self.seed}"

    @property
    def control(self) -> "Case":
        """The untouched model under the same training; transfer has nothing to match there and is plain training."""
        return Case("low_rank" if self.arm == "low_rank" else "all", 0, self.seed)


@dataclass(frozen=True)
class Schedule:
    """How every case is trained. `marks` are the tokens seen at which it is measured; the last one ends it."""

    marks: tuple = (0, 4096, 8192, 16_384, 32_768)
    context: int = 256
    batch_tokens: int = 1024
    warmup_steps: int = 4
    matrix_lr: float = 5e-3
    other_lr: float = 1e-3
    low_rank_lr: float = 5e-3
    rank: int = 8
    transfer_share: float = 0.25

    @property
    def total_tokens(self) -> int:
        return self.marks[-1]


def optimizers(model: Any, case: Case, schedule: Schedule) -> list[tuple[torch.optim.Optimizer, float]]:
    """`[(optimizer, rate)]`: Muon and AdamW for all weights, AdamW alone for low-rank adapters, which it attaches."""
    if case.arm == "low_rank":
        trained = low_rank.attach(model, schedule.rank, case.seed)
        return [(pretraining.adam(trained, schedule.low_rank_lr), schedule.low_rank_lr)]
    of_blocks = {name: p for name, p in model.named_parameters() if IN_A_BLOCK.search(name) and p.ndim == 2}
    others = [p for name, p in model.named_parameters() if name not in of_blocks]
    return [
        (pretraining.muon(list(of_blocks.values()), schedule.matrix_lr), schedule.matrix_lr),
        (pretraining.adam(others, schedule.other_lr), schedule.other_lr),
    ]


def cross_entropy(model: Any, windows: torch.Tensor, plan: Plan, backend: str) -> torch.Tensor:
    """Mean next-token loss of `windows` [B, T + 1] under `plan`."""
    with apply(model, plan, backend=backend):
        logits = model(windows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def transfer_loss(model: Any, teacher: Any, windows: torch.Tensor, plan: Plan, backend: str) -> torch.Tensor:
    """Mean squared error of each changed layer's attention output, in units of the teacher's variance.

    Every layer is handed what the softmax model's own layer gets (LoLCATs, Zhang et al. 2024), so that layers learn
    apart, and only the attention's weights learn.
    """
    layers = sorted({layer for layer, _, _ in plan.heads})
    student, softmax, calls = adapter(model), adapter(teacher), {}

    def keep(layer: int, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls[layer] = args, kwargs, output[0]

    hooks = [softmax.attention(at).register_forward_hook(partial(keep, at), with_kwargs=True) for at in layers]
    try:
        with torch.no_grad():
            teacher(windows[:, :-1], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    n_ctx = windows.shape[1] - 1
    mask = torch.ones(n_ctx, n_ctx, dtype=torch.bool, device=windows.device).tril()
    losses = []
    with apply(model, plan, backend=backend):
        for layer in layers:
            args, kwargs, target = calls[layer]
            kwargs = kwargs | {"attention_mask": mask.expand(len(windows), 1, n_ctx, n_ctx)}
            losses.append(F.mse_loss(student.attention(layer)(*args, **kwargs)[0], target) / target.var())
    return torch.stack(losses).mean()


def draw(ids: torch.Tensor, schedule: Schedule, seed: int, seen: int) -> torch.Tensor:
    """The windows [B, context + 1] that follow after `seen` tokens: the same for every case of a seed."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + seen)
    batch = schedule.batch_tokens // schedule.context
    starts = torch.randint(len(ids) - schedule.context - 1, (batch, 1), generator=generator)
    return ids[starts + torch.arange(schedule.context + 1)]


def train(
    case: Case,
    plan: Plan,
    base: Any,
    ids: np.ndarray,
    schedule: Schedule,
    folder: Path,
    measure: Callable,
    backend: str = "auto",
    checkpoint_steps: int = 32,
) -> tuple[Any, list]:
    """Trains a copy of `base` under `plan`; returns `(model, points)`, one point for each mark.

    measure: `measure(model, tokens seen)` of a plain model with its weights merged, a dict of figures. backend: one
    that computes gradients. Goes on from `folder/checkpoint.safetensors` where there is one.
    """
    backend = dispatch.resolve(backend, next(base.parameters()).device, gradients=True)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stream = torch.as_tensor(np.asarray(ids), dtype=torch.long)
    model = copy.deepcopy(base).eval().requires_grad_(True)  # no dropout: its draws would not survive a kill
    rated = optimizers(model, case, schedule)
    opts = [opt for opt, _ in rated]
    trained = [p for opt in opts for group in opt.param_groups for p in group["params"]]
    seen, points = pretraining.load_checkpoint(folder, model, opts)
    transferred = schedule.transfer_share * schedule.total_tokens if case.arm == "transfer" and plan else 0
    while True:
        if seen in schedule.marks and len(points) <= schedule.marks.index(seen):
            points.append({"tokens": seen} | measure(low_rank.merged(model, base), seen))
            pretraining.save_checkpoint(folder, model, opts, seen, points)
        if seen >= schedule.total_tokens:
            return low_rank.merged(model, base), points
        windows = draw(stream, schedule, case.seed, seen).to(model.device)
        if seen < transferred:
            loss = transfer_loss(model, base, windows, plan, backend)
        else:
            loss = cross_entropy(model, windows, plan, backend)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        step = seen // schedule.batch_tokens + 1
        for opt, rate in rated:
            opt.param_groups[0]["lr"] = rate * min(1.0, step / schedule.warmup_steps)
            opt.step()
            opt.zero_grad()
        seen += schedule.batch_tokens
        if step % checkpoint_steps == 0:
            pretraining.save_checkpoint(folder, model, opts, seen, points)


def weights_key(model: Any) -> str:
    """sha256 of the weights, tied ones once."""
    state = hashlib.sha256()
    for name, weight in model.named_parameters():
        state.update(name.encode())
        state.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


@dataclass(frozen=True)
class Texts:
    """What is measured: chunks [n, n_ctx] of held-out text and of another domain, and sequences to be copied.

    `documents` are those of the chunks, `{heldout, other}`, each the one of most of the chunk's tokens.
    """

    heldout: np.ndarray
    other: np.ndarray
    twice: np.ndarray
    documents: dict[str, list[int]]

    @classmethod
    def of(
        cls,
        heldout: tuple[np.ndarray, np.ndarray],
        other: tuple[np.ndarray, np.ndarray],
        n_ctx: int,
        n_chunks: int,
        n_sequences: int = 16,
        length: int = 32,
        seed: int = 0,
    ) -> "Texts":
        """Of either text ids and each one's document, [N] both."""
        (ids, own), (other_ids, others) = heldout, other
        return cls(
            corpus.spread(ids, n_ctx, n_chunks),
            corpus.spread(other_ids, n_ctx, n_chunks),
            copying.sequences(ids, n_sequences, length, seed),
            {
                "heldout": of_most(corpus.spread(own, n_ctx, n_chunks)),
                "other": of_most(corpus.spread(others, n_ctx, n_chunks)),
            },
        )


def of_most(documents: np.ndarray) -> list[int]:
    """The commonest value of each row of `documents` [n, n_ctx]."""
    return [int(np.bincount(row).argmax()) for row in documents]


def measure(model: Any, plan: Plan, texts: Texts, store: Keeper, everything: bool = False) -> dict[str, Any]:
    """`{nll}`, one mean for each held-out chunk; with `everything` also the controls.

    `nll_zeroed`: the plan's heads zeroed instead, where nothing changes they were bypassed; `nll_other`: text of
    another domain; `copying`: see `lib.engine.copying`.
    """
    key = weights_key(model)

    def nll(chunks: np.ndarray, own: Plan) -> np.ndarray:
        scores = Evaluator(model, chunks, store, model_key=key).score([own], len(chunks), label="recovery")
        return scores[own].mean(1, dtype=np.float64).tolist()

    row: dict[str, Any] = {"nll": nll(texts.heldout, plan)}
    if everything:
        zeroed = Plan.of("zero", [place[:2] for place in plan.heads])
        row |= {"nll_zeroed": nll(texts.heldout, zeroed), "nll_other": nll(texts.other, plan)}
        row["copying"] = copying.probe(model, plan, texts.twice)
    return row


def ranking_of(model: Any, chunks: np.ndarray, store: Keeper, model_key: str) -> list[tuple[int, int]]:
    """`(layer, head)` outside layer 0 by |ΔPPL| of each alone on ReLU, the smallest first, on `chunks` [n, n_ctx]."""
    arch = adapter(model)
    places = [(layer, head) for layer in range(1, arch.n_layer) for head in range(arch.n_head)]
    single = [Plan.of("relu", [place]) for place in places]
    scores = Evaluator(model, chunks, store, model_key=model_key).score([Plan(), *single], len(chunks), label="ranking")
    base = ppl(scores[Plan()])
    cost = [ppl(scores[one]) / base - 1 for one in single]
    return [(layer, head) for layer, head in head_effects.ranking(places, cost)]


def trained_case(
    case: Case,
    ranking: Sequence[tuple[int, int]],
    base: Any,
    ids: np.ndarray,
    schedule: Schedule,
    texts: Texts,
    folder: Path,
    store: Keeper,
    backend: str = "auto",
    report: Callable | None = None,
) -> dict[str, Any]:
    """One row of the grid: the case, its points, and how long it took."""
    plan, ends = Plan.of("relu", ranking[: case.n_heads]), (0, schedule.total_tokens)

    def measured(model: Any, tokens: int) -> Any:
        row = measure(model, plan, texts, store, everything=tokens in ends)
        if report:
            report(case.name, tokens, float(np.exp(np.mean(row["nll"]))))
        return row

    about = digest(
        weights_key(base), plan.key(), repr(schedule), np.asarray(ids), texts.heldout, texts.other, texts.twice
    )
    folder = Path(folder) / f"{case.name}-{about[:12]}"  # nothing goes on from another case's checkpoint
    _, points = train(case, plan, base, ids, schedule, folder, measured, backend)
    return asdict(case) | {"name": case.name, "points": points}


def trained_elsewhere(
    cases: Sequence[Case],
    ranking: Sequence[tuple[int, int]],
    key: str,
    ids: np.ndarray,
    schedule: Schedule,
    texts: Texts,
    store: Store,
    elsewhere: Elsewhere,
) -> Iterator[dict[str, Any]]:
    """The rows of `trained_case`, by other processes, as they come; `key` names the base model's weights.

    A row is kept in the store, as the bytes of its JSON. A case whose process has died starts anew in another. Each
    trains with as many threads as this process would, which the last bits depend on.
    """
    arrays = {"ids": np.asarray(ids), "heldout": texts.heldout, "other": texts.other, "twice": texts.twice}
    sources = digest_of(["lib.training.recovery"])
    common = {"schedule": asdict(schedule), "documents": texts.documents, "threads": torch.get_num_threads()}

    def work(case: Case) -> Work:
        settings = {"case": asdict(case), "ranking": [list(place) for place in ranking[: case.n_heads]]} | common
        own = digest("recovery", sources, torch.__version__, key, json.dumps(settings), *arrays.values())
        return Work("training", (own,), settings, arrays)

    works = [work(case) for case in cases]
    kept = [store.get(own.keys[0]) for own in works]
    yield from (_row(row) for row in kept if row is not None)
    missing = [i for i, row in enumerate(kept) if row is None]
    for number, entries in shown(elsewhere, [works[i] for i in missing], "cases") if missing else ():
        own = works[missing[number]].keys[0]
        store.put(own, entries[own])
        yield _row(entries[own])


def _row(content: np.ndarray) -> dict[str, Any]:
    return json.loads(content.astype(np.uint8).tobytes())


def computed(model: Any, model_key: str, work: Work) -> dict[str, np.ndarray]:
    """`{the work's key: one row's JSON}`, trained here for another process' `trained_elsewhere`."""
    settings: Any = work.settings
    case, schedule = Case(**settings["case"]), settings["schedule"]
    schedule = Schedule(**schedule | {"marks": tuple(schedule["marks"])})
    heldout, other, twice = (work.arrays[name] for name in ("heldout", "other", "twice"))
    texts = Texts(heldout, other, twice, settings["documents"])
    ranking = [(layer, head) for layer, head in settings["ranking"]]
    before = torch.get_num_threads()
    torch.set_num_threads(settings["threads"])
    try:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False), torch.enable_grad():
            row = trained_case(case, ranking, model, work.arrays["ids"], schedule, texts, Path(folder), Memory())
    finally:
        torch.set_num_threads(before)
    return {work.keys[0]: np.frombuffer(json.dumps(row).encode(), dtype=np.uint8)}


def grid(n_rankable: int) -> list[Case]:
    """The cases, the most telling ones first."""
    sizes = [n for n in (30, 70) if n < n_rankable]
    cases = [("all", 0), ("all", n_rankable), ("transfer", n_rankable)]
    cases += [("all", n) for n in sizes] + [("low_rank", 0), ("low_rank", n_rankable)]
    cases += [(arm, n) for arm in ("transfer", "low_rank") for n in sizes]
    return [Case(*case, seed) for seed in (1, 2, 3) for case in cases]


def small_grid(
    model: Any,
    train_ids: np.ndarray,
    heldout: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    ranking: Sequence[tuple[int, int]],
    tokens: int,
    n_ctx: int,
    folder: Path,
    store: Store,
    n_chunks: int = 32,
    seed: int = 1,
    elsewhere: Elsewhere | None = None,
) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """`(cases, documents of the chunks)`: a few tokens, all ranked heads, a third of them or fewer, and the control.

    `elsewhere` trains them in other processes.
    """
    context = min(Schedule.context, n_ctx)
    marks = (0, *(tokens // share for share in (4, 2, 1)))
    schedule = Schedule(marks, context, max(context, min(Schedule.batch_tokens, tokens // 4) // context * context))
    most = min(len(ids) // context for ids, _ in (heldout, other))
    texts = Texts.of(heldout, other, context, min(n_chunks, most), seed=seed)
    cases = [Case("all", n, seed) for n in (0, max(1, len(ranking) * 30 // 132), len(ranking))]
    if elsewhere is None:
        rows = [trained_case(case, ranking, model, train_ids, schedule, texts, folder, store) for case in cases]
    else:
        key = weights_key(model)
        found = trained_elsewhere(cases, ranking, key, train_ids, schedule, texts, store, elsewhere)
        done = {row["name"]: row for row in found}
        rows = [done[case.name] for case in cases]
    return rows, texts.documents


def texts_of(
    dataset: str, config: str, tokenizer: Any, stream: np.ndarray, documents: np.ndarray, most: int = 1_000_000
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """`(training ids, (held-out ids, each one's document))`: the dataset's own training split, up to `most` characters
    of it, and `stream` with its `documents`, [N] both.

    A dataset without one lends the second half of `stream`, the first half of which is then held out.
    """
    try:
        rows, _ = corpus.load_rows(dataset, config, "train")
    except InputError:
        half = len(stream) // 2
        return stream[half:], (stream[:half], documents[:half])
    n, length = 0, 0
    while n < len(rows) and length < most:
        n, length = n + 1, length + len(rows[n]["text"])
    return corpus.encode(rows.select(range(n)), tokenizer), (stream, documents)


def run(
    schedule: Schedule,
    folder: Path,
    out: Path,
    words: str = "",
    n_chunks: int = 32,
    report: Callable = print,
    device: str = "cpu",
    pool: "Pool | None" = None,
) -> dict[str, Any]:
    """Trains and measures every case that `out` does not have yet; `out` is whole after each of them.

    The workers of `pool` train several at once.
    """
    head = dated.new("recovery", "make recovery", words)
    tokenizer, base = loading.load_tokenizer(MODEL), loading.load_model(MODEL, device=device)
    of_tokens = {
        split: corpus.encode_documents(corpus.stdlib_dataset(split), tokenizer) for split in ("train", "heldout")
    }
    ids = {split: own for split, (own, _, _) in of_tokens.items()}
    other_ids, other_documents, _ = corpus.encode_documents(corpus.other_domain()[0], tokenizer)
    texts = Texts.of(of_tokens["heldout"][:2], (other_ids, other_documents), schedule.context, n_chunks)
    store, key = open_store(), loading.fingerprint(MODEL)
    ranking = ranking_of(base, corpus.chunk(ids["heldout"], base.config.n_positions, 2), store, key)
    text = {"name": corpus.STDLIB, "train_tokens": len(ids["train"]), "other": corpus.OTHER_PACKAGE}
    text |= {f"{split}_fingerprint": corpus.fingerprint(own) for split, own in ids.items()}
    text |= {"documents": texts.documents}
    new = head | {"model": key, "text": text, "recipe": asdict(schedule)}
    record = dated.resume(out, new | {"n_rankable": len(ranking), "cases": []}, "recipe")
    done = {row["name"] for row in record["cases"]}
    order = {case.name: case for case in grid(len(ranking))}
    todo = [case for name, case in order.items() if name not in done]

    def here(case: Case) -> dict[str, Any]:
        return trained_case(case, ranking, base, ids["train"], schedule, texts, folder, store, report=report)

    rows: Iterable[dict[str, Any]] = map(here, todo)
    if pool is not None:
        elsewhere = pool.model(Source(MODEL.relative_to(ROOT).as_posix(), key, "float32", device))
        rows = trained_elsewhere(todo, ranking, key, ids["train"], schedule, texts, store, elsewhere)
    for row in rows:
        if pool is not None:
            report(row["name"], "done")
        record["cases"].append(row)
        record["cases"].sort(key=lambda row: list(order).index(row["name"]))
        dated.write(out, record)
    return record


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.training.recovery", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=build_root() / "recovery" / "recovery.json")
    parser.add_argument("--folder", type=Path, default=build_root() / "recovery", help="checkpoints")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = WHOLE_TOKENS if device == "cuda" else Schedule().total_tokens
    parser.add_argument("--tokens", type=int, default=tokens, help=f"tokens of every case, by default {tokens} here")
    parser.add_argument("--provenance", default="", help="who measures, and on what: kept with the figures")
    parser.add_argument("--workers", default="0", help="so many processes train at once, or those at tcp://host:port")
    args = parser.parse_args(words)
    try:
        with opened(check("workers", args.workers, "--"), device) as pool:
            run(
                Schedule(doubling(args.tokens)),
                args.folder,
                args.out,
                args.provenance,
                report=lambda *line: print(*line, flush=True),
                device=device,
                pool=pool,
            )
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(STOPPED)


def doubling(tokens: int, first: int = 4096) -> tuple[int, ...]:
    """0, `first`, twice that, and so on up to `tokens`, which has to be one of them."""
    marks = [0, first]
    while marks[-1] < tokens:
        marks.append(2 * marks[-1])
    if marks[-1] != tokens:
        raise InputError(f"tokens: given {tokens}, allowed: {first} doubled any number of times, e.g. {marks[-1]}")
    return tuple(marks)


if __name__ == "__main__":
    main()
