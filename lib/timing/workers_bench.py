"""`make bench-workers`: the same scores by one process of one thread, and by workers of one thread each, taking turns.

A ratio is the one process' seconds over the workers', the median of the rounds; it is withheld unless both have kept
the same bytes. What a piece of work costs beside its computing is measured too: `lib.timing.scaling` reckons with it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib import machine
from lib.cluster.opening import opened
from lib.engine.elsewhere import Elsewhere, Source, keep
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator, computed
from lib.errors import InputError
from lib.layout import ROOT
from lib.model import corpus, loading
from lib.results import dated
from lib.store import Store
from lib.timing.clock import spread

MODEL = ROOT / "models" / "embedded"
WORKERS = 2


class Recorded:
    """Workers, and what was sent to them, so that it can be computed once more here and timed piece by piece."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        self.elsewhere, self.works = elsewhere, []  # type: ignore[var-annotated]

    def n_workers(self) -> int:
        return self.elsewhere.n_workers()

    def words(self) -> str:
        return self.elsewhere.words()

    def run(self, works: Sequence[Any]) -> Any:
        self.works = list(works)
        return self.elsewhere.run(works)


def plans_of(n_layer: int, n_head: int, n_plans: int) -> list[Plan]:
    """A ladder of ReLU heads, as V4 climbs it: `n_plans` rungs from none to all heads outside layer 0."""
    heads = [(layer, head) for head in range(n_head) for layer in range(1, n_layer)]
    return [Plan.of("relu", heads[: round(len(heads) * i / (n_plans - 1))]) for i in range(n_plans)]


def measure(n_chunks: int, n_plans: int, rounds: int, words: str = "") -> dict[str, Any]:
    """A record of `lib.results.dated`, times in seconds; `words` say on what it was measured, and how."""
    head = dated.new("bench-workers", "make bench-workers", words)
    torch.set_num_threads(1)
    model, key = loading.load_model(MODEL), loading.fingerprint(MODEL)
    ids = corpus.encode(corpus.stdlib_dataset("heldout"), loading.load_tokenizer(MODEL))
    tokens = corpus.chunk(ids, model.config.n_positions, n_chunks)
    plans = plans_of(model.config.n_layer, model.config.n_head, n_plans)

    def score(elsewhere: Elsewhere | None) -> tuple[float, dict[str, bytes]]:
        with tempfile.TemporaryDirectory() as folder:
            engine = Evaluator(model, tokens, Store(folder), model_key=key, elsewhere=elsewhere)
            started = time.perf_counter()
            engine.score(plans, n_chunks)
            seconds = time.perf_counter() - started
            return seconds, {path.name: path.read_bytes() for path in Path(folder).rglob("*.entry")}

    started = time.perf_counter()
    with opened(WORKERS, "cpu", n_threads=1) as pool:
        assert pool is not None
        start_s = time.perf_counter() - started
        found = Recorded(pool.model(Source(MODEL.relative_to(ROOT).as_posix(), key, "float32", "cpu")))
        contenders = {"one process": None, f"{WORKERS} workers": found}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        same = True
        load_s = -time.perf_counter()
        list(found.run([]))
        load_s += time.perf_counter()
        for turn in range(rounds + 1):
            kept = []
            for name, elsewhere in contenders.items():
                own, entries = score(elsewhere)
                kept.append(entries)
                if turn:  # the first warms up
                    seconds[name].append(own)
            same = same and kept[0] == kept[1]
    pieces, keep_s = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for work in found.works:
            started = time.perf_counter()
            arrays = computed(model, key, work)
            pieces.append(time.perf_counter() - started)
            keep(store, arrays)
            keep_s += time.perf_counter() - started - pieces[-1]
    one, two = (np.array(own) for own in seconds.values())
    return head | {
        "processor": machine.described("cpu")["device_name"],
        "workers": WORKERS,
        "n_chunks": n_chunks,
        "n_plans": n_plans,
        "n_ctx": int(tokens.shape[1]),
        "seconds": seconds,
        "spread": {name: spread(np.array(own)) for name, own in seconds.items()},
        "same_bytes": same,
        "ratios": (one / two).tolist(),
        "ratio": float(np.median(one / two)) if same else None,
        "start_s": start_s,
        "load_s": load_s,
        "pieces_s": pieces,
        "keep_s": keep_s / len(pieces),
        "beside_s": float(np.median(two) * WORKERS - sum(pieces)) / len(pieces),
    }


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.timing.workers_bench", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--plans", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.0, help="fail where the ratio is smaller")
    parser.add_argument("--words", default="", help="on what it is measured, and how: kept with the figures")
    chosen = parser.parse_args(words)
    try:
        found = measure(chosen.chunks, chosen.plans, chosen.rounds, chosen.words)
    except InputError as error:
        sys.exit(f"error: {error}")
    for name, own in found["spread"].items():
        print(f"{name:12} {own['ms'] / 1e3:7.2f} s [{own['ms_q20'] / 1e3:.2f}, {own['ms_q80'] / 1e3:.2f}]")
    told = f"{found['ratio']:.2f}x" if found["same_bytes"] else "withheld: the bytes differ"
    print(f"{WORKERS} workers of one thread against one process of one thread: {told}")
    print(
        f"start {found['start_s']:.1f} s, model {found['load_s']:.1f} s, beside each piece {found['beside_s']:.3f} s"
        f" for a worker and {found['keep_s']:.3f} s for the client"
    )
    if chosen.out:
        dated.write(chosen.out, found)
        print(f"written to {chosen.out}")
    if found["ratio"] is None or found["ratio"] < chosen.least:
        sys.exit(f"error: less than {chosen.least:g}x")


if __name__ == "__main__":
    main()
