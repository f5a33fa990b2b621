"""Runs killed, stopped and terminated at random moments of their work; the next run ends as if nothing had been."""

import signal
import subprocess
import time
from functools import partial
from pathlib import Path

from torture.bench import WITHIN, Bench, Outcome, Task, belonging, end, half_written, holder, seconds_until, temporary

WAYS = {"kill": [signal.SIGKILL], "stop": [signal.SIGINT], "terminate": [signal.SIGTERM], "twice": [signal.SIGINT] * 2}
FREEZE = "freeze"  # SIGSTOP, SIGCONT, then Ctrl-C
FROZEN = 0.5  # seconds
SERIES, SERIES_SHORT = 6, 1  # folders that are gone through once in each way before they are run to their end
SAID = "what is finished is kept"


def tasks(short: bool) -> dict[str, Task]:
    ways = ("kill", "stop", FREEZE) if short else (*WAYS, FREEZE)
    return {f"{i:02}-": partial(series, ways) for i in range(SERIES_SHORT if short else SERIES)}


def series(ways: tuple[str, ...], bench: Bench) -> Outcome:
    """One folder, a run of it for each way that is struck while its kernels work, then one to the end."""
    build, outcomes = bench.fresh("build"), {}
    ways = tuple(bench.draw.sample(ways, len(ways)))
    seconds = bench.seconds
    for way in ways:
        while way not in outcomes:
            process = bench.start(bench.words(), build)
            seconds_until(lambda: holder(build) == process.pid or process.poll() is not None)  # noqa: B023
            time.sleep(bench.draw.uniform(0, seconds))
            while process.poll() is None and len(belonging(build)) < 2:
                time.sleep(0.05)
            if process.poll() is None:
                outcomes[way] = strike(bench, process, build, way) or half_written(build)
            else:  # it had little left to do, and ended before its moment came
                end(process)
                wrong = bench.again(build)
                if wrong:
                    return {each: outcomes.get(each) or wrong for each in ways}
                build, seconds = bench.fresh("build"), 0.7 * seconds
    after = bench.again(build)
    return {way: wrong or after for way, wrong in outcomes.items()}


def strike(bench: Bench, process: subprocess.Popen, build: Path, way: str) -> str | None:
    """Sends the signals of a way; what of the run is still there after `WITHIN` seconds, and what it should have said.

    `process` is the pipeline alone: its kernels have to notice for themselves where it is killed.
    """
    if way == FREEZE:
        process.send_signal(signal.SIGSTOP)
        time.sleep(FROZEN)
        process.send_signal(signal.SIGCONT)
    for number in WAYS.get(way, [signal.SIGINT]):
        process.send_signal(number)
    deadline = time.monotonic() + WITHIN
    while (process.poll() is None or belonging(build)) and time.monotonic() < deadline:
        time.sleep(0.05)
    still, remaining = process.poll() is None, belonging(build)
    out, error = end(process, build)
    bench.about[way] = f"while: {' '.join((out.strip().splitlines() or ['it starts'])[-1].split())}"
    if still or remaining:
        left = "the run itself" if still else f"process {remaining[0].pid} of it"
        return f"after {WITHIN} s there still was {left} ({bench.about[way]})"
    if way == "kill":
        return (
            None if process.returncode == -signal.SIGKILL else f"ended with {process.returncode} before it was killed"
        )
    status = 128 + WAYS.get(way, [signal.SIGINT])[0]
    if process.returncode != status or SAID not in error:
        return f"ended with {process.returncode}, saying {error[-200:]!r}"
    lying = list(temporary(build).glob("experiment10-*")) if way != "kill" else []  # those the next run takes away
    return f"{lying[0].name} was left lying about" if lying else None
