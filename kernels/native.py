"""Causal attention and the likelihood of tokens by `cpu_native.cpp`, compiled where there is a C++ compiler.

Never required: where there is none, other code computes the same.

The library is kept in the user's cache by a digest of what made it: the source, the compiler, its flags and the
processor. Each form is held against `naive` before its first use in a process; one that disagrees is not used.

A row's bits depend on its q and on the keys and values that it sees alone: not on the heads beside it, the batch, the
number of threads or the layout of the inputs.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from kernels import by_head, cpu, naive
from kernels.inputs import checked, output_like, without_gradients
from lib import machine
from lib.errors import InputError, first_line
from lib.files import replacing

SOURCE = Path(__file__).with_name("cpu_native.cpp")
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-pthread")
TARGETS = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler knows
D_HEAD = range(1, 129)
TYPES = (torch.float32, torch.bfloat16, torch.float16)
LEAST_QUERIES = 8  # below that, as in a decoding step, the lanes would lie idle
THREADED_WORK = 2**20  # multiplications under which starting a thread costs more than it saves


def available() -> bool:
    """Whether this machine has the compiled library: compiles it the first time."""
    return _library() is not None


def relu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    n_visible: int | Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """z [B, H, T, d] of q [B, H, T, d], k and v [B, H_kv, S, d]; see `kernels.naive`. No gradients.

    Computed in float32 and rounded once. bfloat16 goes through the processor's matrix unit where it has one (AMX),
    which rounds the weights to bfloat16 before they meet v. What the library does not take (float64, d above 128,
    fewer than eight query rows) goes through `kernels.cpu`.
    """
    scale, n_visible = checked(q, k, v, scale, n_visible)
    without_gradients("native", q, k, v)
    n_seen = int(n_visible)
    if not suits(q, "relu"):
        return cpu.relu_attention(q, k, v, scale=scale, n_visible=n_seen, out=out)
    return _attention(q, k, v, scale, n_seen, output_like(q, out), softmax=False)


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    n_visible: int | Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The same with softmax, for inputs that `suits` says yes to; else `InputError`."""
    scale, n_visible = checked(q, k, v, scale, n_visible)
    without_gradients("native", q, k, v)
    if not suits(q, "softmax"):
        raise InputError(f"native softmax got {list(q.shape)} {q.dtype}: use PyTorch's")
    return _attention(q, k, v, scale, int(n_visible), output_like(q, out), softmax=True)


mixed_attention = by_head.mixed("native", relu_attention)


def log_sum_exp(logits: Tensor) -> Tensor:
    """log Σ exp(logits) of each row [n, n_columns], float64 [n], natural logarithm; NaN where one is NaN or +inf.

    A row's bits depend on that row alone. What the library does not take (gradients, another device) is PyTorch's.
    """
    logits = logits.float()
    wants_gradient = torch.is_grad_enabled() and logits.requires_grad
    on_cpu = logits.device.type == "cpu" and logits.ndim == 2 and logits.numel() > 0
    if wants_gradient or not on_cpu or not available() or not _sums_agree():
        return logits.logsumexp(-1).double()
    return _sums(logits if logits.stride(1) == 1 else logits.contiguous())


def _sums(logits: Tensor) -> Tensor:
    sums = torch.full((len(logits),), float("nan"), dtype=torch.float64)
    n_threads = torch.get_num_threads() if logits.numel() >= THREADED_WORK else 1
    library = _library()
    assert library is not None, "`log_sum_exp` and `_sums_agree` ask first"
    library.log_sum_exp(logits.data_ptr(), logits.stride(0), sums.data_ptr(), *logits.shape, n_threads)
    return sums


