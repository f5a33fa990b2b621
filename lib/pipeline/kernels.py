"""Kernels for notebooks: over sockets in a private folder, with this interpreter, ending with the pipeline."""

import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import machine
from lib.pipeline import children, notebooks

DRAWING = ("report.charts.validation", "report.prose")
PRELOADED = {
    "measure": (
        "lib.pipeline.run",
        "lib.engine.generation",
        "lib.engine.scoring",
        "lib.analysis.head_effects",
        *DRAWING,
    ),
    "redraw": ("lib.pipeline.run", *DRAWING),
}
GPUS = ("/dev/nvidiactl", "/dev/kfd")  # NVIDIA's and AMD's: what their drivers know does not outlive a fork
PREFIX = "experiment10-kernel-"
LONGEST = 60  # characters of a folder in which sockets can still be named everywhere
TRIES = 3
READY_WITHIN = 120  # seconds
EMPTIED_WITHIN = 10
heights = {0}  # bytes of memory that kernels have taken


@dataclass
class Kernel:
    manager: Any
    process: Any
    resources: ExitStack
    figures: Path  # where figures wait until all are drawn

    def note_memory(self) -> None:
        """Keeps what it has taken at its height, for `peak`: a forked kernel is not this process's own child."""
        heights.add(machine.peak_memory(self.process.pid) or 0)

    def stop(self) -> None:
        from jupyter_core.utils import run_sync

        self.note_memory()
        children.kill(self.process.pid)
        self.process.wait()
        run_sync(self.manager.cleanup_resources)()
        self.resources.close()

    def emptied(self) -> bool:
        """Takes away the figures and the names of the notebook that it has run; whether it answers."""
        from jupyter_core.utils import run_sync

        async def reset() -> bool:
            reply = await client.execute("%reset -f", silent=True, reply=True, timeout=EMPTIED_WITHIN)
            return bool(reply["content"]["status"] == "ok")

        for path in self.figures.iterdir():
            path.unlink()
        with suppress(RuntimeError, TimeoutError), self.client() as client:
            return run_sync(reset)()
        return False

    @contextmanager
    def client(self) -> Iterator[Any]:
        client = self.manager.client()
        client.start_channels()
        try:
            yield client
        finally:
            client.stop_channels()

    def end(self) -> str | None:
        """How a kernel that has died came to its end, in words, with the likely cause."""
        with suppress(TimeoutError):
            deadline = time.monotonic() + 2
            while self.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
        status = self.process.poll()
        if status is None:
            return None
        memory = f"the largest process so far took {gib(peak())}, the machine has {gib(machine_memory())}"
        if status == -signal.SIGKILL:
            return f"its kernel was killed, most likely for want of memory ({memory})"
        if status < 0:
            return f"its kernel died of a native fault ({signal.Signals(-status).name}; {memory})"
        return f"its kernel ended by itself (exit status {status})"


class Kernels:
    """Kernels for one notebook after another, the next one started ahead.

    Starting one takes a core half a second, and some more where it has to import what all sections import, which a
    section that computes can spare; one that measures times can when it has measured them.
    """

    def __init__(self) -> None:
        self.spare: Kernel | None = None
        remove_leftovers()

    def take(self) -> Kernel:
        kernel, self.spare = self.spare or start("measure"), None
        return answering(kernel, "measure")

    def import_ahead(self, **environment: str) -> None:
        """Has imported what all of them do, while something else is done: by the first, where they are not forked."""
        if not prepare("measure"):
            self.start_ahead(**environment)

    def start_ahead(self, **environment: str) -> None:
        self.spare = self.spare or start("measure", **environment)

    def close(self) -> None:
        if self.spare is not None:
            self.spare.stop()
            self.spare = None


class DrawingKernels:
    """Kernels that draw one notebook after another, each without the names of the one before."""

    def __init__(self) -> None:
        self.free: list[Kernel] = []

    @contextmanager
    def one(self) -> Iterator[Kernel]:
        """A kernel for one notebook: one that is free, or else a new one. It does not outlive a failure."""
        try:
            kernel = self.free.pop()
        except IndexError:
            kernel = answering(start("redraw"), "redraw")
        try:
            yield kernel
            emptied = kernel.emptied()
        except BaseException:
            kernel.stop()
            raise
        if emptied:
            self.free.append(kernel)
        else:
            kernel.stop()

    def close(self) -> None:
        while self.free:
            self.free.pop().stop()


