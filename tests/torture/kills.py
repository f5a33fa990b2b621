"""Runs killed, stopped and terminated at random moments; the next run ends as if nothing had been."""

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import psutil

from torture.bench import WITHIN, Bench, alive, descendants, end, left

WAYS = {"kill": [signal.SIGKILL], "stop": [signal.SIGINT], "terminate": [signal.SIGTERM], "twice": [signal.SIGINT] * 2}
FREEZE = "freeze"  # SIGSTOP, SIGCONT, then Ctrl-C
FROZEN = 0.5  # seconds
SERIES = 5  # trials in one folder before it is run to its end
TRIED = 30
TRIED_SHORT = 3


def trials(bench: Bench, chosen: str) -> None:
    _, seconds = bench.whole
    build, pending = bench.fresh("killed"), []
    n, i = TRIED_SHORT if bench.short else TRIED, 0
    while i < n:
        began, way = time.time(), [*WAYS, FREEZE][i % (len(WAYS) + 1)]
        process = bench.start(bench.words(), build)
        time.sleep(bench.draw.uniform(0.2, 0.9 * seconds))
        if process.poll() is None:
            wrong = strike(process, way) or half_written(build)
            pending.append((f"{i:02}-{way}", wrong, began))
            i += 1
        else:  # it had little left to do, and ended before its moment came
            process.communicate()
            seconds = min(seconds, time.time() - began) if not pending else seconds
            close(bench, build, pending)
            build, pending = bench.fresh("killed"), []
        if len(pending) == SERIES or i == n:
            close(bench, build, pending)
            build, pending = bench.fresh("killed"), []


def close(bench: Bench, build: Path, pending: list[tuple[str, str | None, float]]) -> None:
    """Runs a folder to its end and holds it against an undisturbed run, for all trials that it has gone through."""
    if not pending:
        return
    after = bench.again(build)
    for name, wrong, began in pending:
        bench.note("kills", name, wrong or after, began)


def half_written(build: Path) -> str | None:
    try:
        left(build)
    except ValueError as error:
        return f"something half-written stands: {error}"
    return None


def strike(process: subprocess.Popen, way: str) -> str | None:
    """Sends the signals of a way; says what is still there after `WITHIN` seconds, if anything is."""
    if way == FREEZE:
        process.send_signal(signal.SIGSTOP)
        time.sleep(FROZEN)
    below = descendants(process)
    if way == FREEZE:
        process.send_signal(signal.SIGCONT)
    for number in WAYS.get(way, [signal.SIGINT]):
        process.send_signal(number)
    deadline = time.monotonic() + WITHIN
    while (process.poll() is None or list(alive(below))) and time.monotonic() < deadline:
        time.sleep(0.02)
    running, remaining = process.poll() is None, list(alive(below))
    for own in remaining:
        with contextlib.suppress(psutil.NoSuchProcess):
            own.kill()
    end(process)
    if running or remaining:
        what = "the run itself" if running else f"process {remaining[0].pid} of it"
        return f"after {WITHIN} s there still was {what}"
    return None
