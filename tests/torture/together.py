"""Two runs in one folder in both orders, and two profiles on one store."""

import subprocess
from collections.abc import Iterable
from functools import partial

from torture.bench import LONGEST, Bench, Task, end, holder, left, litter, named, seconds_until, unlike

EMBEDDED = {"profile": "embedded", "n_ctx": 512, "context_tokens": 1536}


def tasks(short: bool) -> dict[str, Task]:
    found: dict[str, Task] = {
        "setup-then-V1": partial(one_folder, ("setup",), ("setup", "V1")),
        "V1-then-setup": partial(one_folder, ("setup", "V1"), ("setup",)),
        "twice-the-same": partial(one_folder, ("setup", "V1"), ("setup", "V1")),
        "two-profiles": one_store,
    }
    return {name: found[name] for name in named(found, ["V1-then-setup"], short)}


def finish(processes: Iterable[subprocess.Popen]) -> str | None:
    wrong = None
    for process in processes:
        try:
            error = process.communicate(timeout=LONGEST)[1]
        except subprocess.TimeoutExpired:
            end(process)
            return "one of the two still ran after its time"
        if process.returncode:
            wrong = wrong or f"one of the two failed: {error[-300:]}"
    return wrong


def one_folder(first: tuple[str, ...], second: tuple[str, ...], bench: Bench) -> str | None:
    """The second waits, says for whom, and both end well."""
    build = bench.fresh("shared")
    began = bench.start(bench.words(*first), build)
    seconds_until(lambda: holder(build) == began.pid)
    later = bench.start(bench.words(*second), build)
    line = later.stderr.readline()
    wrong = finish((began, later))
    if wrong or f"process {began.pid} is at work there" not in line:
        return wrong or f"the second said {line!r}, not for whom it waits"
    return unlike(left(build), bench.whole) or litter(build)


def one_store(bench: Bench) -> str | None:
    """Both leave what each leaves alone."""
    alone, build = bench.fresh("alone"), bench.fresh("profiles")
    done = bench.run(bench.words(**EMBEDDED), alone)
    if done.returncode:
        return f"the second profile failed alone: {done.stderr[-300:]}"
    wrong = finish([bench.start(words, build) for words in (bench.words(), bench.words(**EMBEDDED))])
    if not wrong and not list((build / "store").glob("*/*.entry")):
        wrong = "nothing was kept in the store"
    profiles = {"smoke": bench.whole, "embedded": left(alone, "embedded")}
    return wrong or next(filter(None, (unlike(left(build, name), own) for name, own in profiles.items())), None)
