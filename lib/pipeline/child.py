"""Runs a module as a child that ends with its parent, however that ends: `python -m lib.pipeline.child PID MODULE …`.

Linux sends a signal when the parent dies. Elsewhere, and beside it, standard input is a pipe that the parent holds open
and never writes to: its end is the parent's.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
from pathlib import Path

PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Has this process end when the process `parent` or standard input does, now where that has happened already."""
    threading.Thread(target=_await_end_of_input, daemon=True).start()
    die_with(parent)


def die_with(parent: int) -> None:
    """On Linux has this process killed when `parent` ends; everywhere ends it where that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def outlive() -> None:
    """Takes `die_with` back."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)


def leave_out_iris() -> None:
    """Keeps jsonschema from building a grammar for IRIs when it is imported, a second long: no schema here has any."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def _await_end_of_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    leave_out_iris()
    if sys.path[0] in ("", str(Path.cwd())):  # as `python -m` leaves it; the module is found without it
        del sys.path[0]
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
