"""Kernels forked from a process that has imported ahead what they all import: milliseconds in place of seconds.

Python's own fork server (`multiprocessing`) is that process. It imports `lib.pipeline.imported_ahead`, runs nothing and
has one thread, ends with the pipeline, and its kernels end with it.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from multiprocessing import forkserver
from pathlib import Path
from threading import Lock
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from lib.pipeline.child import die_with

PROVISIONER = "experiment10-forked"
LEADS_WITHIN = 30  # seconds
_preparing = Lock()  # kernels are started from several threads, and the environment is all of theirs


def prepare(imports: str, environment: Mapping[str, str]) -> None:
    """Has the fork server started, if none runs yet, to import the modules that `imports` names, in `environment`."""
    multiprocessing.set_forkserver_preload(["lib.pipeline.imported_ahead"])
    wanted = {**environment, "EXPERIMENT10_IMPORTS": imports, "EXPERIMENT10_PARENT": str(os.getpid())}
    with _preparing:
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
    KernelProvisionerFactory.instance().provisioners[PROVISIONER] = EntryPoint(
        PROVISIONER, f"{__name__}:ForkedProvisioner", KernelProvisionerFactory.GROUP_NAME
    )


class ForkedProvisioner(LocalProvisioner):
    """Jupyter's own for this machine, but for how the process comes to be."""

    async def launch_kernel(self, cmd: list[str], **settings: Any) -> KernelConnectionInfo:
        self.process: Any = Forked(cmd, settings["env"], settings["cwd"])
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class Forked:
    """A forked process, with what is used of `subprocess.Popen`; the leader of its own group."""

    stdin = stdout = stderr = None

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        self._process = multiprocessing.get_context("forkserver").Process(
            target=run, args=(server, list(words), dict(environment), folder)
        )
        self._process.start()
        self._lock = Lock()  # its exit status can be read once
        assert self._process.pid is not None
        self.pid = self._process.pid
        deadline = time.monotonic() + LEADS_WITHIN
        while self.poll() is None and not self._leads() and time.monotonic() < deadline:
            time.sleep(0.001)

    def _leads(self) -> bool:
        try:
            return os.getpgid(self.pid) == self.pid
        except ProcessLookupError:
            return False

    def poll(self) -> int | None:
        with self._lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("kernel", timeout or 0)
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(server: int, words: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
    """In the process that `server` has forked: what `python -m lib.pipeline.child PID MODULE …` does in a new one."""
    os.setsid()
    die_with(server)
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]  # the server ends with the last
    multiprocessing.set_start_method(None, force=True)  # a kernel's own processes start as anywhere
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = [place for place in sys.path if place not in ("", str(Path(folder)))]
    sys.argv = [*words, f"--IPKernelApp.parent_handle={server}"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
