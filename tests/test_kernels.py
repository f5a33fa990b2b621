"""ReLU attention: the definition itself, the blocked CPU kernel, and the dispatch table."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_checks import LENGTHS, close, inputs, strided

from kernels import cpu, naive, native
from lib.engine import dispatch
from lib.errors import InputError


@pytest.fixture
def poisoned():
    """Every fresh buffer starts as NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def test_by_hand():
    q = torch.tensor([[1.0], [1.0], [-1.0]]).view(1, 1, 3, 1)
    k = torch.tensor([[2.0], [6.0], [-4.0]]).view(1, 1, 3, 1)
    v = torch.tensor([[10.0], [20.0], [30.0]]).view(1, 1, 3, 1)
    z = naive.relu_attention(q, k, v).flatten()
    assert z.tolist() == [10.0, (2 * 10 + 6 * 20) / 8, 30.0]


def test_mask_aligns_at_the_bottom_right():
    assert naive.visible(2, 4, 3).tolist() == [[True, True, False, False], [True, True, True, False]]


def test_naive_gradients():
    q, k, v = (x.requires_grad_() for x in inputs((1, 4, 5, 3), n_keys=7, group=2, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda *x: naive.relu_attention(*x, n_visible=6), (q, k, v))


def test_naive_gradients_below_the_clamp():
    q, k, v = (x.requires_grad_() for x in inputs((1, 1, 4, 3), dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda *x: naive.relu_attention(*x, scale=1e-12), (q, k, v))


def test_softmax_agrees_with_pytorch():
    q, k, v = inputs(dtype=torch.float64)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(naive.softmax_attention(q, k, v), want)


def test_the_last_key_reaches_the_last_query_alone():
    for module in (naive, cpu):
        q, k, v = inputs((1, 2, 300, 8))
        before = module.relu_attention(q, k, v)
        k[:, :, -1] += 1
        v[:, :, -1] += 1
        after = module.relu_attention(q, k, v)
        assert torch.equal(before[:, :, :-1], after[:, :, :-1])
        assert not torch.equal(before[:, :, -1], after[:, :, -1])


@pytest.mark.parametrize(
    ("length", "dtype"),
    [
        *((n, dtype) for n in LENGTHS for dtype in (torch.float32, torch.bfloat16)),
        *((n, dtype) for n in LENGTHS[:7] for dtype in (torch.float16, torch.float64)),
    ],
)
def test_cpu_lengths(length, dtype, poisoned):
    q, k, v = inputs((1, 2, length, 16), dtype=dtype)
    for _ in range(2):
        out = torch.full_like(q, float("nan"))
        assert cpu.relu_attention(q, k, v, out=out) is out
        close(out, q, k, v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "n_keys", "group", "n_visible"),
    [
        ((2, 12, 1, 64), 100, 1, 100),
        ((1, 12, 1, 64), 100, 3, 70),
        ((3, 4, 1, 12), 33, 2, 1),
        ((2, 4, 129, 13), 300, 2, 290),
        ((20, 12, 9, 12), 9, 1, 9),
        ((1, 1, 700, 64), 700, 1, 700),
        ((3, 5, 257, 64), 257, 5, 257),
        ((1, 12, 1024, 12), 1024, 1, 1024),
    ],
)
def test_cpu_shapes(shape, n_keys, group, n_visible, dtype, poisoned):
    q, k, v = inputs(shape, n_keys, group, dtype)
    k[:, :, n_visible:] = v[:, :, n_visible:] = float("nan")
    z = cpu.relu_attention(q, k, v, n_visible=n_visible)
    k[:, :, n_visible:] = v[:, :, n_visible:] = 0
    close(z, q, k, v, n_visible=n_visible)
    assert torch.equal(z, cpu.relu_attention(q, k, v, n_visible=torch.tensor([n_visible])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [1e-6, 1e-3, 60.0, 1e3])
@pytest.mark.parametrize("module", [naive, cpu])
def test_huge_and_tiny_scores(module, factor, dtype):
    q, k, v = inputs((1, 2, 200, 16), dtype=dtype, factor=factor)
    close(module.relu_attention(q, k, v), q, k, v)
    close(module.relu_attention(q, k, v, scale=2e-7), q, k, v, scale=2e-7)


@pytest.mark.parametrize("module", [naive, cpu])
@pytest.mark.parametrize("n_queries", [1, 300])
def test_rows_without_a_positive_score_give_zero(module, n_queries):
    q, k, v = inputs((1, 2, n_queries, 16), n_keys=300)
    dead = torch.arange(n_queries) % 3 == 0
    q[:, 0, dead], k[:, 0] = -q[:, 0, dead].abs(), k[:, 0].abs()
    z = module.relu_attention(q, k, v)
    assert (z[:, 0, dead] == 0).all() and (z[:, 1] != 0).any()
    close(z, q, k, v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("d_head", "n_queries", "n_keys"), [(64, 300, 300), (12, 1024, 1024), (12, 77, 90), (64, 1, 111)]
)
def test_cpu_bits_of_a_head_depend_on_that_head_alone(d_head, n_queries, n_keys, dtype):
    q, k, v = inputs((2, 6, n_queries, d_head), n_keys, 2, dtype)
    z = cpu.relu_attention(q, k, v)
    spread = [strided(x) for x in (q, k, v)]
    for kv_head in range(3):
        heads = slice(2 * kv_head, 2 * kv_head + 2)
        alone = cpu.relu_attention(spread[0][1:, heads], *(x[1:, kv_head : kv_head + 1] for x in spread[1:]))
        assert torch.equal(alone, z[1:, heads])
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            assert torch.equal(cpu.relu_attention(*spread), z)
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)


def test_cpu_threads_keep_the_callers_modes():
    q, k, v = inputs((1, 4, 1024, 64))
    z = cpu.relu_attention(q, k, v)
    with torch.inference_mode():
        assert torch.equal(cpu.relu_attention(q, k, v), z)
        out = torch.empty_like(q)
        cpu.relu_attention(q.clone(), k, v, out=out)
    assert torch.equal(out, z)


def test_z_has_the_memory_order_of_q():
    q, k, v = (strided(x) for x in inputs((2, 3, 20, 8)))
    z = cpu.relu_attention(q, k, v)
    assert z.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("module", [naive, cpu])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(130, 130), (20, 130), (1, 130)])
