"""`make gpu-session`: all that is to be known from a machine with a CUDA GPU, in six steps of under nine minutes each.

1. `correctness`: every case of `tests/triton_cases.py`, each tuned tile twice against float64, in several processes;
   some of them under compute-sanitizer where it is installed.
2. `tuning`: every tile, timed on the shapes that the bench uses.
3. `bench`: `lib.timing.kernel_bench`.
4. `end_to_end`: GPT-2 small's shape with random weights: prefill, decoding, V4's ladder on 245 chunks.
5. `training`: steps of R4's training.
6. `profiles`: roofline, registers and stalls of each row of the bench that misses a target of `lib.timing.gpu_targets`.

Each step is a process of its own, writes its file as it goes, and is stopped at its limit; the others go on. Python
with torch, numpy, scipy, safetensors, transformers and tqdm is enough: no notebook, no network. What was found goes to
`kernels/measured/<device>-<date>.json` where the bench has rows.

`--tiny` runs the same steps at tiny sizes, on a CPU in Triton's interpreter.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from lib import machine
from lib.errors import InputError, first_line
from lib.files import replacing
from lib.layout import ROOT, build_root
from lib.results.provenance import git_state
from lib.timing import gpu_targets

LIMIT = 530  # seconds of a step
CASES = ROOT / "tests" / "triton_cases.py"
MEASURED = ROOT / "kernels" / "measured"
FEW = ("forward tile 0", "mixed by branch", "splits", "dead rows, backward")
SANITIZED = (*FEW, "decoding of a GPT-2")
ELEVEN = tuple(range(0, 101, 10))
TINY = (("attention", "tiny", (1, 2, 33, 16), "bf16"), ("decoding_step", "tiny_step", (1, 2, 1, 16), 33))


class Save:
    """Writes what a step has found so far to its file; beside it lie those of earlier steps."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.about = path, about

    def __call__(self, found: dict[str, Any]) -> None:
        write(self.path, self.about | found)

    def earlier(self, step: str) -> dict[str, Any]:
        """What a step found, `{}` where it left nothing."""
        path = self.path.with_name(f"{step}.json")
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def correctness(save: Save, device: str, tiny: bool) -> None:
    """`{cases: {name: failure or None}, sanitizer: {tool: its last line}}`, as far as the time goes."""
    n = min(8, max(1, (os.cpu_count() or 2) // 2))
    deadline = time.monotonic() + LIMIT - 90
    found: dict[str, Any] = {"cases": {}, "sanitizer": {}}
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / f"{part}.json" for part in range(n)]
        parts = [
            subprocess.Popen(
                case_command(device, "--out", out, "--part", part, n, *(("--only", *FEW) if tiny else ())),
                env=for_cases(),
            )
            for part, out in enumerate(outs)
        ]
        for process in parts:
            try:
                process.wait(max(1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for out in outs:
            found["cases"] |= json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    save(found)
    sanitizer = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck") if sanitizer and device == "cuda" else ():
        command = [str(sanitizer), "--tool", tool, *case_command(device, "--only", *SANITIZED)]
        try:
            done = subprocess.run(command, env=for_cases(), capture_output=True, text=True, timeout=40)
            found["sanitizer"][tool] = next((x for x in reversed(done.stdout.splitlines()) if "=====" in x), "")
        except subprocess.TimeoutExpired:
            found["sanitizer"][tool] = "ran out of time"
        save(found)
    if not found["cases"] or any(found["cases"].values()):
        raise InputError(f"{sum(map(bool, found['cases'].values()))} of {len(found['cases'])} cases failed")


def case_command(device: str, *words: object) -> list[str]:
    return [sys.executable, "-W", "ignore", str(CASES), "--device", device, *map(str, words)]


def for_cases() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(CASES.parent), str(ROOT)])}


