"""Speed of ReLU attention beside softmax's: `python -m lib.timing.kernel_bench --out build/bench/kernels.json`.

Contenders alternate within one run. Every way to ReLU is first held against float64 on sampled query rows; one that
disagrees gets no speed. FLOPs are 4 B H T² d forward, halved since causal, and 2.5 times that backward. What launches
dominate is timed twice on a GPU: as called, and replayed from a CUDA graph (rows `..._graph`).

A row that fails is named, and the others go on; the file is written after every row.
"""

import argparse
import importlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels import graphs, naive
from lib import machine
from lib.engine import dispatch
from lib.errors import first_line
from lib.files import replacing
from lib.timing import clock

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
N_LAYER, N_HEAD = 12, 12
SAMPLED_ROWS = 48
RELU = ("naive", "flex")  # contenders that compute ReLU as well
FLASH_ATTENTION = {
    "flash-attn 2": "flash_attn",
    "flash-attn 3": "flash_attn_interface",
    "flash-attn 4": "flash_attn.cute",
}

Shape = tuple[int, int, int, int]  # [B, H, T, d]
Rivals = dict[str, Callable[[], Any]]


def forward_flops(q: Tensor) -> int:
    n_batch, n_head, length, d_head = q.shape
    return 2 * n_batch * n_head * length**2 * d_head


