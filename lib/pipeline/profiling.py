"""`make profile`: where the time of a first run goes, section by section, as a table and as dated data.

Runs a profile's report in a build folder of its own, with an empty store, and looks at its kernels meanwhile. A section
draws while the next one measures already. So its seconds are those that the run waited for it, until the next began;
together they are the run's. What it does later stands in a column of its own, `beside`, and adds to nothing; `others`
is when only other sections were at work, as one that still draws. What no sample accounts for is a kernel starting and
importing, except where the section before has paid for that.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lib.errors import InputError
from lib.files import replacing
from lib.layout import build_root
from lib.params import BASE_PROFILE, load_profile
from lib.pipeline import children, sampling
from lib.results import dated

ROOMS = ("model", "statistics", "timing", "drawing", "disk", "other")
BEGINS = re.compile(r"(\w+) +measure: ")  # a line may begin with what is left of a progress bar
ENDS = re.compile(r"(\w+) +done in \d+ s$")
PLAN, PAGES = "plan", "page and books"


class Span(NamedTuple):
    """When a section began, until when the run waited for it, when it was done: seconds of `time.perf_counter`."""

    began: float
    until: float
    done: float


def profile(name: str, build: Path | None = None) -> dict[str, Any]:
    """The record that is kept: `dated.new`'s, with `{profile, seconds, sections: [row, …]}`, as of `row`.

    All in seconds; those of the rows add up to the whole. build: a new folder to leave the run in; None lets it go.
    Raises `InputError` where that folder is there already, or where the report can't be made.
    """
    load_profile(name)
    if build is not None and build.exists():
        raise InputError(f"--build {build}: is there already; a first run needs a folder of its own")
    head = dated.new(f"profile-{name}", f"make profile PROFILE={name}", "one first run, with an empty store")
    with tempfile.TemporaryDirectory(prefix="experiment10-profile-") as folder:
        samples = Path(folder) / "samples"
        samples.mkdir()
        places = {"EXPERIMENT10_BUILD": str(build or Path(folder) / "build"), sampling.FOLDER: str(samples)}
        spans = timed(children.command("lib.pipeline", "report", "--profile", name), places)
        slices = sampling.read(samples)
    start, end = spans[PLAN].began, spans[PAGES].until
    return head | {
        "profile": name,
        "seconds": end - start,
        "sections": [row(section, span, slices, start) for section, span in spans.items()],
    }


def timed(command: list[str], places: dict[str, str]) -> dict[str, Span]:
    """`{section: span}` of a run of the pipeline, told by the lines that it prints.

    Each span's `until` is where the next begins, from `PLAN`, before any section, to `PAGES`, after all of them.
    """
    began, done = {PLAN: time.perf_counter()}, {}
    for line in children.lines(command, **places):
        if match := BEGINS.search(line):
            began[match[1]] = time.perf_counter()
        elif match := ENDS.search(line.rstrip()):
            done[match[1]] = time.perf_counter()
            print(line, end="", flush=True)
    began[PAGES] = max((*began.values(), *done.values()))
    untils = [*began.values(), time.perf_counter()][1:]
    return {
        name: Span(begin, until, done.get(name, until))
        for (name, begin), until in zip(began.items(), untils, strict=True)
    }


def row(section: str, span: Span, slices: Sequence[sampling.Slice], start: float) -> dict[str, Any]:
    """`{section, seconds, <room>, …, others, starting, beside, began, until, done}`.

    The moments are since the run's `start`. Rooms, `others` and `starting`, what no sample accounts for, add up to
    `seconds`, the span. `beside` is what was sampled outside of it. A page's and a book's seconds are all drawing.
    """
    seconds = span.until - span.began
    rooms, beside = dict.fromkeys(ROOMS, 0.0), 0.0
    if section == PAGES:
        rooms["drawing"] = seconds
    for own in slices:
        if own.section == section:
            share = max(0.0, min(own.ended, span.until) - max(own.began, span.began)) / (own.ended - own.began)
            for room, spent in own.rooms.items():
                rooms[room] += share * spent
                beside += (1 - share) * spent
    waited = 0.0 if section == PAGES else others(section, span, slices)
    left = {"others": waited, "starting": max(0.0, seconds - sum(rooms.values()) - waited), "beside": beside}
    spent_in = {"seconds": seconds} | rooms | left
    moments = {name: moment - start for name, moment in span._asdict().items()}
    return {"section": section} | {name: round(value, 2) for name, value in (spent_in | moments).items()}


def others(section: str, span: Span, slices: Sequence[sampling.Slice]) -> float:
    """Seconds of a section's span in which it was not at work itself, and another one was."""
    within = [own for own in slices if own.began < span.until and own.ended > span.began]
    ours = [own for own in within if own.section == section]
    theirs = [own for own in within if own.section not in (section, sampling.STARTING)]
    moments = {moment for own in within for moment in own[:2] if span.began < moment < span.until}
    return sum(
        (end - begin) * min(max(0.0, 1 - density(ours, begin, end)), density(theirs, begin, end))
        for begin, end in pairwise(sorted({span.began, *moments, span.until}))
    )


def density(slices: Sequence[sampling.Slice], begin: float, end: float) -> float:
    """The share of the time between two moments in which the slices that hold both were at work."""
    return sum(
        sum(own.rooms.values()) / (own.ended - own.began) for own in slices if own.began <= begin and own.ended >= end
    )


def table(record: dict[str, Any]) -> str:
    """The record as text, sections in the order in which they began, with a last line for all."""
    columns = ("seconds", *ROOMS, "others", "starting", "beside")
    lines = [f"{'section':16}" + "".join(f"{name:>12}" for name in columns)]
    whole = {"section": "in all"} | {name: sum(own[name] for own in record["sections"]) for name in columns}
    for own in (*record["sections"], whole):
        lines.append(f"{own['section']:16}" + "".join(f"{own[name]:12.1f}" for name in columns))
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.pipeline.profiling", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=BASE_PROFILE)
    parser.add_argument("--out", type=Path, help="the file to write, by default build/profile/<profile>.json")
    parser.add_argument("--build", type=Path, help="a new folder to leave the run in; else it is let go")
    args = parser.parse_args(words)
    try:
        record = profile(args.profile, args.build and args.build.resolve())
    except InputError as error:
        sys.exit(f"error: {error}")
    out = args.out or build_root() / "profile" / f"{args.profile}.json"
    with replacing(out) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))
    print(f"{record['seconds']:.0f} s in all; {os.path.relpath(out)}")


if __name__ == "__main__":
    main()