def tuning(save: Save, device: str, tiny: bool) -> None:
    """`{rows: [{what, shape, tile, ms, ms_q20, ms_q80, runs} or {…, failed}]}`: every tile on every shape."""
    import torch

    from kernels import triton_attention
    from kernels.triton_backward import KEY_TILES, QUERY_TILES
    from kernels.triton_forward import FORWARD_TILES
    from lib.timing import clock
    from lib.timing.kernel_bench import inputs

    shapes = [(1, 1, 33, 16)] if tiny else [(16384 // n, 32, n, 64) for n in (1024, 2048, 4096, 8192, 16384)]
    backward_tiles = tuple(dict.fromkeys(QUERY_TILES + KEY_TILES))
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        q, k, v = inputs(shape, "bf16", device)
        z, grad, scale = torch.empty_like(q), torch.ones_like(q), shape[3] ** -0.5
        sums = torch.empty(shape[:3], dtype=torch.float32, device=device)
        triton_attention._forward(q, k, v, z, scale, shape[2], "relu", row_sums=sums)
        runs: list[tuple[str, Any, Callable[[], Any]]] = [
            ("forward", tile, partial(triton_attention.relu_attention, q, k, v, out=z, tile=tile))
            for tile in FORWARD_TILES[: 2 if tiny else None]
        ]
        runs += [
            ("backward", tile, partial(triton_attention.gradients, q, k, v, z, sums, grad, scale, tile=tile))
            for tile in backward_tiles[: 1 if tiny else None]
        ]
        for what, tile, run in runs:
            row: dict[str, Any] = {"what": what, "shape": list(shape), "tile": asdict(tile)}
            try:
                with torch.no_grad():
                    seconds = clock.alternating({"": run}, device, rounds=2 if tiny else 20, warm_up=1)[""]
                row |= clock.spread(seconds)
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {first_line(error)}"
            rows.append(row)
            save({"rows": rows})


def bench(save: Save, device: str, tiny: bool) -> None:
    """What `kernel_bench` writes."""
    from lib.timing import kernel_bench

    found = kernel_bench.run(device, 0.01 if tiny else 2.0, save, TINY if tiny else None)
    if found["failed"]:
        raise InputError(f"{len(found['failed'])} rows failed: {', '.join(row['name'] for row in found['failed'])}")


def end_to_end(save: Save, device: str, tiny: bool) -> None:
    """`{rows: [{what, dtype, n_linearized, seconds, tokens_per_s, ...}], failed}` of GPT-2 small's shape.

    What decodes: the kernels' own decoder ("decoding") and the engine's ("generation"), launched and by graph in turn.
    """
    import numpy as np
    import torch

    from lib.engine.generation import generate
    from lib.engine.scoring import Evaluator
    from lib.store import Store
    from lib.timing import clock
    from lib.timing.engine_bench import TOLERANCE, EngineBench, edits_of, ppl_error
    from lib.timing.speedups import graph_decoder

    n_chunks, n_ctx, ladder, n_new = (2, 24, (0, 70), 2) if tiny else (245, 1024, ELEVEN, 128)
    whole = EngineBench("tiny" if tiny else "gpt2", seed=10)
    tokens = whole.tokens(n_chunks, n_ctx)
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        save({"rows": rows, "failed": failed, "n_chunks": n_chunks, "n_ctx": n_ctx})

    def score(dtype: str, plans: list, n: int, by_graph: bool = True) -> tuple[float, dict]:
        with tempfile.TemporaryDirectory() as folder:
            engine = Evaluator(model, tokens[:n], Store(folder), model_key="gpu", dtype=dtype, by_graph=by_graph)
            clock.synchronize(device)
            return clock.timed(engine.score, plans, n, device=device)

    def prefill(dtype: str) -> None:
        for count in (0, 70):
            score(dtype, [whole.plan(count)], 1)
            n = min(16, n_chunks)
            seconds, _ = score(dtype, [whole.plan(count)], n)
            keep(of("prefill", dtype, count, seconds, n * n_ctx))

    def climb(dtype: str) -> None:
        plans, by_graph = [whole.plan(count) for count in ladder], dict[bool, dict]()
        expected = whole.reference.nll(tokens[0], edits_of(plans[-1]))
        for graph, n in ((True, n_chunks), (False, min(8, n_chunks))):
            seconds, by_graph[graph] = score(dtype, plans, n, graph)
            error = ppl_error(by_graph[graph][plans[-1]][0], expected)
            same = all(np.array_equal(by_graph[True][plan][:n], by_graph[graph][plan]) for plan in plans)
            row = of("ladder", dtype, ladder[-1], seconds, len(plans) * n * n_ctx)
            row |= {"steps": len(plans), "chunks": n, "graph": graph, "error": error, "same": same}
            keep(row | {"agrees": error <= (TOLERANCE if dtype == "float32" else 0.01)})

    def decode(dtype: str) -> None:
        prompt, graph = np.arange(2 if tiny else 64) * 7 % whole.config.vocab_size, device == "cuda"
        n_steps = len(prompt) + n_new - 1
        for count in (70,) if tiny else (0, 30, 70, 132):
            run = partial(graph_decoder(model, whole.plan(count)).generate, prompt, n_new, graph=graph)
            spread = clock.spread(clock.alternating({"": run}, device, 1 if tiny else 9, warm_up=0 if tiny else 1)[""])
            keep(of("decoding", dtype, count, spread["ms"] / 1e3, n_steps) | {"graph": graph, "spread": spread})

    def write(dtype: str) -> None:
        for n_rows in (2,) if tiny else (1, 8):
            prompts = np.arange(n_rows * (2 if tiny else 64)).reshape(n_rows, -1) * 7 % whole.config.vocab_size
            for count in (70,) if tiny else (0, 70):
                run = partial(generate, model, prompts, n_new, whole.plan(count))
                runs = {how: partial(run, by_graph=how == "graph") for how in ("launched", "graph")}
                agrees = runs["launched"]().tolist() == runs["graph"]().tolist()
                spreads = clock.alternating(runs, device, 1 if tiny else 9, warm_up=0)
                for how, spread in ((how, clock.spread(own)) for how, own in spreads.items()):
                    row = of("generation", dtype, count, spread["ms"] / 1e3, n_rows * n_new)
                    keep(row | {"rows": n_rows, "graph": how == "graph", "agrees": agrees, "spread": spread})

    for dtype in ("bfloat16", "float32"):
        copied: Any = whole.copy(dtype)  # transformers' decorator hides what `to` takes
        model = copied.to(device)
        for part in (prefill, climb, decode, write):
            try:
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                part(dtype)
                if device == "cuda":
                    keep(
                        {
                            "what": f"memory of {part.__name__}",
                            "dtype": dtype,
                            "bytes": torch.cuda.max_memory_allocated(),
                        }
                    )
            except Exception as error:
                failed.append(
                    {"name": f"{part.__name__} {dtype}", "reason": f"{type(error).__name__}: {first_line(error)}"}
                )
                save({"rows": rows, "failed": failed, "n_chunks": n_chunks, "n_ctx": n_ctx})
    if failed:
        raise InputError("; ".join(f"{row['name']}: {row['reason']}" for row in failed))


def of(what: str, dtype: str, count: int, seconds: float, n_tokens: int) -> dict[str, Any]:
    return {
        "what": what,
        "dtype": dtype,
        "n_linearized": count,
        "seconds": seconds,
        "tokens_per_s": n_tokens / seconds,
    }


def training(save: Save, device: str, tiny: bool) -> None:
    """`{rows: [{n_linearized, ms, ms_q20, ms_q80, runs, tokens_per_s, losses}]}`: R4's step, float32, GPT-2's shape."""
    import torch

    from lib.engine import dispatch
    from lib.timing import clock
    from lib.timing.engine_bench import EngineBench
    from lib.training import recovery

    whole = EngineBench("tiny" if tiny else "gpt2", seed=10)
    schedule = recovery.Schedule(context=32, batch_tokens=64) if tiny else recovery.Schedule()
    backend = dispatch.resolve("auto", device, gradients=True)
    rows: list[dict[str, Any]] = []

    def step(model: Any, optimizers: list, windows: torch.Tensor, plan: Any, losses: list[float]) -> None:
        loss = recovery.cross_entropy(model, windows, plan, backend)
        loss.backward()
        for optimizer, rate in optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))

    for count in (0, 70):
        copied: Any = whole.copy("float32")  # transformers' decorator hides what `to` takes
        model = copied.to(device).requires_grad_(True)
        optimizers = recovery.optimizers(model, recovery.Case("all", count, 0), schedule)
        ids = torch.as_tensor(whole.tokens(4).ravel(), dtype=torch.long)
        windows, losses = recovery.draw(ids, schedule, 0, 0).to(device), list[float]()
        run = partial(step, model, optimizers, windows, whole.plan(count), losses)
        spread = clock.spread(clock.alternating({"": run}, device, 2 if tiny else 20, warm_up=2)[""])
        rate = schedule.batch_tokens / (spread["ms"] / 1e3)
        rows.append({"n_linearized": count, "backend": backend, **spread, "tokens_per_s": rate, "losses": losses})
        save({"rows": rows})
        if not losses[-1] < losses[0]:
            raise InputError(f"training on one batch with {count} heads: loss from {losses[0]:.3f} to {losses[-1]:.3f}")