def inputs(shape: Shape, kind: str, device: str, n_keys: int | None = None) -> list[Tensor]:
    """q [B, H, T, d], k and v [B, H, S, d] of normal numbers, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    n_batch, n_head, length, d_head = shape
    shapes = (shape, (n_batch, n_head, n_keys or length, d_head), (n_batch, n_head, n_keys or length, d_head))
    return [torch.randn(s, generator=generator).to(device, TYPES[kind]) for s in shapes]


def disagreement(
    run: Callable[[], Tensor], q: Tensor, k: Tensor, v: Tensor, is_relu: Sequence[bool] | None = None
) -> float:
    """Relative error in norm of `run()` against float64, on sampled rows of the first and last head."""
    z = run()
    n_queries, n_keys = q.shape[2], k.shape[2]
    rows = torch.unique(torch.linspace(0, n_queries - 1, SAMPLED_ROWS).long())
    error, size = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch, head in {(0, 0), (q.shape[0] - 1, q.shape[1] - 1)}:
        query, keys, values = (x[batch, head].cpu().double() for x in (q, k, v))
        scores = query[rows] @ keys.T * q.shape[3] ** -0.5
        seen = torch.arange(n_keys)[None] <= rows[:, None] + n_keys - n_queries
        if is_relu is None or is_relu[head]:
            w = torch.relu(scores) * seen
            pattern = w / w.sum(-1, keepdim=True).clamp(min=1e-8)
        else:
            pattern = scores.masked_fill(~seen, -math.inf).softmax(-1)
        want = pattern @ values
        error += (z[batch, head, rows.to(z.device)].cpu().double() - want).square().sum()
        size += want.square().sum()
    return float((error / size).sqrt())


class KernelBench:
    """Collects rows and what could not run, on one device."""

    def __init__(self, device: str, budget: float) -> None:
        self.device, self.budget = device, budget
        self.backend = dispatch.resolve("auto", device)
        self.rates = clock.rates(device)
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []
        self.failed: list[dict[str, str]] = []

    def attempt(self, method: Callable[..., None], name: str, *arguments: Any, **settings: Any) -> None:
        """One row, or its failure on record."""
        try:
            method(name, *arguments, **settings)
        except Exception as error:
            self.failed.append({"name": name, "reason": _reason(error)})
            print(f"{name:24} failed: {_reason(error)}", flush=True)
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def usable(
        self,
        name: str,
        contenders: Rivals,
        prepare: Callable[[Callable[[], Any]], Callable[[], Any]] = lambda run: run,
    ) -> Rivals:
        """Those that run here, prepared; the others are noted with their reason."""
        kept: Rivals = {}
        for label, run in contenders.items():
            try:
                prepared = prepare(run)
                prepared()
                clock.synchronize(self.device)
                kept[label] = prepared
            except Exception as error:  # a package of others may raise anything
                self.skipped.append({"name": name, "contender": label, "reason": _reason(error)})
        return kept

    def agreeing(self, name: str, rivals: Rivals, inputs: tuple[Tensor, Tensor, Tensor], kind: str) -> Rivals:
        """Without those, PyTorch's own softmax apart, that compute wrongly."""
        allowed = naive.tolerance(TYPES[kind])
        kept: Rivals = {}
        for label, run in rivals.items():
            heads = inputs[0].shape[1] * [label in RELU]
            error = 0.0 if label.startswith("sdpa") else disagreement(run, *inputs, heads)
            if error <= allowed:
                kept[label] = run
            else:
                reason = f"disagrees with float64: {error:.1e}, allowed {allowed:.1e}"
                self.skipped.append({"name": name, "contender": label, "reason": reason})
        return kept

    def times(self, contenders: Rivals) -> tuple[dict[str, dict[str, float | int]], dict[str, np.ndarray]]:
        """`clock.spread` of each contender, all in turn, and their seconds turn by turn."""
        taken = clock.alternating(contenders, self.device, budget=self.budget, warm_up=2)
        return {label: clock.spread(seconds) for label, seconds in taken.items()}, taken

    def replayed(self, name: str, ours: Callable[[], Any], rivals: Rivals, *rest: Any) -> None:
        """`compare` once more, every contender replayed from a CUDA graph: the device's time, not the host's."""
        if self.device == "cuda":
            self.compare(f"{name}_graph", graphed(ours), self.usable(f"{name}_graph", rivals, graphed), *rest)

    def row(self, name: str, error: float, allowed: float, backend: str | None = None) -> dict[str, Any]:
        """A new row among the rows, without a ratio as yet."""
        row: dict[str, Any] = {
            "name": name,
            "ratio": None,
            "agrees": error <= allowed,
            "error": error,
            "allowed": allowed,
            "backend": backend or self.backend,
        }
        self.rows.append(row)
        return row

    def compare(
        self,
        name: str,
        ours: Callable[[], Any],
        rivals: Rivals,
        error: float,
        flops: float,
        kind: str,
        n_bytes: int | None = None,
        backend: str | None = None,
        own: str = "relu",
    ) -> None:
        """One row: our time, the fastest rival's, their ratio. No speed where `error` is over the tolerance.

        The naive form is no rival. `n_bytes` are those that must move at least once; `own` says what ours computes.
        `ratio_q10` and `ratio_q20` are quantiles of the ratios turn by turn.
        """
        row = self.row(name, error, naive.tolerance(TYPES[kind]), backend)
        row |= {"own": own, "threads": torch.get_num_threads()}
        if row["agrees"]:
            times, turns = self.times({own: ours, **rivals})
            others = {label: t for label, t in times.items() if label not in (own, "naive")}
            fastest = min(others, key=lambda label: others[label]["ms"])
            low, lower = np.quantile(turns[fastest] / turns[own], (0.2, 0.1)).tolist()
            rate = flops / (times[own]["ms"] / 1e3)
            row |= {
                "ratio": times[fastest]["ms"] / times[own]["ms"],
                "ratio_q20": low,
                "ratio_q10": lower,
                "rival": fastest,
                "tflops": rate / 1e12,
                "share_of_matmul": rate / self.rates[f"matmul_{kind}"],
                "times": times,
            }
            if n_bytes:
                row["share_of_copy"] = n_bytes / (times[own]["ms"] / 1e3) / self.rates["copy"]
        print(printed(row), flush=True)

    def attention(self, name: str, shape: Shape, kind: str, graph: bool = False) -> None:
        """Causal attention of one shape against every softmax and every other way to ReLU; `graph` adds a row."""
        q, k, v = inputs(shape, kind, self.device)
        ours = partial(dispatch.relu_attention, q, k, v, backend=self.backend)
        rivals = softmax_rivals(self.device, q, k, v)
        if shape[2] <= 2048:
            rivals["naive"] = partial(naive.relu_attention, q, k, v)
        if self.device == "cuda":
            rivals["flex"] = flex_log_relu(q, k, v)
        with torch.no_grad():
            rivals = self.agreeing(name, self.usable(name, rivals), (q, k, v), kind)
            rest = disagreement(ours, q, k, v), forward_flops(q), kind, 4 * q.numel() * q.element_size()
            self.compare(name, ours, rivals, *rest)
            if graph:
                self.replayed(name, ours, rivals, *rest)

    def one_thread(self, name: str, method: str, *arguments: Any) -> None:
        """A row of another method on one thread."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            getattr(self, method)(name, *arguments)
        finally:
            torch.set_num_threads(before)

    def softmax(self, name: str, shape: Shape, kind: str) -> None:
        """The backend's own causal softmax, which scoring uses, against PyTorch's."""
        q, k, v = inputs(shape, kind, self.device)
        scale = shape[3] ** -0.5
        ours = partial(dispatch.softmax_attention, q, k, v, scale=scale, backend=self.backend)
        with torch.no_grad():
            rest = disagreement(ours, q, k, v, shape[1] * [False]), forward_flops(q), kind
            self.compare(name, ours, softmax_rivals(self.device, q, k, v), *rest, own="softmax")

    def backward(self, name: str, shape: Shape) -> None:
        """Gradients of q, k and v from a stored forward pass."""
        q, k, v = leaves = [x.requires_grad_() for x in inputs(shape, "bf16", self.device)]
        grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device, torch.bfloat16)
        backend = dispatch.resolve("auto", self.device, gradients=True)
        ours = _gradients(dispatch.relu_attention(q, k, v, backend=backend), leaves, grad)
        rivals: Rivals = {}
        for label, run in softmax_rivals(self.device, q, k, v).items():
            try:
                rivals[label] = _gradients(run(), leaves, grad)
            except Exception as failure:  # a package of others may raise anything
                self.skipped.append({"name": name, "contender": label, "reason": _reason(failure)})
        # The last head of the last batch, whole, in float64.
        exact = [x[-1:, -1:].detach().double().requires_grad_() for x in leaves]
        wanted = torch.autograd.grad(naive.relu_attention(*exact), exact, grad[-1:, -1:].double())
        error = max(naive.relative_error(got[-1:, -1:], want) for got, want in zip(ours(), wanted, strict=True))
        rivals, flops = self.usable(name, rivals), 2.5 * forward_flops(leaves[0])
        self.compare(name, ours, rivals, error, flops, "bf16", backend=backend)

    def mixed(self, name: str, shape: Shape, n_relu: int, graph: bool = False) -> None:
        """All layers of a model of 144 heads, `n_relu` of them ReLU, against all softmax."""
        q, k, v = inputs(shape, "bf16", self.device)
        layers = scattered(n_relu)

        def ours() -> Tensor:
            for flags in layers:
                if any(flags):
                    z = dispatch.mixed_attention(q, k, v, flags, backend=self.backend)
                else:
                    z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return z

        def all_softmax(context: Callable[[], AbstractContextManager]) -> Tensor:
            with context():
                for _ in layers:
                    z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return z

        rivals: Rivals = {
            label: partial(all_softmax, context) for label, context in softmax_backends(self.device).items()
        }
        with torch.no_grad():
            rest = disagreement(ours, q, k, v, layers[-1]), N_LAYER * forward_flops(q), "bf16"
            rivals = self.usable(name, rivals)
            self.compare(name, ours, rivals, *rest)
            if graph:
                self.replayed(name, ours, rivals, *rest)

    def decoding_step(self, name: str, shape: Shape, n_keys: int) -> None:
        """One query row against a cache of `n_keys`."""
        q, k, v = inputs(shape, "bf16", self.device, n_keys)
        ours = partial(dispatch.relu_attention, q, k, v, backend=self.backend)
        rivals: Rivals = {"sdpa": partial(F.scaled_dot_product_attention, q, k, v)}
        with torch.no_grad():
            n_bytes = (2 * q.numel() + k.numel() + v.numel()) * q.element_size()
            rest = disagreement(ours, q, k, v), 4 * q.numel() * n_keys, "bf16", n_bytes
            self.compare(name, ours, rivals, *rest)
            self.replayed(name, ours, rivals, *rest)

    def decoding(self, name: str, n_relu: int, n_prompt: int = 64, n_new: int = 128) -> None:
        """Greedy decoding of GPT-2 small's shape (drawn weights), batch 1, bf16: one CUDA graph per token."""
        from transformers import GPT2Config, GPT2LMHeadModel

        from kernels.gpt2_decoding import GraphDecoder
        from lib.engine.interventions import Plan, apply

        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config()).eval().to(self.device, torch.bfloat16)
        layers = scattered(n_relu)
        decoder = GraphDecoder(model, layers)
        prompt = torch.arange(n_prompt) * 97 % model.config.vocab_size
        tokens = decoder.generate(prompt, n_new)
        heads = [(layer, head) for layer, flags in enumerate(layers) for head, flag in enumerate(flags) if flag]
        with torch.no_grad(), apply(model.float(), Plan.of("relu", heads), backend="naive"):
            want = model(tokens[None, :-1].long()).logits[0, -1].double()
        error = naive.relative_error(decoder.logits, want)
        row = self.row(name, error, naive.tolerance(torch.bfloat16, N_LAYER))
        if row["agrees"]:
            n_steps = n_prompt + n_new - 1
            times, _ = self.times(
                {
                    "graph": lambda: decoder.generate(prompt, n_new),
                    "no graph": lambda: decoder.generate(prompt, n_new, graph=False),
                }
            )
            seconds_per_token = times["graph"]["ms"] / 1e3 / n_steps
            bound = decoder.bytes_per_token(n_steps / 2) / self.rates["copy"]
            row |= {
                "ratio": times["no graph"]["ms"] / times["graph"]["ms"],
                "tokens_per_s": 1 / seconds_per_token,
                "share_of_bandwidth": bound / seconds_per_token,
                "steps": n_steps,
                "times": times,
            }
        print(printed(row), flush=True)


