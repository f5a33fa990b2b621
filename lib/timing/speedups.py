"""Speeds, side by side: whatever is compared takes turns, so that a drifting machine slows all of it alike."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from kernels import naive
from lib.analysis import bootstrap, flops
from lib.engine import dispatch
from lib.engine.generation import generate
from lib.engine.interventions import Plan, apply
from lib.model.adapters import adapter
from lib.timing.clock import alternating

if TYPE_CHECKING:
    from kernels.gpt2_decoding import GraphDecoder


def generation_speeds(
    model: PreTrainedModel,
    device: str,
    prompt: np.ndarray,
    n_new: int,
    plans: Mapping[str, Plan],
    protocols: Mapping[str, tuple[bool | str, str]],
    runs: int,
    seed: int,
    controls: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Rows of P1: median tokens/s of `runs` timed generations after one untimed, with intervals over the runs.

    plans: `{condition: Plan}`, the first without heads; protocols: `{name: (how, backend)}`, where a name may go on
    after a slash, and how is False (recomputed), True (cached, launched), "graph" (cached, a graph a token) or "fused"
    (`graph_decoder`), the last two left out where their tokens are not the naive form's. What needs no kernel is
    measured once for all backends of a protocol. `relative` is the change of speed against the first condition under
    the same protocol, pair by pair; `against_control` that against the condition's control, `controls` being
    `{condition: condition}`, None where it has none.
    """

    def action(plan: Plan, how: bool | str, backend: str) -> Callable[[], np.ndarray | Tensor] | None:
        def launched(backend: str, cached: bool = True) -> np.ndarray:
            return generate(model, prompt, n_new, plan, cached=cached, by_graph=False, backend=backend)

        if not isinstance(how, str):
            return partial(launched, backend, how)
        run: Callable[[], np.ndarray | Tensor] = partial(generate, model, prompt, n_new, plan, backend=backend)
        if how == "fused":
            run = partial(graph_decoder(model, plan).generate, prompt[0], n_new)
        same = run().flatten()[-n_new:].tolist() == launched("naive").flatten().tolist()
        return run if same else None

    first, controls = next(iter(plans)), controls or {}
    cells: list[tuple[str, str]] = []
    once: dict[tuple[str | None, str], tuple[str, str]] = {}
    for name, (how, _) in protocols.items():
        base = name.split("/")[0]
        for condition, plan in plans.items():
            if plan.needs_kernel or isinstance(how, str):
                cells += [(condition, name)] if condition not in controls.values() else []
            elif (condition, base) not in once:
                cells.append((condition, name))
            once.setdefault((condition, base), (condition, name))
    made = {cell: action(plans[cell[0]], *protocols[cell[1]]) for cell in cells}
    actions = {cell: run for cell, run in made.items() if run and made[once[first, cell[1].split("/")[0]]]}
    seconds = alternating(actions, device, runs, label="generation")
    rows = []
    for condition, name in actions:
        own, base = seconds[condition, name], name.split("/")[0]
        rate, rate_ci = bootstrap.median_ci((n_new / own).tolist(), seed)
        relative, relative_ci = bootstrap.median_ci(seconds[once[first, base]] / own - 1, seed)
        measured = once.get((controls.get(condition), base))
        control = None if measured is None else seconds.get(measured)
        beyond, beyond_ci = (None, None) if control is None else bootstrap.median_ci(control / own - 1, seed)
        rows.append(
            {
                "condition": condition,
                "n_linearized": len(plans[condition].heads),
                "protocol": base,
                "backend": _computed_by(plans[condition], *protocols[name]),
                "tok_per_s": rate,
                "tok_per_s_ci": rate_ci,
                "ms_per_tok": 1000 / rate,
                "relative": relative,
                "relative_ci": relative_ci,
                "against_control": beyond,
                "against_control_ci": beyond_ci,
            }
        )
    return rows


