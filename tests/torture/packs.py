"""Packs that are damaged, cut off or made by somebody else, and unpacking and packing killed at random moments.

A damaged pack is refused in one line and nothing of it is written; after a kill no file is there but whole ones, and
the same command ends as if nothing had been.
"""

import itertools
import json
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from torture.bench import Bench, Outcome, Task, half_written, in_place, litter, named, unlike
from torture.damage import flip
from torture.hostile import strings

FLIPS, CUTS = 60, 20
UNPACKED, PACKED = 40, 20  # times that each is killed
KILLED = -signal.SIGKILL
SOON = 0.004  # seconds after a change to a folder within which a kill comes


def tasks(short: bool) -> dict[str, Task]:
    found: dict[str, Task] = {
        "flip-": partial(damaged, "flip", 10 if short else FLIPS),
        "cut-": partial(damaged, "cut", 5 if short else CUTS),
        "name-": foreign_names,
        "unpack-": partial(killed, "unpack", 8 if short else UNPACKED),
        "pack-": partial(killed, "pack", PACKED),
        "twice": twice,
    }
    return {name: found[name] for name in named(found, ["flip-", "cut-", "unpack-"], short)}


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a build folder; in it a pack's scores are the store's entries."""
    paths = [p for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts and p.suffix != ".zip"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def unpacked(bench: Bench, path: Path) -> tuple[str, dict[str, bytes]]:
    """`(the line in which it was refused or nothing, what was written)`; another exception goes through."""
    from lib.errors import InputError
    from lib.travel import pack

    build = bench.fresh("build")
    with in_place(build):
        try:
            pack.unpack(path)
            said = ""
        except InputError as error:
            said = str(error)
    found = contents(build)
    shutil.rmtree(build, ignore_errors=True)
    return said, found


def damaged(how: str, times: int, bench: Bench) -> Outcome:
    """Flips of one bit, or packs cut off: refused, or nothing else written than without it."""
    build, path = bench.packed
    content, copy = path.read_bytes(), bench.fresh("copy") / path.name
    whole, outcomes = contents(build), {}
    for i in range(times):
        copy.write_bytes(content)
        if how == "flip":
            where = flip(copy, bench.draw)
        else:
            copy.write_bytes(content[: bench.draw.randrange(len(content))])
            where = f"cut off after {copy.stat().st_size:,} of {len(content):,} bytes"
        bench.about[f"{i:02}"] = where
        said, found = unpacked(bench, copy)
        outcomes[f"{i:02}"] = judged(said, found, copy, whole if how == "flip" else {}, where)
    return outcomes


def judged(said: str, found: Mapping[str, bytes], path: Path, allowed: Mapping[str, bytes], where: str) -> str | None:
    if said and ("\n" in said or path.name not in said or found):
        return f"was refused with {said[:200]!r}, {len(found)} files written ({where})"
    kept = {name: content for name, content in found.items() if allowed.get(name) != content}
    if not said and (kept or not found or not allowed):
        return f"was not noticed ({where})"
    return None


def foreign_names(bench: Bench) -> Outcome:
    """Hostile strings as an entry's name, its list brought into line: refused, or a file of that name in its place."""
    from lib.archive import METADATA, sha256

    build, path = bench.packed
    with zipfile.ZipFile(path) as opened:
        entries = [(entry, opened.read(entry)) for entry in opened.infolist()]
    whole, outcomes = contents(build), {}
    for i, text in enumerate(strings()):
        name, copy = f"results/figures/{text}", bench.fresh("copy") / "foreign.zip"
        listed = json.loads(dict((entry.filename, content) for entry, content in entries)[METADATA])
        listed["@graph"].append(
            {"@id": name, "@type": "File", "name": text, "sha256": sha256(b"x"), "contentSize": "1"}
        )
        with zipfile.ZipFile(copy, "w") as out:
            for entry, content in [*entries, (zipfile.ZipInfo(name), b"x")]:
                out.writestr(entry, json.dumps(listed) if entry.filename == METADATA else content)
        bench.about[f"{i:02}"] = f"{text!r} as a name"
        said, found = unpacked(bench, copy)
        outcomes[f"{i:02}"] = judged(said, found, copy, whole | {f"smoke/{name}": b"x"}, f"{text!r} as a name")
        if not said.isprintable():
            outcomes[f"{i:02}"] = f"was refused with signs that steer a terminal: {said[:100]!r}"
    return outcomes


