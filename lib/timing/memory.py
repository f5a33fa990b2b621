"""Peak memory of what a report asks of the engine, measured in processes of their own, on random weights of a shape.

    python -m lib.timing.memory --out docs/data/….json

A process loads the weights from a folder as a run does, then scores the untouched model and a ladder's step on all
chunks, means and a rung of the controls on some, compares two models token by token, takes one backward pass, generates
and judges P3's samples, and trains as R4 does where that is asked. Its peak is that of the resident memory of the
process, told after each of these. Peaks hang on the number of chunks that are worked on at once, which is the number of
threads.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lib import machine
from lib.engine import comparing
from lib.engine.decoding import CACHE_BYTES
from lib.engine.generation import continuation_nll, generate
from lib.engine.importance import head_importance
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.model.loading import load_model
from lib.results import dated
from lib.store import Store

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280, "n_positions": 1024, "vocab_size": 50257},
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257},
    "embedded": {"n_layer": 12, "n_head": 12, "n_embd": 144, "n_positions": 1024, "vocab_size": 4096},
    "tiny": {"n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": 512, "vocab_size": 97},
}
WORDS = "random weights of the shapes; peak resident bytes of a process that does what a report asks of the engine"
SOME_CHUNKS = 2
SCANNED = ("zero", "mean", "relu", "l1", "factored")  # a head each, in the last layers
PROMPTS, SAMPLES, PROMPT, NEW = 20, 20, 128, 64  # P3
TRAINED = 4096  # R4
ORDER_TOKENS = 256  # S1: of a piece that orders are chosen on


class Case(NamedTuple):
    """A shape, the numbers of chunks that are scored, fewer first, and the bytes that it may take."""

    shape: str
    n_chunks: tuple[int, ...]
    allowed: float
    trains: bool = False


CASES = (Case("embedded", (64,), 1.5e9, trains=True), Case("gpt2", (6, 12, 24), 3e9), Case("gpt2-large", (2, 8), 8e9))


def measured(cases: Sequence[Case], n_threads: int, seed: int = 10) -> list[dict[str, Any]]:
    """A row for each case: the process's peak, and what it was after each step of the work, more and more chunks."""
    rows = []
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="experiment10-memory-") as folder:
            _run("--write", case.shape, "--folder", folder, "--seed", str(seed), n_threads=n_threads)
            chunks = map(str, case.n_chunks)
            words = ("--measure", case.shape, "--folder", folder, "--seed", str(seed), "--chunks", *chunks)
            words += ("--trains",) if case.trains else ()
            by_step = json.loads(_run(*words, n_threads=n_threads))
        row = {
            "shape": case.shape,
            "n_chunks": max(case.n_chunks),
            "n_threads": n_threads,
            "peak_bytes": max(by_step.values()),
            "allowed_bytes": int(case.allowed),
            "by_step": by_step,
        }
        show(row)
        rows.append(row)
    return rows


def show(row: Mapping[str, Any]) -> None:
    kept = "within" if row["peak_bytes"] <= row["allowed_bytes"] else "OVER"
    steps = ", ".join(f"{step} {peak / 1e9:.2f}" for step, peak in row["by_step"].items())
    print(
        f"{row['shape']:12} peak memory {row['peak_bytes'] / 1e9:.2f} GB, {kept} the {row['allowed_bytes'] / 1e9:.1f} "
        f"allowed; after {steps}",
        flush=True,
    )


def own_peak() -> int:
    """Peak resident bytes of this process; on Linux of its own memory, `ru_maxrss` begins with its parent's."""
    if (found := machine.peak_memory(os.getpid())) is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _run(*words: str, n_threads: int) -> str:
    command = [sys.executable, "-m", "lib.timing.memory", *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(n_threads)}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout


