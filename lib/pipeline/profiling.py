"""`make profile`: where the time of a first run goes, section by section, as a table and as dated data.

Runs a profile's report in a build folder of its own, with an empty store, and looks at its kernels meanwhile. What no
sample accounts for is a kernel starting and importing, except where the section before has paid for that.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.errors import InputError
from lib.files import replacing
from lib.layout import build_root
from lib.params import BASE_PROFILE, load_profile
from lib.pipeline import children, sampling
from lib.results import dated

ROOMS = ("model", "statistics", "timing", "drawing", "disk", "other")
BEGINS = re.compile(r"(\w+) +measure: ")  # a line may begin with what is left of a progress bar
ENDS = re.compile(r"(\w+) +done in \d+ s$")
PAGES = "page and books"


def profile(name: str, build: Path | None = None) -> dict[str, Any]:
    """The record that is kept: `dated.new`'s, with `{profile, seconds, sections: [{section, seconds, <room>, …}]}`.

    All in seconds. build: a new folder to leave the run in; None lets it go. Raises `InputError` where that folder is
    there already, or where the report can't be made.
    """
    load_profile(name)
    if build is not None and build.exists():
        raise InputError(f"--build {build}: is there already; a first run needs a folder of its own")
    with tempfile.TemporaryDirectory(prefix="experiment10-profile-") as folder:
        samples = Path(folder) / "samples"
        samples.mkdir()
        places = {"EXPERIMENT10_BUILD": str(build or Path(folder) / "build"), sampling.FOLDER: str(samples)}
        walls, seconds = timed(children.command("lib.pipeline", "report", "--profile", name), places)
        found: dict[str, dict[str, float]] = {}
        for path in samples.glob("*.json"):
            for section, rooms in json.loads(path.read_text(encoding="utf-8")).items():
                own = found.setdefault(section, {})
                own |= {room: own.get(room, 0) + spent for room, spent in rooms.items()}
    return dated.new(f"profile-{name}", f"make profile PROFILE={name}", "one first run, with an empty store") | {
        "profile": name,
        "seconds": seconds,
        "sections": [row(section, wall, found.get(section, {})) for section, wall in walls.items()],
    }


def timed(command: list[str], places: dict[str, str]) -> tuple[dict[str, float], float]:
    """`({section: seconds}, seconds in all)` of a run of the pipeline, told by the lines that it prints.

    A section draws while the next one measures already: its seconds are those from its own beginning to its own end.
    """
    began = last = time.perf_counter()
    begins: dict[str, float] = {}
    walls: dict[str, float] = {}
    for line in children.lines(command, **places):
        if match := BEGINS.search(line):
            begins[match[1]] = time.perf_counter()
        elif match := ENDS.search(line.rstrip()):
            last = time.perf_counter()
            walls[match[1]] = last - begins.get(match[1], began)
            print(line, end="", flush=True)
    end = time.perf_counter()
    return walls | {PAGES: end - last}, end - began


def row(section: str, wall: float, rooms: Mapping[str, float]) -> dict[str, Any]:
    """A section's seconds by room; a page's and a book's are all drawing."""
    if section == PAGES:
        rooms = {"drawing": wall}
    spent = {room: round(rooms.get(room, 0), 2) for room in ROOMS}
    return {"section": section, "seconds": round(wall, 2)} | spent | {"starting": round(wall - sum(rooms.values()), 2)}


def table(record: dict[str, Any]) -> str:
    """The record as text, sections in the order in which they ended, with a last line for all."""
    columns = ("seconds", *ROOMS, "starting")
    lines = [f"{'section':16}" + "".join(f"{name:>12}" for name in columns)]
    whole = {"section": "in all"} | {name: sum(own[name] for own in record["sections"]) for name in columns}
    whole["seconds"] = record["seconds"]  # less than the sections' own, which overlap
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