def _computed_by(plan: Plan, how: bool | str, backend: str) -> str:
    if plan.needs_kernel or isinstance(how, str):
        return backend
    return "torch" if plan else "sdpa"


def has_fused_step(model: PreTrainedModel, backend: str) -> bool:
    """Whether `graph_decoder` can run: a plain GPT-2 on a CUDA device, and the Triton kernels chosen."""
    if adapter(model).device.type != "cuda" or backend != "triton":
        return False
    from kernels.gpt2_decoding import is_plain

    return is_plain(model.config)


def graph_decoder(model: PreTrainedModel, plan: Plan) -> "GraphDecoder":
    """Greedy decoding under a plan of ReLU heads, one CUDA graph per token."""
    from kernels.gpt2_decoding import GraphDecoder

    arch = adapter(model)
    chosen = [plan.layer(layer) for layer in range(arch.n_layer)]
    return GraphDecoder(model, [[head in heads for head in range(arch.n_head)] for heads in chosen])


SIZES = (8, 12, 16, 32, 64, 128)  # of a head
LENGTHS = (256, 1024)  # tokens


class Ladder:
    """Speed of attention, one layer, prefill and decoding with more and more ReLU heads, `plans` being `{n: Plan}`.

    Every number of heads is checked against the naive kernel before it is timed; one that disagrees has no speed. Where
    there is a fused step, decoding by it is one more row.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        device: str,
        tokens: np.ndarray,
        plans: Mapping[int, Plan],
        backend: str,
        seed: int,
        runs: int = 7,
        n_prompt: int = 64,
        n_new: int = 32,
    ) -> None:
        self.model, self.device, self.plans, self.backend = model, device, plans, backend
        self.arch, self.runs, self.seed = adapter(model), runs, seed
        self.tokens = torch.as_tensor(tokens[:1], dtype=torch.long, device=device)
        self.prompt, self.n_new = tokens[:1, : min(n_prompt, tokens.shape[1] // 2)], min(n_new, tokens.shape[1] // 2)
        self.tolerance = naive.tolerance(model.dtype, self.arch.n_layer)
        self.decoders: dict[int, GraphDecoder] = {}
        with torch.inference_mode():
            self.resid = self.arch.embed(self.tokens)
            self.qkv = [self.arch.qkv(layer, self.resid) for layer in range(self.arch.n_layer)]

    def relu_heads(self, n: int, layer: int) -> list[bool]:
        chosen = self.plans[n].layer(layer)
        return [head in chosen for head in range(self.arch.n_head)]

    def attend(self, n: int, layer: int, backend: str, qkv: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
        q, k, v = qkv or self.qkv[layer]
        if not any(self.relu_heads(n, layer)):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] != q.shape[1])
        return dispatch.mixed_attention(q, k, v, self.relu_heads(n, layer), backend=backend)

    def attention(self, n: int, backend: str) -> list[Tensor]:
        return [self.attend(n, layer, backend) for layer in range(self.arch.n_layer)]

    def one_layer(self, n: int, backend: str) -> Tensor:
        """The layer that has the most ReLU heads at this n."""
        layer = max(range(self.arch.n_layer), key=lambda at: sum(self.relu_heads(n, at)))
        z = self.attend(n, layer, backend, self.arch.qkv(layer, self.resid))
        return self.arch.mlp(layer, self.arch.attention_out(layer, self.resid, z.transpose(1, 2).flatten(2)))

    def prefill(self, n: int, backend: str) -> Tensor:
        with apply(self.model, self.plans[n], backend=backend):
            return self.model(self.tokens, use_cache=False, logits_to_keep=1).logits

    def decoding(self, n: int, backend: str) -> Tensor:
        tokens = generate(self.model, self.prompt, self.n_new, self.plans[n], backend=backend)
        return torch.as_tensor(tokens)

    def attention_share(self) -> float:
        """Share (0–1) of the prefill's time that attention takes without ReLU heads: the two in turn, pair by pair."""
        actions: dict[str, Callable[[], Any]] = {
            "attention": lambda: self.attention(0, self.backend),
            "prefill": lambda: self.prefill(0, self.backend),
        }
        with torch.inference_mode():
            seconds = alternating(actions, self.device, self.runs, label="attention's share")
        return min(1.0, float(np.median(seconds["attention"] / seconds["prefill"])))

    def fused(self, n: int, backend: str) -> Tensor:
        """`decoding` by the few kernels of `graph_decoder`; the naive form has none."""
        if backend == "naive":
            return self.decoding(n, backend)
        if n not in self.decoders:
            self.decoders[n] = graph_decoder(self.model, self.plans[n])
        return self.decoders[n].generate(self.prompt[0], self.n_new)[None, -self.n_new :].cpu()

    def rows(self) -> list[dict[str, Any]]:
        """`[{what, n_linearized, agrees, seconds, speedup, speedup_ci}]`; the speed-up is against no ReLU head."""
        kinds: dict[str, Callable[[int, str], Tensor | list[Tensor]]] = {
            "attention": self.attention,
            "one layer": self.one_layer,
            "prefill": self.prefill,
            "decoding": self.decoding,
        }
        if has_fused_step(self.model, self.backend):
            kinds["fused"] = self.fused
        found = []
        for what, run in kinds.items():
            with torch.inference_mode():
                errors = {
                    n: naive.relative_error(run(n, self.backend), run(n, "naive")) if n or what == "fused" else 0.0
                    for n in self.plans
                }
                agreeing = {n: max(errors[0], error) <= self.tolerance for n, error in errors.items()}
                actions = {n: partial(run, n, self.backend) for n, agrees in agreeing.items() if agrees}
                seconds = alternating(actions, self.device, self.runs, label=what)
            for n, agrees in agreeing.items():
                row = {"what": what, "n_linearized": n, "agrees": agrees, "error": errors[n]}
                if agrees:
                    speedup, ends = bootstrap.median_ci(seconds[0] / seconds[n], self.seed)
                    row |= {"seconds": float(np.median(seconds[n])), "speedup": speedup, "speedup_ci": ends}
                found.append(row)
        return found