def answering(kernel: Kernel, task: str) -> Kernel:
    """The kernel, or another in its place where it does not answer, as where another program took its port."""
    for _ in range(TRIES - 1):
        if answers(kernel):
            break
        kernel.stop()
        kernel = start(task)
    return kernel


def start(task: str | None = None, **environment: str) -> Kernel:
    """A `Kernel`, which need not answer yet. Its connection, keys and sockets lie in a folder of this user's alone.

    For a `task` it imports ahead what all sections import: to "redraw", nothing that measures. `environment` comes on
    top of this process's own.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_core.utils import run_sync

    forked = prepare(task)

    class OwnKernelSpec(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            words = ("ipykernel_launcher", "-f", "{connection_file}")
            return KernelSpec(
                argv=list(words) if forked else children.command(*words),
                display_name=kernel_name,
                language="python",
                metadata={"supported_encryption": ["curve"]} | forked,
            )

    with ExitStack() as resources:
        folder = private_folder()
        resources.callback(children.folders.discard, folder)
        resources.callback(shutil.rmtree, folder, ignore_errors=True)
        children.folders.add(folder)
        manager = AsyncKernelManager(
            kernel_name="python3",
            transport=transport(),
            transport_encryption="required",
            connection_file=str(Path(folder) / "k.json"),
            kernel_spec_manager=OwnKernelSpec(),
        )
        figures = Path(folder) / "figures"
        figures.mkdir()
        environment |= {"EXPERIMENT10_PIPELINE": "0", "PYTHONHASHSEED": "0"}
        environment["EXPERIMENT10_TERMINAL"] = str(int(sys.stderr.isatty()))
        environment["EXPERIMENT10_FIGURES"] = str(figures)
        imported = ", ".join(("lib.pipeline.sampling", *PRELOADED[task])) if task else ""
        arguments = [f"--IPKernelApp.exec_lines=import {imported}; lib.pipeline.sampling.begin()"] if task else []
        run_sync(manager.start_kernel)(
            cwd=str(notebooks.NOTEBOOKS),
            env=children.environment(**environment),
            stdin=resources.enter_context(children.lifeline()),
            extra_arguments=[*arguments, "--HistoryManager.hist_file=:memory:"],
        )
        provisioner: Any = manager.provisioner  # a local one, which has the process
        process = provisioner.process
        children.processes.add(process.pid)
        return Kernel(manager, process, resources.pop_all(), figures)


def prepare(task: str | None) -> dict[str, Any]:
    """Has what kernels for a `task` import imported once, ahead of them; what their spec says for them to be forked.

    Nothing where they can't be forked.
    """
    if task is None or sys.platform != "linux" or any(map(os.path.exists, GPUS)):
        return {}
    from lib.pipeline import forking

    forking.prepare(" ".join(PRELOADED[task]), children.environment(PYTHONHASHSEED="0"))
    return {"kernel_provisioner": {"provisioner_name": forking.PROVISIONER}}


def answers(kernel: Kernel) -> bool:
    """Whether a kernel replies; one that has died does not."""
    from jupyter_core.utils import run_sync

    with suppress(RuntimeError), kernel.client() as client:
        run_sync(client.wait_for_ready)(timeout=READY_WITHIN)
        return True
    return False


def transport() -> str:
    """Sockets in the file system, which nobody else can take, where there are such; else ports."""
    return "ipc" if hasattr(socket, "AF_UNIX") and sys.platform != "win32" else "tcp"


def private_folder() -> str:
    place = None if len(tempfile.gettempdir()) <= LONGEST else "/tmp"
    return tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place)


def remove_leftovers() -> None:
    """Takes away the folders of pipelines that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            os.kill(int(folder.name.removeprefix(PREFIX).split("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def peak() -> int:
    """Bytes of memory that the largest child of this process, or kernel, took at its height."""
    own = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(own, *heights)


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's."""
    limit = Path("/sys/fs/cgroup/memory.max")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        total = min(total, int(limit.read_text(encoding="utf-8")))
    return total


def gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
