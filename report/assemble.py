"""Assembles the report of one profile: `report.html`, `report.ja.pdf`, `report.en.pdf`; its tables as CSV.

    python -m report.assemble --notebooks build/X/notebooks --results build/X/results --out build/X/report

The same notebooks and results give the same bytes. A file takes the place of an older one only when all are made.
"""

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from lib.errors import InputError
from lib.files import replacing
from lib.pipeline.child import die_with
from report import book, document, loading, page, tables
from report.words import LANGUAGES

PLAYGROUND = "playground.html"  # beside the report where `report.playground` has been run
LIMITS = {".html": 4 * 2**20, ".pdf": 3 * 2**20}


def assemble(
    notebooks: Path | str, results: Path | str, out: Path | str, without: Collection[str] = (), fork: bool = False
) -> list[Path]:
    """Writes the three files into the folder `out`; returns their paths. Raises `InputError`.

    Sections `without` results that can be read stand as not measured. With `fork` the three are made side by side in
    processes forked off: not for a process that has drawn a chart before, since the drawing's threads stay behind.
    """
    merged = document.load(notebooks, results, without)
    csvs = tables.files(merged)
    files = files_of(Path(results), {f"tables/{name}": content for name, content in csvs.items()})
    playground = PLAYGROUND if (Path(out) / PLAYGROUND).is_file() else ""
    tasks = {"report.html": lambda: page.write(merged, files, playground).encode()} | {
        f"report.{lang}.pdf": partial(book.write, merged, lang) for lang in LANGUAGES
    }
    made = forked(tasks) if fork else {name: task() for name, task in tasks.items()}
    for name, content in made.items():
        limit = LIMITS[Path(name).suffix]
        if len(content) > limit:
            raise InputError(f"{name}: {len(content):,} bytes, allowed: {limit:,}; draw fewer marks")
    with contextlib.ExitStack() as stack:
        for name, content in made.items():
            stack.enter_context(replacing(Path(out) / name)).write_bytes(content)
        for name, content in csvs.items():
            stack.enter_context(replacing(Path(results) / "tables" / name)).write_bytes(content)
    for path in (Path(results) / "tables").glob("*.csv"):
        if path.name not in csvs:
            path.unlink()
    return [Path(out) / name for name in made]


def forked(tasks: Mapping[str, Callable[[], bytes]]) -> dict[str, bytes]:
    """What the tasks return, by their names, each from a process of its own that has all that this one has loaded."""
    with ProcessPoolExecutor(len(tasks), multiprocessing.get_context("fork"), _inherit, (os.getpid(), tasks)) as pool:
        return dict(zip(tasks, pool.map(_carry_out, tasks), strict=True))


_tasks: Mapping[str, Callable[[], bytes]] = {}


def _inherit(parent: int, tasks: Mapping[str, Callable[[], bytes]]) -> None:
    global _tasks
    die_with(parent)
    _tasks = tasks


def _carry_out(name: str) -> bytes:
    return _tasks[name]()


def files_of(results: Path, tables: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """`[{path, bytes, digest}]` of the results' data and figures, by their path beside the report's folder.

    `tables` are those about to be written, by their path in the results' folder.
    """
    paths = sorted(p for p in results.rglob("*") if p.is_file() and not p.name.startswith("."))
    contents = {path.relative_to(results).as_posix(): path.read_bytes() for path in paths}
    contents = {name: content for name, content in contents.items() if not name.startswith("tables/")}
    return [
        {
            "path": f"{results.name}/{name}",
            "bytes": len(content),
            "digest": hashlib.sha256(content).hexdigest()[:16],
        }
        for name, content in sorted((contents | dict(tables)).items())
    ]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m report.assemble", description=__doc__.splitlines()[0])
    parser.add_argument("--notebooks", type=Path, required=True, help="folder of the executed notebooks")
    parser.add_argument("--results", type=Path, required=True, help="folder with data/ and figures/")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--loading", action="store_true", help="say how the page loads, where a browser is installed")
    parser.add_argument("--without", nargs="*", default=[], help="sections that stand as not measured")
    args = parser.parse_args(words)
    started = time.perf_counter()
    try:
        paths = assemble(args.notebooks, args.results, args.out, args.without, fork=sys.platform == "linux")
    except InputError as error:
        sys.exit(f"error: {error}")
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.2f} MB" for path in paths)
    print(f"{args.out}: {sizes} in {time.perf_counter() - started:.1f} s", flush=True)
    measured = loading.measure(args.out / "report.html") if args.loading else None
    if measured:
        print(loading.line(measured))


if __name__ == "__main__":
    main()