def one_shape(
    device: str,
    dtype: torch.dtype,
    backend: str,
    runs: int,
    seed: int,
    shape: tuple[int, int, int, int] = (1, 12, 1024, 64),
) -> dict[str, Any]:
    """ReLU against softmax attention alone on random q, k, v of `shape` [B, H, T, d], GPT-2 small's by default.

    A row as `Ladder.rows` has them, with n_linearized all H heads and the `shape`.
    """
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    actions = {
        "softmax": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "relu": lambda: dispatch.relu_attention(q, k, v, backend=backend),
    }
    with torch.inference_mode():
        error = naive.relative_error(actions["relu"](), dispatch.relu_attention(q, k, v, backend="naive"))
        row: dict[str, Any] = {"what": "attention", "n_linearized": shape[1], "shape": list(shape), "error": error}
        row["agrees"] = error <= naive.tolerance(dtype)
        if row["agrees"]:
            seconds = alternating(actions, device, runs, label=f"attention, {shape[2]} tokens, head size {shape[3]}")
            speedup, ends = bootstrap.median_ci(seconds["softmax"] / seconds["relu"], seed)
            row |= {"seconds": float(np.median(seconds["relu"])), "speedup": speedup, "speedup_ci": ends}
    return row


def by_shape(device: str, dtype: torch.dtype, backend: str, runs: int, seed: int) -> list[dict[str, Any]]:
    """`one_shape` for every head size of `SIZES` and every length of `LENGTHS`, with GPT-2 small's number of heads."""
    shapes = [(1, 12, length, d_head) for length in LENGTHS for d_head in SIZES]
    return [one_shape(device, dtype, backend, runs, seed, shape) for shape in shapes]