@pytest.mark.parametrize("pattern", ["mixed", "all", "none"])
def test_mixed_heads(module, n_queries, n_keys, pattern):
    q, k, v = inputs((2, 6, n_queries, 16), n_keys, group=3)
    is_relu = {"mixed": [True, False, True, True, False, False], "all": 6 * [True], "none": 6 * [False]}[pattern]
    z = module.mixed_attention(q, k, v, is_relu, n_visible=n_keys - 1 if n_queries < n_keys else n_keys)
    close(
        z,
        q,
        k,
        v,
        reference=lambda *x, **kw: naive.mixed_attention(*x, is_relu, **kw),
        n_visible=n_keys - 1 if n_queries < n_keys else n_keys,
    )
    relu = naive.relu_attention(q, k, v, n_visible=n_keys - 1 if n_queries < n_keys else n_keys)
    for head, flag in enumerate(is_relu):
        assert torch.allclose(z[:, head], relu[:, head], atol=1e-5) == flag


def test_cpu_refuses_gradients():
    q, k, v = inputs()
    q.requires_grad_()
    with pytest.raises(InputError, match="naive"):
        cpu.relu_attention(q, k, v)
    assert dispatch.relu_attention(q, k, v).requires_grad
    with torch.no_grad():
        assert math.isfinite(float(dispatch.relu_attention(q, k, v, backend="cpu").sum()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[0], k, v), "give q"),
        (lambda q, k, v: (q, k, v[:, :, 1:]), "one shape"),
        (lambda q, k, v: (torch.cat((q, q[:, :1]), 1), k, v), "multiple of H_kv"),
        (lambda q, k, v: (q.double(), k, v), "one floating-point type"),
        (lambda q, k, v: (q, k[:, :, 1:], v[:, :, 1:]), "queries <= visible <= keys"),
    ],
)
def test_wrong_inputs_are_one_line(change, message):
    q, k, v = change(*inputs())
    for backend in ("naive", "cpu"):
        with pytest.raises(InputError, match=message) as error:
            dispatch.relu_attention(q, k, v, backend=backend)
        assert "\n" not in str(error.value)


def test_scale_and_out_are_checked():
    q, k, v = inputs()
    with pytest.raises(InputError, match="scale -1"):
        naive.relu_attention(q, k, v, scale=-1)
    with pytest.raises(InputError, match="out is"):
        cpu.relu_attention(q, k, v, out=torch.empty(3))
    with pytest.raises(InputError, match="an int or a tensor of one"):
        naive.relu_attention(q, k, v, n_visible=torch.tensor([3, 4]))


def test_dispatch_names_what_runs(monkeypatch):
    assert dispatch.resolve("auto", "cpu") == ("native" if native.available() else "cpu")
    assert dispatch.resolve("auto", "cpu", gradients=True) == "naive"
    assert dispatch.resolve("naive", "mps") == "naive"
    monkeypatch.setattr(dispatch, "present", lambda name: name not in ("triton", "native"))
    assert dispatch.resolve("auto", "cpu") == "cpu"
    assert dispatch.resolve("auto", "cuda") == "naive"
    with pytest.raises(InputError, match="'triton' is not there on device 'cuda': choose one of auto, naive"):
        dispatch.resolve("triton", "cuda")


@pytest.mark.parametrize("backend", ["triton", "metal"])
def test_a_backend_of_another_device_is_refused(backend):
    with pytest.raises(InputError, match=f"'{backend}' is not there on device 'cpu': choose one of auto, .*cpu, naive"):
        dispatch.relu_attention(*inputs(), backend=backend)


def test_an_unknown_backend_is_refused():
    with pytest.raises(InputError, match="'cuda' is unknown: choose one of auto, naive, triton, metal, native, cpu"):
        dispatch.resolve("cuda", "cuda")


@pytest.mark.parametrize(
    ("backend", "module"),
    [
        ("auto", "kernels.native" if native.available() else "kernels.cpu"),
        ("cpu", "kernels.cpu"),
        ("naive", "kernels.naive"),
    ],
)
def test_dispatch_takes_the_branch_that_it_names(backend, module, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module(module), "relu_attention", lambda *a, **k: "this one")
    assert dispatch.relu_attention(*inputs(), backend=backend) == "this one"


REPORT_ONLY = (
    *("papermill", "nbformat", "nbclient", "nbconvert", "IPython", "ipykernel"),
    *("altair", "vl_convert", "matplotlib_fontja", "typst", "jsonschema", "datasets", "triton"),
)
MEASURING = (
    *(
        "lib.timing.engine_bench",
        "lib.timing.speedups",
        "lib.engine.scoring",
        "lib.engine.generation",
        "lib.engine.interventions",
        "lib.analysis.head_effects",
        "lib.engine.stored_generation",
    ),
    *("lib.training.pretraining", "lib.timing.kernel_bench"),
)


def test_what_measures_needs_no_report_tools():
    """On a machine that only measures, `lib` and `kernels` run as they are, beside torch and transformers."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {REPORT_ONLY}:
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Absent())
import {", ".join(MEASURING)}
"""
    root = Path(__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
