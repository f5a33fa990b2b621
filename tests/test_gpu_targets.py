"""What a GPU session is held to, and the profile of what misses it."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from kernels import naive
from lib.timing import clock, gpu_targets, kernel_bench
from lib.timing.kernel_bench import KernelBench

TIMES = {"relu": {"ms": 2.0, "ms_q90": 2.5}}
FORWARD = [
    {"name": f"gpu_bf16_{n}", "agrees": True, "ratio": 1.3, "ratio_q10": 1.25, "tflops": 540.0, "times": TIMES}
    for n in (2048, 4096, 8192, 16384)
]


def ladder(seconds, dtype="bfloat16", graph=True):
    whole = {"what": "ladder", "dtype": dtype, "graph": graph, "chunks": 245, "steps": 11}
    return whole | {"seconds": seconds, "agrees": True}


def by_name(session):
    return {(verdict["name"], verdict["what"]): verdict for verdict in gpu_targets.judged(session)}


def test_targets_are_met_missed_or_not_measured():
    end_to_end = [ladder(12.0), ladder(40.0, graph=False), ladder(25.0, "float32"), {"what": "prefill"}]
    found = by_name({"bench": {"rows": FORWARD}, "end_to_end": {"rows": end_to_end}})
    forward = found["forward, T = 16384", "tflops"]
    assert (forward["measured"], forward["worst_tenth"], forward["met"]) == (540.0, 540.0 * 2 / 2.5, True)
    assert found["forward, T = 4096", "ratio"]["worst_tenth"] == 1.25
    assert found["backward, T = 16384", "tflops"]["met"] is None
    assert found["ladder, 245 × 11, bfloat16", "seconds"]["met"] is True
    missed = found["ladder, 245 × 11, float32", "seconds"]
    assert (missed["measured"], missed["met"], missed["row"]) == (25.0, False, None)
    printed = [gpu_targets.printed(verdict) for verdict in found.values()]
    assert sum(line.endswith(", met") for line in printed) == 6
    assert sum(line.endswith("MISSED") for line in printed) == 1
    assert sum(line.endswith("not measured") for line in printed) == len(gpu_targets.TARGETS) - 7


def test_the_worst_row_counts_and_all_must_agree():
    rows = [
        {"name": f"gpu_mixed_30_{size}", "agrees": True, "ratio": ratio, "ratio_q10": ratio - 0.1}
        for size, ratio in (("1x1024", 1.4), ("16x1024", 0.9), ("4x4096", 1.1))
    ]
    verdict = by_name({"bench": {"rows": rows}})["30 / 144 heads", "ratio"]
    assert (verdict["measured"], verdict["met"], verdict["row"]) == (0.9, False, "gpu_mixed_30_16x1024")
    rows[0] |= {"agrees": False, "ratio": None}
    assert by_name({"bench": {"rows": rows}})["30 / 144 heads", "ratio"]["met"] is None


def test_every_target_of_the_bench_has_its_rows():
    names = [name for _, name, *_ in kernel_bench.jobs("cuda")]
    for target in gpu_targets.TARGETS:
        if target.step == "bench":
            assert [name for name in names if target.chosen({"name": name})], target.name


SHAPE = (1, 12, 40, 16)


@pytest.mark.parametrize(
    "job",
    [
        ("attention", "a", SHAPE, "fp32"),
        ("softmax", "s", SHAPE, "fp32"),
        ("backward", "b", SHAPE),
        ("mixed", "m", SHAPE, 30),
        ("decoding_step", "d", (1, 12, 1, 16), 33),
    ],
    ids=lambda job: job[0],
)
def test_a_row_s_operation_is_what_is_timed(job, monkeypatch):
    from lib.timing import gpu_profiles

    monkeypatch.setattr(clock, "alternating", lambda *args, **settings: pytest.fail("timed"))
    found = gpu_profiles.operation(job, "cpu")()
    assert all(x.isfinite().all() for x in (found if isinstance(found, tuple) else (found,)))


def test_profiles_name_registers_and_stalls(monkeypatch, tmp_path):
    attention = pytest.importorskip("kernels.triton_attention", reason="Triton is not installed")
    from kernels.triton_forward import FORWARD_TILES
    from lib.timing import gpu_profiles

    monkeypatch.setattr(attention, "_chosen", {("relu", "cuda"): FORWARD_TILES[0], ("strategy",): "lists"})
    tool = tmp_path / "ncu"
    tool.write_text('#!/bin/sh\necho "asked: $@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    row = {"name": "cpu_row", "tflops": 0.1, "rival": "sdpa", "error": 0}
    found = gpu_profiles.profile(row, ("attention", "cpu_row", SHAPE, "fp32"), "cpu")
    assert (found["row"], found["tflops"], "error" in found) == ("cpu_row", 0.1, False)
    kernel, strategy = found["kernels"]
    assert kernel["kernel"] == "forward" and 0 < kernel["registers"] <= 255 and kernel["shared"] > 0
    assert strategy["strategy"] == "lists"
    assert "WarpStateStats" in found["stalls"] and found["stalls"].rstrip().endswith("gpu_profiles cpu_row")
    tool.write_text("#!/bin/sh\nexec sleep 5\n")
    monkeypatch.setattr(gpu_profiles, "NCU_SECONDS", 0.2)
    assert gpu_profiles._stalls("cpu_row") == "not within 0.2 s"
    tool.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_profiles._stalls("cpu_row") is None


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(clock, "rates", lambda device: {"matmul_fp32": 1e9, "matmul_bf16": 1e9, "copy": 1e9})
    return KernelBench("cpu", 0.01)


def test_packages_of_others_are_rivals_where_they_are(bench, monkeypatch):
    """Of [B, T, H, d], with or without what else they return; held against float64, and skipped where they fail."""
    q, k, v = kernel_bench.inputs((1, 3, 40, 16), "bf16", "cpu")

    def softmax(q, k, v, causal):
        assert causal and q.shape == (1, 40, 3, 16)
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)

    packages = {
        "flash_attn": SimpleNamespace(flash_attn_func=softmax),
        "flash_attn_interface": SimpleNamespace(flash_attn_func=lambda *x, causal: (softmax(*x, causal), "lse")),
        "flash_attn.cute": SimpleNamespace(flash_attn_func=lambda *x, causal: (1.1 * softmax(*x, causal), None)),
    }
    for name, package in packages.items():
        monkeypatch.setitem(sys.modules, name, package)
    rivals = kernel_bench.softmax_rivals("cuda", q, k, v)
    ours = {label: run for label, run in rivals.items() if label.startswith("flash-attn")}
    assert len(ours) == 3
    assert set(bench.agreeing("row", bench.usable("row", ours), (q, k, v), "bf16")) == {"flash-attn 2", "flash-attn 3"}
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)
    bench.skipped.clear()
    assert bench.usable("row", ours) == {} and {skipped["contender"] for skipped in bench.skipped} == set(ours)
    assert not [x for x in kernel_bench.softmax_rivals("cuda", q.float(), k, v) if x.startswith("flash-attn")]


def test_the_fastest_other_is_what_a_ratio_is_against(bench, monkeypatch):
    seconds = {"relu": 2.0, "naive": 0.1, "sdpa flash": 4.0, "flash-attn 3": 3.0, "flex": 5.0}
    monkeypatch.setattr(
        clock,
        "alternating",
        lambda contenders, *_, **__: {x: torch.tensor([seconds[x]] * 5).numpy() for x in contenders},
    )
    bench.compare("row", lambda: None, dict.fromkeys(list(seconds)[1:], lambda: None), 0.0, 1e9, "bf16")
    (row,) = bench.rows
    assert (row["rival"], row["ratio"], row["ratio_q10"]) == ("flash-attn 3", 1.5, 1.5)
    assert row["times"]["relu"]["ms_q90"] == 2000.0
    assert naive.tolerance(torch.bfloat16) == row["allowed"]
