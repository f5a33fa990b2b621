"""Runs killed, stopped and terminated at random moments; the next run ends as if nothing had been."""

import signal
import time

from torture.bench import WITHIN, Bench, alive, descendants, end, left, unlike

WAYS = {"kill": [signal.SIGKILL], "stop": [signal.SIGINT], "terminate": [signal.SIGTERM], "twice": [signal.SIGINT] * 2}
FROZEN = 0.5  # seconds
SERIES = 5  # trials on one folder before it is run to its end


def trials(bench: Bench, chosen: str) -> None:
    n = 3 if bench.short else 30
    wanted, seconds = bench.whole
    build, pending = bench.fresh("killed"), []
    for i in range(n):
        way = [*WAYS, "freeze"][i % (len(WAYS) + 1)]
        began, wrong = time.time(), None
        if not left_to_do(build, wanted):
            build = bench.fresh("killed")
        process = bench.start(bench.words(), build)
        time.sleep(bench.draw.uniform(0.2, 0.9 * seconds))
        wrong = strike(process, way)
        try:
            left(build)
        except ValueError as error:
            wrong = wrong or f"something half-written stands: {error}"
        pending.append((f"{i:02}-{way}", wrong, began))
        if len(pending) == SERIES or i == n - 1:
            done = bench.run(bench.words(), build)
            after = f"the next run failed: {done.stderr[-300:]}" if done.returncode else unlike(left(build), wanted)
            for name, earlier, then in pending:
                bench.note("kills", name, earlier or after, then)
            build, pending = bench.fresh("killed"), []


def left_to_do(build, wanted) -> bool:
    try:
        return set(left(build)) != set(wanted)
    except ValueError:
        return True


def strike(process, way: str) -> str | None:
    """Sends the signals of a way; says what is still there after `WITHIN` seconds, if anything is."""
    below = descendants(process)
    if way == "freeze":
        for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGINT):
            if process.poll() is None:
                process.send_signal(number)
            time.sleep(FROZEN if number == signal.SIGSTOP else 0)
    for number in WAYS.get(way, []):
        if process.poll() is None:
            process.send_signal(number)
    deadline = time.monotonic() + WITHIN
    while (process.poll() is None or list(alive(below))) and time.monotonic() < deadline:
        time.sleep(0.02)
    remaining = [f"{p.pid} ({' '.join(p.cmdline()[:4])})" for p in alive(below)]
    running = process.poll() is None
    end(process)
    for own in alive(below):
        own.kill()
    if running or remaining:
        return f"after {WITHIN} s there still was {'the run itself' if running else remaining[0]}"
    return None