def _gradients(z: Tensor, leaves: list[Tensor], grad: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: torch.autograd.grad(z, leaves, grad, retain_graph=True)


def scattered(n_relu: int) -> list[tuple[bool, ...]]:
    """Per layer, which heads are ReLU: `n_relu` of the heads of layers 1 to 11, drawn once and for all."""
    order = torch.randperm((N_LAYER - 1) * N_HEAD, generator=torch.Generator().manual_seed(0))[:n_relu] + N_HEAD
    chosen = set(order.tolist())
    return [tuple(layer * N_HEAD + head in chosen for head in range(N_HEAD)) for layer in range(N_LAYER)]


def softmax_backends(device: str) -> dict[str, Callable[[], AbstractContextManager]]:
    """`{label: context manager}` of PyTorch's softmax attentions to try on a device."""
    if device != "cuda":
        return {"sdpa": nullcontext}
    names = {"sdpa flash": "FLASH_ATTENTION", "sdpa efficient": "EFFICIENT_ATTENTION", "sdpa cudnn": "CUDNN_ATTENTION"}
    return {label: partial(sdpa_kernel, getattr(SDPBackend, name)) for label, name in names.items()}


def softmax_rivals(device: str, q: Tensor, k: Tensor, v: Tensor) -> Rivals:
    """Softmax attention by each backend; the one that builds T x T only where that is small."""
    contexts = softmax_backends(device)
    if device == "cuda" and q.shape[0] * q.shape[1] * q.shape[2] ** 2 < 2**31:
        contexts["sdpa math"] = partial(sdpa_kernel, SDPBackend.MATH)

    def run(context: Callable[[], AbstractContextManager]) -> Tensor:
        with context():
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    rivals: Rivals = {label: partial(run, context) for label, context in contexts.items()}
    if device == "cuda" and q.dtype == torch.bfloat16:
        rivals |= {label: partial(flash_attention, module, q, k, v) for label, module in FLASH_ATTENTION.items()}
    return rivals


def flash_attention(module: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention by a FlashAttention package; `ImportError` where it is not installed."""
    result = importlib.import_module(module).flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)), causal=True)
    return (result[0] if isinstance(result, tuple) else result).transpose(1, 2)


def flex_log_relu(q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Tensor]:
    """FlexAttention computing the same: softmax(log relu(s)) = relu(s) / row sum. Compiled, causal blocks skipped.

    Made at the first call, so that what does not run here says so there.
    """
    made: list[Callable[..., Tensor]] = []

    def log_relu(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.where(score > 0, torch.log(score), -float("inf"))

    def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query >= key

    def run() -> Tensor:
        if not made:
            from torch.nn.attention.flex_attention import create_block_mask, flex_attention

            mask = create_block_mask(causal, None, None, q.shape[2], k.shape[2], device=q.device)
            made.append(partial(torch.compile(flex_attention, dynamic=False), score_mod=log_relu, block_mask=mask))
        return made[0](q, k, v)

    return run


def graphed(run: Callable[[], Any]) -> Callable[[], None]:
    """`run` recorded once as a CUDA graph; the call replays it."""
    graphs.warm_up(run)
    return graphs.capture(run)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def printed(row: Mapping[str, Any]) -> str:
    """One row as printed."""
    if not row["agrees"]:
        return f"{row['name']:24} disagrees with float64: {row['error']:.1e}, allowed {row['allowed']:.1e}; no speed"
    if "tokens_per_s" in row:
        return (
            f"{row['name']:24} {row['tokens_per_s']:8.0f} tokens/s, {row['share_of_bandwidth']:.0%} of the "
            f"bandwidth bound, {row['ratio']:.2f}x without a graph"
        )
    own, rival = row["times"][row.get("own", "relu")], row["times"][row["rival"]]
    return (
        f"{row['name']:24} {row['ratio']:5.2f}x  {own['ms']:9.3f} ms [{own['ms_q20']:.3f}, {own['ms_q80']:.3f}]  "
        f"{row['rival']} {rival['ms']:9.3f} ms [{rival['ms_q20']:.3f}, {rival['ms_q80']:.3f}]  "
        f"{row['tflops']:.3f} TFLOP/s, {row['share_of_matmul']:.0%} of the product rate"
    )


def run(
    device: str,
    budget: float = 3.0,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
    chosen: Iterable[tuple] | None = None,
) -> dict[str, Any]:
    """The `chosen` rows, by default all `jobs` of `device`, with the machine that they were measured on.

    `save` gets them after every row.
    """
    bench = KernelBench(device, budget)
    measured_on = {"date": datetime.now(UTC).isoformat(timespec="seconds")} | machine.described(device)

    def result() -> dict[str, Any]:
        kept = {"rates": bench.rates, "rows": bench.rows, "skipped": bench.skipped, "failed": bench.failed}
        return measured_on | kept

    for method, name, *arguments in chosen or jobs(device):
        bench.attempt(getattr(bench, method), name, *arguments)
        save(result())
    return result()


def jobs(device: str) -> Iterator[tuple]:
    """`(method of KernelBench, name of the row, its arguments)`."""
    if device != "cuda":
        for kind in TYPES:
            for length in (1024, 4096):
                yield "attention", f"{device}_{kind}_{length}", (1, 12, length, 64), kind
        if device == "cpu":
            yield from cpu_jobs()
        return
    yield "attention", "gpu_gpt2_1024", (1, 12, 1024, 64), "bf16", True
    for length in (1024, 2048, 4096, 8192, 16384):
        yield "attention", f"gpu_bf16_{length}", (16384 // length, 32, length, 64), "bf16"
    for n_relu in (0, 30, 70, 132):
        yield "decoding", f"gpu_decode_gpt2_{n_relu}", n_relu
    for n_relu in (30, 70):
        for n_batch, length in ((1, 1024), (16, 1024), (4, 4096)):
            shape = (n_batch, N_HEAD, length, 64)
            yield "mixed", f"gpu_mixed_{n_relu}_{n_batch}x{length}", shape, n_relu, n_batch == 1
    for length in (1024, 4096, 16384):
        yield "backward", f"gpu_backward_{length}", (16384 // length, 32, length, 64)
    for n_keys in (256, 1024):
        yield "decoding_step", f"gpu_step_{n_keys}", (1, 12, 1, 64), n_keys


def cpu_jobs() -> Iterator[tuple]:
    """ReLU by size of head and length, on all threads and on one; softmax where scoring computes its own."""
    own_softmax = dispatch.computes_softmax(dispatch.resolve("auto", "cpu"))
    for kind, length, d_head in product(TYPES, (256, 1024, 4096), (8, 12, 16, 32, 64, 128)):
        shape, size = (1, N_HEAD, length, d_head), f"{kind}_d{d_head}_t{length}"
        if d_head != 64 or length == 256:
            yield "attention", f"cpu_{size}", shape, kind
        yield "one_thread", f"cpu_{size}_1_thread", "attention", shape, kind
        if own_softmax and length < 4096 and kind == "fp32":
            yield "softmax", f"cpu_softmax_{size}", shape, kind


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench/kernels.json"))
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"), help="default: the first of these that is here")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for each row")
    parser.add_argument("--provenance", help="who measures, and on what: kept with the figures, see kernels/measured")
    arguments = parser.parse_args()
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = arguments.device or next(name for name, there in here.items() if there)
    if not here[device]:
        parser.error(f"device '{device}' is not there: choose one of {', '.join(n for n in here if here[n])}")
    words = {"provenance": arguments.provenance} if arguments.provenance else {}

    def save(result: dict[str, Any]) -> None:
        with replacing(arguments.out) as path:
            path.write_text(json.dumps(result | words, indent=1) + "\n", encoding="utf-8")

    result = run(device, arguments.budget, save)
    for skipped in result["skipped"]:
        print("skipped", skipped["name"], skipped["contender"], "-", skipped["reason"])
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