def suits(q: Tensor, form: str) -> bool:
    """Whether the library takes q [B, H, T, d], and its `form` (relu or softmax) agrees with `naive` here."""
    return (
        q.device.type == "cpu"
        and q.dtype in TYPES
        and q.shape[3] in D_HEAD
        and q.shape[2] >= LEAST_QUERIES
        and q.numel() > 0
        and available()
        and _agrees(form, torch.float32 if q.dtype == torch.float16 else q.dtype, q.shape[3])
    )


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float, n_visible: int, z: Tensor, softmax: bool) -> Tensor:
    if q.dtype == torch.float16:
        return z.copy_(_attention(q.float(), k.float(), v.float(), scale, n_visible, z.float(), softmax))
    n_threads = torch.get_num_threads() if q.numel() * n_visible >= THREADED_WORK else 1
    sizes = (*q.shape[:2], q.shape[1] // k.shape[1], q.shape[2], n_visible, q.shape[3])
    strides = [step for x in (q, k, v, z) for step in x.stride()]
    library = _library()
    assert library is not None, "`suits` and `_agrees` ask first"
    failed = library.attention(
        *(x.data_ptr() for x in (q, k, v, z)),
        (ctypes.c_int64 * 6)(*sizes),
        (ctypes.c_int64 * 16)(*strides),
        scale,
        q.dtype == torch.bfloat16,
        softmax,
        n_threads,
    )
    if failed:
        raise InputError(f"native attention of {list(q.shape)} and {n_visible} keys did not fit into memory")
    return z


@cache
def _agrees(form: str, dtype: torch.dtype, d_head: int) -> bool:
    """Whether the library gives what `naive` gives, on a shape with ragged blocks; says so in one line where not."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 2, 75, d_head), (1, 1, 139, d_head), (1, 1, 139, d_head)]
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    z = torch.full_like(q, float("nan"))
    scale = d_head**-0.5
    with torch.inference_mode():
        _attention(q, k, v, scale, 131, z, form == "softmax")
        wanted = getattr(naive, f"{form}_attention")(*(x.double() for x in (q, k, v)), scale=scale, n_visible=131)
    error = naive.relative_error(z, wanted)
    if error <= naive.tolerance(dtype):
        return True
    print(
        f"native {form} attention at d_head {d_head} in {dtype} is off by {error:.1e}: PyTorch computes it instead",
        file=sys.stderr,
    )
    return False


@cache
def _sums_agree() -> bool:
    """Whether the library's sums are those of float64, on rows with a ragged end."""
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(7, 1003, generator=generator)
    error = naive.relative_error(_sums(logits), logits.double().logsumexp(-1))
    if error <= naive.tolerance(torch.float32):
        return True
    print(f"native likelihoods are off by {error:.1e}: PyTorch computes them instead", file=sys.stderr)
    return False


@cache
def _library() -> ctypes.CDLL | None:
    """The library, loaded; None where none can be compiled."""
    names = filter(None, (os.environ.get("CXX"), *COMPILERS))
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None or sys.platform == "win32":
        return None
    try:
        library = ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"the native library does not compile ({first_line(error)}): PyTorch computes it", file=sys.stderr)
        return None
    pointer = ctypes.c_void_p
    library.attention.argtypes = [
        *(pointer, pointer, pointer, pointer, ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int64)),
        *(ctypes.c_float, ctypes.c_int, ctypes.c_int, ctypes.c_int64),
    ]
    library.log_sum_exp.argtypes = [pointer, ctypes.c_int64, pointer, *3 * (ctypes.c_int64,)]
    library.log_sum_exp.restype = None
    return library


def _built(compiler: str) -> Path:
    """Path of the compiled library, in the user's cache."""
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, errors="replace", check=True
    ).stdout
    runtime = _openmp()
    made_of = (
        SOURCE.read_text(encoding="utf-8"),
        compiler,
        version,
        *FLAGS,
        str(TARGETS),
        str(runtime),
        machine.instructions(),
    )
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:32]
    path = _cache_folder() / f"attention-{name}.so"
    if not path.is_file():
        with replacing(path) as partial:
            _compile(compiler, partial, runtime)
    return path


def _openmp() -> Path | None:
    """GNU's OpenMP runtime as PyTorch has loaded it, whose threads the library then shares; None where it has another.

    Linked by its path: another copy of it would keep threads of its own, and each would wait for the other's.
    """
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    loaded = {line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line}
    return Path(loaded.pop()) if len(loaded) == 1 else None


def _compile(compiler: str, path: Path, runtime: Path | None) -> None:
    """Compiles and links: with OpenMP where that can be had, and for the first of `TARGETS` that the compiler knows."""
    with tempfile.TemporaryDirectory(prefix="experiment10-") as folder:
        made = str(Path(folder) / "attention.o")
        for own, target in product([runtime, None] if runtime else [None], TARGETS):
            threads, libraries = (["-fopenmp"], [str(own), "-Wl,-z,defs"]) if own else ([], [])
            compiled = [compiler, *FLAGS, *target, *threads, "-c", str(SOURCE), "-o", made]
            done = subprocess.run(compiled, capture_output=True, text=True, errors="replace", timeout=300)
            if done.returncode == 0:
                linked = [compiler, "-shared", "-pthread", made, *libraries, "-o", str(path)]
                done = subprocess.run(linked, capture_output=True, text=True, errors="replace", timeout=300)
            if done.returncode == 0:
                return
    raise subprocess.SubprocessError(done.stderr or f"{compiler} ended with {done.returncode}")


def _cache_folder() -> Path:
    """A folder of this user's own, that nobody else can write to."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "experiment10"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(home, os.W_OK) and home.stat().st_uid == os.getuid():
            return home
    except OSError:
        pass
    return _own_folder()


@cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="experiment10-"))