def profiles(save: Save, device: str, tiny: bool) -> None:
    """`{profiles: [...]}`: `gpu_profiles.profile` of each row of the bench that misses a target, and of a trial's."""
    from lib.timing import gpu_profiles, kernel_bench

    bench = save.earlier("bench")
    verdicts = gpu_targets.judged({name: save.earlier(name) for name in STEPS})
    missed = {verdict["row"] for verdict in verdicts if verdict["met"] is False}
    every = {job[1]: job for job in (TINY if tiny else kernel_bench.jobs(device))}
    found: list[dict[str, Any]] = []
    save({"profiles": found})
    for row in bench.get("rows", ()):
        if tiny or row["name"] in missed:
            try:
                found.append(gpu_profiles.profile(row, every[row["name"].removesuffix("_graph")], device))
            except Exception as error:
                found.append({"row": row["name"], "failed": f"{type(error).__name__}: {first_line(error)}"})
            save({"profiles": found})


STEPS: dict[str, Callable[[Save, str, bool], None]] = {
    "correctness": correctness,
    "tuning": tuning,
    "bench": bench,
    "end_to_end": end_to_end,
    "training": training,
    "profiles": profiles,
}


def session(out: Path, device: str, tiny: bool, steps: list[str], limit: float, measured: Path) -> dict[str, Any]:
    """Runs the steps, each with its file in `out`; returns the record of all of them."""
    commit, _ = git_state()
    made = f"make gpu-session, commit {commit or 'unknown'}, on this machine"
    record: dict[str, Any] = {}
    for name in steps:
        print(f"{name} …", flush=True)
        path, log = out / f"{name}.json", out / f"{name}.log"
        path.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "lib.timing.gpu_session",
            "--step",
            name,
            "--out",
            str(out),
            "--device",
            device,
        ]
        began = time.monotonic()
        with log.open("w") as file:
            process = subprocess.Popen(
                [*command, *(["--tiny"] if tiny else [])],
                cwd=ROOT,
                env=environment(tiny),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = "done" if process.wait(limit) == 0 else "failed"
            except subprocess.TimeoutExpired:
                status = "stopped at its limit"
            finally:
                stop(process)
        words = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
        record[name] = {"status": status, "seconds": round(time.monotonic() - began, 1), "said": words[:300]}
        record[name]["found"] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        print(f"{name}: {status} in {record[name]['seconds']:.0f} s; {path if path.is_file() else log}", flush=True)
        write(out / "session.json", record)
        keep(record, measured, made)
    for verdict in targets(record):
        print(gpu_targets.printed(verdict), flush=True)
    return record


def targets(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets as this session's record meets them."""
    return gpu_targets.judged({name: step["found"] or {} for name, step in record.items()})


def stop(process: subprocess.Popen) -> None:
    """Ends a step and whatever it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# Triton's interpreter stands for one thread's work only.
INTERPRETED = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def environment(tiny: bool) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | (INTERPRETED if tiny else {})


def keep(record: dict[str, Any], folder: Path, made: str) -> None:
    """Writes what `kernels.measured` reads, once the bench has rows: its figures, and those of the other steps.

    made: by what it was measured, and where.
    """
    found = record.get("bench", {}).get("found")
    if not found or not found["rows"]:
        return
    others = {name: step for name, step in record.items() if name != "bench"}
    device = re.sub(r"[^a-z0-9]+", "-", found["device_name"].lower()).strip("-")
    whole = found | {"provenance": made, "machine": machine.system(), "session": others, "targets": targets(record)}
    write(folder / f"{device}-{found['date'][:10]}.json", whole)


def write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.timing.gpu_session", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=build_root() / "gpu-session", help="folder for the steps' files")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="folder for the record that notebook K shows")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="default: all")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of a step")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, Triton's interpreter: a trial without a GPU")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    if chosen.step:
        return run_step(chosen.step, chosen.out / f"{chosen.step}.json", chosen.device, chosen.tiny)
    if not chosen.tiny:
        import torch

        if chosen.device != "cuda" or not torch.cuda.is_available():
            print(
                "error: no CUDA device here; --tiny --device cpu tries every step in the interpreter", file=sys.stderr
            )
            return 2
    chosen.out.mkdir(parents=True, exist_ok=True)
    record = session(chosen.out, chosen.device, chosen.tiny, chosen.steps, chosen.limit, chosen.measured)
    return 0 if all(step["status"] == "done" for step in record.values()) else 1


def run_step(name: str, path: Path, device: str, tiny: bool) -> int:
    if tiny:
        from lib.engine import dispatch

        dispatch.BY_DEVICE["cpu"] = dispatch.BY_DEVICE["cuda"]  # the interpreter stands in for the device
    about = {"step": name, "date": datetime.now(UTC).isoformat(timespec="seconds"), "device": device}
    try:
        STEPS[name](Save(path, about), device, tiny)
    except InputError as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
