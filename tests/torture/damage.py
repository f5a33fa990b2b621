"""Single bits flipped in each kind of file: named by the next run, and what follows is what an undamaged run gives."""

import shutil
from functools import partial
from pathlib import Path
from random import Random

from torture.bench import Bench, Outcome, Task, left, named, one_line, unlike

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
TEXT = "= A title = \n\nSome words of a text that goes on and on, number {}. \n\n"


def tasks(short: bool) -> dict[str, Task]:
    found: dict[str, Task] = {} if short else {"report": report}
    for name in named(KINDS, ["section", "store"], short):
        found |= {f"{name}-{i}": partial(flipped, name) for i in range(1 if short else FLIPS)}
    if not short:
        found |= {f"{name}-0": partial(from_outside, name) for name in INPUTS}
    return found


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
    path = bench.draw.choice(sorted(build.glob(pattern)))
    bench.about[""] = flip(path, bench.draw)
    if name == "store":  # it is read when its section is measured again
        for section in (build / "smoke/results/data/sections").glob("*.json"):
            section.unlink()
    done = bench.run(bench.words(), build)
    wrong = f"failed: {done.stderr[-300:]}" if done.returncode else unlike(left(build), bench.whole)
    if not wrong and says not in done.stdout + done.stderr:
        wrong = f"was not noticed: {done.stdout[-200:]}"
    return wrong and f"{wrong} ({bench.about['']})"


def from_outside(name: str, bench: Bench) -> str | None:
    """A model or text that differs is another one: refused in a line, or measured as where nothing had been before."""
    model, data = bench.fresh("input") / "model", bench.fresh("input") / "data"
    shutil.copytree(bench.model, model)
    data.mkdir()
    (data / "wiki.valid.raw").write_text("".join(TEXT.format(i) for i in range(60)), encoding="utf-8")
    words = bench.words(model=model, dataset=data, split="validation")
    build = bench.fresh("build")
    before = bench.run(words, build)
    if before.returncode:
        return f"the run before failed: {before.stderr[-300:]}"
    bench.about[""] = flip(data / name if name == "wiki.valid.raw" else model / name, bench.draw)
    after, cold = bench.run(words, build), bench.run(words, bench.fresh("cold"))
    if after.returncode != cold.returncode:
        wrong = f"ended with {after.returncode}, from nothing with {cold.returncode}"
    elif after.returncode:
        wrong = one_line(after, "model", "tokenizer", "dataset", name)
    elif " changed" not in after.stdout:
        wrong = f"was not noticed: {after.stdout[-200:]}"
    else:
        wrong = unlike(left(build), left(bench.folder / f"cold-{bench.number}"))
    return wrong and f"{wrong} ({bench.about['']})"


def report(bench: Bench) -> Outcome:
    """The whole report on the tiny model, then a flip in each of its files: it is made again, with the same bytes."""
    build = bench.fresh("report")
    words = bench.words()
    words[3:6] = ["report"]
    done = bench.run(words, build)
    if done.returncode:
        return f"the report failed: {done.stderr[-300:]}"
    folder, outcomes = build / "smoke" / "report", {}
    made = {name: (folder / name).read_bytes() for name in REPORT}
    idle = bench.run(words, build)
    outcomes["-whole"] = None if "report: nothing to do" in idle.stdout else f"ran again: {idle.stdout[-200:]}"
    for name in REPORT:
        bench.about[f"-{name}"] = flip(folder / name, bench.draw)
        done = bench.run(words, build)
        same = {each: (folder / each).read_bytes() for each in REPORT} == made
        wrong = f"failed: {done.stderr[-300:]}" if done.returncode else None if same else "stands as it was damaged"
        outcomes[f"-{name}"] = wrong
    return outcomes
