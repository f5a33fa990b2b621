"""Two runs in one folder in both orders, and two profiles on one store."""

import time

from torture.bench import LONGEST, Bench, end, left, unlike


def trials(bench: Bench, chosen: str) -> None:
    wanted, _ = bench.whole
    cases = {
        "setup-then-V1": lambda: one_folder(bench, wanted, ("setup",), ("setup", "V1")),
        "V1-then-setup": lambda: one_folder(bench, wanted, ("setup", "V1"), ("setup",)),
        "two-profiles": lambda: one_store(bench, wanted),
    }
    bench.attempt("together", cases, chosen, "V1-then-setup")


def finish(processes) -> str | None:
    wrong = None
    for process in processes:
        try:
            error = process.communicate(timeout=LONGEST)[1]
        except Exception:
            end(process)
            return "one of the two still ran after its time"
        if process.returncode:
            wrong = wrong or f"one of the two failed: {error[-300:]}"
    return wrong


def one_folder(bench: Bench, wanted: dict[str, bytes], first, second) -> str | None:
    build = bench.fresh("shared")
    began = bench.start(bench.words(*first), build)
    lock, deadline = build / ".locks" / "smoke", time.monotonic() + 60
    while not (lock.is_file() and lock.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    later = bench.start(bench.words(*second), build)
    line = later.stderr.readline()
    wrong = finish((began, later))
    if wrong or f"process {began.pid} is at work there" not in line:
        return wrong or f"the second said {line!r}, not for whom it waits"
    return unlike(left(build), wanted)


def one_store(bench: Bench, wanted: dict[str, bytes]) -> str | None:
    build = bench.fresh("profiles")
    words = {"smoke": bench.words(), "embedded": bench.words(profile="embedded", n_ctx=512, context_tokens=1536)}
    both = [bench.start(own, build) for own in words.values()]
    wrong = finish(both)
    if wrong:
        return wrong
    if not list((build / "store").glob("*/*.entry")):
        return "nothing was kept in the store"
    found = {name: left(build, name) for name in words}
    if found["embedded"].get("tokens.npy") is None:
        return "the second profile left no tokens"
    return unlike(found["smoke"], wanted)
