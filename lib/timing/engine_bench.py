"""`make bench`: the published method and the engine, in one process, on one random-weight model, taking turns.

The published method is `lib.engine.reference` in float32: one chunk per forward, attention matrices materialised, hooks
on every head, all logits kept, no key-value cache. A ratio is its seconds over the engine's for the same work, the
median of the rounds with the 20 % and 80 % quantiles; it is withheld unless both gave the same numbers.
"""

import argparse
import json
import platform
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import GPT2Config, GPT2LMHeadModel

from kernels import naive
from lib import machine
from lib.analysis import flops
from lib.engine import dispatch
from lib.engine.generation import continuation_nll, generate
from lib.engine.interventions import Plan
from lib.engine.reference import Reference
from lib.engine.scoring import Evaluator
from lib.files import replacing
from lib.model.packed_linear import Linear
from lib.store import Store
from lib.timing import memory
from lib.timing.clock import product_rate, timed

DRIFT = 1e-2  # relative, of PPL, allowed to bfloat16
FULL_CHUNKS, SCAN_CHUNKS = 245, 2
V2_HEADS = ((0, 8), (0, 1), (0, 11), (0, 10), (0, 5), (0, 9), (11, 0), (0, 3), (8, 2), (0, 6))  # as published
V4_STEPS = (10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 132)
SCAN_PLANS = 144 + 144 + 132
P_PROMPTS, P_PROMPT, P_NEW, P_CONDITIONS = 20, 128, 64, (0, 30, 70)
P1_RUNS, P1_PROMPT, P1_NEW = 10, 64, 128
P4_TOKENS, P4_LENGTHS = 50_000, (128, 256, 512)  # 1,024 shares V's scores
TOLERANCE = naive.tolerance(torch.float32, memory.SHAPES["gpt2"]["n_layer"])  # relative, of PPL


@dataclass
class Row:
    """Seconds of both for the same unit of work, round by round, and whether their numbers agreed."""

    name: str
    unit: str
    published: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    tolerance: float = TOLERANCE
    note: str = "measured"
    tokens: float = 0

    def add(self, published: float, engine: float, error: float) -> None:
        self.published.append(published)
        self.engine.append(engine)
        self.errors.append(error)

    def report(self) -> dict[str, Any]:
        agrees = bool(self.errors) and max(self.errors) <= self.tolerance
        ratios = np.array(self.published) / np.array(self.engine)
        middle, low, high = np.quantile(ratios, (0.5, 0.2, 0.8)).tolist() if agrees else (None, None, None)
        engine = float(np.median(self.engine))
        return {
            "name": self.name,
            "ratio": middle,
            "q20": low,
            "q80": high,
            "agrees": agrees,
            "max_relative_error": float(max(self.errors)),
            "tolerance": self.tolerance,
            "rounds": len(ratios),
            "unit": self.unit,
            "published_s": float(np.median(self.published)),
            "engine_s": engine,
            "engine_tok_per_s": self.tokens / engine if self.tokens else None,
            "note": self.note,
        }


