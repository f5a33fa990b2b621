"""dask's scheduler and workers as processes of their own, by the commands of `docs/cluster.md`, to be killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil

from lib.layout import ROOT


def command(*words):
    """`dask …`, by this interpreter."""
    return [sys.executable, "-m", "dask", *map(str, words)]


class Processes:
    """One scheduler and its workers under `folder`; everything ends with `close`."""

    def __init__(self, folder):
        self.folder, self.all, self.address = folder, [], None

    def start(self, *words, cwd=ROOT, **environment):
        path = os.pathsep.join(filter(None, (str(environment.pop("ROOT", ROOT)), os.environ.get("PYTHONPATH"))))
        log = (self.folder / f"{len(self.all)}-{words[0]}.log").open("wb")
        process = subprocess.Popen(
            command(*words),
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": path} | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process.log = self.folder / f"{len(self.all)}-{words[0]}.log"
        self.all.append(process)
        return process

    def scheduler(self, *words):
        file = self.folder / "scheduler.json"
        process = self.start(
            "scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", file
        )
        self.address = until(lambda: file.is_file() and json.loads(file.read_text())["address"])
        return process

    def worker(self, *words, **how):
        return self.start(
            "worker", self.address, "--nthreads", 1, "--no-dashboard", "--host", "127.0.0.1", *words, **how
        )

    def close(self):
        for process in self.all:
            kill(process)


def until(found, within=60):
    """What `found()` says as soon as it says something; fails after `within` seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        with contextlib.suppress(ValueError, KeyError):
            if said := found():
                return said
        time.sleep(0.05)
    raise AssertionError(f"nothing within {within} s")


def workers_of(process):
    """The processes that compute for a `dask worker`, which its nanny watches over and starts anew."""
    return [own for own in psutil.Process(process.pid).children() if "spawn_main" in " ".join(own.cmdline())]


def kill(process):
    """`kill -9` of a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
