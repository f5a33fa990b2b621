"""The Triton kernels: every case in the interpreter, on a GPU where there is one, and compiled ahead of time."""

import inspect
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed: it comes with PyTorch on Linux only")

import triton_cases  # noqa: E402

from kernels import compile as ahead_of_time  # noqa: E402
from kernels import triton_attention  # noqa: E402
from lib.errors import InputError  # noqa: E402
from lib.timing.gpu_session import INTERPRETED  # noqa: E402

HERE = Path(__file__).parent
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="no CUDA device: torch.cuda.is_available() is False, the interpreter stands in",
)


@pytest.fixture(scope="module", autouse=True)
def interpreter():
    """Every case in the interpreter: two processes of one thread each that share them and run beside the compiling."""
    environment = os.environ | INTERPRETED | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "triton_cases.py"), "--part", part, "2"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in "01"
    ]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def table():
    with warnings.catch_warnings(action="ignore"):
        rows = ahead_of_time.table(thorough=False)
    print("", f"Triton {triton.__version__}", *map(ahead_of_time.line, rows), sep="\n")
    return rows


@pytest.mark.parametrize("target", ahead_of_time.TARGETS)
def test_compiles_without_spilling(target, table):
    rows = [row for row in table if row["target"] == target]
    assert {row["kernel"] for row in rows} == set(ahead_of_time.MODULES)
    for row in rows:
        assert not ahead_of_time.exceeded(row), ahead_of_time.line(row)
        assert row["registers"] > 0, ahead_of_time.line(row)


def test_a_row_over_a_limit_is_named():
    row = {"target": "sm_90", "registers": 255, "spilled": 0, "shared": 232_448}
    assert ahead_of_time.exceeded(row) == []
    assert ahead_of_time.exceeded(row | {"spilled": 4, "shared": 232_449}) == ["spilled", "shared"]


def test_no_warp_moves_the_position_before_all_have_read_it():
    ptx = ahead_of_time.built("sm_90", "advance", "bf16", 64, ahead_of_time.PRODUCT_TILE, "branch").asm["ptx"]
    names = list(inspect.signature(ahead_of_time.triton_gpt2.advance.fn).parameters)
    (position,) = re.findall(rf"ld\.param\.\w+\s+(%\w+), \[advance_param_{names.index('position')}\]", ptx)
    reads = [found.end() for found in re.finditer(rf"ld\.global[^;]*\[ *{position} ", ptx)]
    assert reads and f"[ {position} " in ptx[max(reads) :]
    assert "bar.sync" in ptx[max(reads) : ptx.index("st.global")]


@pytest.fixture(scope="module")
def interpreted(interpreter):
    """`{case: its failure, or None}`."""
    found = {}
    for process in interpreter:
        output, complaints = process.communicate()
        assert process.returncode == 0, complaints
        found |= json.loads(output)
    return found


@pytest.mark.parametrize("case", triton_cases.cases("cpu", interpreted=True))
def test_interpreted(case, interpreted):
    assert interpreted[case] is None, interpreted[case]


@needs_gpu
@pytest.mark.parametrize("case", triton_cases.cases("cpu", interpreted=False))
def test_on_a_gpu(case):
    try:
        triton_cases.cases("cuda", interpreted=False)[case]()
    except triton.runtime.errors.OutOfResources as error:
        pytest.skip(f"no such tile on this device, tuning passes it over as well: {error}")


@needs_gpu
def test_decoding_in_a_cuda_graph():
    """One captured step follows the number of visible keys that the device holds."""
    q, k, v = triton_cases.inputs((1, 12, 1, 64), 256, dtype=torch.bfloat16, device="cuda")
    n_visible, z = torch.tensor([1], device="cuda"), torch.empty_like(q)
    triton_attention.relu_attention(q, k, v, n_visible=n_visible, out=z)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        triton_attention.relu_attention(q, k, v, n_visible=n_visible, out=z)
    for n in (1, 100, 256):
        n_visible.fill_(n)
        z.fill_(float("nan"))
        graph.replay()
        triton_cases.close(z, q, k, v, n_visible=n)


def test_tensors_on_another_device_are_refused():
    q, k, v = triton_cases.inputs()
    with pytest.raises(InputError, match="move them to a cuda device, or choose naive"):
        triton_attention.relu_attention(q, k, v)
