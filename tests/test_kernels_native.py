"""The compiled CPU kernels: both forms against float64, their masks and bits, and what happens without a compiler."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import LENGTHS, close, inputs, strided

from kernels import cpu, naive, native
from lib.engine import dispatch
from lib.errors import InputError

pytestmark = pytest.mark.skipif(not native.available(), reason="no C++ compiler here: kernels/cpu.py stands in")
TYPES = (torch.float32, torch.bfloat16)
FORMS = {"relu": naive.relu_attention, "softmax": naive.softmax_attention}


def run(form, *arrays, **settings):
    return getattr(native, f"{form}_attention")(*arrays, **settings)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [*TYPES, torch.float16])
@pytest.mark.parametrize("length", [n for n in LENGTHS if n >= native.LEAST_QUERIES])
def test_lengths(length, dtype, form):
    q, k, v = inputs((1, 2, length, 16), dtype=dtype)
    for _ in range(2):
        out = torch.full_like(q, float("nan"))
        assert run(form, q, k, v, out=out) is out
        check(form, out, q, k, v)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("d_head", [1, 7, 8, 12, 13, 16, 32, 64, 80, 128])
def test_head_sizes(d_head, dtype, form):
    q, k, v = inputs((1, 2, 131, d_head), dtype=dtype)
    check(form, run(form, q, k, v), q, k, v)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("shape", "n_keys", "group", "n_visible"),
    [
        ((2, 4, 129, 13), 300, 2, 290),
        ((20, 12, 9, 12), 9, 1, 9),
        ((3, 5, 257, 64), 257, 5, 257),
        ((1, 2, 8, 12), 1000, 1, 900),
    ],
)
def test_shapes(shape, n_keys, group, n_visible, dtype, form):
    """Grouped heads, more keys than queries, and keys past the visible ones, which are never read."""
    q, k, v = inputs(shape, n_keys, group, dtype)
    k[:, :, n_visible:] = v[:, :, n_visible:] = float("nan")
    z = run(form, q, k, v, n_visible=n_visible)
    k[:, :, n_visible:] = v[:, :, n_visible:] = 0
    check(form, z, q, k, v, n_visible=n_visible)
    assert torch.equal(z, run(form, q, k, v, n_visible=torch.tensor([n_visible])))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES)
def test_no_row_sees_the_future(form, dtype):
    """Each key and value changed in turn moves the rows from its own on, and not one bit of those before."""
    q, k, v = inputs((1, 2, 75, 12), dtype=dtype)
    q, k = q.abs(), k.abs()
    before = run(form, q, k, v)
    for key in range(75):
        other = [x.clone() for x in (k, v)]
        for x in other:
            x[:, :, key] += 1
        after = run(form, q, *other)
        assert torch.equal(before[:, :, :key], after[:, :, :key])
        assert not torch.equal(before[:, :, key], after[:, :, key])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("factor", [1e-6, 1e-3, 3.0])
def test_small_and_large_scores(factor, dtype, form):
    q, k, v = inputs((1, 2, 200, 16), dtype=dtype, factor=factor)
    check(form, run(form, q, k, v), q, k, v)
    check(form, run(form, q, k, v, scale=2e-7), q, k, v, scale=2e-7)


@pytest.mark.parametrize("factor", [60.0, 1e3])
def test_huge_scores(factor):
    q, k, v = inputs((1, 2, 200, 16), factor=factor)
    close(native.relu_attention(q, k, v), q, k, v)
    z = native.softmax_attention(q, k, v)
    assert z.isfinite().all()
    one_hot = (q.double() @ k.double().mT).masked_fill(~naive.visible(200, 200, 200), -torch.inf).argmax(-1)
    sharp = v.gather(2, one_hot[..., None].expand_as(v))
    assert ((z - sharp).abs().amax(-1) < 1e-3).float().mean() > 0.9


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_without_a_positive_score_give_zero(dtype):
    q, k, v = inputs((1, 2, 300, 16), dtype=dtype)
    dead = torch.arange(300) % 3 == 0
    q[:, 0, dead], k[:, 0] = -q[:, 0, dead].abs(), k[:, 0].abs()
    z = native.relu_attention(q, k, v)
    assert (z[:, 0, dead] == 0).all() and (z[:, 1] != 0).any()
    close(z, q, k, v)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES)
def test_nan_is_not_hidden(form, dtype):
    q, k, v = inputs((1, 1, 40, 12), dtype=dtype)
    q[0, 0, 5, 3] = float("nan")
    z = run(form, q, k, v)
    assert z[0, 0, 5].isnan().all() and z[0, 0, 6:].isfinite().all()
    k[0, 0, 20, 0] = float("nan")
    z = run(form, q, k, v)
    assert z[0, 0, 20:].isnan().all() and z[0, 0, 6:20].isfinite().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("d_head", "n_queries", "n_keys"), [(64, 300, 300), (12, 1024, 1024), (12, 77, 90)])
def test_bits_of_a_head_depend_on_that_head_alone(d_head, n_queries, n_keys, dtype, form):
    q, k, v = inputs((2, 6, n_queries, d_head), n_keys, 2, dtype)
    z = run(form, q, k, v)
    spread = [strided(x) for x in (q, k, v)]
    turned = [x.mT.contiguous().mT for x in (q, k, v)]
    for kv_head in range(3):
        heads = slice(2 * kv_head, 2 * kv_head + 2)
        alone = run(form, spread[0][1:, heads], *(x[1:, kv_head : kv_head + 1] for x in spread[1:]))
        assert torch.equal(alone, z[1:, heads])
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            assert torch.equal(run(form, *spread), z)
            assert torch.equal(run(form, *turned), z)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("pattern", ["mixed", "all", "none"])
def test_mixed_heads(pattern):
    q, k, v = inputs((2, 6, 130, 16), group=3)
    is_relu = {"mixed": [True, False, True, True, False, False], "all": 6 * [True], "none": 6 * [False]}[pattern]
    z = native.mixed_attention(q, k, v, is_relu)
    close(z, q, k, v, reference=lambda *x, **kw: naive.mixed_attention(*x, is_relu, **kw))


def test_what_the_library_does_not_take_goes_elsewhere():
    for shape, dtype in (((1, 2, 1, 16), torch.float32), ((1, 2, 40, 16), torch.float64), ((1, 1, 40, 130), TYPES[0])):
        q, k, v = inputs(shape, dtype=dtype)
        assert not native.suits(q, "relu")
        assert torch.equal(native.relu_attention(q, k, v), cpu.relu_attention(q, k, v))
        with pytest.raises(InputError, match="use PyTorch's"):
            native.softmax_attention(q, k, v)
        z = dispatch.softmax_attention(q, k, v, scale=0.25, backend="native")
        close(z, q, k, v, reference=naive.softmax_attention, scale=0.25)


def test_gradients_are_refused():
    q, k, v = inputs()
    q.requires_grad_()
    for form in FORMS:
        with pytest.raises(InputError, match="naive"):
            run(form, q, k, v)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a new process of a new user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clear = (native._library, native._agrees, native._own_folder)
    for function in clear:
        function.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    for function in clear:
        function.cache_clear()


@pytest.fixture
def undecided():
    """As in a new process, with the library compiled."""
    native._agrees.cache_clear()
    yield
    native._agrees.cache_clear()


def test_a_form_that_disagrees_is_not_used(undecided, monkeypatch, capfd):
    whole = native._attention
    monkeypatch.setattr(native, "_attention", lambda *x, **kw: whole(*x, **kw).mul_(1.001))
    q, k, v = inputs()
    assert torch.equal(native.relu_attention(q, k, v), cpu.relu_attention(q, k, v))
    native.relu_attention(q, k, v)
    said = capfd.readouterr().err
    assert "native relu attention at d_head 16" in said and said.count("\n") == 1


def test_without_a_compiler_the_cpu_backend_is_taken(fresh, monkeypatch):
    monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler",))
    monkeypatch.delenv("CXX", raising=False)
    assert not native.available()
    assert dispatch.resolve("auto", "cpu") == "cpu"
    with pytest.raises(InputError, match="'native' is not there on device 'cpu': choose one of auto, cpu, naive"):
        dispatch.resolve("native", "cpu")


def test_a_compiler_that_fails_is_one_line(fresh, monkeypatch, capfd):
    def compile(compiler, path, runtime):
        raise subprocess.SubprocessError("it broke\nin two places")

    monkeypatch.setattr(native, "_compile", compile)
    assert not native.available()
    assert capfd.readouterr().err.count("\n") == 1


def test_what_was_compiled_is_kept(fresh, monkeypatch):
    assert native.available()
    (made,) = fresh.rglob("*.so")
    native._library.cache_clear()
    monkeypatch.setattr(native, "_compile", lambda *x: pytest.fail("compiled again"))
    assert native.available()
    assert list(fresh.rglob("*.so")) == [made]


@pytest.mark.parametrize("scale", [None, 0.3])
def test_a_row_that_needs_its_maximum_taken_off_moves_no_other(scale):
    """Small scores have none taken off: beside a row of huge ones, before or behind it, they keep their bits."""
    q, k, v = inputs((1, 1, 150, 12))
    before = native.softmax_attention(q, k, v, scale=scale)
    for huge in (0, 31, 64, 149):
        q_there = q.clone()
        q_there[0, 0, huge] *= 1e3
        z = native.softmax_attention(q_there, k, v, scale=scale)
        others = torch.arange(150) != huge
        assert torch.equal(z[0, 0, others], before[0, 0, others])
        check("softmax", z, q_there, k, v, scale=scale)
    k_there = k.clone()
    k_there[0, 0, 100] *= 1e3
    assert torch.equal(native.softmax_attention(q, k_there, v, scale=scale)[0, 0, :100], before[0, 0, :100])


def drawn_logits(n_rows, n_columns, factor=5.0):
    generator = torch.Generator().manual_seed(n_columns)
    return factor * torch.randn(n_rows, n_columns, generator=generator)


@pytest.mark.parametrize("n_columns", [1, 3, 15, 16, 17, 63, 64, 65, 97, 2048, 50257])
@pytest.mark.parametrize("factor", [1e-3, 5.0, 300.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_sums_of_likelihoods(n_columns, factor, offset):
    """To the precision of the likelihoods that are made of them."""
    logits = drawn_logits(9, n_columns, factor) + offset
    targets = torch.arange(9) * 7919 % n_columns
    nll = F.cross_entropy(logits.double(), targets, reduction="none")
    found = native.log_sum_exp(logits)
    assert found.dtype == torch.float64
    error = (found - logits.double().logsumexp(1)).abs().max()
    assert error <= naive.tolerance(torch.float32) * max(1.0, float(nll.max()))


def test_a_sum_s_bits_are_its_row_s_alone():
    logits = drawn_logits(300, 5000)
    whole = native.log_sum_exp(logits)
    wide = torch.full((300, 5003), float("nan"))
    wide[:, 2:-1] = logits
    assert torch.equal(native.log_sum_exp(wide[:, 2:-1]), whole)
    assert torch.equal(native.log_sum_exp(logits.T.contiguous().T), whole)
    assert torch.equal(torch.cat([native.log_sum_exp(logits[i : i + 7]) for i in range(0, 300, 7)]), whole)
    half = logits.bfloat16()
    assert torch.equal(native.log_sum_exp(half), native.log_sum_exp(half.float()))


def test_sums_of_what_is_not_finite():
    logits = drawn_logits(4, 100)
    logits[0, 99], logits[1, 3], logits[2, 3] = (float(x) for x in ("nan", "inf", "-inf"))
    sums = native.log_sum_exp(logits)
    assert sums[:2].isnan().all() and sums[2:].isfinite().all()


@pytest.mark.parametrize("backend", ["native", "naive"])
def test_likelihoods(backend):
    logits, targets = drawn_logits(9, 5000), torch.arange(0, 4500, 500)
    wanted = F.cross_entropy(logits.double(), targets, reduction="none")
    for given in (logits, logits.bfloat16().float()):
        wanted = F.cross_entropy(given.double(), targets, reduction="none")
        found = dispatch.token_nll(given, targets, backend=backend)
        assert found.dtype == torch.float32
        assert (found - wanted).abs().max() <= naive.tolerance(torch.float32) * float(wanted.max())
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        dispatch.token_nll(logits, targets + 1000, backend=backend)


def test_sums_with_gradients_are_pytorch_s():
    logits = drawn_logits(4, 50).requires_grad_()
    native.log_sum_exp(logits).sum().backward()
    assert logits.grad is not None


@pytest.fixture
def computed():
    """(q, k, v, z) as the library gives it that every test has: requested before `fresh`, it is not compiled again."""
    q, k, v = (torch.randn(1, 4, 300, 16) for _ in range(3))
    return q, k, v, native.relu_attention(q, k, v)


def test_threads_of_its_own_where_there_is_no_openmp(computed, fresh, monkeypatch):
    """Alike to the bit; so where OpenMP's runtime cannot be linked."""
    *qkv, shared = computed
    for runtime in (None, Path("/no/such/libgomp.so")):
        monkeypatch.setattr(native, "_openmp", lambda runtime=runtime: runtime)
        native._library.cache_clear()
        assert native.available()
        assert torch.equal(native.relu_attention(*qkv), shared)
    assert len(list(fresh.rglob("*.so"))) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's OpenMP is looked for in /proc")
def test_openmp_is_pytorch_s_own():
    runtime = native._openmp()
    if runtime is None:
        pytest.skip("this PyTorch has no GNU OpenMP of its own")
    torch.randn(300, 300) @ torch.randn(300, 300)
    assert native.available()
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    named = ("libgomp", "libomp", "libiomp")
    loaded = {line.split(maxsplit=5)[5] for line in lines if line.rsplit("/", 1)[-1].startswith(named)}
    assert loaded == {str(runtime)}


def check(form, z, q, k, v, **settings):
    if form == "relu":
        close(z, q, k, v, **settings)
        return
    wanted = naive.softmax_attention(*(x.double() for x in (q, k, v)), **settings)
    assert naive.relative_error(z, wanted) <= naive.tolerance(z.dtype)
    apart = (z.double() - wanted).abs()
    largest = naive.softmax_attention(q.double(), k.double(), v.double().abs(), **settings)
    assert (apart <= 4 * naive.tolerance(z.dtype) * largest).all()
