"""The Metal source, compiled as C++ behind a shim, against float64; the real thing where there is an Apple GPU."""

import ctypes
import shutil
import subprocess

import pytest
import torch
from kernel_checks import LENGTHS, close, inputs, strided

from kernels import metal

compiler = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(compiler is None, reason="no C++ compiler: neither g++ nor clang++ is on the path")
has_metal = torch.backends.mps.is_available()
needs_apple = pytest.mark.skipif(not has_metal, reason="no Apple GPU: torch.backends.mps.is_available() is False")

GRIDS = """
extern "C" void forward_grid(uint x, uint y, ELEMENT* q, ELEMENT* k, ELEMENT* v, ELEMENT* z, int* visible, long n,
    float scale, long a, long b, long c, long d, long e, long f, long g, long h, long i, long j, long l, long m,
    long o, long p, long r) {
    launch(x, y, THREADS, [=](uint3 group, uint index) {
        relu_forward(q, k, v, z, visible, n, scale, a, b, c, d, e, f, g, h, i, j, l, m, o, p, r, group,
                     uint3{x, y, 1}, index); });
}
extern "C" void decode_grid(uint x, uint y, ELEMENT* q, ELEMENT* k, ELEMENT* v, float* parts, float* sums,
    int* visible, long n, long span, long a, long b, long c, long d, long e, long f, long g, long h, long i, long j,
    long l, long m) {
    launch(x, y, DECODE_THREADS, [=](uint3 group, uint index) {
        relu_decode(q, k, v, parts, sums, visible, n, span, a, b, c, d, e, f, g, h, i, j, l, m, group,
                    uint3{x, y, 1}, index); });
}
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """`(dtype, d_head) -> relu_attention`, through the compiled source."""
    built = {}

    def build(dtype, d_head):
        if (dtype, d_head) not in built:
            folder = tmp_path_factory.mktemp("metal")
            code = metal.source(dtype, d_head).replace("#include <metal_stdlib>", '#include "metal_shim.hpp"')
            (folder / "kernel.cpp").write_text(code + GRIDS)
            subprocess.run(
                [
                    compiler,
                    "-std=c++20",
                    "-O1",
                    "-shared",
                    "-fPIC",
                    "-pthread",
                    "-Wno-attributes",
                    "-I",
                    metal.SOURCE.parent,
                    "-o",
                    folder / "kernel.so",
                    folder / "kernel.cpp",
                ],
                check=True,
            )
            built[dtype, d_head] = ctypes.CDLL(str(folder / "kernel.so"))
        return built[dtype, d_head]

    def relu_attention(q, k, v, scale=None, n_visible=None):
        library = build(q.dtype, q.shape[3])
        scale = scale or q.shape[3] ** -0.5
        n_visible = k.shape[2] if n_visible is None else n_visible
        if q.shape[2] <= metal.DECODE_QUERIES:
            arguments, grid, (parts, sums) = metal.decode_call(q, k, v, n_visible)
            parts.fill_(float("nan"))
            sums.fill_(float("nan"))
            library.decode_grid(*grid, *map(as_c, arguments))
            return metal.merged(parts, sums, scale).view(q.shape).to(q.dtype)
        z = torch.full_like(q, float("nan"))
        arguments, grid = metal.forward_call(q, k, v, z, scale, n_visible)
        library.forward_grid(*grid, *map(as_c, arguments))
        return z

    return relu_attention


def as_c(value):
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_long(value)


def agrees(run, q, k, v, **settings):
    runs = [run(q, k, v, **settings) for _ in range(2)]
    assert torch.equal(*runs)
    close(runs[0], q, k, v, **settings)
    return runs[0]


@needs_compiler
@pytest.mark.parametrize("length", LENGTHS[:7])
def test_lengths(shim, length):
    agrees(shim, *inputs((1, 2, length, 16)))


@needs_compiler
@pytest.mark.parametrize("d_head", [12, 64, 80, 128])
def test_head_sizes(shim, d_head):
    agrees(shim, *inputs((1, 1, 40, d_head)))
    agrees(shim, *inputs((1, 2, 1, d_head), 140))


@needs_compiler
@pytest.mark.parametrize("n_queries", [1, 33])
def test_half_precision(shim, n_queries):
    agrees(shim, *inputs((1, 2, n_queries, 16), 70, dtype=torch.bfloat16))


@needs_compiler
@pytest.mark.parametrize("n_queries", [1, 3, 20])
def test_groups_batches_strides_and_a_static_cache(shim, n_queries):
    q, k, v = (strided(x) for x in inputs((2, 4, n_queries, 16), 100, group=2))
    k[:, :, 77:] = v[:, :, 77:] = float("nan")
    z = shim(q, k, v, n_visible=77)
    assert torch.equal(z, shim(q, k, v, n_visible=torch.tensor([77])))
    close(z, q, k[:, :, :77], v[:, :, :77])


@needs_compiler
@pytest.mark.parametrize("n_queries", [1, 40])
@pytest.mark.parametrize("factor", [1e-6, 1e3])
def test_huge_and_tiny_scores(shim, n_queries, factor):
    agrees(shim, *inputs((1, 2, n_queries, 16), 70, factor=factor))
    agrees(shim, *inputs((1, 2, n_queries, 16), 70), scale=1e-11)


@needs_compiler
@pytest.mark.parametrize("n_queries", [1, 40])
def test_rows_without_a_positive_score_give_zero(shim, n_queries):
    q, k, v = inputs((1, 2, n_queries, 16), 70)
    q[:, 0, ::3], k[:, 0] = -q[:, 0, ::3].abs(), k[:, 0].abs()
    z = agrees(shim, q, k, v)
    assert not z[:, 0, ::3].any()
    assert z[:, 1].any()


@needs_apple
@pytest.mark.parametrize("dtype", metal.ELEMENTS)
@pytest.mark.parametrize("length", LENGTHS)
def test_on_an_apple_gpu(length, dtype):
    agrees(metal.relu_attention, *(x.to("mps") for x in inputs((2, 4, length, 64), group=2, dtype=dtype)))
    agrees(metal.relu_attention, *(x.to("mps") for x in inputs((2, 4, 1, 64), length, group=2, dtype=dtype)))
