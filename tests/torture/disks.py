"""A full and a read-only disk: one line, earlier results intact, and the next run ends like any other."""

import contextlib
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from torture.bench import ROOT, Bench, environment_for, left, one_line

MOUNT_BYTES = 8 * 2**20
LIMITED = (
    "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2);"
    " import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); del sys.argv[:2];"
    " sys.argv.insert(0, 'lib.pipeline'); runpy.run_module('lib.pipeline', run_name='__main__')"
)


def trials(bench: Bench, chosen: str) -> None:
    trials = {"full": full, "read-only": read_only, "file-size": file_size}
    bench.attempt("disks", {name: partial(trial, bench) for name, trial in trials.items()}, chosen, "full")


@contextlib.contextmanager
def disk(bench: Bench) -> Iterator[Path | None]:
    """A file system of `MOUNT_BYTES` of its own; None where there are no rights to mount one."""
    folder = bench.fresh("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MOUNT_BYTES}", "torture", str(folder)]
    done = shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield folder if done else None
    finally:
        if done:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def full(bench: Bench) -> str | None:
    """The disk fills up between two sections; with space again, the same command ends like an undisturbed run."""
    with disk(bench) as folder:
        if folder is None:
            return file_size(bench)
        ballast = folder / "ballast"
        return between(bench, folder, lambda: fill(ballast), "No space left", ballast.unlink)


def read_only(bench: Bench) -> str | None:
    with disk(bench) as folder:
        if folder is None:
            return without_write_permission(bench)
        remount = ["mount", "-o", "remount,{}", str(folder)]
        shut, opened = (partial(subprocess.run, [w.format(how) for w in remount], check=True) for how in ("ro", "rw"))
        return between(bench, folder, shut, "Read-only", opened)


def between(
    bench: Bench, folder: Path, spoil: Callable[[], object], says: str, mend: Callable[[], object]
) -> str | None:
    """Spoils a disk after the first section: one line, what stood before stands, and mended the run ends well."""
    done = bench.run(bench.words("setup"), folder)
    if done.returncode:
        return f"setup failed: {done.stderr[-300:]}"
    before = left(folder)
    spoil()
    wrong = one_line(bench.run(bench.words(), folder), says, "can't be written")
    if wrong or left(folder) != before:
        return wrong or "earlier results were damaged"
    mend()
    return bench.again(folder)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def without_write_permission(bench: Bench) -> str | None:
    folder = bench.fresh("closed")
    folder.chmod(0o555)
    try:
        return one_line(bench.run(bench.words(), folder), "ermission denied", "can't be written")
    finally:
        folder.chmod(0o755)


def file_size(bench: Bench) -> str | None:
    """No file may grow beyond a few kilobytes, which is what a quota does."""
    build = bench.fresh("limited")
    if not hasattr(resource, "RLIMIT_FSIZE"):
        return "no RLIMIT_FSIZE on this system"
    words = [sys.executable, "-c", LIMITED, "2000", *bench.words()[3:]]
    done = subprocess.run(words, cwd=ROOT, env=environment_for(build), capture_output=True, text=True, timeout=300)
    return one_line(done, "File too large", "can't be written") or bench.again(build)
