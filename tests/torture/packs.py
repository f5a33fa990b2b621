"""Packs that are damaged, cut off or made by somebody else, and unpacking and packing killed at random moments.

A damaged pack is refused in one line and nothing of it is written; after a kill no file is there but whole ones, and
the same command ends as if nothing had been.
"""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torture.bench import Bench, Outcome, Task, half_written, in_place, litter, named, one_line, unlike
from torture.damage import flip
from torture.hostile import strings

FLIPS, CUTS = 60, 20
UNPACKED, PACKED = 15, 8  # times that each is killed
SOON = 0.004  # seconds after a change to a folder within which a kill comes
# Kills itself at its n-th change to files below a folder, or a moment later; says how many changes there were.
KILLED = """
import os, runpy, signal, sys, threading
at, after, place = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
del sys.argv[1:4]
count = 0
def changes(event, arguments):
    global count
    changed = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
    if event == "open" and isinstance(arguments[2], int):
        changed = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if changed and str(arguments[0]).startswith(place):
        count += 1
        if count == at:
            kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(after, kill).start() if after else kill()
sys.addaudithook(changes)
try:
    runpy.run_module("lib.travel", run_name="__main__", alter_sys=True)
finally:
    print(count, file=sys.stderr)
"""


def tasks(short: bool) -> dict[str, Task]:
    found: dict[str, Task] = {
        "flip-": partial(damaged, "flip", 10 if short else FLIPS),
        "cut-": partial(damaged, "cut", 5 if short else CUTS),
        "name-": foreign_names,
        "unpack-": partial(killed, "unpack", 3 if short else UNPACKED),
        "pack-": partial(killed, "pack", PACKED),
        "twice": twice,
    }
    return {name: found[name] for name in named(found, ["flip-", "cut-", "unpack-"], short)}


def run(bench: Bench, build: Path, *words: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    first = ["-c", KILLED, *before] if before else ["-m", "lib.travel"]
    return bench.run([sys.executable, *first, *map(str, words)], build)


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
    words: tuple[str, ...] = (what, "smoke")
    if what == "unpack":
        words = (what, str(path))
    aim, place = bench.fresh("aim") / "build", bench.fresh("place") / "build"
    wanted, outcomes = contents(build), {}
    prepare(what, build, aim)
    done = run(bench, aim, *words, before=("0", "0", str(aim)))
    if done.returncode:
        return f"failed where nothing was killed: {done.stderr[-300:]}"
    changes = int(done.stderr.split()[-1])
    for i in range(times):
        n, after = bench.draw.randint(1, changes), bench.draw.choice((0, 0, bench.draw.uniform(0, SOON)))
        bench.about[f"{i:02}"] = f"at change {n} of {changes}, {1000 * after:.1f} ms after it"
        shutil.rmtree(place, ignore_errors=True)
        prepare(what, build, place)
        died = run(bench, place, *words, before=(str(n), str(after), str(place)))
        finished = died.returncode == 0  # its timer came too late
        if not finished and died.returncode != -9:
            outcomes[f"{i:02}"] = f"ended with {died.returncode}: {died.stderr[-200:]}"
            continue
        outcomes[f"{i:02}"] = half_written(place) or after_kill(bench, what, place, words, wanted, path)
    return outcomes


def prepare(what: str, build: Path, place: Path) -> None:
    """What a place holds before: for packing a finished run, for unpacking nothing."""
    if what == "pack":
        shutil.copytree(build, place, ignore=shutil.ignore_patterns("packs"))
    else:
        place.mkdir(parents=True)


def after_kill(
    bench: Bench, what: str, place: Path, words: tuple[str, ...], wanted: dict[str, bytes], path: Path
) -> str | None:
    there = (place / "smoke").is_dir()
    again = run(bench, place, *words)
    if what == "unpack" and there:
        wrong = one_line(again, "there already")
    else:
        wrong = f"the next one failed: {again.stderr[-200:]}" if again.returncode else None
    if not wrong and what == "pack":
        wrong = None if [p.read_bytes() for p in (place / "packs").iterdir()] == [path.read_bytes()] else "another pack"
    elif not wrong:
        used = {name: content for name, content in wanted.items() if not name.startswith("store/")}
        wrong = unlike({k: v for k, v in contents(place).items() if not k.startswith("store/")}, used)
    return wrong or litter(place)


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
    used = {name: content for name, content in contents(build).items() if not name.startswith("store/")}
    found = {name: content for name, content in contents(place).items() if not name.startswith("store/")}
    return unlike(found, used) or litter(place)
