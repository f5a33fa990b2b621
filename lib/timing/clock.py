"""The clock: contenders that take turns in one run, and the machine's own rates to hold them against."""

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from lib.progress import progress

Run = Callable[[], Any]
Name = TypeVar("Name", bound=Hashable)
ROUNDS = range(5, 201)  # how many turns a budget of seconds may buy


def synchronize(device: str) -> None:
    """Waits until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def timed(run: Callable, *arguments: Any, device: str = "cpu", **settings: Any) -> tuple[float, Any]:
    """`(seconds, result)` of one call, from an idle device to an idle device."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = run(*arguments, **settings)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, result
    synchronize(device)
    started = time.perf_counter()
    result = run(*arguments, **settings)
    synchronize(device)
    return time.perf_counter() - started, result


def alternating(
    contenders: Mapping[Name, Run],
    device: str,
    rounds: int | None = None,
    budget: float = 3.0,
    warm_up: int = 1,
    label: str | None = None,
) -> dict[Name, np.ndarray]:
    """`{name: seconds [rounds]}` of `{name: run}`, one call each in turn, so that a drift slows all of them alike.

    `warm_up` turns come first and are not counted. Without `rounds`, turns go on for about `budget` seconds, as many as
    `ROUNDS` allows. `label` names a progress bar.
    """
    taken: dict[Name, list[float]] = {name: [] for name in contenders}
    total = (warm_up + (rounds or ROUNDS[0])) * len(contenders)
    with progress(label or "timing", total if label else 0, "run") as bar:
        end = None
        for turn in range(warm_up + (rounds or ROUNDS[-1])):
            if rounds is None and turn >= warm_up:
                end = end or time.perf_counter() + budget
                if turn - warm_up >= ROUNDS[0] and time.perf_counter() >= end:
                    break
            for name, run in contenders.items():
                seconds, _ = timed(run, device=device)
                if turn >= warm_up:
                    taken[name].append(seconds)
                bar.update()
    return {name: np.array(own) for name, own in taken.items()}


def spread(seconds: np.ndarray) -> dict[str, float | int]:
    """`{ms, ms_q20, ms_q80, ms_q90, runs}`: the median, the 20, 80 and 90 % quantiles, and of how many."""
    low, middle, high, highest = (1e3 * np.quantile(seconds, (0.2, 0.5, 0.8, 0.9))).tolist()
    return {"ms": middle, "ms_q20": low, "ms_q80": high, "ms_q90": highest, "runs": len(seconds)}


def plain_product(b: torch.Tensor, n_rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """a [n_rows, k] ↦ a bᵀ of b [n, k], by `torch.mm`."""
    right, out = b.T.contiguous(), torch.empty(n_rows, len(b), device=b.device, dtype=b.dtype)
    return lambda a: torch.mm(a, right, out=out)


def product_rate(
    dtype: torch.dtype,
    device: str,
    shapes: Iterable[tuple[int, int, int]] | None = None,
    prepare: Callable[[torch.Tensor, int], Callable[[torch.Tensor], torch.Tensor]] = plain_product,
    rounds: int = 5,
) -> float:
    """FLOP/s of products of [m, k] and [k, n]: the fastest run of the fastest of `shapes` (m, k, n), so that no share
    of it is flattered. `prepare` makes the product from b [n, k] and m.
    """
    size = 8192 if device == "cuda" else 1536
    best = 0.0
    for m, k, n in shapes or [(size, size, size)]:
        a, b = (torch.randn(rows, k, device=device).to(dtype) for rows in (m, n))
        seconds = alternating({"": partial(prepare(b, m), a)}, device, rounds)[""]
        best = max(best, 2 * m * k * n / float(seconds.min()))
    return best


def copy_rate(device: str, rounds: int = 5) -> float:
    """Bytes/s, read and written, of the fastest of a few long copies."""
    source = torch.zeros(2**28 if device == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    seconds = alternating({"": lambda: target.copy_(source)}, device, rounds)[""]
    return 2 * source.numel() * source.element_size() / float(seconds.min())


def rates(device: str) -> dict[str, float]:
    """`{matmul_fp32, matmul_bf16, copy}`: FLOP/s of matrix products, bytes/s of a copy, measured here."""
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    found = {f"matmul_{name}": product_rate(dtype, device) for name, dtype in kinds.items()}
    return found | {"copy": copy_rate(device)}
