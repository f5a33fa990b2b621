"""One writer at a time in a folder under `build/`: the second waits, and says for whom."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lib.layout import build_root

try:
    import fcntl

    CAN_LOCK = True
except ImportError:  # where there is no flock, nobody is kept waiting
    CAN_LOCK = False

HELD = "EXPERIMENT10_HELD"  # what this process holds, for the kernels and runs that it starts: they work on its behalf


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds `build/<name>` for this process and those that it starts; the lock goes with it, however it ends."""
    held = os.environ.get(HELD, "").split("/")
    if name in held or not CAN_LOCK:
        yield
        return
    path = build_root() / ".locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another one"
            print(f"{name}: process {holder} is at work there; waiting until it ends", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        os.environ[HELD] = "/".join([*held, name])
        try:
            yield
        finally:
            os.environ[HELD] = "/".join(held)
