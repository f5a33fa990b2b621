"""Which tasks there are, and how they run side by side, each in a process and a folder of its own."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import psutil

from torture import bench, damage, disks, hostile, inputs, kills, packs, places, together

# In the order in which tasks are begun: the longest ones first, so that no core waits at the end.
KINDS = {
    "damage": damage, "kills": kills, "packs": packs, "disks": disks, "together": together, "places": places,
    "hostile": hostile, "inputs": inputs,
}  # fmt: skip


Todo = tuple[str, str, tuple[str, ...]]


def chosen(short: bool, only: str) -> list[Todo]:
    """`[(kind, task, names of the trials asked for, none for all)]` of what has to be run.

    `only` has kinds, or trials as kind/name, with commas in between; a trial's name begins with its task's.
    """
    asked = [tuple(part.partition("/")[::2]) for part in only.split(",")] if only else []
    found = []
    for kind, module in KINDS.items():
        names = tuple(name for each, name in asked if each == kind)
        for task in module.tasks(short and not any(names)) if names or not only else ():
            own = tuple(name for name in names if task.startswith(name) or name.startswith(task))
            if own or not only:
                found.append((kind, task, tuple(filter(None, own)) if all(own) else ()))
    return found


def attempt(seed: int, short: bool, folder: Path, kind: str, task: str, only: tuple[str, ...]) -> list[bench.Trial]:
    """The trials of one task, in a folder of its own that is gone afterwards."""
    own = Path(tempfile.mkdtemp(prefix=f"{kind[:4]}-", dir=folder))
    own.chmod(0o755)
    try:
        at = bench.Bench(seed, folder / "shared", own, short, only)
        return at.tried(kind, task, KINDS[kind].tasks(short and not only)[task])
    finally:
        removed(own)


def end_all(folder: Path) -> None:
    """Ends all processes below this one, and whatever else works in the torture's folder, until there are none."""
    while own := [*below(), *bench.belonging(folder)]:
        for process in own:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(own, timeout=1)


def below() -> list[psutil.Process]:
    """All processes that this one has started, but for the one that multiprocessing ends itself."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            is_tracker = "resource_tracker" in " ".join(process.cmdline())
            if not is_tracker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def leave_interrupts() -> None:
    """Has a worker wait to be ended on Ctrl-C, which what it starts takes as ever."""
    signal.signal(signal.SIGINT, lambda *_: None)


def removed(folder: Path) -> None:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def run(seed: int, short: bool, todo: Sequence[Todo], at_once: int = 1) -> Iterator[tuple[Todo, list[bench.Trial]]]:
    """The trials of each task as it ends, `at_once` tasks side by side; none depends on what ran before it."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    folder.chmod(0o755)
    (folder / "shared").mkdir()
    kinds = {kind for kind, *_ in todo}
    shared = bench.Bench(seed, folder / "shared", folder)
    # Compiled once, as where it is run every day, not by each of hundreds of runs.
    os.environ |= {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn"), leave_interrupts) as pool:
        try:
            assert shared.model
            if kinds - {"inputs", "hostile"}:
                assert shared.build
            if "packs" in kinds:
                assert shared.packed
            going = {pool.submit(attempt, seed, short, folder, *task): task for task in todo}
            for done in as_completed(going):
                yield going[done], done.result()
        except BaseException:
            end_all(folder)
            raise
        finally:
            removed(folder)
