"""Which tasks there are, and how they run side by side, each in a process and a folder of its own."""

import contextlib
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import psutil

from torture import bench, damage, disks, hostile, inputs, kills, packs, places, together

# In the order in which tasks are begun: the longest ones first, so that no core waits at the end.
KINDS = {
    "damage": damage, "kills": kills, "packs": packs, "disks": disks, "together": together, "places": places,
    "hostile": hostile, "inputs": inputs,
}  # fmt: skip


def chosen(short: bool, only: str) -> list[tuple[str, str]]:
    """`[(kind, task)]` that have to be run; a single trial is one of a task whose name it begins with."""
    kind, _, name = only.partition("/")
    return [
        (each, task)
        for each, module in KINDS.items()
        if kind in ("", each)
        for task in module.tasks(short and not name)
        if task.startswith(name) or name.startswith(task)
    ]


def attempt(seed: int, short: bool, only: str, folder: Path, kind: str, task: str) -> list[bench.Trial]:
    """The trials of one task, in a folder of its own that is gone afterwards."""
    own = Path(tempfile.mkdtemp(prefix=f"{kind[:4]}-", dir=folder))
    own.chmod(0o755)
    try:
        at = bench.Bench(seed, folder / "shared", own, short, only.partition("/")[2])
        return at.tried(kind, task, KINDS[kind].tasks(short and not at.only)[task])
    finally:
        removed(own)


def end_all() -> None:
    """Ends all processes below this one: nobody waits for what a stopped torture had begun."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()


def removed(folder: Path) -> None:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def run(seed: int, short: bool, only: str = "", at_once: int = 1) -> Iterator[bench.Trial]:
    """All trials of a seed as they end, `at_once` tasks side by side; none depends on what ran before it."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    folder.chmod(0o755)
    (folder / "shared").mkdir()
    todo = chosen(short, only)
    shared = bench.Bench(seed, folder / "shared", folder)
    try:
        assert shared.model
        if {kind for kind, _ in todo} - {"inputs", "hostile"}:
            assert shared.build
        if "packs" in {kind for kind, _ in todo}:
            assert shared.packed
        with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn")) as pool:
            try:
                going = [pool.submit(attempt, seed, short, only, folder, *task) for task in todo]
                for done in as_completed(going):
                    yield from done.result()
            except BaseException:
                end_all()
                raise
    finally:
        removed(folder)
