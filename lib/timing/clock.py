"""Timing: contenders that alternate in one run, and the machine's own rates to hold them against."""

import platform
import time
from datetime import UTC, datetime
from importlib import metadata

import numpy as np
import torch

from lib.progress import progress


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def seconds(run, device):
    """One call, from an idle device to an idle device."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def alternating(contenders, device, budget=3.0, least=5, most=200):
    """`{name: {"ms", "ms_q20", "ms_q80", "runs"}}` of `{name: run}`, one call each in turn.

    Two calls of each warm up and are not counted. Rounds go on for about `budget` seconds, at least `least` and at
    most `most` of them.
    """
    for run in contenders.values():
        for _ in range(2):
            seconds(run, device)
    times = {name: [] for name in contenders}
    end = time.perf_counter() + budget
    while len(next(iter(times.values()))) < least or (
        time.perf_counter() < end and len(next(iter(times.values()))) < most
    ):
        for name, run in contenders.items():
            times[name].append(1e3 * seconds(run, device))
    return {
        name: {
            "ms": float(np.median(t)),
            "ms_q20": float(np.quantile(t, 0.2)),
            "ms_q80": float(np.quantile(t, 0.8)),
            "runs": len(t),
        }
        for name, t in times.items()
    }


def rates(device):
    """Measured rates: matrix product in FLOP/s by type, copy in bytes/s (read and written)."""
    size, words = (8192, 2**28) if device == "cuda" else (1024, 2**24)
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        run = alternating({"": lambda a=a, b=b, out=out: torch.mm(a, b, out=out)}, device, budget=1.0)[""]
        found[f"matmul_{name}"] = 2 * size**3 / (run["ms"] / 1e3)
    source = torch.zeros(words, device=device)
    target = torch.empty_like(source)
    run = alternating({"": lambda: target.copy_(source)}, device, budget=1.0)[""]
    found["copy"] = 2 * words * 4 / (run["ms"] / 1e3)
    return found


def machine(device):
    """What a timing must travel with: date, device, versions, threads."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("triton", "transformers"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    if device == "cuda":
        name = torch.cuda.get_device_name()
        versions |= {"cuda": torch.version.cuda, "hip": torch.version.hip, "cudnn": torch.backends.cudnn.version()}
    else:
        name = _processor()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def _processor():
    """The processor's own name, with its widest vector unit as PyTorch sees it."""
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # relative error in norm against the naive kernel


def alternate(actions, runs, device, label="timing"):
    """`{name: seconds [runs]}` of callables run in turn, after one untimed turn of each."""
    seconds = {name: [] for name in actions}
    with progress(label, (runs + 1) * len(actions), "run") as bar:
        for turn in range(runs + 1):
            for name, action in actions.items():
                synchronize(device)
                start = time.perf_counter()
                action()
                synchronize(device)
                if turn:
                    seconds[name].append(time.perf_counter() - start)
                bar.update()
    return {name: np.array(own) for name, own in seconds.items()}


def relative_error(value, reference):
    """‖value − reference‖ / ‖reference‖ of tensors, or lists of them, in float64; infinite where one is not finite."""
    value, reference = (torch.stack(x) if isinstance(x, list) else x for x in (value, reference))
    value, reference = value.double(), reference.double()
    error = float((value - reference).norm() / reference.norm())
    return error if np.isfinite(error) else float("inf")


def machine_rates(dtype, device, size=1536, runs=5):
    """`(FLOP/s of a square matrix product, bytes/s of a copy)` measured here, medians."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.randn(2**26, device=device)
    target = torch.empty_like(source)
    seconds = alternate({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, runs, device)
    return 2 * size**3 / float(np.median(seconds["product"])), 8 * source.numel() / float(np.median(seconds["copy"]))