def _write(shape: str, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    GPT2LMHeadModel(GPT2Config(**SHAPES[shape], bos_token_id=0, eos_token_id=0)).save_pretrained(folder)


def _measure(shape: str, folder: Path, n_chunks: Sequence[int], trains: bool, seed: int) -> dict[str, int]:
    """Peak resident bytes after each step of the work, each told as it is reached."""
    sizes, draw = SHAPES[shape], np.random.default_rng(seed)
    peaks: dict[str, int] = {}

    def reached(step: str) -> None:
        peaks[step] = own_peak()
        print(f"{shape}: {step} {peaks[step] / 1e9:.2f} GB", file=sys.stderr, flush=True)

    reached("imports")
    model = load_model(folder)
    reached("loading")
    heads = [(layer, head) for layer in range(1, sizes["n_layer"]) for head in range(sizes["n_head"])]
    half = [heads[i] for i in draw.permutation(len(heads))[: len(heads) // 2]]
    step = Plan.of("relu", half)
    tokens = draw.integers(sizes["vocab_size"], size=(max(n_chunks), sizes["n_positions"]), dtype=np.int32)
    with tempfile.TemporaryDirectory() as store:
        engine = Evaluator(model, tokens, Store(store), model_key="memory")
        for n in n_chunks:
            engine.score([Plan(), step], n)
            reached(f"{n} chunks")
        some = min(SOME_CHUNKS, *n_chunks)
        scan = [Plan.of(mode, [head]) for mode, head in zip(SCANNED, reversed(heads), strict=False)]
        engine.score([Plan.of("mean", half), *scan], some, engine.means(some))
        reached("scan")
        comparing.stacked(Evaluator(model, tokens[:1], Store(store), model_key="memory"), [step])
        reached("comparing")
    head_importance(model, tokens[:1, :ORDER_TOKENS])
    reached("backward pass")
    row_bytes = 2 * sizes["n_layer"] * sizes["n_embd"] * (PROMPT + NEW) * 4
    n_groups = -(-PROMPTS * SAMPLES // max(1, CACHE_BYTES // row_bytes))
    n_rows = -(-PROMPTS * SAMPLES // n_groups)  # those of one cache: the others come after them
    prompts = np.repeat(draw.integers(sizes["vocab_size"], size=(PROMPTS, PROMPT)), SAMPLES, axis=0)[:n_rows]
    new = generate(model, prompts, NEW, step, temperature=0.8, seeds=range(len(prompts)))
    continuation_nll(model, np.concatenate([prompts, new], axis=1), NEW)
    reached("generation")
    if trains:
        from lib.training import recovery  # what it imports is no part of the other steps

        case, schedule = recovery.Case("all", len(heads), seed), recovery.Schedule(marks=(0, TRAINED))
        with tempfile.TemporaryDirectory() as name:
            recovery.train(
                case, Plan.of("relu", heads), model, tokens.ravel(), schedule, Path(name), lambda model, seen: {}
            )
        reached("training")
    return peaks


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.timing.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--only", choices=[case.shape for case in CASES], help="one shape")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="chunks worked on at once")
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trains", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--chunks", type=int, nargs="+", help="numbers of chunks, fewer first")
    chosen = parser.parse_args(arguments)
    if chosen.write:
        _write(chosen.write, chosen.folder, chosen.seed)
    elif chosen.measure:
        print(json.dumps(_measure(chosen.measure, chosen.folder, chosen.chunks, chosen.trains, chosen.seed)))
    else:
        cases = [case for case in CASES if chosen.only in (None, case.shape)]
        if chosen.chunks:
            cases = [case._replace(n_chunks=tuple(chosen.chunks)) for case in cases]
        words = [f"--threads {chosen.threads}", *([f"--only {chosen.only}"] if chosen.only else [])]
        words += [f"--chunks {' '.join(map(str, chosen.chunks))}"] if chosen.chunks else []
        head = dated.new("memory", " ".join(["python -m lib.timing.memory", *words]), WORDS)
        rows = measured(cases, chosen.threads, chosen.seed)
        if chosen.out:
            dated.write(chosen.out, head | {"rows": rows})


if __name__ == "__main__":
    main()
