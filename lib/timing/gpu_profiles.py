"""Why a row of the kernels' bench is as fast as it is: roofline, registers, stalls.

`python -m lib.timing.gpu_profiles ROW` launches a row's operation a few times, for a profiler to look at.
"""

import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lib.engine import dispatch
from lib.errors import first_line
from lib.layout import ROOT
from lib.timing.kernel_bench import KernelBench, Rivals, jobs

NCU_SECTIONS = ("SpeedOfLight", "WarpStateStats", "Occupancy", "LaunchStats")
NCU_SECONDS = 60


def profile(row: Mapping[str, Any], job: tuple, device: str) -> dict[str, Any]:
    """Why a row of the bench is as fast as it is: its place under the roofline, its kernels' registers, its stalls."""
    kept = ("tflops", "share_of_matmul", "share_of_copy", "share_of_bandwidth", "rival", "times")
    found: dict[str, Any] = {"row": row["name"]} | {key: row[key] for key in kept if key in row}
    operation(job, device)()  # which chooses its tiles
    found["kernels"] = list(_kernels())
    found["stalls"] = _stalls(job[1])
    return found


def _kernels() -> Iterator[dict[str, Any]]:
    """Registers, spilled bytes and shared memory of the tiles that were chosen in this process."""
    from kernels import triton_attention
    from kernels.compile import compiled

    for key, tile in triton_attention._chosen.items():
        if key[0] == "strategy":
            yield {"kernel": "mixed heads", "strategy": tile}
            continue
        kernel = {"dq": "query_gradient", "dk dv": "key_gradients"}.get(key[0], "forward")
        mode = key[0] if kernel == "forward" else "relu"
        try:
            yield compiled("sm_90", kernel, "bf16", 64, tile, mode)
        except Exception as error:
            yield {"kernel": kernel, "tile": str(tile), "failed": f"{type(error).__name__}: {first_line(error)}"}


def _stalls(name: str) -> str | None:
    """What Nsight Compute says of the row's launches, None where it is not installed."""
    ncu = shutil.which("ncu")
    if ncu is None:
        return None
    sections = [word for section in NCU_SECTIONS for word in ("--section", section)]
    command = [ncu, *sections, "--launch-skip", "20", "--launch-count", "4", sys.executable, "-m", __name__, name]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=NCU_SECONDS)
    except subprocess.TimeoutExpired:
        return f"not within {NCU_SECONDS} s"
    return (done.stdout + done.stderr)[-20_000:]


class _Captured(Exception):
    """Carries what a row would have timed of ours."""


class _Untimed(KernelBench):
    """Makes a row's operation and hands it out."""

    def __init__(self, device: str) -> None:
        self.device, self.backend = device, dispatch.resolve("auto", device)
        self.rates, self.rows = defaultdict(lambda: 1.0), []
        self.skipped, self.failed = [], []

    def usable(self, name: str, contenders: Rivals, *_: Any) -> Rivals:
        return {}

    def compare(self, name: str, ours: Callable[[], Any], *_: Any, **__: Any) -> None:
        raise _Captured(ours)

    def times(self, contenders: Rivals) -> Any:
        raise _Captured(next(iter(contenders.values())))


def operation(job: tuple, device: str) -> Callable[[], Any]:
    """The operation that one of the bench's jobs times of ours."""
    method, name, *arguments = job
    try:
        getattr(_Untimed(device), method)(name, *arguments)
    except _Captured as found:
        return found.args[0]
    raise RuntimeError(f"row {name} times nothing")


if __name__ == "__main__":
    run = operation(next(job for job in jobs("cuda") if job[1] == sys.argv[1]), "cuda")
    for _ in range(10):
        run()