def judged(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`Ladder.rows` with `ms` and a `verdict` against no ReLU head: faster, slower, open, or differs where there is no
    speed. What a row does not have is None."""

    def verdict(row: Mapping[str, Any]) -> str:
        if row["n_linearized"] == 0:
            return "baseline"
        if not row["agrees"]:
            return "differs"
        low, high = row["speedup_ci"]
        return "faster" if low > 1 else "slower" if high < 1 else "open"

    found = []
    for row in rows:
        whole = {"seconds": None, "speedup": None, "speedup_ci": None, **row}
        ms = None if whole["seconds"] is None else 1000 * whole["seconds"]
        found.append(whole | {"ms": ms, "verdict": verdict(row)})
    return found


def budget(
    rows: Mapping[tuple[str, int], Mapping[str, Any]],
    counts: Iterable[int],
    n_heads: int,
    d_head: int,
    n_prompt: int,
    n_new: int,
) -> list[dict[str, Any]]:
    """What becomes of the tokens that the published count promises for the FLOPs of `n_new`, by number of heads.

    rows: `{("decoding", n): row}` of the ladder. `[{n_linearized, extra_published, extra_measured, share_real}]`:
    tokens beyond `n_new` by the count, in the measured time, and the share (0–1) of the promised ones that is real.
    """
    found = []
    for n in counts:
        ratio = flops.published_token_ratio(n, n_heads, n_prompt + n_new // 2, d_head)
        promised, decoding = flops.extra_tokens(ratio, n_new), rows["decoding", n]
        real = flops.extra_tokens(1 / decoding["speedup"], n_new) if decoding["agrees"] else None
        share = min(1.0, max(0, real) / promised) if real is not None and promised > 0 else None
        found.append({"n_linearized": n, "extra_published": promised, "extra_measured": real, "share_real": share})
    return found


def roofline_points(
    rows: Iterable[Mapping[str, Any]], shape: flops.Shape, n_ctx: int, n_bytes: int
) -> list[dict[str, float]]:
    """Attention of all layers as `[{name, n_linearized, intensity, rate}]`: FLOP per byte that must move, FLOP/s."""
    moved = n_bytes * shape.n_layer * n_ctx * shape.d_head * 2 * (shape.n_head + shape.n_kv_head)
    points = []
    for row in rows:
        if row["what"] == "attention" and row["agrees"]:
            work = flops.attention_flops(shape, 0, n_ctx, row["n_linearized"])
            points.append(
                {"n_linearized": row["n_linearized"], "intensity": work / moved, "rate": work / row["seconds"]}
            )
    return points


def elsewhere(measurements: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of timings kept from other machines (`kernels.measured.load`), oldest first.

    `[{name, device, date, file, agrees, ratio, ratio_ci, rival, tflops, share_of_matmul, tokens_per_s,
    share_of_bandwidth}]`: None for what a row does not have; all None where the kernel disagreed with float64. The ends
    of `ratio_ci` are quotients of the two contenders' 20 % and 80 % quantiles, the wider way round.
    """
    found = []
    for measurement in measurements:
        for row in measurement["rows"]:
            known: dict[str, Any] = {
                "name": row["name"],
                "device": measurement["device_name"],
                "date": measurement["date"][:10],
            }
            known |= {"file": measurement["file"], "agrees": row["agrees"], "ratio_ci": None}
            speeds = ("ratio", "rival", "tflops", "share_of_matmul", "tokens_per_s", "share_of_bandwidth")
            known |= {key: row.get(key) if row["agrees"] else None for key in speeds}
            if known["rival"] is None:
                known["ratio"] = None  # of a graph to none, not of ReLU to softmax
            else:
                own, rival = row["times"][row.get("own", "relu")], row["times"][row["rival"]]
                known["ratio_ci"] = [rival["ms_q20"] / own["ms_q80"], rival["ms_q80"] / own["ms_q20"]]
            found.append(known)
    return found