def killed(what: str, times: int, bench: Bench) -> Outcome:
    """Killed at one of its changes to files, or in the middle of one: the same command then ends as ever."""
    build, path = bench.packed
    work = partial(unpack, path) if what == "unpack" else pack
    wanted, outcomes = contents(build), {}
    changes, said = in_a_child(prepared(bench, what), work)
    if said:
        return f"failed where nothing was killed: {said}"
    for i in range(times):
        n, after = bench.draw.randint(1, changes), bench.draw.choice((0, 0, bench.draw.uniform(0, SOON)))
        bench.about[f"{i:02}"] = f"at change {n} of {changes}, {1000 * after:.1f} ms after it"
        place = prepared(bench, what)
        died, _ = in_a_child(place, work, n, after)
        wrong = None if died == KILLED else f"was not killed {bench.about[f'{i:02}']}"
        outcomes[f"{i:02}"] = wrong or half_written(place) or after_kill(what, place, work, wanted, path)
    return outcomes


def unpack(path: Path) -> None:
    from lib.travel import pack

    pack.unpack(path)


def pack() -> None:
    from lib.travel import pack

    pack.pack("smoke")


def prepared(bench: Bench, what: str) -> Path:
    """What a place holds before: for packing a finished run, for unpacking nothing."""
    place = bench.fresh("place") / "build"
    if what == "pack":
        shutil.copytree(bench.packed[0], place, ignore=shutil.ignore_patterns("packs"))
    return place


def in_a_child(build: Path, work: Callable[[], None], at: int = 0, after: float = 0) -> tuple[int, str]:
    """`(changes that a child has made to files below a folder, the line in which it was refused)`.

    It kills itself at change `at`, or `after` seconds later, which counts as `KILLED`.
    """
    from lib.errors import InputError

    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.environ["EXPERIMENT10_BUILD"] = str(build)
        count = killing(build, at, after)
        said = ""
        try:
            work()
            if after:  # it may be quicker than its death
                time.sleep(after)
        except InputError as error:
            said = str(error)
        finally:
            os.write(writing, f"{next(count)} {said}".encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        line = told.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return KILLED, ""
    changes, _, said = line.partition(" ")
    return int(changes), said


def killing(build: Path, at: int, after: float) -> Iterator[int]:
    """Has this process killed at its n-th change to files below a folder; counts the changes."""
    count = itertools.count()

    def hook(event: str, arguments: tuple) -> None:
        changed = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if event == "open" and isinstance(arguments[2], int):
            changed = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if changed and str(arguments[0]).startswith(str(build)) and next(count) + 1 == at:
            kill = partial(os.kill, os.getpid(), signal.SIGKILL)
            threading.Timer(after, kill).start() if after else kill()

    sys.addaudithook(hook)
    return count


def after_kill(what: str, place: Path, work: Callable[[], None], wanted: dict[str, bytes], path: Path) -> str | None:
    there = (place / "smoke").is_dir()
    _, said = in_a_child(place, work)
    if what == "unpack" and there:
        wrong = None if "there already" in said else f"the next one said {said!r}"
    else:
        wrong = f"the next one failed: {said}" if said else None
    if wrong:
        return wrong
    if what == "pack":
        same = [p.read_bytes() for p in (place / "packs").iterdir()] == [path.read_bytes()]
        return litter(place) if same else "the next one made another pack"
    return unlike(without_store(contents(place)), without_store(wanted)) or litter(place)


def without_store(found: dict[str, bytes]) -> dict[str, bytes]:
    """What a pack brings beside scores, of which it has only those that were used."""
    return {name: content for name, content in found.items() if not name.startswith("store/")}


def twice(bench: Bench) -> str | None:
    """Two unpack at once: one does, the other is told that it is there already."""
    (build, path), place = bench.packed, bench.fresh("place")
    words = [sys.executable, "-m", "lib.travel", "unpack", str(path)]
    both = [bench.start(words, place) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    if sorted(process.returncode for process in both) != [0, 1]:
        return f"ended with {[process.returncode for process in both]}: {said}"
    if not any("there already" in line for line in said):
        return f"said {said}"
    return unlike(without_store(contents(place)), without_store(contents(build))) or litter(place)
