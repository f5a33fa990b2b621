"""What more workers would do, on paper: `python -m lib.timing.scaling`, from what `make bench-workers` has measured.

Two reckonings of the same work stand side by side. The formula adds up the parts; the simulation sends one piece after
another to workers that take as long as measured pieces have taken, and lets the client keep one result at a time. The
first lines hold both against the run that was measured.
"""

import argparse
import heapq
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.engine.elsewhere import AHEAD, PIECE_PLANS, PIECES
from lib.errors import InputError
from lib.files import replacing
from lib.layout import DATED, ROOT
from lib.results import dated

PAGE, BEGIN, END = ROOT / "docs" / "cluster.md", "<!-- scaling:begin -->", "<!-- scaling:end -->"
WORKERS = (1, 2, 4, 8)
DRAWS = 20
GPT2_LARGE = {"n_layer": 36, "n_head": 20, "n_embd": 1280, "d_mlp": 5120, "vocab": 50257}
CHUNKS, N_CTX, PLANS = 245, 1024, 160
RATES = (10e12, 20e12, 40e12)  # FLOP/s of one GPU on this work: assumed, none was measured
WEIGHTS_BYTES, DISK = 3.1e9, 1e9  # of gpt2-large in float32; bytes/s at which a worker reads and moves it, assumed


@dataclass(frozen=True)
class Costs:
    """Seconds: of a worker beside each piece, of the client for keeping one score, until workers are there, until they
    have imported torch and hold the model."""

    beside: float
    keep: float
    start: float
    load: float


def piece_flops(plans: Sequence[int], shape: dict[str, int], n_ctx: int) -> float:
    """FLOPs of scoring one chunk under plans that each change one head, in these layers.

    Layers before the change are those of the untouched model, which are walked once; each plan pays the rest and the
    logits.
    """
    width, mlp = shape["n_embd"], shape["d_mlp"]
    layer = 2 * n_ctx * (4 * width**2 + 2 * width * mlp) + 2 * n_ctx**2 * width
    walked = shape["n_layer"] + sum(shape["n_layer"] - at for at in plans)
    return walked * layer + len(plans) * 2 * n_ctx * width * shape["vocab"]


