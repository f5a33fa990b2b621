import json

import numpy as np
import pytest
import tiny_models
import torch

from kernels import measured, naive
from lib.analysis import flops
from lib.engine import dispatch
from lib.engine.generation import generate
from lib.engine.interventions import Plan
from lib.timing import clock, speedups

TOKENS = tiny_models.tokens(2, 40).numpy()
PLANS = {
    0: Plan(),
    3: Plan.of("relu", [(1, 0), (1, 2), (2, 3)]),
    8: Plan.of("relu", [(a, h) for a in (1, 2) for h in range(4)]),
}


def test_everything_takes_turns_after_a_turn_that_does_not_count(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(ticks))
    calls = []
    seconds = clock.alternating({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, "cpu", 3)
    assert "".join(calls) == "ab" * 4
    assert {name: own.tolist() for name, own in seconds.items()} == {"a": [1, 1, 1], "b": [1, 1, 1]}


def test_rows_of_p1(monkeypatch):
    """Four tokens in 2 s against 1 s: speeds, and changes against the first condition of the same protocol."""
    plans = {"baseline": Plan(), "relu_3": PLANS[3]}
    taken = {
        ("baseline", "recomputed"): 2.0,
        ("relu_3", "recomputed"): 4.0,
        ("baseline", "cached"): 1.0,
        ("relu_3", "cached"): 0.5,
    }
    monkeypatch.setattr(
        speedups,
        "alternating",
        lambda actions, device, runs, label: {cell: np.full(runs, taken[cell]) for cell in actions},
    )
    protocols = {"recomputed": (False, "naive"), "cached": (True, "cpu")}
    rows = speedups.generation_speeds(None, "cpu", TOKENS[:1, :5], 4, plans, protocols, 3, 0)
    found = {(row["condition"], row["protocol"]): row for row in rows}
    assert {cell: row["tok_per_s"] for cell, row in found.items()} == {cell: 4 / s for cell, s in taken.items()}
    assert {cell: row["relative"] for cell, row in found.items()} == {
        ("baseline", "recomputed"): 0,
        ("relu_3", "recomputed"): -0.5,
        ("baseline", "cached"): 0,
        ("relu_3", "cached"): 1,
    }
    assert found["relu_3", "cached"]["ms_per_tok"] == pytest.approx(125)
    assert [row["backend"] for row in rows] == ["sdpa", "naive", "sdpa", "cpu"]
    assert [row["n_linearized"] for row in rows] == [0, 3, 0, 3]


def test_a_control_tells_the_hooks_from_relu(monkeypatch):
    """4 s plain, 5 s with hooks and softmax kept, 10 s with ReLU: the hooks cost a fifth of the speed, ReLU a half."""
    plans = {"baseline": Plan(), "relu_3": PLANS[3], "softmax_3": Plan.of("softmax", [(1, 0), (1, 2), (2, 3)])}
    taken = {"baseline": 4.0, "relu_3": 10.0, "softmax_3": 5.0}
    asked = []

    def alternating(actions, device, runs, label):
        asked.extend(actions)
        return {cell: np.full(runs, taken[cell[0]]) for cell in actions}

    monkeypatch.setattr(speedups, "alternating", alternating)
    protocols = {"recomputed": (False, "naive"), "recomputed/kernel": (False, "cpu")}
    controls = {"relu_3": "softmax_3"}
    rows = speedups.generation_speeds(None, "cpu", TOKENS[:1, :5], 4, plans, protocols, 3, 0, controls)
    assert [cell[0] for cell in asked] == ["baseline", "relu_3", "softmax_3", "relu_3"]
    found = [(row["condition"], row["backend"], row["relative"], row["against_control"]) for row in rows]
    assert found == [
        ("baseline", "sdpa", 0, None),
        ("relu_3", "naive", pytest.approx(-0.6), -0.5),
        ("softmax_3", "torch", pytest.approx(-0.2), None),
        ("relu_3", "cpu", pytest.approx(-0.6), -0.5),
    ]


def test_kernel_rows_of_p1_share_one_baseline(monkeypatch):
    """Two backends under one protocol: the model without linearized heads is measured once, for both."""
    plans = {"baseline": Plan(), "relu_3": PLANS[3]}
    taken = {("baseline", "cached"): 1.0, ("relu_3", "cached"): 2.0, ("relu_3", "cached/kernel"): 0.8}
    asked = []

    def alternating(actions, device, runs, label):
        asked.extend(actions)
        return {cell: np.full(runs, taken[cell]) for cell in actions}

    monkeypatch.setattr(speedups, "alternating", alternating)
    protocols = {"cached": (True, "naive"), "cached/kernel": (True, "cpu")}
    rows = speedups.generation_speeds(None, "cpu", TOKENS[:1, :5], 4, plans, protocols, 3, 0)
    assert asked == list(taken)
    assert [(row["condition"], row["protocol"], row["backend"], row["relative"]) for row in rows] == [
        ("baseline", "cached", "sdpa", 0),
        ("relu_3", "cached", "naive", -0.5),
        ("relu_3", "cached", "cpu", pytest.approx(0.25)),
    ]


class FakeGraph:
    """What `graph_decoder` gives, without a GPU; `wrong` decoders change the last token."""

    def __init__(self, model, plan, wrong=False):
        self.model, self.plan, self.wrong = model, plan, wrong

    def generate(self, prompt, n_new):
        new = generate(self.model, prompt[None], n_new, self.plan, backend="naive")[0]
        new[-1] += self.wrong
        return torch.as_tensor(np.concatenate([prompt, new]))


@pytest.mark.parametrize(("off", "shown"), [(None, ["baseline", "relu_3"]), ("relu", ["baseline"]), ("baseline", [])])
def test_a_fused_step_in_p1_must_give_the_same_tokens(monkeypatch, off, shown):
    model, plans = tiny_models.gpt2(), {"baseline": Plan(), "relu_3": PLANS[3]}

    def decoder(model, plan):
        return FakeGraph(model, plan, wrong=off == ("relu" if plan else "baseline"))

    monkeypatch.setattr(speedups, "graph_decoder", decoder)
    protocols = {"cached/naive": (True, "naive"), "fused/triton": ("fused", "triton")}
    rows = speedups.generation_speeds(model, "cpu", TOKENS[:1, :5], 4, plans, protocols, 2, 0)
    assert [row["condition"] for row in rows if row["protocol"] == "cached"] == ["baseline", "relu_3"]
    found = [row for row in rows if row["protocol"] == "fused"]
    assert [row["condition"] for row in found] == shown
    assert all(row["backend"] == "triton" for row in found)
    assert not shown or found[0]["relative"] == 0


@pytest.mark.parametrize("wrong", [False, True])
def test_graphs_in_p1_must_give_the_same_tokens(monkeypatch, wrong):
    """They are tried against launched kernels, and timed as they are called."""
    calls = []

    def timed(model, prompt, n_new, plan, *, by_graph=True, **settings):
        calls.append(by_graph)
        return generate(model, prompt, n_new, plan, by_graph=by_graph, **settings) + (wrong and by_graph and bool(plan))

    monkeypatch.setattr(speedups, "generate", timed)
    plans = {"baseline": Plan(), "relu_3": PLANS[3]}
    protocols = {"cached/naive": (True, "naive"), "graph": ("graph", "cpu")}
    rows = speedups.generation_speeds(tiny_models.gpt2(), "cpu", TOKENS[:1, :5], 4, plans, protocols, 2, 0)
    found = [(row["condition"], row["protocol"]) for row in rows]
    assert found[:2] == [("baseline", "cached"), ("relu_3", "cached")]
    assert found[2:] == [("baseline", "graph"), ("relu_3", "graph")][: 1 if wrong else 2]
    assert calls.count(False) == 2 * 3 + 2 and calls.count(True) == (3 + 1) * (1 if wrong else 2) + wrong


@pytest.mark.parametrize("wrong", [False, True])
def test_a_fused_step_on_the_ladder(monkeypatch, wrong):
    monkeypatch.setattr(speedups, "has_fused_step", lambda model, backend: True)
    monkeypatch.setattr(speedups, "graph_decoder", lambda model, plan: FakeGraph(model, plan, wrong and not plan))
    ladder = speedups.Ladder(tiny_models.gpt2(), "cpu", TOKENS, PLANS, "cpu", 0, runs=2, n_new=4)
    rows = {row["n_linearized"]: row for row in ladder.rows() if row["what"] == "fused"}
    assert list(rows) == [0, 3, 8]
    assert [row["agrees"] for row in rows.values()] == 3 * [not wrong]
    assert all(("speedup" in row) != wrong for row in rows.values())


def test_a_fused_step_needs_a_gpu():
    assert not speedups.has_fused_step(tiny_models.gpt2(), "triton")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_ladder_measures_what_the_model_computes(family):
    """Prefill under a plan is the model's own; attention and layer agree with it where they can be seen."""
    model = tiny_models.MAKERS[family]()
    ladder = speedups.Ladder(model, "cpu", TOKENS, PLANS, "naive", 0, runs=2, n_new=4)
    with torch.inference_mode():
        ids = torch.as_tensor(TOKENS[:1], dtype=torch.long)
        seen = model(ids, output_hidden_states=True).hidden_states[1]
        layer = max(range(3), key=lambda at: sum(ladder.relu_heads(8, at)))
        assert layer == 1
        q, k, v = ladder.arch.qkv(1, ladder.resid)
        z = dispatch.relu_attention(q, k, v, backend="naive")
        assert torch.allclose(ladder.attend(8, 1, "naive"), z, atol=1e-5)
        assert ladder.resid.shape == seen.shape
        assert torch.allclose(ladder.prefill(0, "naive")[0, -1], model(ids).logits[0, -1], atol=1e-4)
    rows = ladder.rows()
    assert [(row["what"], row["n_linearized"]) for row in rows] == [
        (what, n) for what in ("attention", "one layer", "prefill", "decoding") for n in (0, 3, 8)
    ]
    assert all(row["agrees"] and row["seconds"] > 0 for row in rows)
    assert all(row["speedup"] == 1 for row in rows if row["n_linearized"] == 0)


def test_the_share_of_attention_is_taken_pair_by_pair(monkeypatch):
    """A machine that slows down between the pairs leaves the share as it is."""
    ladder = speedups.Ladder(tiny_models.gpt2(), "cpu", TOKENS, PLANS, "cpu", 0, runs=3, n_new=4)
    taken = {"attention": np.array([1.0, 10.0, 3.0]), "prefill": np.array([4.0, 40.0, 4.0])}
    monkeypatch.setattr(speedups, "alternating", lambda actions, device, runs, label: {k: taken[k] for k in actions})
    assert ladder.attention_share() == 0.25
    taken["prefill"] = np.array([0.5, 5.0, 1.0])
    assert ladder.attention_share() == 1


def test_a_kernel_that_disagrees_has_no_speed(monkeypatch):
    ladder = speedups.Ladder(tiny_models.gpt2(), "cpu", TOKENS, PLANS, "cpu", 0, runs=2, n_new=4)
    own = dispatch.mixed_attention

    def wrong(*args, backend, **kwargs):
        return own(*args, backend="naive", **kwargs) * (1.001 if backend == "cpu" else 1)

    monkeypatch.setattr(dispatch, "mixed_attention", wrong)
    row = next(row for row in ladder.rows() if row["what"] == "attention" and row["n_linearized"] == 3)
    assert not row["agrees"]
    assert row["error"] > naive.tolerance(torch.float32)
    assert "speedup" not in row


def test_one_shape_beside_softmax(monkeypatch):
    taken = {"softmax": 3.0, "relu": 2.0}
    monkeypatch.setattr(
        speedups, "alternating", lambda actions, device, runs, label: {k: np.full(runs, taken[k]) for k in actions}
    )
    row = speedups.one_shape("cpu", torch.float32, "cpu", 3, 0, shape=(1, 2, 70, 16))
    assert (row["agrees"], row["n_linearized"], row["seconds"], row["speedup"]) == (True, 2, 2, 1.5)
    own = dispatch.relu_attention
    monkeypatch.setattr(
        dispatch, "relu_attention", lambda *x, backend: own(*x, backend="naive") * (1.001 if backend == "cpu" else 1)
    )
    row = speedups.one_shape("cpu", torch.float32, "cpu", 3, 0, shape=(1, 2, 70, 16))
    assert not row["agrees"] and "speedup" not in row


def test_verdicts_follow_the_intervals():
    row = {"what": "prefill", "n_linearized": 3, "agrees": True, "error": 0.0, "seconds": 0.5, "speedup": 1.1}
    cases = {"faster": [1.01, 1.2], "open": [0.99, 1.2], "slower": [0.7, 0.99]}
    rows = speedups.judged([row | {"speedup_ci": ends} for ends in cases.values()])
    assert [found["verdict"] for found in rows] == list(cases)
    assert rows[0]["ms"] == 500
    off = {"what": "prefill", "n_linearized": 3, "agrees": False, "error": 1.0}
    none, differs = speedups.judged([row | {"n_linearized": 0, "speedup_ci": [1.0, 1.0]}, off])
    assert (none["verdict"], differs["verdict"]) == ("baseline", "differs")
    assert [differs[key] for key in ("seconds", "speedup", "speedup_ci", "ms")] == 4 * [None]


def test_what_becomes_of_the_promised_tokens():
    """GPT-2 small, 30 and 70 heads: 64 / 0.9143 and 64 / 0.8 make 70 and 80 tokens; time decides how many come."""
    at = {("decoding", 30): {"agrees": True, "speedup": 1.04}, ("decoding", 70): {"agrees": True, "speedup": 0.9}}
    slow, none = speedups.budget(at, (30, 70), 144, 64, 128, 64)
    assert slow == {"n_linearized": 30, "extra_published": 6, "extra_measured": 2, "share_real": 1 / 3}
    assert none == {"n_linearized": 70, "extra_published": 16, "extra_measured": -7, "share_real": 0}
    at["decoding", 70] = {"agrees": False}
    assert speedups.budget(at, (70,), 144, 64, 128, 64)[0]["share_real"] is None
    assert speedups.budget({("decoding", 3): at["decoding", 30]}, (3,), 144, 128, 16, 64)[0]["share_real"] is None
    at["decoding", 30]["speedup"] = 3.0
    assert speedups.budget(at, (30,), 144, 64, 128, 64)[0]["share_real"] == 1


def test_errors_are_relative_and_never_nan():
    one = torch.ones(4)
    assert naive.relative_error(one * 1.5, one) == pytest.approx(0.5)
    assert naive.relative_error(one * float("nan"), one) == float("inf")


def test_machine_rates_and_the_points_under_them():
    assert clock.product_rate(torch.float32, "cpu", [(64, 64, 64)], rounds=3) > 1e6
    assert clock.copy_rate("cpu", rounds=3) > 1e6
    shape = flops.Shape(n_layer=2, n_head=4, n_kv_head=2, d_head=8, n_embd=32, n_inner=48, vocab_size=97)
    rows = [{"what": "attention", "n_linearized": 3, "agrees": True, "seconds": 0.5}]
    rows += [rows[0] | {"agrees": False}, rows[0] | {"what": "prefill"}]
    (point,) = speedups.roofline_points(rows, shape, 100, 4)
    moved = 4 * 2 * 100 * 8 * (4 + 4 + 2 + 2)  # float32: q and z of four heads, k and v of two, in each of two layers
    total = flops.attention_flops(shape, 0, 100, 3)
    assert point == {"n_linearized": 3, "intensity": total / moved, "rate": total / 0.5}


def test_timings_from_elsewhere(tmp_path):
    """Files as the bench writes them: quotients of the wider way round, nothing of a row that disagreed."""
    times = {"relu": {"ms": 2, "ms_q20": 1.6, "ms_q80": 2.5}, "sdpa flash": {"ms": 3, "ms_q20": 2.5, "ms_q80": 3.2}}
    fast = {"name": "gpu_bf16_16384", "agrees": True, "ratio": 1.5, "rival": "sdpa flash", "tflops": 500.0}
    fast |= {"share_of_matmul": 0.6, "times": times}
    red = fast | {"name": "red", "agrees": False}
    tokens = {
        "name": "gpu_decode_gpt2_30",
        "agrees": True,
        "ratio": 3.0,
        "tokens_per_s": 5e3,
        "share_of_bandwidth": 0.3,
    }
    kept = dict.fromkeys(measured.REQUIRED, "x") | {"device_name": "a made-up GPU", "rows": [fast, red, tokens]}
    for name, date in (("late", "2026-03-01T10:00:00+00:00"), ("early", "2026-01-01T10:00:00+00:00")):
        (tmp_path / f"{name}.json").write_text(json.dumps(kept | {"date": date}))
    rows = speedups.elsewhere(measured.load(tmp_path))
    assert [(row["file"], row["date"]) for row in rows] == 3 * [("early.json", "2026-01-01")] + 3 * [
        ("late.json", "2026-03-01")
    ]
    first, off, decoding = rows[:3]
    assert first["device"] == "a made-up GPU"
    assert (first["ratio"], first["ratio_ci"], first["tokens_per_s"]) == (1.5, [2.5 / 2.5, 3.2 / 1.6], None)
    speeds = ("ratio", "ratio_ci", "rival", "tflops", "share_of_matmul", "tokens_per_s", "share_of_bandwidth")
    assert [off[key] for key in speeds] == 7 * [None]
    assert (decoding["tokens_per_s"], decoding["share_of_bandwidth"], decoding["ratio"]) == (5e3, 0.3, None)
    assert speedups.elsewhere([]) == []
