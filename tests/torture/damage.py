"""Single bits flipped in each kind of file: named by the next run, and what follows is what an undamaged run gives."""

import shutil
from collections.abc import Container
from functools import partial
from pathlib import Path
from random import Random
from subprocess import CompletedProcess

from lib import ledger
from lib.layout import used_keys
from torture.bench import WHOLE_REPORT, Bench, Outcome, Task, left, named, one_line, unlike

# Each kind of file of a finished run, and what the next run says of a flip in it.
KINDS = {
    "section": ("smoke/results/data/sections/V1.json", "V1.json is missing or was altered"),
    "setup": ("smoke/results/data/sections/setup.json", "setup.json is missing or was altered"),
    "tokens": ("smoke/results/data/tokens.npy", "tokens.npy is missing or was altered"),
    "documents": ("smoke/results/data/documents.npy", "documents.npy is missing or was altered"),
    "executed": ("smoke/notebooks/*.ipynb", ".ipynb is missing or was altered"),
    "figure": ("smoke/results/figures/*.png", ".png is missing or was altered"),
    "keys": ("smoke/keys/*.txt", ".txt is missing or was altered"),
    "manifest": ("smoke/manifest.json", "manifest.json"),
    "store": ("store/*/*.entry", "store: damaged entry"),
}
FLIPS = 2
INPUTS = ("model.safetensors", "config.json", "tokenizer.json", "wiki.valid.raw")
REPORT = ("report.html", "report.ja.pdf", "report.en.pdf")
Left = dict[str, bytes]
TEXT = "= A title = \n\nSome words of a text that goes on and on, number {}. \n\n"


def tasks(short: bool) -> dict[str, Task]:
    found: dict[str, Task] = {} if short else {"report": report}
    for name in named(KINDS, ["section", "store"], short):
        found |= {f"{name}-{i}": partial(flipped, name) for i in range(1 if short else FLIPS)}
    return found if short else found | {"outside-": from_outside}


def flip(path: Path, draw: Random) -> str:
    """Flips one bit of a file; says where."""
    content = bytearray(path.read_bytes())
    at, bit = draw.randrange(len(content)), draw.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name}: bit {bit} of byte {at:,} of {len(content):,}"


def flipped(name: str, bench: Bench) -> str | None:
    """The run says which file it found altered, ends well, and leaves what an undamaged one does."""
    build = bench.fresh("damaged") / "build"
    shutil.copytree(bench.build, build)
    pattern, says = KINDS[name]
    found = [path for path in sorted(build.glob(pattern)) if path.stat().st_size]
    if name == "store":
        read = keys_read(bench, build)
        found = [path for path in found if path.stem in read]
    path = bench.draw.choice(found)
    bench.about[""] = flip(path, bench.draw)
    if name == "store":
        measured_again(build)
    done = bench.run(bench.words(), build)
    wrong = f"failed: {done.stderr[-300:]}" if done.returncode else unlike(left(build), bench.whole)
    if not wrong and says not in done.stdout + done.stderr:
        wrong = f"was not noticed: {done.stdout[-200:]}"
    return wrong and f"{wrong} ({bench.about['']})"


def keys_read(bench: Bench, build: Path) -> Container[str]:
    """The keys of the store's entries that V1 reads when it is measured again. Raises `RuntimeError` where it fails."""
    measured_again(build)
    done = bench.run(bench.words(), build)
    if done.returncode:
        raise RuntimeError(f"an undamaged one failed: {done.stderr[-300:]}")
    return ledger.read(used_keys(build / "smoke", "V1"))


def measured_again(build: Path) -> None:
    """Has the next run measure all sections again, and so read what of the store they need."""
    for section in (build / "smoke/results/data/sections").glob("*.json"):
        section.unlink()


def from_outside(bench: Bench) -> Outcome:
    """A model or text that differs is another one: refused in a line, or measured as where nothing had been before."""
    place, outcomes = bench.fresh("inputs"), {}
    shutil.copytree(bench.model, place / "model")
    (place / "data").mkdir()
    (place / "data" / "wiki.valid.raw").write_text("".join(TEXT.format(i) for i in range(60)), encoding="utf-8")
    words = bench.words(model=place / "model", dataset=place / "data", split="validation")
    before = bench.fresh("before") / "build"
    done = bench.run(words, before)
    if done.returncode:
        return f"the run before failed: {done.stderr[-300:]}"
    for name in INPUTS:
        path = place / ("data" if name == "wiki.valid.raw" else "model") / name
        content = path.read_bytes()
        bench.about[name] = flip(path, bench.draw)
        build, cold = bench.fresh("build") / "build", bench.fresh("cold")
        shutil.copytree(before, build)
        after, anew = bench.run(words, build), bench.run(words, cold)
        wrong = unlike_cold(after, anew, left(build), left(cold), name)
        outcomes[name] = wrong and f"{wrong} ({bench.about[name]})"
        path.write_bytes(content)
    return outcomes


def unlike_cold(
    after: CompletedProcess[str], cold: CompletedProcess[str], found: Left, wanted: Left, name: str
) -> str | None:
    if after.returncode != cold.returncode:
        return f"ended with {after.returncode}, from nothing with {cold.returncode}"
    if after.returncode:
        return one_line(after, "model", "tokenizer", "dataset", name)
    return unlike(found, wanted) if " changed" in after.stdout else f"was not noticed: {after.stdout[-200:]}"


def report(bench: Bench) -> Outcome:
    """The whole report on the tiny model, then a flip in each of its files: it is made again, with the same bytes."""
    build = bench.fresh("report")
    words = bench.words()
    words[3:6] = ["report"]
    done = bench.run(words, build, within=WHOLE_REPORT)
    if done.returncode:
        return f"the report failed: {done.stderr[-300:]}"
    folder, outcomes = build / "smoke" / "report", {}
    made = {name: (folder / name).read_bytes() for name in REPORT}
    idle = bench.run(words, build, within=WHOLE_REPORT)
    outcomes["-whole"] = None if "report: nothing to do" in idle.stdout else f"ran again: {idle.stdout[-200:]}"
    for name in REPORT:
        bench.about[f"-{name}"] = flip(folder / name, bench.draw)
        done = bench.run(words, build, within=WHOLE_REPORT)
        same = {each: (folder / each).read_bytes() for each in REPORT} == made
        wrong = f"failed: {done.stderr[-300:]}" if done.returncode else None if same else "stands as it was damaged"
        outcomes[f"-{name}"] = wrong
    return outcomes