def pieces_of(n_workers: int, shape: dict[str, int]) -> list[tuple[int, float]]:
    """`(scores, FLOPs)` of each piece of 245 chunks under 160 plans, cut as `Evaluator` cuts them."""
    layers = sorted(i * shape["n_layer"] // PLANS for i in range(PLANS))
    n = min(-(-PIECES * n_workers // CHUNKS), max(1, PLANS // PIECE_PLANS))
    parts = [layers[start::n] for start in range(n)]
    return [(len(part), piece_flops(part, shape, N_CTX)) for _ in range(CHUNKS) for part in parts]


def formula(seconds: np.ndarray, scores: np.ndarray, n_workers: int, costs: Costs) -> float:
    """Start, model, and whichever takes longer: the workers with all pieces, or the client with keeping all scores.

    At the end the workers wait for the last of them, half a piece on the average.
    """
    busy = (seconds.sum() + costs.beside * len(seconds)) / n_workers
    tail = seconds.mean() / 2 * (n_workers > 1)
    return costs.start + costs.load + max(busy + tail, costs.keep * scores.sum())


def simulated(seconds: np.ndarray, scores: np.ndarray, n_workers: int, costs: Costs, ahead: int = AHEAD) -> float:
    """The same, event by event: workers with a queue of `ahead` pieces, a client that keeps one result at a time."""
    ready = costs.start + costs.load
    free = [ready] * n_workers  # when each worker will have done what it was sent
    held = [0] * n_workers  # pieces that it has
    events: list[tuple[float, int, int]] = []  # (when a piece is done, which, whose)
    client, sent = ready, 0
    while sent < len(seconds) or events:
        while sent < len(seconds) and min(held) < ahead:
            who = min(range(n_workers), key=lambda i: (held[i], free[i]))
            free[who] = max(free[who], client) + seconds[sent] + costs.beside
            heapq.heappush(events, (free[who], sent, who))
            held[who] += 1
            sent += 1
        done, piece, who = heapq.heappop(events)
        client = max(client, done) + costs.keep * scores[piece]
        held[who] -= 1
    return client


def spread_of(measured: Sequence[float]) -> np.ndarray:
    """Measured times of pieces, each over their mean."""
    found = np.asarray(measured, dtype=np.float64)
    return found / found.mean()


def both(
    mean: np.ndarray, scores: np.ndarray, n_workers: int, costs: Costs, spread: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    """(formula, mean of simulations in which each piece takes `mean` times a drawn member of `spread`)."""
    rng = np.random.default_rng(seed)
    found = [simulated(mean * rng.choice(spread, len(mean)), scores, n_workers, costs) for _ in range(DRAWS)]
    return formula(mean, scores, n_workers, costs), float(np.mean(found))


def costs_of(measured: dict[str, Any], weights_s: float = 0.0) -> Costs:
    """The measured costs; `weights_s` are seconds of reading and moving larger weights than the measured ones."""
    n_scores = measured["n_chunks"] * measured["n_plans"] / len(measured["pieces_s"])
    keep = measured["keep_s"] / n_scores
    return Costs(max(0.0, measured["beside_s"]), keep, measured["start_s"], measured["load_s"] + weights_s)


def against_the_measured(measured: dict[str, Any]) -> list[str]:
    """The measured run reckoned both ways, without the start, which it does not count."""
    pieces, n = np.array(measured["pieces_s"]), measured["workers"]
    scores = np.full(len(pieces), measured["n_chunks"] * measured["n_plans"] / len(pieces))
    costs = replace(costs_of(measured), start=0.0, load=0.0)
    told, seen = formula(pieces, scores, n, costs), simulated(pieces, scores, n, costs)
    alone, took = (float(np.median(own)) for own in measured["seconds"].values())
    ratios = measured["ratios"]
    return [
        "| the measured run | seconds |",
        "| --- | ---: |",
        f"| one process, measured | {alone:.1f} |",
        f"| {n} workers, measured | {took:.1f} |",
        f"| formula | {told:.1f} |",
        f"| simulation | {seen:.1f} |",
        "",
        f"{n} workers did {np.median(ratios):.2f} times one process' work, {min(ratios):.2f} to {max(ratios):.2f} in"
        f" {len(ratios)} rounds.",
    ]


def table(measured: dict[str, Any]) -> list[str]:
    """gpt2-large, 245 chunks of 1,024 tokens under 160 plans, by workers and by the rate of one GPU."""
    spread = spread_of(measured["pieces_s"])
    costs = costs_of(measured, WEIGHTS_BYTES / DISK)
    lines = [
        "| TFLOP/s of a GPU | GPUs | formula, s | simulation, s | times one GPU | of ideal |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for rate in RATES:
        alone = None
        for n in WORKERS:
            found = pieces_of(n, GPT2_LARGE)
            scores, flop = (np.array(own, dtype=np.float64) for own in zip(*found, strict=True))
            told, seen = both(flop / rate, scores, n, costs, spread)
            alone = alone or seen
            lines.append(
                f"| {rate / 1e12:.0f} | {n} | {told:,.0f} | {seen:,.0f} | {alone / seen:.2f} | {alone / seen / n:.0%} |"
            )
    return lines


def kept() -> dict[str, Any]:
    found = dated.latest("bench-workers", DATED)
    if found is None:
        raise InputError(f"no measured costs in {DATED}; make them with `make bench-workers`")
    return found


def text(measured: dict[str, Any]) -> str:
    return "\n".join([*against_the_measured(measured), "", *table(measured)])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.timing.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--measured", type=Path, help="what `make bench-workers` has written; the kept one by default")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/cluster.md")
    chosen = parser.parse_args(words)
    try:
        found = text(json.loads(chosen.measured.read_text(encoding="utf-8")) if chosen.measured else kept())
        print(found)
        if chosen.write:
            before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
            with replacing(PAGE) as partial:
                partial.write_text(f"{before}{BEGIN}\n{found}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    except (InputError, OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
