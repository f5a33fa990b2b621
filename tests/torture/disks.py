"""A full and a read-only disk: one line, earlier results intact, and the next run ends like any other.

Where there are no rights to mount a disk, a limit on the size of files and a closed folder stand for it, which is said.
"""

import contextlib
import ctypes
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from torture.bench import Bench, Task, half_written, left, named, one_line, unlike, unprivileged

MOUNT_BYTES = 16 * 2**20
FILLING = 3
LIMITED = (
    "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2);"
    " import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); del sys.argv[:2];"
    " sys.argv.insert(0, 'lib.pipeline'); runpy.run_module('lib.pipeline', run_name='__main__')"
)
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000  # of Linux
BELOW = 2000  # bytes of a file, which no section's results stay below


def tasks(short: bool) -> dict[str, Task]:
    found: dict[str, Task] = {"full": full, "read-only": read_only, "file-size": file_size, "temporary": temporary}
    found |= {f"filling-{i}": filling for i in range(FILLING)}
    return {name: found[name] for name in named(found, ["full"], short)}


def part_mounts() -> None:
    """Gives this process mounts of its own, which go when it ends, however that is. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def disk(bench: Bench) -> Iterator[Path | None]:
    """A file system of `MOUNT_BYTES` that only this process and its children see; None where none can be mounted."""
    folder = bench.fresh("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MOUNT_BYTES}", "torture", str(folder)]
    try:
        part_mounts()
        subprocess.run(mount, capture_output=True, check=True)
    except (OSError, AttributeError, subprocess.CalledProcessError):  # no rights, or a system without
        bench.about[""] = "no rights to mount a disk"
        yield None
        return
    try:
        yield folder
    finally:
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
    build = folder / "build"
    done = bench.run(bench.words("setup"), build)
    if done.returncode:
        return f"setup failed: {done.stderr[-300:]}"
    before = left(build)
    spoil()
    wrong = one_line(bench.run(bench.words(), build, TMPDIR=str(bench.folder)), says)
    if wrong or left(build) != before:
        return wrong or "earlier results were damaged"
    mend()
    return bench.again(build)


def fill(path: Path, keep: int = 0) -> None:
    """Takes all space of a disk but `keep` bytes."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(path.parent).free > keep:
            file.write(bytes(4096))


def filling(bench: Bench) -> str | None:
    """The disk is full at a random moment of the run, in the middle of whatever is then written."""
    needed = sum(path.stat().st_size for path in bench.build.rglob("*") if path.is_file())
    with disk(bench) as folder:
        if folder is None:
            return file_size(bench)
        space = bench.draw.randint(4096, int(0.9 * needed))
        bench.about[""] = f"{space:,} bytes of {needed:,} that are needed"
        fill(folder / "ballast", space)
        build = folder / "build"
        done = bench.run(bench.words(), build, TMPDIR=str(bench.folder))
        wrong = one_line(done, "No space left") if done.returncode else unlike(left(build), bench.whole)
        wrong = wrong or half_written(build)
        if wrong:
            return wrong
        (folder / "ballast").unlink()
        return bench.again(build)


def temporary(bench: Bench) -> str | None:
    """The disk for temporary files is full, where kernels have their sockets: one line, or another place is found."""
    build = bench.fresh("build")
    with disk(bench) as folder:
        if folder is None:
            return without_write_permission(bench)
        fill(folder / "ballast")
        done = bench.run(bench.words(), build, TMPDIR=str(folder))
        wrong = one_line(done, "No space left") if done.returncode else None
        return wrong or bench.again(build)


def without_write_permission(bench: Bench) -> str | None:
    build = bench.fresh("closed")
    build.chmod(0o555)
    done = bench.run([*unprivileged(), *bench.words()], build)
    build.chmod(0o755)
    return one_line(done, str(build)) or bench.again(build)


def file_size(bench: Bench) -> str | None:
    """No file may grow beyond a few kilobytes, which is what a quota does."""
    build = bench.fresh("limited")
    if not hasattr(resource, "RLIMIT_FSIZE"):
        return "no RLIMIT_FSIZE on this system"
    words = [sys.executable, "-c", LIMITED, str(BELOW), *bench.words()[3:]]
    return one_line(bench.run(words, build), "File too large") or half_written(build) or bench.again(build)
