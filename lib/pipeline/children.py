"""The processes that the pipeline starts: none outlives it, and one signal ends them all at once."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from typing import NoReturn

from lib.errors import STOPPED, InputError
from lib.layout import ROOT

processes: set[int] = set()  # ids of running children, each the leader of its own group
folders: set[str] = set()  # what goes with them


def command(module: str, *words: object) -> list[str]:
    """The command that runs a module as a child of this process."""
    return [sys.executable, "-m", "lib.pipeline.child", str(os.getpid()), module, *map(str, words)]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which children find the project's own modules and speak UTF-8 in any locale."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"} | more


@contextlib.contextmanager
def lifeline() -> Iterator[int]:
    """The reading end of a pipe for a child's standard input; the writing end is open until the block is left."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def run(module: str, *words: object) -> int:
    """Runs a module to its end; returns its exit status."""
    with (
        lifeline() as stdin,
        subprocess.Popen(
            command(module, *words), cwd=ROOT, env=environment(), stdin=stdin, start_new_session=True
        ) as process,
    ):
        processes.add(process.pid)
        status = process.wait()
    processes.discard(process.pid)
    return status


def lines(command: list[str], **environment_too: str) -> Iterator[str]:
    """What a command prints, line by line, until it ends. Raises `InputError` with its last line where it fails."""
    line = ""
    with (
        lifeline() as stdin,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**environment_too),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        for line in process.stdout or ():
            yield line
    if process.returncode:
        raise InputError(line.strip().removeprefix("error: "))


def kill(process_id: int) -> None:
    """Ends a child and all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_id, signal.SIGKILL)
    processes.discard(process_id)


def stop(number: int) -> NoReturn:
    """Ends the children, then this process, wherever it stands; nothing that is caught or waited for can delay it."""
    for process_id in list(processes):
        kill(process_id)
    for folder in list(folders):
        shutil.rmtree(folder, ignore_errors=True)
    os.write(2, f"\n{STOPPED}\n".encode())
    os._exit(128 + number)


def stop_on_signals() -> None:
    """From here on Ctrl-C, a termination or a closed terminal stops at once; what was ignored stays ignored.

    A thread of its own waits for them: Python runs handlers in the main thread alone, and where the system gives a
    signal to another one, as it may after a pause, that is not before whatever the main thread waits for.
    """
    known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    numbers = [number for number in known if number is not None and signal.getsignal(number) is not signal.SIG_IGN]
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_await_one, args=(numbers, reading), daemon=True).start()
    for number in numbers:
        signal.signal(number, lambda *_: None)


def _await_one(numbers: Collection[int], reading: socket.socket) -> NoReturn:
    while (number := reading.recv(1)[0]) not in numbers:
        pass
    stop(number)