class EngineBench:
    """One model, both methods, and the timings so far."""

    def __init__(self, shape: str, seed: int, dtype: str = "float32") -> None:
        torch.manual_seed(seed)
        config = GPT2Config(**memory.SHAPES[shape], bos_token_id=0, eos_token_id=0)
        self.model = GPT2LMHeadModel(config).eval().requires_grad_(False)
        self.cost_shape = flops.Shape.of(config)
        self.config, self.dtype = config, dtype
        self.reference = Reference(self.model, torch.float32)
        self.draw = np.random.default_rng(seed)
        self.n_ctx = config.n_positions
        self.heads = [(layer, head) for layer in range(1, config.n_layer) for head in range(config.n_head)]
        self.draw.shuffle(self.heads)
        self.n_workers = torch.get_num_threads()

    def tokens(self, n_chunks: int, n_ctx: int | None = None) -> np.ndarray:
        return self.draw.integers(self.config.vocab_size, size=(n_chunks, n_ctx or self.n_ctx), dtype=np.int32)

    def plan(self, n: int) -> Plan:
        """`n` heads of 144, or as large a share of a smaller model, linearized."""
        n_heads = self.config.n_layer * self.config.n_head
        return Plan.of("relu", self.heads[: round(n * n_heads / 144)])

    def evaluator(self, tokens: np.ndarray, dtype: str | None = None) -> Evaluator:
        """On an empty store, its matrices packed: what a run pays once is not timed."""
        folder = tempfile.TemporaryDirectory()
        engine = Evaluator(self.model, tokens, Store(folder.name), model_key="bench", dtype=dtype or self.dtype)
        weakref.finalize(engine, folder.cleanup)
        list(engine.compute(engine.missing([Plan.of("zero", [(0, 0)])], 1)))
        return engine

    def ladder_step(self, rounds: int) -> Row:
        """A chunk of a step of V4's ladder; the engine works on as many chunks at once as there are cores."""
        row = Row("ladder_step", "chunk", tokens=self.n_ctx)
        n_at_once = 2 * self.n_workers
        for i in range(rounds):
            plan = self.plan((30, 70, 100)[i % 3])
            tokens = self.tokens(n_at_once)
            engine = self.evaluator(tokens)
            published, expected = timed(self.reference.nll, tokens[0], edits_of(plan))
            seconds, scores = timed(engine.score, [plan], n_at_once)
            row.add(published, seconds / n_at_once, ppl_error(scores[plan][0], expected))
        return row

    def part_v(self, rounds: int, dtype: str = "float32") -> Row:
        """Part V of a chunk, section by section as the notebooks ask for it: what plans share is computed once."""
        name, tolerance = ("part_v", TOLERANCE) if dtype == "float32" else ("part_v_bf16", DRIFT)
        n_chunks = self.n_workers
        last, n_head = self.config.n_layer - 1, self.config.n_head
        ten = dict.fromkeys((round(layer / 11 * last), head * n_head // 12) for layer, head in V2_HEADS)
        sections = [
            [Plan()],
            [Plan.of("zero", [head]) for head in ten],
            [Plan.of("mean", [next(iter(ten))])],
            [self.plan(n) for n in V4_STEPS],
        ]
        row = Row(name, "chunk", tokens=sum(map(len, sections)) * self.n_ctx, tolerance=tolerance)
        row.note = f"all {sum(map(len, sections))} passes, {n_chunks} chunks by the engine, one by the published method"
        for _ in range(rounds):
            tokens = self.tokens(n_chunks)
            engine, seconds, published, errors = self.evaluator(tokens, dtype), 0.0, 0.0, []
            means = folded = None
            for plans in sections:
                spent, scores = timed(engine.score, plans, n_chunks, means)
                seconds += spent
                for plan in plans:
                    spent, expected = timed(self.reference.nll, tokens[0], edits_of(plan), folded)
                    published += spent
                    errors.append(ppl_error(scores[plan][0], expected))
                means = engine.means(n_chunks)  # which the baseline's pass has left in the store
                folded = self.folded(means)
            row.add(published, seconds / n_chunks, max(errors))
        return row

    def folded(self, means: torch.Tensor) -> torch.Tensor:
        """Means of z less the value biases, as the reference takes them."""
        return means.float() - torch.stack([self.reference.value_bias(at) for at in range(self.config.n_layer)])

    def head_scan(self, rounds: int, dtype: str = "float32", heads_per_layer: int = 6) -> Row:
        """Zero, mean and ReLU of every head on two chunks: measured on some heads of every layer."""
        name, tolerance = ("head_scan_2k", TOLERANCE) if dtype == "float32" else ("head_scan_2k_bf16", DRIFT)
        row = Row(name, f"scan ({SCAN_PLANS} plans, {SCAN_CHUNKS} chunks)", tolerance=tolerance)
        row.note = f"engine measured on {heads_per_layer} heads a layer, published on 3 of those; scaled to all heads"
        for i in range(rounds):
            tokens = self.tokens(SCAN_CHUNKS)
            engine = self.evaluator(tokens, dtype)
            means = engine.means(SCAN_CHUNKS)
            plans = []
            for layer in range(self.config.n_layer):
                for at, head in enumerate(self.draw.permutation(self.config.n_head)[:heads_per_layer]):
                    plans.append(Plan.of(("zero", "mean", "relu")[(layer + at + i) % 3], [(layer, int(head))]))
            seconds, scores = timed(engine.score, plans, SCAN_CHUNKS, means)
            folded = self.folded(means)
            published, errors = [], []
            for plan in plans[i % 3 :: len(plans) // 3][:3]:
                spent, expected = timed(self.reference.nll, tokens[0], edits_of(plan), folded)
                published.append(spent)
                errors.append(ppl_error(scores[plan][0], expected))
            scale = SCAN_PLANS * SCAN_CHUNKS
            row.add(float(np.mean(published)) * scale, seconds / (len(plans) * SCAN_CHUNKS) * scale, max(errors))
        row.tokens = SCAN_PLANS * SCAN_CHUNKS * self.n_ctx
        return row

    def p2(self, rounds: int, model: GPT2LMHeadModel | None = None) -> Row:
        """Self-refinement of one condition: 3 times 64 greedy tokens for 20 prompts, judged after each."""
        row = Row("p2_generation", "condition", tokens=3 * P_NEW * P_PROMPTS)
        row.note = "engine measured whole; published measured at lengths 128, 192, 256, 319 and scaled to all tokens"
        lengths = [P_PROMPT + k * P_NEW for k in range(4)]
        for i in range(rounds):
            plan = self.plan(P_CONDITIONS[i % 3])
            prompts = self.tokens(P_PROMPTS, P_PROMPT)
            seconds, (texts, nll) = timed(refine, model or self.model, prompts, plan)
            published = P_PROMPTS * self.recompute_seconds(plan, (*lengths[:3], lengths[3] - 1), 3 * P_NEW)
            for length in lengths[1:]:
                spent, expected = timed(self.reference.nll, texts[0, :length])
                published += P_PROMPTS * spent
            error = ppl_error(nll[0], expected[-3 * P_NEW :])
            row.add(published, seconds, max(error, self.greedy_error(texts[0], 3 * P_NEW, plan)))
        return row

    def p3(self, rounds: int, model: GPT2LMHeadModel | None = None) -> Row:
        """Best-of-N of one condition: 5 samples of 64 tokens for each of 20 prompts, judged."""
        row = Row("p3_generation", "condition", tokens=5 * P_NEW * P_PROMPTS)
        row.note = "engine measured whole; published measured at lengths 128, 160, 191 and scaled to all tokens"
        for i in range(rounds):
            plan = self.plan(P_CONDITIONS[i % 3])
            prompts = np.repeat(self.tokens(P_PROMPTS, P_PROMPT), 5, axis=0)
            seconds, (texts, nll) = timed(best_of_5, model or self.model, prompts, plan)
            lengths = (P_PROMPT, P_PROMPT + P_NEW // 2, P_PROMPT + P_NEW - 1)
            spent, expected = timed(self.reference.nll, texts[0])
            published = len(prompts) * (self.recompute_seconds(plan, lengths, P_NEW) + spent)
            error = ppl_error(nll[0], expected[-P_NEW:])
            row.add(published, seconds, max(error, self.sample_error(texts[0], plan, seed=0)))
        return row

    def recompute_seconds(self, plan: Plan, lengths: Sequence[int], n_new: int) -> float:
        """Seconds for `n_new` tokens by the published protocol, from forwards at `lengths` (trapezoid between)."""
        spent = []
        for length in lengths:
            tokens = self.tokens(1, length)[0]
            spent.append(min(timed(self.reference.logits, tokens, edits_of(plan))[0] for _ in range(2)))
        share = np.diff(lengths) / (lengths[-1] - lengths[0])
        return n_new * float(np.sum(share * (np.array(spent[1:]) + spent[:-1]) / 2))

    def greedy_error(self, text: np.ndarray, n_new: int, plan: Plan) -> float:
        """0 where every greedy token is the published method's for the same text before it, else 1.

        A token counts as the same when its logit is the largest to within rounding.
        """
        logits = self.reference.logits(text[:-1], edits_of(plan))[-n_new:]
        chosen = logits.gather(1, torch.as_tensor(text[-n_new:, None], dtype=torch.long))[:, 0]
        return float(((logits.amax(1) - chosen) > 1e-4).any())

    def sample_error(self, text: np.ndarray, plan: Plan, seed: int) -> float:
        """0 where every sampled token is the one on which the same draw falls under the published logits, else 1."""
        logits = self.reference.logits(text[:-1], edits_of(plan))[-P_NEW:]
        cumulative = (logits.double() / 0.8).softmax(-1).cumsum(-1)
        draws = torch.rand(P_NEW, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        at = torch.as_tensor(text[-P_NEW:, None], dtype=torch.long)
        high = cumulative.gather(1, at)[:, 0]
        low = high - (logits.double() / 0.8).softmax(-1).gather(1, at)[:, 0]
        return float(((draws < low - 1e-5) | (draws > high + 1e-5)).any())

    def parts_v_p(self, name: str, part_v: Row, p2: Row, p3: Row, dtype: str = "float32") -> Row:
        """Parts V and P added up from measured pieces."""
        row = Row(name, "Parts V and P", tolerance=TOLERANCE if dtype == "float32" else DRIFT)
        row.note = (
            f"added up: {FULL_CHUNKS} chunks at Part V's price of one, P1 ({P1_RUNS} runs, "
            "both protocols for the engine), P2 and P3 for 3 conditions, P4 at 128, 256, 512"
        )
        model = self.model if dtype == "float32" else self.copy(dtype)
        p1_published, p1_engine = self.p1(model)
        p4_published, p4_engine = self.p4(dtype)
        rounds = zip(*([getattr(r, side) for r in (part_v, p2, p3)] for side in ("published", "engine")), strict=True)
        (chunk, chunk_engine), (refine_s, refine_engine), (best_s, best_engine) = rounds
        error = max(part_v.errors + p2.errors + p3.errors)
        for i in range(min(len(chunk), len(refine_s), len(best_s))):
            row.add(
                FULL_CHUNKS * chunk[i] + p1_published + p4_published + 3 * (refine_s[i] + best_s[i]),
                FULL_CHUNKS * chunk_engine[i] + p1_engine + p4_engine + 3 * (refine_engine[i] + best_engine[i]),
                error,
            )
        return row

    def p1(self, model: GPT2LMHeadModel) -> tuple[float, float]:
        """Seconds of P1's three conditions: (published method, engine under both protocols)."""
        published = engine = 0.0
        for n in P_CONDITIONS:
            plan, prompt = self.plan(n), self.tokens(1, P1_PROMPT)
            lengths = (P1_PROMPT, P1_PROMPT + P1_NEW // 2, P1_PROMPT + P1_NEW - 1)
            published += P1_RUNS * self.recompute_seconds(plan, lengths, P1_NEW)
            whole, _ = timed(generate, model, prompt, P1_NEW // 8, plan, cached=False)
            late, _ = timed(generate, model, self.tokens(1, P1_PROMPT + P1_NEW - 16), P1_NEW // 8, plan, cached=False)
            cached, _ = timed(generate, model, prompt, P1_NEW, plan)
            engine += P1_RUNS * (8 * (whole + late) / 2 + cached)
        return published, engine

    def p4(self, dtype: str) -> tuple[float, float]:
        """Seconds of P4's three conditions at the lengths that V has not scored: (published method, engine)."""
        published = engine = 0.0
        for length in P4_LENGTHS:
            n_chunks = 2 * self.n_workers
            tokens = self.tokens(n_chunks, length)
            for n in P_CONDITIONS:
                plan = self.plan(n)
                published += P4_TOKENS // length * timed(self.reference.nll, tokens[0], edits_of(plan))[0]
                seconds, _ = timed(self.evaluator(tokens, dtype).score, [plan], n_chunks)
                engine += P4_TOKENS // length * seconds / n_chunks
        return published, engine

    def copy(self, dtype: str) -> GPT2LMHeadModel:
        """The same weights in another type."""
        model = GPT2LMHeadModel(self.config).to(getattr(torch, dtype)).eval().requires_grad_(False)
        model.load_state_dict(self.model.state_dict())
        return model

    def growth(self) -> dict[str, list[dict[str, float]]]:
        """How the engine's cost grows: `{table: [{...}]}`, seconds."""
        n = self.n_workers
        lengths = [length for length in (128, 256, 512, 1024) if length <= self.n_ctx]
        by_tokens = []
        for length in lengths:
            seconds, _ = timed(self.evaluator(self.tokens(n, length)).score, [self.plan(70)], n)
            per_chunk = seconds / n
            by_tokens.append({"tokens": length, "s_per_chunk": per_chunk, "ms_per_token": 1e3 * per_chunk / length})
        by_heads = []
        for count in (0, 30, 70, 132):
            seconds, _ = timed(self.evaluator(self.tokens(n)).score, [self.plan(count)], n)
            by_heads.append({"n_linearized": count, "s_per_chunk": seconds / n})
        by_layer = []
        for layer in range(0, self.config.n_layer, max(1, self.config.n_layer // 4)):
            plans = [Plan.of("zero", [(layer, head)]) for head in range(4)]
            engine = self.evaluator(self.tokens(n))
            few, _ = timed(engine.score, plans[1:2], n)
            more, _ = timed(engine.score, plans[2:], n)
            by_layer.append({"first_layer": layer, "s_per_further_plan": max(0.0, more - few) / n})
        return {"tokens": by_tokens, "heads_in_plan": by_heads, "layers": by_layer}


def refine(model: GPT2LMHeadModel, prompts: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The three iterations in one go, as `stored_generation` does it: greedy text is the same wherever it is cut."""
    texts = np.concatenate([prompts, generate(model, prompts, 3 * P_NEW, plan)], axis=1)
    return texts, continuation_nll(model, texts, 3 * P_NEW)


def best_of_5(model: GPT2LMHeadModel, prompts: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    new = generate(model, prompts, P_NEW, plan, temperature=0.8, seeds=range(len(prompts)))
    texts = np.concatenate([prompts, new], axis=1)
    return texts, continuation_nll(model, texts, P_NEW)


def edits_of(plan: Plan) -> dict[tuple[int, int], str]:
    return {(layer, head): mode for layer, head, mode in plan.heads}


def ppl_error(found: ArrayLike, expected: ArrayLike) -> float:
    """Relative difference of the PPLs of two rows of negative log-likelihoods."""
    expected = np.asarray(expected, dtype=np.float64)
    return abs(float(np.exp(np.asarray(found, dtype=np.float64).mean() - expected.mean())) - 1)


def measured_on() -> dict[str, Any]:
    """The machine, and its best rates of products over squares and the model's own shapes."""
    shapes = [(2048, 2048, 2048), (1024, 768, 3072), (1024, 3072, 768), (4096, 4096, 4096)]
    rates = {
        "float32_gflop_per_s": product_rate(torch.float32, "cpu", shapes) / 1e9,
        "float32_packed_gflop_per_s": product_rate(torch.float32, "cpu", shapes, packed_product) / 1e9,
        "bfloat16_gflop_per_s": product_rate(torch.bfloat16, "cpu", shapes) / 1e9,
    }
    known = {"cpu": machine.processor(), **machine.system(), "threads": torch.get_num_threads()}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return known | versions | {"backend": dispatch.resolve("auto", "cpu")} | rates


def packed_product(b: torch.Tensor, n_rows: int) -> Linear:
    """a ↦ a bᵀ by the products with packed weights that the engine uses."""
    return Linear(b, n_rows=n_rows)


def engine_figures(shape: str, rounds: int, seed: int) -> dict[str, Any]:
    """The whole benchmark as the content of `engine.json`."""
    bench = EngineBench(shape, seed)
    facts = measured_on()
    rows = []
    with torch.no_grad():
        bench.reference.nll(bench.tokens(1)[0])
        ladder = bench.ladder_step(rounds)
        arithmetic = flops.prefill_flops(bench.cost_shape, bench.n_ctx, len(bench.plan(30).heads))
        step = ladder.report()
        step["flop_per_chunk"] = arithmetic
        rate = arithmetic / step["engine_s"] / 1e9
        step["share_of_product_rate"] = rate / facts["float32_gflop_per_s"]
        step["share_of_packed_rate"] = rate / facts["float32_packed_gflop_per_s"]
        rows.append(show(step))
        rows.append(show(bench.head_scan(rounds).report()))
        part_v, p2, p3 = bench.part_v(rounds), bench.p2(rounds), bench.p3(rounds)
        rows += [show(row.report()) for row in (part_v, p2, p3)]
        rows.append(show(bench.parts_v_p("parts_v_p", part_v, p2, p3).report()))
        rows.append(show(bench.head_scan(rounds, "bfloat16").report()))
        half = bench.copy("bfloat16")
        part_v, p2, p3 = bench.part_v(rounds, "bfloat16"), bench.p2(rounds, half), bench.p3(rounds, half)
        rows.append(show(part_v.report()))
        for row in (p2, p3):  # another rounding writes other texts: only their judgement is compared
            row.errors = part_v.errors
        rows.append(show(bench.parts_v_p("parts_v_p_bf16", part_v, p2, p3, "bfloat16").report()))
        growth = bench.growth()
    peaks = memory.measured(memory.CASES, torch.get_num_threads(), seed)
    return {"rows": rows, "machine": facts, "growth": growth, "memory": peaks, "model": memory.SHAPES[shape]}


def show(row: dict[str, Any]) -> dict[str, Any]:
    ratio = "withheld" if row["ratio"] is None else f"{row['ratio']:.2f}x [{row['q20']:.2f}, {row['q80']:.2f}]"
    speed = f", {row['engine_tok_per_s']:,.0f} tokens/s" if row["engine_tok_per_s"] else ""
    share = ""
    if "share_of_product_rate" in row:
        share = f", {row['share_of_product_rate']:.0%} of torch.mm's rate, {row['share_of_packed_rate']:.0%} of packed"
    print(
        f"{row['name']:15} {ratio:24} published {row['published_s']:9.2f} s, engine {row['engine_s']:8.2f} s "
        f"per {row['unit']}{speed}{share}, error {row['max_relative_error']:.1e}; {row['note']}",
        flush=True,
    )
    return row


def show_rest(found: Mapping[str, Any]) -> None:
    facts = found["machine"]
    print(
        f"\n{facts['cpu']}, {facts['threads']} threads: products at {facts['float32_gflop_per_s']:.0f} GFLOP/s in "
        f"float32, {facts['bfloat16_gflop_per_s']:.0f} in bfloat16"
    )
    for name, table in found["growth"].items():
        print(f"\ncost by {name.replace('_', ' ')}")
        print("  ".join(f"{key:>18}" for key in table[0]))
        for line in table:
            print("  ".join(f"{value:>18.4g}" for value in line.values()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.timing.engine_bench", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--shape", choices=memory.SHAPES, default="gpt2", help="size of the model")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each row takes")
    parser.add_argument("--seed", type=int, default=10)
    chosen = parser.parse_args(arguments)
    found = engine_figures(chosen.shape, chosen.rounds, chosen.seed)
    show_rest(found)
    if chosen.out:
        with replacing(chosen.out) as path:
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {chosen.out}")


if __name__ == "__main__":
    main()
